//! Users who each send a request, wait for its last token, and send the next: the short form of a simulation for requests of
//! one length. Continuous batching with chunked prompts, first come first served, as vLLM's scheduler plans them; stretches of
//! plain decoding are one evaluation of the cost model. `tests/short_form.rs` lays it beside the scheduler itself.
//!
//! Beside the engine works a front end, one thing after another: requests on their way in, tokens on their way out. Where it is
//! slower than the engine, tokens wait for it.
//!
//! The first wave starts at once. Its outputs end after a share of the length that grows from user to user, so that later ones
//! come evenly spread, as those of a long run do.

use std::collections::{BTreeSet, VecDeque};

use llmlab_sim::{Roofline, SeqShape};

/// When a request gets room in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Its prompt fits; when answers outgrow the cache, who came last gives its room back and is computed again later (vLLM).
    Prompt,
    /// Its prompt and whole answer fit (TensorRT-LLM's `guaranteed_no_evict`).
    WholeAnswer,
}

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
    pub admission: Admission,
    /// Requests of each user, of which the first is in the burst; means are over all of them.
    pub requests_per_user: u32,
    /// Times of the front end, in seconds: of a request and of a token, one after another; of a request before it is queued,
    /// beside others.
    pub serial_s: f64,
    pub serial_token_s: f64,
    pub request_s: f64,
    /// What a step waits for, in seconds: for a request that it admits, and for a token of it.
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
    /// By the step after which they end; who ends last came last.
    decoding: BTreeSet<(u64, u32)>,
    /// Whose prompts are computed or wait; the first come first.
    queue: VecDeque<Waiting>,
    /// How many of the queue have their place in the batch, and the tokens that they keep room for.
    admitted: usize,
    admitted_tokens: u64,
    arrivals: VecDeque<(f64, u32)>,
    /// When the front end is done with what it has.
    host_free: f64,
    users: Vec<User>,
    sums: [Sums; 2],
    decoded: f64,
    decode_steps: f64,
}

struct Waiting {
    user: u32,
    /// To be computed: the prompt, and what was generated of an answer that lost its room.
    tokens: u32,
    done: u32,
}

#[derive(Clone, Copy, Default)]
struct User {
    sent_s: f64,
    first_s: Option<f64>,
    wave: u32,
    output: u32,
    /// Tokens of the answer when its prompt, with what was generated, was last put in the queue.
    generated: u32,
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
            decoding: BTreeSet::new(),
            queue: VecDeque::new(),
            admitted: 0,
            admitted_tokens: 0,
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
            state.send(user, 0.0);
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
            self.queue.push_back(Waiting { user, tokens: self.asked.input_tokens, done: 0 });
        }
        self.make_room();
        let mut shapes: Vec<SeqShape> = Vec::new();
        let mut budget =
            u64::from(self.asked.max_num_batched_tokens).saturating_sub(self.decoding.len() as u64);
        let mut starting = 0;
        for place in 0..self.queue.len() {
            let waits = place >= self.admitted;
            if budget == 0 || waits && !self.has_room(place) {
                break;
            }
            let waiting = &mut self.queue[place];
            let rest = waiting.tokens - waiting.done;
            let new = u64::from(rest).min(budget) as u32;
            budget -= u64::from(new);
            if waits {
                self.admitted += 1;
                self.admitted_tokens += u64::from(waiting.tokens);
                starting += 1;
            }
            shapes.push(SeqShape { context: waiting.done, new, padding: 0, sample: new == rest, drafts: 0 });
            waiting.done += new;
        }
        if shapes.is_empty() {
            self.decode();
        } else {
            self.mixed(&shapes, starting);
        }
        while self.decoding.first().is_some_and(|(end, _)| *end <= self.steps) {
            let (_, user) = self.decoding.pop_first().expect("it has a first");
            self.finish(user);
        }
    }

    /// Tokens that the cache holds or has promised.
    fn held(&self) -> u64 {
        self.keys + self.admitted_tokens
    }

    /// Whether the one at this place of the queue, before whom all are admitted, may start.
    fn has_room(&self, place: usize) -> bool {
        let running = (self.decoding.len() + place) as u64;
        let needed = u64::from(self.asked.input_tokens) + u64::from(self.asked.output_tokens);
        running < u64::from(self.asked.max_num_seqs)
            && match self.asked.admission {
                Admission::WholeAnswer => running < self.asked.kv_tokens / needed,
                // Everybody's next token has room too.
                Admission::Prompt => {
                    let tokens = u64::from(self.queue[place].tokens);
                    self.held() + tokens + running < self.asked.kv_tokens
                }
            }
    }

    /// Until everybody's next token fits, who came last gives its room back.
    fn make_room(&mut self) {
        while self.held() + self.decoding.len() as u64 > self.asked.kv_tokens {
            if self.admitted > 0 {
                self.admitted -= 1;
                let last = &mut self.queue[self.admitted];
                last.done = 0;
                self.admitted_tokens -= u64::from(last.tokens);
                continue;
            }
            let Some((end, place)) = self.decoding.pop_last() else { return };
            let user = &mut self.users[place as usize];
            user.generated = user.output - (end - self.steps) as u32;
            let tokens = self.asked.input_tokens + user.generated;
            self.keys -= u64::from(tokens);
            self.queue.push_front(Waiting { user: place, tokens, done: 0 });
        }
    }

    /// The front end gets the tokens of `steps` steps, of which the first ended at `first` and the last now.
    fn deliver(&mut self, tokens: usize, first: f64, steps: u64) {
        let each = tokens as f64 * self.asked.serial_token_s;
        self.host_free = (self.host_free.max(first) + steps as f64 * each).max(self.now + each);
    }

    /// One step with prompts in it.
    fn mixed(&mut self, shapes: &[SeqShape], starting: u32) {
        let decoding = self.decoding.len();
        let complete = shapes.iter().filter(|shape| shape.sample).count();
        let tokens = decoding + complete;
        self.now += self.cost.mixed_s(shapes, decoding, self.keys)
            + f64::from(starting) * self.asked.admission_s
            + tokens as f64 * self.asked.token_s;
        self.deliver(tokens, self.now, 1);
        self.steps += 1;
        self.keys += decoding as u64;
        self.decoded += decoding as f64;
        self.decode_steps += 1.0;
        for _ in 0..complete {
            let waiting = self.queue.pop_front().expect("a complete prompt was queued");
            self.admitted -= 1;
            self.admitted_tokens -= u64::from(waiting.tokens);
            let user = &mut self.users[waiting.user as usize];
            user.first_s.get_or_insert(self.host_free);
            self.keys += u64::from(waiting.tokens) + 1;
            let end = self.steps + u64::from(user.output - user.generated) - 1;
            self.decoding.insert((end, waiting.user));
        }
    }

    /// Steps until somebody ends, arrives or has no room.
    fn decode(&mut self) {
        let count = self.decoding.len();
        let Some((end, _)) = self.decoding.first() else {
            // Nobody is served; the next comes.
            self.now = self.arrivals.front().map_or(self.now, |(at, _)| at.max(self.now));
            return;
        };
        let step = |keys: u64| self.cost.mixed_s(&[], count, keys) + count as f64 * self.asked.token_s;
        let until_end = end - self.steps;
        let until_full = (self.asked.kv_tokens - self.held()) / count as u64;
        let one = step(self.keys);
        let until_arrival = match self.arrivals.front() {
            Some((at, _)) if self.queue.is_empty() => ((at - self.now) / one).ceil().max(1.0) as u64,
            _ => u64::MAX,
        };
        let steps = until_end.min(until_arrival).min(until_full).max(1);
        let first = self.now + one;
        // Keys grow by one a sequence and step, and time is linear in them.
        self.now += steps as f64 * step(self.keys + count as u64 * (steps - 1) / 2);
        self.deliver(count, first, steps);
        self.steps += steps;
        self.keys += count as u64 * steps;
        self.decoded += (count as u64 * steps) as f64;
        self.decode_steps += steps as f64;
    }

    fn finish(&mut self, place: u32) {
        let ended = self.host_free;
        let user = &mut self.users[place as usize];
        self.keys -= u64::from(self.asked.input_tokens) + u64::from(user.output);
        let first_s = user.first_s.unwrap_or(ended);
        let sums = &mut self.sums[usize::from(user.wave > 0)];
        if sums.requests == 0.0 {
            sums.started = ended;
        }
        sums.requests += 1.0;
        sums.ttft_s += first_s - user.sent_s;
        if user.output > 1 {
            sums.tpot_s += (ended - first_s) / f64::from(user.output - 1);
        }
        sums.tokens += f64::from(user.output);
        sums.last_s = ended;
        let (wave, output) = (user.wave + 1, self.asked.output_tokens);
        *user = User { sent_s: ended, wave, output, ..User::default() };
        self.send(place, ended);
    }

    fn send(&mut self, user: u32, at: f64) {
        self.host_free = self.host_free.max(at) + self.asked.serial_s;
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
