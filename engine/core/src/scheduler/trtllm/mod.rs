//! Policy `trtllm`: TensorRT-LLM's in-flight batching, read in the C++ batch manager at 02a10fed and 0a949d31.
//!
//! Each iteration has two stages. The [`capacity`] scheduler says who may run, by memory; the [`micro_batch`] scheduler
//! says who runs now and how many tokens of each prompt, by the token budget. Blocks are taken for a whole prompt at
//! admission and one at a time after that, whatever the KV strategy says; what `guaranteed_no_evict` keeps back for the
//! outputs of the running is only counted. With `enable_block_reuse` the full blocks of a prompt can be found once it is
//! computed, and those of its output once the request ends.
//!
//! What differs: block reuse has no partial blocks and no retention priorities, eviction is the pool's own least recently
//! used order; a request that can never fit is refused at the door; prompts in progress come before newcomers of higher
//! priority, which could otherwise stop them for ever; there are no LoRA pages, encoders, beams, draft
//! tokens, cross attention or overlapping micro-batches, and the policy `prefill_first` is left out. `tokens_per_block`
//! and `max_seq_len` are the engine's `block_size` and `max_model_len`.

mod capacity;
mod micro_batch;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, Memory, PolicyKnobs, at_least};
use crate::request::{At, RequestId};
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work};
use crate::step::BlockId;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrtllmConfig {
    pub capacity_scheduler_policy: CapacitySchedulerPolicy,
    /// Cut prompts that do not fit into the token budget.
    pub enable_chunked_context: bool,
    pub context_chunking_policy: ContextChunkingPolicy,
    /// Requests in one iteration.
    pub max_batch_size: u32,
    /// Tokens in one iteration.
    pub max_num_tokens: u32,
    pub enable_block_reuse: bool,
}

/// Who may run, by memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacitySchedulerPolicy {
    /// Whoever fits to its completion next to everybody else's completion.
    GuaranteedNoEvict,
    /// Whoever fits for one more iteration; the last started is paused when that fails.
    MaxUtilization,
    /// As `GuaranteedNoEvict`, but nobody joins while anybody generates.
    StaticBatch,
}

/// How prompts share a budget that is too small for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextChunkingPolicy {
    FirstComeFirstServed,
    EqualProgress,
}

impl Default for TrtllmConfig {
    fn default() -> Self {
        TrtllmConfig {
            capacity_scheduler_policy: CapacitySchedulerPolicy::GuaranteedNoEvict,
            enable_chunked_context: false,
            context_chunking_policy: ContextChunkingPolicy::FirstComeFirstServed,
            max_batch_size: 2048,
            max_num_tokens: 8192,
            enable_block_reuse: true,
        }
    }
}

impl PolicyKnobs for TrtllmConfig {
    fn rules(&self) -> String {
        let policy = match self.capacity_scheduler_policy {
            CapacitySchedulerPolicy::GuaranteedNoEvict => "guaranteed_no_evict",
            CapacitySchedulerPolicy::MaxUtilization => "max_utilization",
            CapacitySchedulerPolicy::StaticBatch => "static_batch",
        };
        format!("trtllm (batch manager rules, {policy})")
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(Trtllm { config: self.clone() })
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        at_least("max_batch_size", self.max_batch_size, 1)?;
        at_least("max_num_tokens", self.max_num_tokens, 1)?;
        if self.enable_chunked_context && self.max_num_tokens < engine.block_size {
            let needs = "max_num_tokens of at least block_size, since chunks are whole blocks";
            return Err(ConfigError::Needs { key: "enable_chunked_context", needs });
        }
        Ok(())
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_batch_size)
    }

    fn memory(&self) -> Memory {
        Memory::Paged
    }

    fn longest_request(&self, engine: &EngineConfig) -> u32 {
        match self.enable_chunked_context {
            true => engine.pool_tokens(),
            false => engine.pool_tokens().min(self.max_num_tokens),
        }
    }

    fn queue_by_priority(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Trtllm {
    config: TrtllmConfig,
}

impl Trtllm {
    /// Blocks to the end of the request: unlike the others this system counts a slot for the last token too.
    fn blocks_to_completion(state: &State, id: RequestId) -> usize {
        state.blocks.blocks_for(state.seq(id).longest(state.max_model_len))
    }

    fn reusable_blocks(&self, state: &mut State, id: RequestId) -> Vec<BlockId> {
        if self.config.enable_block_reuse { state.known_prefix(id) } else { Vec::new() }
    }

    /// Lets later requests find what was computed: prompts when they are done, everything when a request leaves.
    fn store(&self, state: &mut State, id: RequestId) {
        if self.config.enable_block_reuse {
            let computed = state.seq(id).computed;
            state.register(id, computed);
        }
    }

    fn store_finished_contexts(&self, state: &mut State) {
        if !self.config.enable_block_reuse {
            return;
        }
        let block_size = state.blocks.block_size() as usize;
        let is_new = |id: &RequestId| {
            let seq = state.seq(*id);
            !seq.prefilling && seq.registered < seq.prompt_len() / block_size
        };
        let finished: Vec<RequestId> = state.running.iter().copied().filter(is_new).collect();
        for id in finished {
            let prompt = state.seq(id).prompt_len();
            state.register(id, prompt);
        }
    }

    /// Carries out a share of the iteration. A request that starts finds what it can reuse and skips it.
    fn run(&self, state: &mut State, id: RequestId, tokens: usize) -> Work {
        if state.seq(id).blocks.is_empty() {
            let mut blocks = self.reusable_blocks(state, id);
            state.blocks.share(&blocks);
            let (hit, known) = (blocks.len(), state.seq(id).tokens.len());
            blocks.extend(state.blocks.take(state.blocks.blocks_for(known) - hit));
            let hit_tokens = hit * state.blocks.block_size() as usize;
            state.start(id, blocks, hit_tokens);
            state.seq_mut(id).registered = hit;
            if self.config.enable_block_reuse {
                state.count_prefix_lookup(id, hit_tokens);
            }
        }
        let seq = state.seq(id);
        let tokens = tokens.min(seq.uncomputed());
        let end = seq.computed + tokens;
        assert!(state.grow(id, end), "no block for request {}, though capacity was found for it", id.0);
        Work::tokens(id, tokens)
    }
}

impl Policy for Trtllm {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        self.store_finished_contexts(state);
        let fitting = match self.config.capacity_scheduler_policy {
            CapacitySchedulerPolicy::GuaranteedNoEvict => self.guaranteed_no_evict(state, false),
            CapacitySchedulerPolicy::StaticBatch => self.guaranteed_no_evict(state, true),
            CapacitySchedulerPolicy::MaxUtilization => self.max_utilization(state),
        };
        let batch = self.micro_batch(state, &fitting);
        Decision::Run(batch.into_iter().map(|(id, tokens)| self.run(state, id, tokens)).collect())
    }

    fn refuses(&self, state: &State, prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        // A paused request comes back with a longer prompt.
        let longest_prompt = match self.config.capacity_scheduler_policy {
            CapacitySchedulerPolicy::MaxUtilization => longest_tokens - 1,
            _ => prompt_tokens,
        };
        let limit = self.config.max_num_tokens as usize;
        if !self.config.enable_chunked_context && longest_prompt > limit {
            return Some(EnqueueError::TooLong { tokens: longest_prompt, limit });
        }
        let (blocks, total) = (state.blocks.blocks_for(longest_tokens), state.blocks.usable());
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }

    fn retire(&mut self, state: &mut State, id: RequestId) {
        self.store(state, id);
        state.release(id);
    }
}
