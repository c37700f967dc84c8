//! Virtual time: the schedule of the load generator against the scheduler of the engine, with `now += elapsed` between them.
//!
//! The order of things is that of the live engine thread: take in what arrived, plan, execute, commit, tell the clients.
//! Clients are as live ones: they send when the issuer says, give up when their patience ends, and each ends as one record.
//! Nothing finished is kept: a record goes to the sink and is gone.

mod clients;
mod ids;
mod steps;
mod stretches;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use llmlab_core::engine::Engine;
use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::{At, Event, LoraId, Request, RequestId, StopRules};
use llmlab_core::scheduler::Planned;
use llmlab_core::step::StepPlan;
use llmlab_loadgen::workload::PlannedRequest;
use llmlab_loadgen::{Ended, Issuer, Observer, Prompt, Timeouts, Workload};
use llmlab_results::record::RecordSink;

pub use steps::{JsonSteps, StepSink};

use crate::overhead::Overhead;
use clients::Clients;

/// How a simulation differs from the scheduler alone.
pub struct Options<'a> {
    pub overhead: Overhead,
    pub timeouts: Timeouts,
    /// Requests that may wait for their first step; one more is refused as the server does, with 429.
    pub max_queue: usize,
    /// Stop issuing at this time.
    pub time_limit: Option<Duration>,
    /// How long requests in flight may go on after that; what is left is recorded as cancelled.
    pub drain: Duration,
    /// Takes a row for each step, as the server's step log holds it.
    pub steps: Option<&'a mut dyn StepSink>,
}

impl Options<'_> {
    /// No limit on time and no overhead; patience of live clients.
    pub fn new(timeouts: Timeouts) -> Self {
        Options {
            overhead: Overhead::NONE,
            timeouts,
            max_queue: usize::MAX,
            time_limit: None,
            drain: Duration::ZERO,
            steps: None,
        }
    }
}

/// What a simulation came to, in virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// From the start to the end of the last request.
    pub elapsed: Duration,
    /// Requests issued; each has a record.
    pub issued: u64,
    pub steps: u64,
    pub ended: Ended,
}

#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    #[error("cannot save results; the simulation was stopped: {0}")]
    Sink(#[from] io::Error),
}

/// Runs the workload to its end. Records reach `sink` in the order in which requests end; `stop` is asked before each step.
pub fn simulate<E: Executor>(
    workload: &Workload,
    engine: &mut Engine<E>,
    options: Options<'_>,
    sink: &mut dyn RecordSink,
    observer: &dyn Observer,
    stop: &dyn Fn() -> bool,
) -> Result<Facts, SimulationError> {
    let horizon = options.time_limit.map(|limit| limit.saturating_add(options.drain));
    let workload = ids::of_turns(workload);
    let clients = Clients::new(Issuer::new(&workload), options.timeouts, sink, observer);
    let run = Run {
        engine,
        clients,
        travelling: BinaryHeap::new(),
        overhead: options.overhead,
        max_queue: options.max_queue,
        time_limit: options.time_limit.unwrap_or(Duration::MAX),
        horizon: horizon.unwrap_or(Duration::MAX),
        steps_sink: options.steps,
        now: At::ZERO,
        steps: 0,
        events: Vec::new(),
        delivered_ns: Vec::new(),
        queued: 0,
    };
    run.until_the_end(stop)
}

struct Run<'a, 'w, 's, 'o, E> {
    engine: &'a mut Engine<E>,
    clients: Clients<'w, 's>,
    /// Sent and not yet at the scheduler: when each gets there, in order.
    travelling: BinaryHeap<Reverse<Travelling<'w>>>,
    overhead: Overhead,
    max_queue: usize,
    time_limit: At,
    horizon: At,
    steps_sink: Option<&'o mut dyn StepSink>,
    /// The engine thread's time.
    now: At,
    steps: u64,
    /// Memory for those of a step.
    events: Vec<Event>,
    /// Memory for the times of a stretch.
    delivered_ns: Vec<u64>,
    /// Enqueued and never scheduled.
    queued: usize,
}

/// Ordered by arrival, then by index.
#[derive(Debug, PartialEq, Eq)]
struct Travelling<'w> {
    arrives: At,
    request: Cow<'w, PlannedRequest>,
}

impl PartialOrd for Travelling<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Travelling<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.arrives, self.request.index).cmp(&(other.arrives, other.request.index))
    }
}

impl<E: Executor> Run<'_, '_, '_, '_, E> {
    fn until_the_end(mut self, stop: &dyn Fn() -> bool) -> Result<Facts, SimulationError> {
        let ended = loop {
            if stop() {
                self.clients.cancel_all(self.now)?;
                break Ended::Cancelled;
            }
            self.take_in()?;
            self.give_up(self.now)?;
            if self.stretch()? {
                continue;
            }
            let planned = self.engine.scheduler.plan(self.now);
            self.let_expired_go()?;
            let until = match planned {
                Planned::Step(plan) => {
                    if self.step(&plan)? {
                        self.engine.scheduler.recycle(plan);
                        continue;
                    }
                    break Ended::TimeLimit;
                }
                Planned::WaitUntil(at) => Some(at),
                Planned::Idle => None,
            };
            match self.next_event().into_iter().chain(until).min() {
                // What is due now may have come up while the last of it was taken in.
                Some(at) if at <= self.horizon => self.now = self.now.max(at),
                Some(_) => {
                    self.clients.cancel_all(self.horizon)?;
                    break Ended::TimeLimit;
                }
                None if self.clients.remaining() > 0 => break Ended::TimeLimit,
                None => break Ended::Complete,
            }
        };
        Ok(Facts {
            elapsed: self.clients.last_end(),
            issued: self.clients.issued(),
            steps: self.steps,
            ended,
        })
    }

    /// When something happens next that is no step.
    fn next_event(&mut self) -> Option<At> {
        let next = next_sent_or_there(&self.clients, &self.travelling, self.time_limit);
        next.into_iter().chain(self.clients.next_deadline()).min()
    }

    /// Sends what is due by now and enqueues what has arrived by now.
    fn take_in(&mut self) -> Result<(), SimulationError> {
        while let Some(due) = self.clients.next_due().filter(|due| *due <= self.now && *due < self.time_limit)
        {
            let Some(request) = self.clients.issue() else { break };
            let arrives = due + self.overhead.before_queue(request.prompt_tokens);
            self.travelling.push(Reverse(Travelling { arrives, request }));
        }
        while let Some(Reverse(next)) = self.travelling.peek() {
            if next.arrives > self.now {
                break;
            }
            if let Some(Reverse(Travelling { arrives, request })) = self.travelling.pop() {
                self.enqueue(arrives, &request)?;
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, arrives: At, planned: &PlannedRequest) -> Result<(), SimulationError> {
        let id = planned.index;
        let answered = self.now + self.overhead.delivery();
        if !self.clients.waits_for(id) {
            return Ok(());
        }
        if self.queued >= self.max_queue {
            let words = format!("HTTP 429 Too Many Requests: {} requests are waiting already", self.queued);
            self.clients.refused(id, answered, 429, words)?;
            return Ok(());
        }
        match self.engine.scheduler.enqueue_arrived(self.now, arrives, request(planned)) {
            Ok(()) => {
                self.queued += 1;
                self.clients.accepted(id, answered);
            }
            Err(error) => {
                self.clients.refused(id, answered, 400, format!("HTTP 400 Bad Request: {error}"))?
            }
        }
        Ok(())
    }

    /// Ends the patience of clients whose deadline is over at `at`.
    fn give_up(&mut self, at: At) -> Result<(), SimulationError> {
        while let Some(left) = self.clients.next_to_give_up(at)? {
            self.engine.scheduler.abort(self.now, RequestId(left.id));
            self.queued -= usize::from(left.was_queued);
        }
        Ok(())
    }

    /// Tells clients whose requests their policy did not let wait any longer.
    fn let_expired_go(&mut self) -> Result<(), SimulationError> {
        let told = self.now + self.overhead.delivery();
        for event in self.engine.scheduler.take_expired() {
            if let Event::Finished { id, reason } = event {
                self.queued -= 1;
                self.clients.finished(id.0, told, reason)?;
            }
        }
        Ok(())
    }

    /// False when time was over before the step's tokens reached a client.
    fn step(&mut self, plan: &StepPlan) -> Result<bool, SimulationError> {
        let start = self.now;
        for (id, _) in &plan.admitted {
            self.queued -= usize::from(self.clients.scheduled(id.0));
        }
        let planned = self.steps_sink.is_some().then(|| self.engine.scheduler.stats());
        let outcome = self.engine.executor.execute(plan)?;
        let end = start + outcome.elapsed;
        let mut events = std::mem::take(&mut self.events);
        self.engine.scheduler.commit_into(end, plan, &outcome, &mut events);
        self.steps += 1;
        if let (Some(sink), Some(stats)) = (&mut self.steps_sink, planned) {
            let block_size = self.engine.scheduler.config().block_size;
            sink.step(&steps::row(plan, &stats, &outcome, start, block_size))?;
        }
        let delivered = end + self.overhead.delivery();
        if delivered > self.horizon {
            self.clients.cancel_all(self.horizon)?;
            return Ok(false);
        }
        self.now = end;
        self.give_up(delivered)?;
        let mut tokens = 0;
        for event in events.drain(..) {
            match event {
                Event::Token { id, token, .. } => {
                    tokens += 1;
                    if self.clients.token(id.0, delivered, token) {
                        self.clients.hang_up(id.0, delivered)?;
                        self.engine.scheduler.abort(self.now, id);
                    }
                }
                Event::Finished { id, reason } => self.clients.finished(id.0, delivered, reason)?,
            }
        }
        self.events = events;
        self.clients.told(tokens);
        self.now = end + self.overhead.between_steps(tokens);
        Ok(true)
    }
}

/// When a client sends next or the server gets what was sent.
fn next_sent_or_there(
    clients: &Clients<'_, '_>,
    travelling: &BinaryHeap<Reverse<Travelling<'_>>>,
    time_limit: At,
) -> Option<At> {
    let due = clients.next_due().filter(|due| *due < time_limit);
    let arrival = travelling.peek().map(|Reverse(next)| next.arrives);
    due.into_iter().chain(arrival).min()
}

/// Greedy and of the length that was planned: `ignore_eos` ends it by its length, as live runs force it.
fn request(planned: &PlannedRequest) -> Request {
    let prompt: Arc<[u32]> = match &planned.prompt {
        Prompt::Tokens(tokens) => Arc::from(tokens.as_slice()),
        Prompt::Text(_) | Prompt::Messages(_) => ids::of_text(planned.index, planned.prompt_tokens).collect(),
    };
    let stop = StopRules {
        max_tokens: planned.max_tokens,
        min_tokens: 0,
        ignore_eos: true,
        eos_ids: Arc::from([]),
        stop_token_ids: Arc::from([]),
    };
    let lora = planned.adapter.as_ref().map(|adapter| LoraId(adapter.index));
    Request { lora, ..Request::new(RequestId(planned.index), prompt, stop) }
}
