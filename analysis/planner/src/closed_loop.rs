//! Users who each send a request, wait for its last token, and send the next: the short form of a simulation for requests of
//! one length. Continuous batching with chunked prompts, first come first served, as vLLM's scheduler plans them; stretches of
//! plain decoding are one evaluation of the cost model. `tests/short_form.rs` lays it beside the scheduler itself.
//!
//! The first wave starts at once. Its outputs end after a share of the length that grows from user to user, so that later ones
//! come evenly spread, as those of a long run do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use llmlab_sim::{Roofline, SeqShape};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClosedLoop {
    pub users: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// Sequences a step may hold.
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Requests of each user, of which the first is in the burst; means are over all of them.
    pub requests_per_user: u32,
    /// Host times, in seconds: of a request that others wait for, one request after the other; of a request before it is queued,
    /// beside others; of a request that a step waits for; of a token that a step waits for.
    pub serial_s: f64,
    pub request_s: f64,
    pub admission_s: f64,
    pub token_s: f64,
}

/// What comes of it: means over requests.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoopFigures {
    pub ttft_s: f64,
    /// Where a request has one output token, 0.
    pub tpot_s: f64,
    pub output_tokens_per_s: f64,
    /// Sequences in a decode, on average.
    pub running: f64,
}

/// Waves after the burst that are computed; the others are like them.
const WAVES: u32 = 2;

struct State<'a> {
    asked: &'a ClosedLoop,
    cost: &'a Roofline,
    now: f64,
    steps: u64,
    /// Keys that a decode step sees.
    keys: u64,
    /// By the step after which they end.
    decoding: BinaryHeap<Reverse<(u64, u32)>>,
    /// Users whose prompts are computed or wait, with the tokens that are done; the first come first.
    queue: VecDeque<(u32, u32)>,
    /// How many of the queue have their place in the batch.
    admitted: usize,
    arrivals: VecDeque<(f64, u32)>,
    /// When the host has time for the next request.
    host_free: f64,
    users: Vec<User>,
    sums: [Sums; 2],
    decoded: f64,
    decode_steps: f64,
}

#[derive(Clone, Copy, Default)]
struct User {
    sent_s: f64,
    first_s: f64,
    wave: u32,
    output: u32,
}

/// Of the burst, and of what follows.
#[derive(Clone, Copy, Default)]
struct Sums {
    requests: f64,
    ttft_s: f64,
    tpot_s: f64,
    started: f64,
    last_s: f64,
    tokens: f64,
}

impl ClosedLoop {
    /// `None` if not even one request fits the cache, or a count is 0.
    pub fn run(&self, cost: &Roofline) -> Option<LoopFigures> {
        let needed = u64::from(self.input_tokens) + u64::from(self.output_tokens);
        let counts = [
            self.users,
            self.input_tokens,
            self.output_tokens,
            self.max_num_seqs,
            self.max_num_batched_tokens,
        ];
        if needed > self.kv_tokens || counts.contains(&0) {
            return None;
        }
        let mut state = State {
            asked: self,
            cost,
            now: 0.0,
            steps: 0,
            keys: 0,
            decoding: BinaryHeap::new(),
            queue: VecDeque::new(),
            admitted: 0,
            arrivals: VecDeque::new(),
            host_free: 0.0,
            users: vec![User::default(); self.users as usize],
            sums: [Sums::default(); 2],
            decoded: 0.0,
            decode_steps: 0.0,
        };
        for (place, user) in state.users.iter_mut().enumerate() {
            let share = (place + 1) as f64 / f64::from(self.users);
            user.output = ((f64::from(self.output_tokens) * share).ceil() as u32).max(1);
        }
        for user in 0..self.users {
            state.send(user);
        }
        while state.sums[1].requests < f64::from(self.users * WAVES) {
            state.advance();
        }
        Some(state.figures())
    }
}

impl State<'_> {
    fn advance(&mut self) {
        while self.arrivals.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, user) = self.arrivals.pop_front().expect("it has a first");
            self.queue.push_back((user, 0));
        }
        let needed = u64::from(self.asked.input_tokens) + u64::from(self.asked.output_tokens);
        let room = (self.asked.kv_tokens / needed).min(u64::from(self.asked.max_num_seqs)) as usize;
        let mut shapes: Vec<SeqShape> = Vec::new();
        let mut budget =
            u64::from(self.asked.max_num_batched_tokens).saturating_sub(self.decoding.len() as u64);
        let mut starting = 0;
        for (place, (_, done)) in self.queue.iter_mut().enumerate() {
            let waits = place >= self.admitted;
            if budget == 0 || waits && self.decoding.len() + place >= room {
                break;
            }
            let rest = self.asked.input_tokens - *done;
            let new = u64::from(rest).min(budget) as u32;
            budget -= u64::from(new);
            if waits {
                self.admitted += 1;
                starting += 1;
            }
            shapes.push(SeqShape { context: *done, new, padding: 0, sample: new == rest, drafts: 0 });
            *done += new;
        }
        if shapes.is_empty() {
            self.decode();
        } else {
            self.mixed(&shapes, starting);
        }
        while self.decoding.peek().is_some_and(|Reverse((end, _))| *end <= self.steps) {
            let Reverse((_, user)) = self.decoding.pop().expect("it has a first");
            self.finish(user);
        }
    }

    /// One step with prompts in it.
    fn mixed(&mut self, shapes: &[SeqShape], starting: u32) {
        let decoding = self.decoding.len();
        let complete = shapes.iter().filter(|shape| shape.sample).count();
        let tokens = decoding + complete;
        self.now += self.cost.mixed_s(shapes, decoding, self.keys)
            + f64::from(starting) * self.asked.admission_s
            + tokens as f64 * self.asked.token_s;
        self.steps += 1;
        self.keys += decoding as u64;
        self.decoded += decoding as f64;
        self.decode_steps += 1.0;
        for _ in 0..complete {
            let (user, _) = self.queue.pop_front().expect("a complete prompt was queued");
            self.admitted -= 1;
            let state = &mut self.users[user as usize];
            state.first_s = self.now;
            self.keys += u64::from(self.asked.input_tokens) + 1;
            self.decoding.push(Reverse((self.steps + u64::from(state.output) - 1, user)));
        }
    }

    /// Steps until somebody ends or arrives.
    fn decode(&mut self) {
        let count = self.decoding.len();
        let Some(Reverse((end, _))) = self.decoding.peek() else {
            // Nobody is served; the next comes.
            self.now = self.arrivals.front().map_or(self.now, |(at, _)| at.max(self.now));
            return;
        };
        let step = |keys: u64| self.cost.mixed_s(&[], count, keys) + count as f64 * self.asked.token_s;
        let until_end = end - self.steps;
        let one = step(self.keys);
        let until_arrival = match self.arrivals.front() {
            Some((at, _)) if self.queue.is_empty() => ((at - self.now) / one).ceil().max(1.0) as u64,
            _ => u64::MAX,
        };
        let steps = until_end.min(until_arrival).max(1);
        // Keys grow by one a sequence and step, and time is linear in them.
        self.now += steps as f64 * step(self.keys + count as u64 * (steps - 1) / 2);
        self.steps += steps;
        self.keys += count as u64 * steps;
        self.decoded += (count as u64 * steps) as f64;
        self.decode_steps += steps as f64;
    }

    fn finish(&mut self, place: u32) {
        let user = &mut self.users[place as usize];
        self.keys -= u64::from(self.asked.input_tokens) + u64::from(user.output);
        let sums = &mut self.sums[usize::from(user.wave > 0)];
        if sums.requests == 0.0 {
            sums.started = self.now;
        }
        sums.requests += 1.0;
        sums.ttft_s += user.first_s - user.sent_s;
        if user.output > 1 {
            sums.tpot_s += (self.now - user.first_s) / f64::from(user.output - 1);
        }
        sums.tokens += f64::from(user.output);
        sums.last_s = self.now;
        *user = User { sent_s: self.now, wave: user.wave + 1, output: self.asked.output_tokens, ..*user };
        self.send(place);
    }

    fn send(&mut self, user: u32) {
        self.host_free = self.host_free.max(self.now) + self.asked.serial_s;
        self.arrivals.push_back((self.host_free + self.asked.request_s, user));
    }

    fn figures(&self) -> LoopFigures {
        let [burst, steady] = self.sums;
        let waves = f64::from(self.asked.requests_per_user.max(1));
        let mean = |sum: fn(&Sums) -> f64| {
            let of = |sums: &Sums| sum(sums) / sums.requests.max(1.0);
            (of(&burst) + (waves - 1.0) * of(&steady)) / waves
        };
        let span = (steady.last_s - steady.started).max(1e-9);
        LoopFigures {
            ttft_s: mean(|sums| sums.ttft_s),
            tpot_s: mean(|sums| sums.tpot_s),
            output_tokens_per_s: (steady.requests - 1.0).max(1.0) / steady.requests * steady.tokens / span,
            running: self.decoded / self.decode_steps.max(1.0),
        }
    }
}
