//! One server in virtual time: what is on its way to it, its scheduler and executor, one step or stretch after the other.
//! A simulation of one server and one of a cluster drive the same.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use llmlab_core::engine::Engine;
use llmlab_core::executor::Executor;
use llmlab_core::request::{At, Event, LoraId, Request, RequestId, StopRules};
use llmlab_core::scheduler::Planned;
use llmlab_core::stats::Stats;
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_loadgen::Prompt;
use llmlab_loadgen::workload::PlannedRequest;

use super::clients::{Clients, Ledger};
use super::front_end::FrontEnd;
use super::pipeline::Pipeline;
use super::role::Role;
use super::steps::{self, StepSink};
use super::{SimulationError, ids};
use crate::overhead::Overhead;

/// The state of a server beside its engine.
pub(crate) struct Lane<'w> {
    /// Who looks after its clients.
    pub desk: usize,
    /// Sent and not yet at the scheduler: when each gets there, in order.
    pub travelling: BinaryHeap<Reverse<Travelling<'w>>>,
    pub overhead: Overhead,
    pub front_end: FrontEnd,
    pub role: Role,
    /// Requests whose prompts are done, and when the router hears of it; for [`Role::Prefill`].
    pub prefilled: Vec<(At, u64)>,
    pub max_queue: usize,
    /// The engine thread's time.
    pub now: At,
    pub steps: u64,
    /// Time in steps.
    pub busy: Duration,
    /// Of that, while somebody was waiting for a first step; and requests that ended in it.
    pub saturated: Duration,
    pub ended_saturated: u64,
    /// Enqueued and never scheduled.
    pub queued: usize,
    /// Somebody waits elsewhere until this server has room.
    pub pressed: bool,
    pub(super) pipeline: Pipeline,
    /// Memory for those of a step.
    events: Vec<Event>,
    /// Memory for the times of a stretch.
    pub(super) delivered_ns: Vec<u64>,
}

impl Lane<'_> {
    pub fn new(desk: usize, overhead: Overhead, max_queue: usize) -> Self {
        Lane {
            desk,
            travelling: BinaryHeap::new(),
            overhead,
            front_end: FrontEnd::default(),
            role: Role::Whole,
            prefilled: Vec::new(),
            max_queue,
            now: At::ZERO,
            steps: 0,
            busy: Duration::ZERO,
            saturated: Duration::ZERO,
            ended_saturated: 0,
            queued: 0,
            pressed: false,
            pipeline: Pipeline::default(),
            events: Vec::new(),
            delivered_ns: Vec::new(),
        }
    }

    /// When the next request gets to the scheduler.
    pub fn next_arrival(&self) -> Option<At> {
        self.travelling.peek().map(|Reverse(next)| next.arrives)
    }

    pub(super) fn worked(&mut self, elapsed: Duration, ended: usize) {
        self.busy += elapsed;
        if self.queued > 0 || self.pressed {
            self.saturated += elapsed;
            self.ended_saturated += ended as u64;
        }
    }
}

/// Ordered by arrival, then by index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Travelling<'w> {
    pub arrives: At,
    pub request: Cow<'w, PlannedRequest>,
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

/// A server at work.
pub(crate) struct Server<'a, 'w, 's, 'o, E, L> {
    pub engine: &'a mut Engine<E>,
    pub lane: &'a mut Lane<'w>,
    pub clients: &'a mut Clients<'w, 's, L>,
    pub steps_sink: Option<&'a mut (dyn StepSink + 'o)>,
    /// No request is sent from here on.
    pub time_limit: At,
    /// From here on requests may come of which nothing is known yet: no step starts then or later.
    pub limit: At,
    /// No token reaches a client after this.
    pub horizon: At,
}

/// What a server did.
pub(crate) enum Did {
    /// A step or several.
    Steps,
    /// Nothing to compute until something arrives, or until this time.
    Nothing { until: Option<At> },
    /// A step whose tokens would have reached clients after the horizon.
    Overran,
}

impl<E: Executor, L: Ledger> Server<'_, '_, '_, '_, E, L> {
    /// Takes in what has arrived and computes a step, or a stretch of them.
    pub fn work(&mut self) -> Result<Did, SimulationError> {
        self.take_in()?;
        self.give_up(self.lane.now)?;
        if self.engine.scheduler.batches_in_flight() > 1 {
            return self.work_in_stages();
        }
        if self.stretch()? {
            return Ok(Did::Steps);
        }
        let planned = self.engine.scheduler.plan(self.lane.now);
        self.let_expired_go()?;
        let until = match planned {
            Planned::Step(plan) => {
                if !self.step(&plan)? {
                    return Ok(Did::Overran);
                }
                self.engine.scheduler.recycle(plan);
                return Ok(Did::Steps);
            }
            Planned::WaitUntil(at) => Some(at),
            Planned::Idle => None,
        };
        Ok(Did::Nothing { until })
    }

    /// When a client sends next, the server gets what was sent, or that is not known any more.
    pub(super) fn next_sent_or_there(&self) -> Option<At> {
        let due = self.clients.next_due().filter(|due| *due < self.time_limit);
        let limit = (self.limit < At::MAX).then_some(self.limit);
        due.into_iter().chain(self.lane.next_arrival()).chain(limit).min()
    }

    /// Enqueues what has arrived by now.
    fn take_in(&mut self) -> Result<(), SimulationError> {
        while let Some(Reverse(next)) = self.lane.travelling.peek() {
            if next.arrives > self.lane.now {
                break;
            }
            if let Some(Reverse(Travelling { arrives, request })) = self.lane.travelling.pop() {
                self.enqueue(arrives, &request)?;
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, arrives: At, planned: &PlannedRequest) -> Result<(), SimulationError> {
        let id = planned.index;
        let now = self.lane.now;
        let answered = now + self.lane.overhead.delivery();
        if !self.clients.waits_for(id) {
            return Ok(());
        }
        let queued = self.lane.queued;
        if queued >= self.lane.max_queue {
            let words = format!("HTTP 429 Too Many Requests: {queued} requests are waiting already");
            self.clients.refused(id, answered, 429, words)?;
            return Ok(());
        }
        let request = request(planned, self.lane.role);
        let transferred = if self.lane.role == Role::Decode { request.prompt.len() } else { 0 };
        match self.engine.scheduler.enqueue_transferred(now, arrives, request, transferred) {
            Ok(()) => {
                self.lane.queued += 1;
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
        while let Some(left) = self.clients.next_to_give_up(self.lane.desk, at)? {
            self.engine.scheduler.abort(self.lane.now, RequestId(left.id));
            self.lane.queued -= usize::from(left.was_queued);
        }
        Ok(())
    }

    /// Tells clients whose requests their policy did not let wait any longer.
    pub(super) fn let_expired_go(&mut self) -> Result<(), SimulationError> {
        let told = self.lane.now + self.lane.overhead.delivery();
        for event in self.engine.scheduler.take_expired() {
            if let Event::Finished { id, reason } = event {
                self.lane.queued -= 1;
                self.clients.finished(id.0, told, reason)?;
            }
        }
        Ok(())
    }

    /// False when time was over before the step's tokens reached a client.
    fn step(&mut self, plan: &StepPlan) -> Result<bool, SimulationError> {
        let planned = self.begin(plan);
        let start = self.lane.now;
        let outcome = self.engine.executor.execute(plan)?;
        self.land(plan, &outcome, start, start + outcome.elapsed, outcome.elapsed, planned)
    }

    /// Whom the step lets in waits no longer, and the step waits for them. For a log, what the scheduler's state is while it runs.
    pub(super) fn begin(&mut self, plan: &StepPlan) -> Option<Stats> {
        self.lane.now += self.lane.overhead.admission(plan.admitted.len());
        let mut new = 0;
        for (id, _) in &plan.admitted {
            new += u32::from(self.clients.scheduled(id.0));
        }
        self.lane.queued -= new as usize;
        self.lane.front_end.admitted(self.lane.now, new, &self.lane.overhead);
        self.steps_sink.is_some().then(|| self.engine.scheduler.stats())
    }

    /// The end of a step, which adds `worked` to the time in steps. False when time was over before its tokens reached a client.
    pub(super) fn land(
        &mut self,
        plan: &StepPlan,
        outcome: &StepOutcome,
        start: At,
        end: At,
        worked: Duration,
        planned: Option<Stats>,
    ) -> Result<bool, SimulationError> {
        let mut events = std::mem::take(&mut self.lane.events);
        self.engine.scheduler.commit_into(end, plan, outcome, &mut events);
        self.lane.steps += 1;
        if let (Some(sink), Some(stats)) = (&mut self.steps_sink, planned) {
            let block_size = self.engine.scheduler.config().block_size;
            sink.step(&steps::row(plan, &stats, outcome, start, block_size))?;
        }
        let prompts_only = self.lane.role == Role::Prefill;
        let token = |event: &&Event| matches!(event, Event::Token { .. });
        let tokens = if prompts_only { 0 } else { events.iter().filter(token).count() };
        let delivered = self.lane.front_end.told(end, tokens, &self.lane.overhead);
        if delivered > self.horizon {
            return Ok(false);
        }
        self.lane.front_end.give_out(end, tokens, &self.lane.overhead);
        self.lane.now = end;
        self.give_up(delivered)?;
        let mut ended = 0;
        for event in events.drain(..) {
            match event {
                Event::Token { .. } if prompts_only => {}
                Event::Finished { id, .. } if prompts_only => {
                    ended += 1;
                    self.lane.prefilled.push((delivered, id.0));
                }
                Event::Token { id, token, .. } => {
                    if self.clients.token(id.0, delivered, token) {
                        self.clients.hang_up(id.0, delivered)?;
                        self.engine.scheduler.abort(self.lane.now, id);
                    }
                }
                Event::Finished { id, reason } => {
                    ended += 1;
                    self.clients.finished(id.0, delivered, reason)?;
                }
            }
        }
        self.lane.events = events;
        self.lane.worked(worked, ended);
        self.clients.told(tokens);
        self.lane.now = end + self.lane.overhead.between_steps(tokens);
        Ok(true)
    }
}

/// Greedy and of the length that was planned: `ignore_eos` ends it by its length, as live runs force it.
fn request(planned: &PlannedRequest, role: Role) -> Request {
    let prompt: Arc<[u32]> = match &planned.prompt {
        Prompt::Tokens(tokens) => Arc::from(tokens.as_slice()),
        Prompt::Text(_) | Prompt::Messages(_) => ids::of_text(planned.index, planned.prompt_tokens).collect(),
    };
    let stop = StopRules {
        max_tokens: if role == Role::Prefill { 1 } else { planned.max_tokens },
        min_tokens: 0,
        ignore_eos: true,
        eos_ids: Arc::from([]),
        stop_token_ids: Arc::from([]),
    };
    let lora = planned.adapter.as_ref().map(|adapter| LoraId(adapter.index));
    Request { lora, ..Request::new(RequestId(planned.index), prompt, stop) }
}
