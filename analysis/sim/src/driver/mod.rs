//! Virtual time: the schedule of the load generator against the scheduler of the engine, with `now += elapsed` between them.
//!
//! The order of things is that of the live engine thread: take in what arrived, plan, execute, commit, tell the clients.
//! Clients are as live ones: they send when the issuer says, give up when their patience ends, and each ends as one record.
//! Nothing finished is kept: a record goes to the sink and is gone.

pub(crate) mod clients;
pub(crate) mod front_end;
pub(crate) mod ids;
mod pipeline;
pub(crate) mod role;
pub(crate) mod server;
mod steps;
mod stretches;

use std::cmp::Reverse;
use std::io;
use std::time::Duration;

use llmlab_core::engine::Engine;
use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::At;
use llmlab_loadgen::{Ended, Issuer, Observer, Timeouts, Workload};
use llmlab_results::record::RecordSink;

pub use steps::{JsonSteps, StepSink};

use crate::overhead::Overhead;
use clients::{Clients, FRONT_DESK, Ledger};
use server::{Did, Lane, Server, Travelling};

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
    let mut clients = Clients::new(Issuer::new(&workload), options.timeouts, sink, observer);
    let mut lane = Lane::new(FRONT_DESK, options.overhead, options.max_queue);
    let run = Run(Server {
        engine,
        lane: &mut lane,
        clients: &mut clients,
        steps_sink: options.steps,
        time_limit: options.time_limit.unwrap_or(Duration::MAX),
        // The only server there is: whatever is sent is sent to it.
        limit: At::MAX,
        horizon: horizon.unwrap_or(Duration::MAX),
    });
    run.until_the_end(stop)
}

/// One server with all clients.
struct Run<'a, 'w, 's, 'o, E, L>(Server<'a, 'w, 's, 'o, E, L>);

impl<E: Executor, L: Ledger> Run<'_, '_, '_, '_, E, L> {
    fn until_the_end(mut self, stop: &dyn Fn() -> bool) -> Result<Facts, SimulationError> {
        let ended = loop {
            if stop() {
                self.0.clients.cancel_all(self.0.lane.now)?;
                break Ended::Cancelled;
            }
            self.send();
            let until = match self.0.work()? {
                Did::Steps => continue,
                Did::Nothing { until } => until,
                Did::Overran => {
                    self.0.clients.cancel_all(self.0.horizon)?;
                    break Ended::TimeLimit;
                }
            };
            match self.next_event().into_iter().chain(until).min() {
                // What is due now may have come up while the last of it was taken in.
                Some(at) if at <= self.0.horizon => self.0.lane.now = self.0.lane.now.max(at),
                Some(_) => {
                    self.0.clients.cancel_all(self.0.horizon)?;
                    break Ended::TimeLimit;
                }
                None if self.0.clients.remaining() > 0 => break Ended::TimeLimit,
                None => break Ended::Complete,
            }
        };
        Ok(Facts {
            elapsed: self.0.clients.last_end(),
            issued: self.0.clients.issued(),
            steps: self.0.lane.steps,
            ended,
        })
    }

    /// When something happens next that is no step.
    fn next_event(&mut self) -> Option<At> {
        let next = self.0.next_sent_or_there();
        next.into_iter().chain(self.0.clients.next_deadline(FRONT_DESK)).min()
    }

    /// Sends what is due by now.
    fn send(&mut self) {
        let Server { lane, clients, time_limit, .. } = &mut self.0;
        while let Some(due) = clients.next_due().filter(|due| *due <= lane.now && *due < *time_limit) {
            let Some(request) = clients.issue() else { break };
            let arrives = lane.front_end.take_in(due, request.prompt_tokens, &lane.overhead);
            lane.travelling.push(Reverse(Travelling { arrives, request }));
        }
    }
}
