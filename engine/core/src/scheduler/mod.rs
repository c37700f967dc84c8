//! Owns queues, blocks and invariants, and asks a policy what to compute next.
//!
//! A step is three calls: `plan`, then someone executes it, then `commit`. Between the two, requests may be enqueued and
//! aborted. A policy that plans ahead has planned the step after it too, before the outcome is known. Reading order:
//! [`policy`] (what a policy is asked), [`state`] (the books), `flight` (steps that were planned and not committed) and [`queue`]; then the policies, simple ones
//! first: [`orca`], [`rectangle`] with [`static_batch`] and [`dynamic_batch`], [`vllm`], [`sarathi`], [`fastgen`], [`tgi`],
//! [`trtllm`], [`llamacpp`], [`sglang`]. A new policy is a file here and a line in the table of [`crate::config`].

pub mod dynamic_batch;
pub mod fastgen;
mod flight;
pub mod llamacpp;
pub mod orca;
pub mod policy;
pub mod queue;
pub mod rectangle;
pub mod sarathi;
pub mod sglang;
pub mod state;
pub mod static_batch;
pub mod stretch;
pub mod tgi;
pub mod trtllm;
pub mod vllm;

use std::collections::VecDeque;

use crate::config::{ConfigError, EngineConfig};
use crate::request::{At, Event, FinishReason, Request, RequestId};
use crate::scheduler::flight::{Flight, Part, Rules};
pub use crate::scheduler::policy::{Decision, Policy, Work, deadline, oldest_arrival, refuse_never_fits};
use crate::scheduler::state::State;
use crate::sequence::{Sequence, longest};
use crate::stats::Stats;
use crate::step::{BlockId, Sampled, SeqStep, StepOutcome, StepPlan};

/// Why a request was refused. None of these depends on the load: asking again will not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("max_tokens must be at least 1")]
    NoTokensWanted,
    /// `tokens` are the prompt plus one. A larger `max_tokens` alone is no error: the context length ends the answer.
    #[error("the request needs room for {tokens} tokens, the limit is {limit}")]
    TooLong { tokens: usize, limit: usize },
    #[error("the request may need {blocks} KV blocks, the pool has {total}")]
    NeverFits { blocks: usize, total: usize },
    #[error("request {} is already being served", .0.0)]
    DuplicateId(RequestId),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Planned {
    /// To be executed and then committed, before the next `plan`.
    Step(StepPlan),
    /// A batching policy waits for company until this time; an arrival may change its mind.
    WaitUntil(At),
    /// Nothing to do until a request arrives. Only under `tgi-3.3.6` can requests be waiting then, for memory that will
    /// never be there: a driver that runs to the end must stop here and not ask again.
    Idle,
}

#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    state: State,
    policy: Box<dyn Policy>,
    now: At,
    /// Steps that were planned and not committed, oldest first.
    flights: VecDeque<Flight>,
    /// Plans of those that nobody was given yet.
    ahead: VecDeque<StepPlan>,
    /// Left while the only step was in flight, in order; the policy hears of it when the step is over. Where there may be more
    /// it hears at once: a step planned later also runs later.
    leaving: Vec<RequestId>,
    /// Plans name the blocks of their sequences.
    tables: bool,
    /// Batches that may be under way at a time, each of requests of its own.
    batches: usize,
    /// Memory of a plan that was given back, and of its flight.
    spare: Vec<SeqStep>,
    spare_parts: Vec<Part>,
    /// Memory of the last stretch.
    spare_lanes: Vec<stretch::Lane>,
}

impl Scheduler {
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let policy = config.policy.knobs().build(&config);
        let state = State::new(&config);
        Ok(Scheduler {
            config,
            state,
            policy,
            now: At::ZERO,
            flights: VecDeque::new(),
            ahead: VecDeque::new(),
            leaving: Vec::new(),
            tables: true,
            batches: 1,
            spare: Vec::new(),
            spare_parts: Vec::new(),
            spare_lanes: Vec::new(),
        })
    }

    /// Leaves [`SeqStep::blocks`] empty, for executors that need to know how much is computed and not where it lies.
    pub fn without_block_tables(mut self) -> Self {
        self.tables = false;
        self
    }

    /// Up to so many batches are under way at a time, one for each stage of a pipeline, as vLLM's batch queue has them. A request
    /// in one of them is not planned again until its tokens are back, but for further chunks of its prompt. Who drives it asks
    /// [`Scheduler::plan_one`] while [`Scheduler::has_room_in_flight`], and commits the oldest first.
    pub fn with_batches_in_flight(mut self, batches: usize) -> Result<Self, ConfigError> {
        self.config.validate_batches_in_flight(batches)?;
        self.batches = batches.max(1);
        Ok(self)
    }

    /// Batches that may be under way at a time.
    pub fn batches_in_flight(&self) -> usize {
        self.batches
    }

    /// A further step may be planned before one is committed.
    pub fn has_room_in_flight(&self) -> bool {
        self.flights.len() < self.depth()
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Queues a request that arrived just now.
    pub fn enqueue(&mut self, now: At, request: Request) -> Result<(), EnqueueError> {
        self.enqueue_arrived(now, now, request)
    }

    /// Queues a request that reached the server at `arrived`, before it was tokenized: its wait counts from there, and
    /// between equal priorities the earlier arrival goes first.
    pub fn enqueue_arrived(&mut self, now: At, arrived: At, request: Request) -> Result<(), EnqueueError> {
        self.enqueue_transferred(now, arrived, request, 0)
    }

    /// The same for a request whose first `transferred` tokens were computed by another server, of which the keys and values
    /// are here. Its last token is computed here in any case. Policies other than `vllm` compute all of it.
    pub fn enqueue_transferred(
        &mut self,
        now: At,
        arrived: At,
        request: Request,
        transferred: usize,
    ) -> Result<(), EnqueueError> {
        self.tick(now);
        self.state.stats.submitted_total += 1;
        let checked = self.check(&request);
        if checked.is_err() {
            self.state.stats.rejected_total += 1;
            return checked;
        }
        let mut seq = Sequence::new(request, arrived, self.state.stats.submitted_total);
        seq.transferred = transferred.min(seq.prompt_len() - 1);
        self.state.waiting.push_new(&seq);
        self.state.seqs.insert(seq.id(), seq);
        Ok(())
    }

    /// The client went away. Its blocks are free when this returns, since a step that is planned later also runs later;
    /// under `static` and `dynamic` the slot is kept until its batch ends, as for any sequence that is done. `None` when
    /// the request is unknown or already over.
    pub fn abort(&mut self, now: At, id: RequestId) -> Option<Event> {
        self.tick(now);
        if let Some(place) = self.state.waiting.place(id) {
            self.state.waiting.take(place);
            self.state.seqs.remove(&id);
            // It may have been thrown out while a step with it is in flight.
            self.forget(id);
            self.policy.left_the_queue(place);
        } else {
            let place = self.state.running.iter().position(|running| *running == id)?;
            self.state.running.remove(place);
            self.state.seq_mut(id).left = true;
            if self.flights.is_empty() || self.depth() > 1 {
                self.forget(id);
                self.policy.client_left(&mut self.state, id, false);
            } else {
                self.leaving.push(id);
            }
        }
        self.state.stats.aborted_total += 1;
        Some(Event::Finished { id, reason: FinishReason::Abort })
    }

    /// Decides the next forward pass. A step must be committed before the next is asked for.
    pub fn plan(&mut self, now: At) -> Planned {
        assert_eq!(self.batches, 1, "batches in flight are planned one by one, with plan_one");
        assert_eq!(self.flights.len(), self.ahead.len(), "plan was called while a step is not committed");
        let mut nothing = Planned::Idle;
        while self.flights.len() < self.depth() {
            match self.plan_one(now) {
                Planned::Step(plan) => {
                    self.ahead.push_back(plan);
                    if self.flights.len() == 1 {
                        self.resolve_next();
                    }
                }
                planned => {
                    nothing = planned;
                    break;
                }
            }
        }
        self.ahead.pop_front().map_or(nothing, Planned::Step)
    }

    /// Steps that may be planned and not committed.
    fn depth(&self) -> usize {
        if self.state.plans_ahead { 2 } else { self.batches }
    }

    /// Plans a step and leaves to the caller which of several in flight is executed when; [`Scheduler::plan`] is the usual
    /// way. Tokens that only the commit of a step before can know are not in the plan.
    pub fn plan_one(&mut self, now: At) -> Planned {
        assert!(self.has_room_in_flight(), "too many steps are planned and not committed");
        self.tick(now);
        loop {
            let preempted_before = self.state.preempted.len();
            match self.policy.plan(&mut self.state, self.now) {
                Decision::Run(work) if !work.is_empty() => return Planned::Step(self.build_plan(work)),
                // Planning threw requests out but ran nothing; with the memory free it can go on at once. With a step in
                // flight, its outcome comes first.
                Decision::Run(_)
                    if self.flights.is_empty() && self.state.preempted.len() > preempted_before => {}
                Decision::Run(_) | Decision::Idle => return Planned::Idle,
                Decision::WaitUntil(at) => return Planned::WaitUntil(at),
            }
        }
    }

    /// The ends of requests that the policy did not let wait any longer, since this was last asked. To be asked after
    /// every `plan`.
    pub fn take_expired(&mut self) -> Vec<Event> {
        let end = |id| Event::Finished { id, reason: FinishReason::Abort };
        std::mem::take(&mut self.state.expired).into_iter().map(end).collect()
    }

    /// Takes in what the executor computed for the oldest step in flight: tokens first to last, each followed by
    /// `Finished` if it was the request's last.
    pub fn commit(&mut self, now: At, plan: &StepPlan, outcome: &StepOutcome) -> Vec<Event> {
        let mut events = Vec::with_capacity(outcome.sampled.len());
        self.commit_into(now, plan, outcome, &mut events);
        events
    }

    /// As [`Scheduler::commit`], behind what is in `events` already.
    pub fn commit_into(&mut self, now: At, plan: &StepPlan, outcome: &StepOutcome, events: &mut Vec<Event>) {
        let mut flight = self.land(now, plan);
        for id in std::mem::take(&mut self.leaving) {
            let token_due = flight.parts.iter().any(|part| part.id == id && part.emits);
            self.policy.client_left(&mut self.state, id, token_due);
        }
        let mut sampled = outcome.sampled.as_slice();
        let mut drafts = outcome.drafts.as_slice();
        for (index, part) in flight.parts.iter().enumerate() {
            let tokens = flight::split_off(&mut sampled, index);
            let next_drafts = flight::split_off(&mut drafts, index);
            if flight.gone.contains(&part.id) {
                continue;
            }
            let most = if part.emits { 1 + part.drafts } else { 0 };
            assert!(
                tokens.len() <= most && (tokens.is_empty() != part.emits),
                "step {}, request {}: {} tokens where 1 to {most} were asked for",
                plan.step,
                part.id.0,
                tokens.len()
            );
            self.take_in(part, tokens, next_drafts, events);
        }
        assert!(
            sampled.is_empty() && drafts.is_empty(),
            "step {}: tokens for sequences in plan order",
            plan.step
        );
        self.resolve_next();
        flight.parts.clear();
        self.spare_parts = flight.parts;
    }

    /// Instead of `commit`, when the plan in flight could not be computed: every request in it ends with
    /// [`FinishReason::Error`], the others go on. What was planned ahead of it counted on it and is dropped, its requests
    /// end likewise. For drivers whose executor is sound after a failed step.
    pub fn fail(&mut self, now: At, plan: &StepPlan) -> Vec<Event> {
        let flight = self.land(now, plan);
        let dropped = std::mem::take(&mut self.flights);
        self.ahead.clear();
        // Nobody has seen them: their numbers are given again.
        self.state.stats.steps_total -= dropped.len() as u64;
        let leaving = std::mem::take(&mut self.leaving);
        let mut events = Vec::with_capacity(plan.seqs.len());
        let mut failed = Vec::new();
        for (flight, part) in
            [flight].iter().chain(&dropped).flat_map(|f| f.parts.iter().map(move |part| (f, part)))
        {
            if flight.gone.contains(&part.id) || failed.contains(&part.id) {
                continue;
            }
            failed.push(part.id);
            // The last row of a rectangular batch takes the batch with it.
            let Some(seq) = self.state.seqs.get(&part.id) else { continue };
            let (left, thrown_out) = (seq.left, seq.stale > 0);
            self.state.roll_back(part.id);
            if left {
                self.policy.retire(&mut self.state, part.id);
            } else {
                self.state.stats.failed_total += 1;
                events.push(self.finish(part.id, thrown_out, FinishReason::Error));
            }
        }
        for id in leaving.into_iter().filter(|id| !failed.contains(id)) {
            self.policy.client_left(&mut self.state, id, false);
        }
        events
    }

    /// The oldest step in flight is over.
    fn land(&mut self, now: At, plan: &StepPlan) -> Flight {
        let flight = self.flights.pop_front();
        let flight = flight.unwrap_or_else(|| panic!("step {} is over but was not planned", plan.step));
        assert_eq!(flight.step, plan.step, "steps end in the order of their plans");
        self.tick(now);
        flight
    }

    /// Completes the plan whose turn to be executed has come.
    fn resolve_next(&mut self) {
        if let Some(next) = self.ahead.front_mut().filter(|_| self.state.plans_ahead) {
            flight::resolve(next, &self.state);
        }
    }

    /// One sequence's part of an outcome.
    fn take_in(
        &mut self,
        part: &flight::Part,
        tokens: &[Sampled],
        drafts: &[Sampled],
        events: &mut Vec<Event>,
    ) {
        let id = part.id;
        let plans_ahead = self.state.plans_ahead;
        let max_model_len = self.state.max_model_len;
        let Some(seq) = self.state.seqs.get_mut(&id) else { return };
        if seq.left {
            if part.emits {
                self.policy.token_for_nobody(&mut self.state, id);
            }
            return;
        }
        seq.in_flight -= part.rows();
        let stale = seq.stale > 0;
        if stale {
            seq.stale -= part.rows();
        }
        if !part.emits {
            return;
        }
        let rejected = 1 + part.drafts + part.dummy_drafts - tokens.len();
        if !stale {
            self.state.stats.kv_tokens -= seq.take_back(rejected);
            self.state.stats.draft_tokens_total += part.drafts as u64;
            self.state.stats.accepted_draft_tokens_total += tokens.len() as u64 - 1;
        }
        let mut end = None;
        for (kept, sampled) in tokens.iter().enumerate() {
            let index = seq.generated() as u32;
            end = seq.append(sampled.token, max_model_len);
            if plans_ahead && !stale {
                seq.placeholders -= 1;
            }
            events.push(Event::Token { id, token: sampled.token, index });
            self.state.stats.sampled_tokens_total += 1;
            if end.is_some() {
                // What was accepted behind the end is not part of the answer.
                let cut = tokens.len() - 1 - kept;
                self.state.stats.kv_tokens -= if stale { 0 } else { seq.take_back(cut) };
                break;
            }
        }
        if end.is_none() {
            match self.state.speculation {
                Some(speculation) if speculation.looks_up() => {
                    seq.drafts = speculation.look_up(&seq.tokens, max_model_len);
                }
                _ => {
                    seq.drafts.clear();
                    seq.drafts.extend(drafts.iter().map(|draft| draft.token));
                }
            }
        }
        if !plans_ahead {
            seq.draft_count = seq.drafts.len();
        }
        if !stale && (plans_ahead || self.state.speculation.is_some()) {
            // Accepted drafts and tokens that were unknown when the step was planned may have filled blocks.
            let written = seq.computed - seq.in_flight;
            self.state.register_full_blocks(id, written);
        }
        if let Some(reason) = self.policy.ends(&mut self.state, id, end) {
            self.state.stats.finished_total += 1;
            events.push(self.finish(id, stale, reason));
        }
    }

    /// The end of a request. It waits again if it was thrown out while its last token was computed.
    fn finish(&mut self, id: RequestId, thrown_out: bool, reason: FinishReason) -> Event {
        self.state.seq_mut(id).left = true;
        if thrown_out {
            self.state.waiting.remove(id);
        }
        self.state.running.retain(|running| *running != id);
        self.forget(id);
        self.policy.retire(&mut self.state, id);
        Event::Finished { id, reason }
    }

    /// Steps in flight that still compute the sequence do so in vain.
    fn forget(&mut self, id: RequestId) {
        for flight in self.flights.iter_mut().filter(|flight| flight.parts.iter().any(|part| part.id == id)) {
            flight.gone.push(id);
        }
    }

    pub fn stats(&self) -> Stats {
        let State { blocks, waiting, running, .. } = &self.state;
        let need = blocks.blocks_for(self.state.max_model_len);
        Stats {
            waiting: waiting.len(),
            running: running.len(),
            total_blocks: blocks.usable(),
            free_blocks: blocks.free().len(),
            cached_blocks: blocks.cached(),
            largest_free_run_blocks: blocks.free().largest_run(),
            external_fragmentation: blocks.external_fragmentation(need),
            kv_shared_tokens: blocks.shared() * blocks.block_size() as usize,
            kv_held_tokens: blocks.held() * blocks.block_size() as usize,
            ..self.state.stats.clone()
        }
    }

    /// Admitted and not over, in batch order.
    pub fn running(&self) -> &[RequestId] {
        &self.state.running
    }

    /// In the order they will be looked at.
    pub fn waiting(&self) -> Vec<RequestId> {
        self.state.waiting.iter().collect()
    }

    /// Takes back a plan that is over, for its memory. Worth it for those who run a great many steps.
    pub fn recycle(&mut self, plan: StepPlan) {
        self.spare = plan.seqs;
    }

    /// Generated tokens, accepted or not, that steps in flight will bring to a request; 0 unless steps are planned ahead.
    pub fn outstanding(&self, id: RequestId) -> usize {
        self.state.seqs.get(&id).map_or(0, |seq| seq.placeholders)
    }

    /// Blocks a request holds, in token order; none while it waits.
    pub fn block_table(&self, id: RequestId) -> &[BlockId] {
        self.state.seqs.get(&id).map_or(&[], |seq| &seq.blocks)
    }

    /// Free blocks, next to be handed out first.
    pub fn free_order(&self) -> Vec<BlockId> {
        self.state.blocks.free().order()
    }

    /// How many sequences hold a block.
    pub fn block_references(&self, block: BlockId) -> u32 {
        self.state.blocks.references(block)
    }

    /// Whether the policy's own cache is one of them.
    pub fn is_kept(&self, block: BlockId) -> bool {
        self.state.blocks.is_kept(block)
    }

    /// Time never goes back here, even if two threads of the driver stamped their calls in the other order.
    fn tick(&mut self, now: At) {
        self.now = self.now.max(now);
    }

    fn check(&self, request: &Request) -> Result<(), EnqueueError> {
        let (prompt, limit) = (request.prompt.len(), self.state.max_model_len);
        if prompt == 0 {
            return Err(EnqueueError::EmptyPrompt);
        }
        if request.stop.max_tokens == 0 {
            return Err(EnqueueError::NoTokensWanted);
        }
        let in_flight = |flight: &Flight| flight.gone.contains(&request.id);
        if self.state.seqs.contains_key(&request.id) || self.flights.iter().any(in_flight) {
            return Err(EnqueueError::DuplicateId(request.id));
        }
        if prompt + 1 > limit {
            return Err(EnqueueError::TooLong { tokens: prompt + 1, limit });
        }
        self.policy.refuses(&self.state, prompt, longest(request, limit)).map_or(Ok(()), Err)
    }

    fn build_plan(&mut self, work: Vec<Work>) -> StepPlan {
        self.state.stats.steps_total += 1;
        let step = self.state.stats.steps_total;
        let mut flight = Flight { step, parts: std::mem::take(&mut self.spare_parts), gone: Vec::new() };
        flight.parts.reserve(work.len());
        let mut admitted = Vec::new();
        let mut seqs = std::mem::take(&mut self.spare);
        let rules = Rules {
            block_size: self.state.blocks.block_size() as usize,
            speculation: self.state.speculation,
            ahead: self.state.plans_ahead,
            tables: self.tables,
        };
        for work in &work {
            let id = work.id;
            let seq =
                self.state.seqs.get_mut(&id).unwrap_or_else(|| panic!("planned request {} is unknown", id.0));
            if !seq.ever_admitted {
                seq.ever_admitted = true;
                admitted.push((id, self.now.saturating_sub(seq.arrived)));
            }
            let stats = &mut self.state.stats;
            stats.computed_tokens_total += work.tokens as u64;
            stats.kv_tokens += work.tokens + work.dummy_drafts;
            let kind = if work.tokens > 0 {
                &mut stats.prefill_padding_total
            } else {
                &mut stats.decode_padding_total
            };
            *kind += work.padding as u64;
            if seqs.len() == flight.parts.len() {
                // To be filled in the next line.
                seqs.push(SeqStep::new(id, 0, Vec::new(), Vec::new()));
            }
            let step = &mut seqs[flight.parts.len()];
            flight.parts.push(flight::launch(seq, work, &rules, step));
        }
        self.state.spare_work = work;
        seqs.truncate(flight.parts.len());
        self.flights.push_back(flight);
        StepPlan { step, seqs, preempted: std::mem::take(&mut self.state.preempted), admitted }
    }
}
