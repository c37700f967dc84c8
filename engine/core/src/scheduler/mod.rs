//! Owns queues, blocks and invariants, and asks a policy what to compute next.
//!
//! A step is three calls: `plan`, then someone executes it, then `commit`. Between the two, requests may be enqueued and
//! aborted. Reading order: [`state`] (the books) and [`queue`]; then the policies, simple ones first: [`orca`],
//! [`rectangle`] with [`static_batch`] and [`dynamic_batch`], [`vllm`], [`sarathi`], [`fastgen`], [`tgi`], [`trtllm`],
//! [`llamacpp`], [`sglang`]. A new policy is a file here and a line in the table of [`crate::config`].

pub mod dynamic_batch;
pub mod fastgen;
pub mod llamacpp;
pub mod orca;
pub mod queue;
pub mod rectangle;
pub mod sarathi;
pub mod sglang;
pub mod state;
pub mod static_batch;
pub mod tgi;
pub mod trtllm;
pub mod vllm;

use std::time::Duration;

use crate::config::{ConfigError, EngineConfig};
use crate::request::{At, Event, FinishReason, Request, RequestId};
use crate::scheduler::state::State;
use crate::sequence::{Sequence, longest};
use crate::stats::Stats;
use crate::step::{BlockId, SeqStep, StepOutcome, StepPlan};

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
    /// Nothing to do until a request arrives.
    Idle,
}

/// A rule that orders the queue and fills the next forward pass.
pub trait Policy: std::fmt::Debug + Send {
    /// Called only when no step is in flight. What it returns will be executed.
    fn plan(&mut self, state: &mut State, now: At) -> Decision;

    /// Why this policy could never serve a request of so many prompt tokens, if that is so.
    fn refuses(&self, state: &State, prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError>;

    /// A running request finished or was aborted. Its blocks go back now, unless the policy still needs its slot.
    fn retire(&mut self, state: &mut State, id: RequestId) {
        state.release(id);
    }
}

/// What a policy wants next.
#[derive(Debug)]
pub enum Decision {
    /// In batch order. Empty when planning only preempted.
    Run(Vec<Work>),
    WaitUntil(At),
    Idle,
}

/// One sequence's share of a forward pass: its next `tokens` tokens, and rows computed for nothing.
#[derive(Debug, Clone)]
pub struct Work {
    pub id: RequestId,
    pub tokens: usize,
    pub padding: usize,
}

impl Work {
    /// Without padding.
    pub fn tokens(id: RequestId, tokens: usize) -> Self {
        Work { id, tokens, padding: 0 }
    }
}

#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    state: State,
    policy: Box<dyn Policy>,
    now: At,
    /// The step that was planned and not committed.
    in_flight: Option<u64>,
    /// Aborted while a step was in flight, in order; retired when it is committed.
    leaving: Vec<RequestId>,
}

impl Scheduler {
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let policy = config.policy.knobs().build(&config);
        let state = State::new(&config);
        Ok(Scheduler { config, state, policy, now: At::ZERO, in_flight: None, leaving: Vec::new() })
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
        self.tick(now);
        self.state.stats.submitted_total += 1;
        let checked = self.check(&request);
        if checked.is_err() {
            self.state.stats.rejected_total += 1;
            return checked;
        }
        let seq = Sequence::new(request, arrived, self.state.stats.submitted_total);
        self.state.waiting.push_new(&seq);
        self.state.seqs.insert(seq.id(), seq);
        Ok(())
    }

    /// The client went away. Its blocks are free when this returns, or once the step in flight is committed; under
    /// `static` and `dynamic` the slot is kept until its batch ends, as for any sequence that is done. `None` when the
    /// request is unknown or already over.
    pub fn abort(&mut self, now: At, id: RequestId) -> Option<Event> {
        self.tick(now);
        if self.state.waiting.remove(id) {
            self.state.seqs.remove(&id);
        } else {
            let place = self.state.running.iter().position(|running| *running == id)?;
            self.state.running.remove(place);
            self.state.seq_mut(id).left = true;
            match self.in_flight {
                Some(_) => self.leaving.push(id),
                None => self.policy.retire(&mut self.state, id),
            }
        }
        self.state.stats.aborted_total += 1;
        Some(Event::Finished { id, reason: FinishReason::Abort })
    }

    /// Decides the next forward pass. A step must be committed before the next is planned.
    pub fn plan(&mut self, now: At) -> Planned {
        if let Some(step) = self.in_flight {
            panic!("plan was called while step {step} is not committed");
        }
        self.tick(now);
        loop {
            let preempted_before = self.state.preempted.len();
            match self.policy.plan(&mut self.state, self.now) {
                Decision::Run(work) if !work.is_empty() => return Planned::Step(self.build_plan(work)),
                // Planning threw requests out but ran nothing; with the memory free it can go on at once.
                Decision::Run(_) if self.state.preempted.len() > preempted_before => {}
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

    /// Takes in what the executor computed for the plan in flight: tokens first to last, each followed by `Finished` if
    /// it was the request's last.
    pub fn commit(&mut self, now: At, plan: &StepPlan, outcome: &StepOutcome) -> Vec<Event> {
        assert_eq!(self.in_flight.take(), Some(plan.step), "commit of a step that is not the one in flight");
        self.tick(now);
        for id in std::mem::take(&mut self.leaving) {
            self.policy.retire(&mut self.state, id);
        }
        let wanted = plan.seqs.iter().enumerate().filter(|(_, s)| s.sample);
        let expected: Vec<u32> = wanted.map(|(i, _)| i as u32).collect();
        let got: Vec<u32> = outcome.sampled.iter().map(|s| s.seq).collect();
        assert_eq!(
            got, expected,
            "step {}: one token for each sequence that samples, in plan order",
            plan.step
        );

        let mut events = Vec::with_capacity(outcome.sampled.len());
        for sampled in &outcome.sampled {
            let id = plan.seqs[sampled.seq as usize].id;
            let max_model_len = self.state.max_model_len;
            let Some(seq) = self.state.seqs.get_mut(&id).filter(|seq| !seq.left) else { continue };
            let index = seq.generated() as u32;
            let end = seq.append(sampled.token, max_model_len);
            events.push(Event::Token { id, token: sampled.token, index });
            self.state.stats.sampled_tokens_total += 1;
            if let Some(reason) = end {
                seq.left = true;
                self.state.running.retain(|running| *running != id);
                self.state.stats.finished_total += 1;
                self.policy.retire(&mut self.state, id);
                events.push(Event::Finished { id, reason });
            }
        }
        events
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
            kv_held_tokens: (blocks.usable() - blocks.free().len() - blocks.cached())
                * blocks.block_size() as usize,
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
        if self.state.seqs.contains_key(&request.id) {
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
        let mut admitted = Vec::new();
        let mut seqs = Vec::with_capacity(work.len());
        for Work { id, tokens, padding } in work {
            let seq =
                self.state.seqs.get_mut(&id).unwrap_or_else(|| panic!("planned request {} is unknown", id.0));
            if !seq.ever_admitted {
                seq.ever_admitted = true;
                admitted.push((id, self.now.saturating_sub(seq.arrived)));
            }
            seqs.push(seq_step(seq, tokens, padding, self.state.blocks.block_size()));
            let stats = &mut self.state.stats;
            stats.computed_tokens_total += tokens as u64;
            stats.kv_tokens += tokens;
            let kind =
                if tokens > 0 { &mut stats.prefill_padding_total } else { &mut stats.decode_padding_total };
            *kind += padding as u64;
        }
        self.in_flight = Some(step);
        StepPlan { step, seqs, preempted: std::mem::take(&mut self.state.preempted), admitted }
    }
}

/// Describes the next `tokens` tokens of a sequence to the executor and counts them as computed: from here on planning
/// takes the step for done.
fn seq_step(seq: &mut Sequence, tokens: usize, padding: usize, block_size: u32) -> SeqStep {
    let (context, end) = (seq.computed, seq.computed + tokens);
    let covering = end.div_ceil(block_size as usize);
    assert!(covering <= seq.blocks.len(), "request {} has no block for token {end}", seq.id().0);
    seq.computed = end;
    seq.prefilling = end < seq.tokens.len();
    SeqStep {
        id: seq.id(),
        context: context as u32,
        tokens: seq.tokens[context..end].to_vec(),
        blocks: seq.blocks[..covering].to_vec(),
        sample: tokens > 0 && !seq.prefilling,
        sampling: seq.request.sampling.clone(),
        generated: seq.generated() as u32,
        banned: seq.banned(),
        padding: padding as u32,
    }
}

/// The refusal every policy shares: a request whose whole life takes more blocks than there are could only wait or be
/// preempted for ever.
pub fn refuse_never_fits(state: &State, longest_tokens: usize) -> Option<EnqueueError> {
    let (blocks, total) = (state.life_blocks(longest_tokens), state.blocks.usable());
    (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
}

/// When the front of the queue arrived.
pub fn oldest_arrival(state: &State) -> Option<At> {
    state.waiting.front().map(|id| state.seq(id).arrived)
}

/// The end of a wait that began at `since`; never, if that is beyond what a `Duration` can hold.
pub fn deadline(since: At, delay: Duration) -> At {
    since.checked_add(delay).unwrap_or(At::MAX)
}
