//! vLLM V1, rules as of 0.33: one token budget per step, no phases. Every step brings each sequence closer to its known
//! tokens; a decode is the case where one is missing, or one and some drafts. Running sequences come first, in order;
//! memory shortage throws out the last admitted (or least important) one, which recomputes later.
//!
//! With `async_scheduling` a step is planned while the one before it runs. A decode then counts tokens that are not known
//! yet; a sequence that ends by its length is not planned again, one that ends otherwise computes one step in vain.
//!
//! Two differences, both because the original would go wrong: a request that can never fit is refused instead of being
//! preempted for ever, and blocks of a victim that this step was going to fill leave the prefix cache. The second is
//! undone by `upstream_defects`.

use crate::config::{SpeculativeMethod, VllmConfig};
use crate::request::{At, LoraId, RequestId};
use crate::scheduler::state::{Admission, State};
use crate::scheduler::{Decision, EnqueueError, Policy, Work, refuse_never_fits};
use crate::sequence::Sequence;

#[derive(Debug)]
pub struct Vllm {
    config: VllmConfig,
    /// Blocks the watermark keeps free.
    watermark_blocks: usize,
    /// Drafts a step verifies at most.
    drafts: usize,
    /// Tokens of the step that the drafter takes for each sequence.
    draft_slots: usize,
    /// Steps that computed anything, and the last of them that carried prefill.
    steps: u64,
    last_prefill_step: Option<u64>,
    /// The last step that was free to admit left someone waiting. Prefill is then not deferred, or the queue would grow
    /// without bound.
    capacity_bound: bool,
}

/// The step being filled.
struct Filling {
    /// Tokens that may still be scheduled.
    budget: usize,
    /// The same, less what a draft model needs for each sequence that is scheduled.
    input_budget: usize,
    /// Most tokens of one prompt in this step.
    prompt_cap: usize,
    /// Prefill is left out of this step so that decodes run fast.
    defer_prefill: bool,
    carries_prefill: bool,
    /// A running sequence continues its prefill in this step.
    continues_prefill: bool,
    /// Entries of `work` that ran before.
    from_running: usize,
    work: Vec<Work>,
}

impl Filling {
    fn take(&mut self, work: Work, draft_slots: usize) {
        let rows = work.tokens + work.dummy_drafts;
        self.budget -= rows;
        self.input_budget -= rows + draft_slots;
        self.work.push(work);
    }

    /// Takes a sequence out again. True if it was in the step.
    fn give_back(&mut self, id: RequestId, draft_slots: usize) -> bool {
        let Some(place) = self.work.iter().position(|work| work.id == id) else { return false };
        let work = self.work.remove(place);
        self.budget += work.tokens + work.dummy_drafts;
        self.input_budget += work.tokens + work.dummy_drafts + draft_slots;
        true
    }
}

impl Vllm {
    pub fn new(config: VllmConfig, num_blocks: u32) -> Self {
        let watermark_blocks = (config.watermark * f64::from(num_blocks)) as usize;
        let speculation = config.speculative_config;
        let drafts = speculation.map_or(0, |s| s.num_speculative_tokens as usize);
        let draft_slots = speculation.map_or(0, |s| usize::from(s.method == SpeculativeMethod::DraftModel));
        Vllm {
            config,
            watermark_blocks,
            drafts,
            draft_slots,
            steps: 0,
            last_prefill_step: None,
            capacity_bound: false,
        }
    }

    fn start(&self, state: &mut State) -> Filling {
        let threshold = self.config.long_prefill_token_threshold as usize;
        let alone = state.running.len() + state.waiting.len() <= 1;
        let budget = self.config.max_num_batched_tokens as usize;
        let mut work = std::mem::take(&mut state.spare_work);
        work.clear();
        Filling {
            budget,
            input_budget: budget,
            prompt_cap: if threshold == 0 || alone { usize::MAX } else { threshold },
            defer_prefill: self.defers_prefill(state),
            carries_prefill: false,
            continues_prefill: false,
            from_running: 0,
            work,
        }
    }

    /// With an interval of k, at least k - 1 steps without prefill follow a step with it, as long as something decodes
    /// and nobody was left waiting.
    fn defers_prefill(&self, state: &State) -> bool {
        let interval = u64::from(self.config.prefill_schedule_interval);
        let recent = self.last_prefill_step.is_some_and(|last| self.steps + 1 - last < interval);
        recent && !self.capacity_bound && state.running.iter().any(|id| !state.seq(*id).prefilling)
    }

    fn is_full(&self, step: &Filling) -> bool {
        step.budget == 0 || step.input_budget <= self.draft_slots
    }

    fn fill_from_running(&self, state: &mut State, step: &mut Filling) {
        let mut i = 0;
        while i < state.running.len() && !self.is_full(step) {
            let id = state.running[i];
            let seq = state.seq(id);
            let room = state.max_model_len.saturating_sub(seq.computed + 1);
            let budget = step.budget.min(step.input_budget - self.draft_slots);
            let tokens = seq.uncomputed().min(step.prompt_cap).min(budget).min(room);
            let (end, prefilling) = (seq.computed + tokens, seq.prefilling);
            if tokens == 0 || ends_in_flight(seq) || (step.defer_prefill && prefilling) {
                i += 1;
                continue;
            }
            if self.make_room(state, step, id, end, &mut i) {
                step.carries_prefill |= prefilling;
                step.continues_prefill |= prefilling;
                step.take(Work::tokens(id, tokens), self.draft_slots);
                i += 1;
            } else if !self.config.priority {
                break;
            }
        }
    }

    /// Preempts until the sequence at `place` has its blocks, or is thrown out itself. A victim that was already given
    /// tokens in this step gives them back.
    fn make_room(
        &self,
        state: &mut State,
        step: &mut Filling,
        id: RequestId,
        end: usize,
        place: &mut usize,
    ) -> bool {
        while !state.grow(id, end) {
            let victim = self.victim(state);
            if step.give_back(victim, self.draft_slots) {
                *place -= 1;
            }
            state.preempt(victim);
            if victim == id {
                return false;
            }
        }
        true
    }

    fn victim(&self, state: &State) -> RequestId {
        let last = state.running[state.running.len() - 1];
        if !self.config.priority {
            return last;
        }
        let importance = |id: &RequestId| {
            let seq = state.seq(*id);
            (seq.request.priority, seq.arrived, seq.number)
        };
        state.running.iter().copied().max_by_key(importance).unwrap_or(last)
    }

    /// First come first served: whoever does not fit keeps everybody behind it waiting. Only those are passed over whose
    /// last output is still to come, or whose adapter would be one too many.
    fn fill_from_waiting(&self, state: &mut State, step: &mut Filling) {
        let mut place = 0;
        while !self.is_full(step) && state.running.len() < self.config.max_num_seqs as usize {
            let Some(id) = state.waiting.get(place) else { break };
            if state.seq(id).stale > 0 || self.lacks_adapter_slot(state, id) {
                state.seq_mut(id).deferred = true;
                place += 1;
                continue;
            }
            let cached = state.longest_prefix(id);
            let transferred = state.seq(id).transferred;
            let hit = (cached.len() * state.blocks.block_size() as usize).max(transferred);
            let missing = state.seq(id).tokens.len() - hit;
            if step.defer_prefill && missing > 1 {
                break;
            }
            let budget = step.budget.min(step.input_budget - self.draft_slots);
            let dummy_drafts = self.padding(state, step, hit, missing);
            if dummy_drafts > 0 && 1 + dummy_drafts > budget {
                break;
            }
            let wanted = missing.min(step.prompt_cap);
            if !self.config.enable_chunked_prefill && wanted > budget {
                break;
            }
            let tokens = wanted.min(budget);
            let admission = Admission {
                first_step_end: hit + tokens + dummy_drafts,
                transferred,
                whole_must_fit: self.config.scheduler_reserve_full_isl,
                keep_free: if state.running.is_empty() { 0 } else { self.watermark_blocks },
            };
            if !state.admit_at(place, cached, admission) {
                break;
            }
            step.carries_prefill |= missing > 1;
            step.take(Work { dummy_drafts, ..Work::tokens(id, tokens) }, self.draft_slots);
        }
    }

    fn lacks_adapter_slot(&self, state: &State, id: RequestId) -> bool {
        let Some(wanted) = state.seq(id).request.lora else { return false };
        let adapters = || state.running.iter().filter_map(|id| state.seq(*id).request.lora);
        let mut distinct: Vec<LoraId> = adapters().collect();
        distinct.sort_unstable();
        distinct.dedup();
        distinct.len() >= self.config.max_loras as usize && !distinct.contains(&wanted)
    }

    /// An admission that needs one token only joins a batch of decodes, which all have the shape of one token and its
    /// drafts. It gets dummy drafts, so that the whole step can replay one recorded graph.
    fn padding(&self, state: &State, step: &Filling, hit: usize, missing: usize) -> usize {
        let joins_decodes = !step.continues_prefill && (hit > 0 || step.from_running > 0);
        let fits = hit + 1 + self.drafts < state.max_model_len;
        if missing == 1 && joins_decodes && fits { self.drafts } else { 0 }
    }
}

/// What is in flight brings the sequence to its last token at least, even if every draft is rejected.
fn ends_in_flight(seq: &Sequence) -> bool {
    let last = seq.prompt_len() + seq.request.stop.max_tokens as usize;
    seq.placeholders > 0 && seq.computed + 2 >= last + seq.placeholders
}

impl Policy for Vllm {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let preempted_before = state.preempted.len();
        let mut step = self.start(state);
        self.fill_from_running(state, &mut step);
        step.from_running = step.work.len();
        if state.preempted.len() == preempted_before {
            self.fill_from_waiting(state, &mut step);
            if self.config.prefill_schedule_interval > 1 && !step.defer_prefill {
                self.capacity_bound = state.waiting.iter().any(|id| !state.seq(id).deferred);
            }
        }
        if !step.work.is_empty() {
            self.steps += 1;
            if step.carries_prefill {
                self.last_prefill_step = Some(self.steps);
            }
        }
        Decision::Run(step.work)
    }

    fn decodes_evenly(&self, state: &State) -> bool {
        let running = state.running.len();
        let admits = !state.waiting.is_empty() && running < self.config.max_num_seqs as usize;
        // The interval counts steps.
        !admits
            && running <= self.config.max_num_batched_tokens as usize
            && self.config.prefill_schedule_interval <= 1
    }

    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        refuse_never_fits(state, longest_tokens)
    }
}
