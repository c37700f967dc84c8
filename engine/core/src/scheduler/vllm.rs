//! vLLM V1, rules as of 0.33: one token budget per step, no phases. Every step brings each sequence closer to its known
//! tokens; a decode is the case where one is missing. Running sequences come first, in order; memory shortage throws out
//! the last admitted (or least important) one, which recomputes later.
//!
//! Two differences, both because the original would go wrong: a request that can never fit is refused instead of being
//! preempted for ever, and blocks of a victim that this step was going to fill leave the prefix cache.

use crate::config::VllmConfig;
use crate::request::{At, RequestId};
use crate::scheduler::state::{Admission, State};
use crate::scheduler::{Decision, EnqueueError, Policy, Work, refuse_never_fits};

#[derive(Debug)]
pub struct Vllm {
    config: VllmConfig,
    /// Blocks the watermark keeps free.
    watermark_blocks: usize,
    /// Steps that computed anything, and the last of them that carried prefill.
    steps: u64,
    last_prefill_step: Option<u64>,
    /// The last step that was free to admit left someone waiting. Prefill is then not deferred, or the queue would grow
    /// without bound.
    capacity_bound: bool,
}

/// The step being filled.
struct Filling {
    budget: usize,
    /// Most tokens of one prompt in this step.
    prompt_cap: usize,
    /// Prefill is left out of this step so that decodes run fast.
    defer_prefill: bool,
    carries_prefill: bool,
    work: Vec<Work>,
}

impl Vllm {
    pub fn new(config: VllmConfig, num_blocks: u32) -> Self {
        let watermark_blocks = (config.watermark * f64::from(num_blocks)) as usize;
        Vllm { config, watermark_blocks, steps: 0, last_prefill_step: None, capacity_bound: false }
    }

    fn start(&self, state: &State) -> Filling {
        let threshold = self.config.long_prefill_token_threshold as usize;
        let alone = state.running.len() + state.waiting.len() <= 1;
        Filling {
            budget: self.config.max_num_batched_tokens as usize,
            prompt_cap: if threshold == 0 || alone { usize::MAX } else { threshold },
            defer_prefill: self.defers_prefill(state),
            carries_prefill: false,
            work: Vec::new(),
        }
    }

    /// With an interval of k, at least k - 1 steps without prefill follow a step with it, as long as something decodes
    /// and nobody was left waiting.
    fn defers_prefill(&self, state: &State) -> bool {
        let interval = u64::from(self.config.prefill_schedule_interval);
        let recent = self.last_prefill_step.is_some_and(|last| self.steps + 1 - last < interval);
        recent && !self.capacity_bound && state.running.iter().any(|id| !state.seq(*id).prefilling)
    }

    fn fill_from_running(&self, state: &mut State, step: &mut Filling) {
        let mut i = 0;
        while i < state.running.len() && step.budget > 0 {
            let id = state.running[i];
            let seq = state.seq(id);
            let room = state.max_model_len.saturating_sub(seq.computed + 1);
            let tokens = seq.uncomputed().min(step.prompt_cap).min(step.budget).min(room);
            let (end, prefilling) = (seq.computed + tokens, seq.prefilling);
            if tokens == 0 || (step.defer_prefill && prefilling) {
                i += 1;
                continue;
            }
            if self.make_room(state, step, id, end, &mut i) {
                step.budget -= tokens;
                step.carries_prefill |= prefilling;
                step.work.push(Work::tokens(id, tokens));
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
            if let Some(scheduled) = step.work.iter().position(|work| work.id == victim) {
                step.budget += step.work.remove(scheduled).tokens;
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

    /// First come first served: whoever does not fit keeps everybody behind it waiting.
    fn fill_from_waiting(&self, state: &mut State, step: &mut Filling) {
        while step.budget > 0 && state.running.len() < self.config.max_num_seqs as usize {
            let Some(id) = state.waiting.front() else { break };
            let cached = state.longest_prefix(id);
            let hit = cached.len() * state.blocks.block_size() as usize;
            let missing = state.seq(id).tokens.len() - hit;
            let wanted = missing.min(step.prompt_cap);
            if !self.config.enable_chunked_prefill && wanted > step.budget {
                break;
            }
            if step.defer_prefill && missing > 1 {
                break;
            }
            let tokens = wanted.min(step.budget);
            let admission = Admission {
                first_step_end: hit + tokens,
                whole_must_fit: self.config.scheduler_reserve_full_isl,
                keep_free: if state.running.is_empty() { 0 } else { self.watermark_blocks },
            };
            if !state.admit_front(cached, admission) {
                break;
            }
            step.budget -= tokens;
            step.carries_prefill |= missing > 1;
            step.work.push(Work::tokens(id, tokens));
        }
    }
}

impl Policy for Vllm {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let preempted_before = state.preempted.len();
        let mut step = self.start(state);
        self.fill_from_running(state, &mut step);
        if state.preempted.len() == preempted_before {
            self.fill_from_waiting(state, &mut step);
            if !step.defer_prefill {
                self.capacity_bound = !state.waiting.is_empty();
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

    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        refuse_never_fits(state, longest_tokens)
    }
}
