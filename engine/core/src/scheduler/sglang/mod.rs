//! Policy `sglang`: SGLang's scheduler over its radix cache, rules as of 0.5.23.
//!
//! Prefill has priority: as long as the queue gives a batch of prompts it runs, else all running sequences decode. The
//! queue is looked at in order of arrival (`fcfs`) or of the longest cached beginning (`lpm`); a request joins while the
//! memory estimate holds, which counts the outputs of running sequences only by the share `new_token_ratio`. A prompt
//! beyond what is left of `chunked_prefill_size` is cut and continued first in the next batch. When a decode finds no
//! memory, sequences with the fewest outputs are retracted and the ratio rises; otherwise it falls, step by step. Blocks
//! are handed out a page at a time, whatever the KV strategy says, and cached in the [`radix_tree`]: a prompt when it is
//! computed, a chunk of it too, and the output when the request ends. `page_size` is the engine's `block_size`.
//!
//! What differs: overlap scheduling is off; a request that can never fit is refused at the door; the last request of a
//! decode batch that finds no memory is retracted like the others, where the product fails it; a decode for which a mixed
//! batch has no page sits it out; while chunking goes on only one prompt is cut. Left out: the other queue policies,
//! priorities, hierarchical cache, more than one decode step per look at the queue, LoRA and speculation.

mod admission;
pub mod radix_tree;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, Memory, PolicyKnobs, at_least};
use crate::request::{At, RequestId};
use crate::scheduler::sglang::radix_tree::{NodeId, RadixTree};
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work};

/// The estimate of `new_token_ratio`: its start, its floor as a share of the start, and the decode steps between them.
const INIT_NEW_TOKEN_RATIO: f64 = 0.7;
const MIN_NEW_TOKEN_RATIO_FACTOR: f64 = 0.14;
const NEW_TOKEN_RATIO_DECAY_STEPS: f64 = 600.0;
/// Decode steps of memory that a retraction makes room for.
const RETRACT_DECODE_STEPS: usize = 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SglangConfig {
    pub schedule_policy: SchedulePolicy,
    pub max_running_requests: u32,
    /// Prompt tokens of one batch where prompts are not cut.
    pub max_prefill_tokens: u32,
    /// Prompt tokens of one batch; 0 never cuts a prompt (-1 in the product).
    pub chunked_prefill_size: u32,
    /// Decode in the same batch as a prefill.
    pub enable_mixed_chunk: bool,
    pub disable_radix_cache: bool,
    /// Factor on the memory kept for the outputs of running sequences.
    pub schedule_conservativeness: f64,
}

/// Order of the waiting queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulePolicy {
    Fcfs,
    /// Longest cached prefix first.
    Lpm,
}

impl Default for SglangConfig {
    /// The chunk is what the product takes on the smallest devices; 8192 between 60 and 160 GB.
    fn default() -> Self {
        SglangConfig {
            schedule_policy: SchedulePolicy::Fcfs,
            max_running_requests: 2048,
            max_prefill_tokens: 16_384,
            chunked_prefill_size: 2048,
            enable_mixed_chunk: false,
            disable_radix_cache: false,
            schedule_conservativeness: 1.0,
        }
    }
}

impl PolicyKnobs for SglangConfig {
    fn rules(&self) -> String {
        let order = match self.schedule_policy {
            SchedulePolicy::Fcfs => "fcfs",
            SchedulePolicy::Lpm => "lpm",
        };
        format!("sglang (0.5 rules, {order})")
    }

    fn build(&self, engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(Sglang::new(self.clone(), engine.block_size as usize))
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        at_least("max_running_requests", self.max_running_requests, 1)?;
        at_least("max_prefill_tokens", self.max_prefill_tokens, 1)?;
        if (1..engine.block_size).contains(&self.chunked_prefill_size) {
            let needs = "to be at least block_size, since chunks are whole pages; or 0";
            return Err(ConfigError::Needs { key: "chunked_prefill_size", needs });
        }
        let value = self.schedule_conservativeness;
        if !(0.0..=100.0).contains(&value) {
            return Err(ConfigError::OutOfRange {
                key: "schedule_conservativeness",
                low: 0.0,
                high: 100.0,
                value,
            });
        }
        Ok(())
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_running_requests)
    }

    fn memory(&self) -> Memory {
        Memory::Paged
    }

    /// Admission asks for more than the tokens of the request: a page, and one token to spare.
    fn longest_request(&self, engine: &EngineConfig) -> u32 {
        engine.pool_tokens().saturating_sub(engine.block_size + 1)
    }
}

#[derive(Debug)]
struct Sglang {
    config: SglangConfig,
    tree: RadixTree,
    /// Where in the tree each running request stands.
    standing: HashMap<RequestId, NodeId>,
    /// The prompt that was cut and goes on in the next batch.
    chunked: Option<RequestId>,
    /// Prompts in the last step; they enter the tree before the next is planned.
    prefilled: Vec<RequestId>,
    new_token_ratio: f64,
    /// Nobody else fits; not tried again before a running request is seen to have left.
    batch_is_full: bool,
    somebody_left: bool,
}

impl Sglang {
    fn new(config: SglangConfig, page: usize) -> Self {
        let mut policy = Sglang {
            config,
            tree: RadixTree::new(page),
            standing: HashMap::new(),
            chunked: None,
            prefilled: Vec::new(),
            new_token_ratio: 0.0,
            batch_is_full: false,
            somebody_left: false,
        };
        policy.new_token_ratio = policy.init_ratio();
        policy
    }

    fn init_ratio(&self) -> f64 {
        (INIT_NEW_TOKEN_RATIO * self.config.schedule_conservativeness).min(1.0)
    }

    /// Frees blocks by eviction until `wanted` are free. False when even the whole cache is not enough.
    fn make_free(&mut self, state: &mut State, wanted: usize) -> bool {
        let short = wanted.saturating_sub(state.blocks.free().len());
        let evicted = self.tree.evict(short);
        state.blocks.let_go(&evicted);
        state.blocks.free().len() >= wanted
    }

    /// Puts what was computed of a sequence into the tree, as far as it fills pages. Returns the length in blocks.
    fn cache(&mut self, state: &mut State, id: RequestId) -> usize {
        if self.config.disable_radix_cache {
            return 0;
        }
        let seq = state.seq(id);
        let page = state.blocks.block_size() as usize;
        let full = seq.computed / page;
        let known = self.tree.insert(&seq.tokens[..full * page], &seq.blocks[..full]);
        let fresh = seq.blocks[known..full].to_vec();
        state.blocks.keep(&fresh);
        full
    }

    /// A prompt, or a chunk of it, is computed: others may use it from now on. What another request computed at the same
    /// time is there twice; this one changes over to the blocks in the tree.
    fn cache_prefilled(&mut self, state: &mut State) {
        for id in std::mem::take(&mut self.prefilled) {
            let Some(&old) = self.standing.get(&id) else { continue };
            let full = self.cache(state, id);
            let seq = state.seq(id);
            let (blocks, node) =
                self.tree.longest_prefix(&seq.tokens[..full * state.blocks.block_size() as usize]);
            let own = seq.blocks[..full].to_vec();
            state.blocks.share(&blocks);
            state.blocks.release(&own);
            state.seq_mut(id).blocks[..full].copy_from_slice(&blocks);
            self.tree.lock(node);
            self.tree.unlock(old);
            self.standing.insert(id, node);
        }
    }

    /// Prompts that were computed join those who decode. The product keeps "full" with the batch of the latter, and
    /// forgets it when there was none, when all of it ran along with the prompts, or when a cut prompt leaves the batch.
    fn merge(&mut self, state: &State) {
        let joined = |id: &RequestId| self.prefilled.contains(id);
        let alone = self.mixes() || Sglang::decoding(state).iter().all(joined);
        if !self.prefilled.is_empty() && (alone || self.chunked.is_some_and(|id| joined(&id))) {
            self.batch_is_full = false;
        }
    }

    /// Whether sequences decode in the same batch as a prefill.
    fn mixes(&self) -> bool {
        self.config.enable_mixed_chunk && self.config.chunked_prefill_size > 0
    }

    fn decoding(state: &State) -> Vec<RequestId> {
        state.running.iter().copied().filter(|id| !state.seq(*id).prefilling).collect()
    }

    /// Pages the next token of each of these takes.
    fn next_pages(state: &State, ids: &[RequestId]) -> usize {
        let missing = |id: &RequestId| {
            let seq = state.seq(*id);
            state.blocks.blocks_for(seq.computed + 1) - seq.blocks.len()
        };
        ids.iter().map(missing).sum()
    }

    fn decode(&mut self, state: &mut State, mut ids: Vec<RequestId>) -> Vec<Work> {
        if std::mem::take(&mut self.somebody_left) {
            self.batch_is_full = false;
        }
        if self.make_free(state, Sglang::next_pages(state, &ids)) {
            let init = self.init_ratio();
            let floor = init * MIN_NEW_TOKEN_RATIO_FACTOR;
            let step = (init - floor) / NEW_TOKEN_RATIO_DECAY_STEPS;
            self.new_token_ratio = (self.new_token_ratio - step).max(floor);
        } else {
            self.retract(state, &mut ids);
        }
        ids.into_iter()
            .map(|id| {
                let end = state.seq(id).computed + 1;
                assert!(state.grow(id, end), "no page for request {}, though some were freed", id.0);
                Work::tokens(id, 1)
            })
            .collect()
    }

    /// Takes sequences out of the decode batch until the others have memory: fewest outputs first, of those the longest
    /// prompt. They go to the end of the queue.
    fn retract(&mut self, state: &mut State, ids: &mut Vec<RequestId>) {
        let value = |id: &RequestId| {
            let seq = state.seq(*id);
            (std::cmp::Reverse(seq.generated()), seq.prompt_len())
        };
        let mut by_value = ids.clone();
        by_value.sort_by_key(value);
        while let Some(id) = by_value.pop() {
            if let Some(node) = self.standing.remove(&id) {
                self.tree.unlock(node);
            }
            state.preempt_to_back(id);
            let page = state.blocks.block_size() as usize;
            self.make_free(state, (by_value.len() * RETRACT_DECODE_STEPS).div_ceil(page));
            if self.make_free(state, Sglang::next_pages(state, &by_value)) {
                break;
            }
        }
        ids.retain(|id| by_value.contains(id));
        let decoded: usize = ids.iter().map(|id| state.seq(*id).generated()).sum();
        let wanted: usize = ids.iter().map(|id| max_new_tokens(state, *id)).sum();
        let estimate = (decoded + RETRACT_DECODE_STEPS * ids.len()) as f64 / (wanted + 1) as f64;
        self.new_token_ratio = estimate.min(1.0);
        self.batch_is_full = false;
    }
}

/// Output tokens a request may have in all.
fn max_new_tokens(state: &State, id: RequestId) -> usize {
    let seq = state.seq(id);
    seq.longest(state.max_model_len) - seq.prompt_len()
}

impl Policy for Sglang {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        self.merge(state);
        self.cache_prefilled(state);
        // A second look, because a batch that all have left is not full.
        for _ in 0..2 {
            let work = self.prefill(state);
            if !work.is_empty() {
                return Decision::Run(work);
            }
            let ids = Sglang::decoding(state);
            if !ids.is_empty() {
                return Decision::Run(self.decode(state, ids));
            }
            self.batch_is_full = false;
        }
        self.new_token_ratio = self.init_ratio();
        Decision::Idle
    }

    /// Admission compares with "less than": a page and a token must be left.
    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        let page = state.blocks.block_size() as usize;
        let (blocks, total) = (state.blocks.blocks_for(longest_tokens + page + 1), state.blocks.usable());
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }

    fn retire(&mut self, state: &mut State, id: RequestId) {
        self.cache(state, id);
        if let Some(node) = self.standing.remove(&id) {
            self.tree.unlock(node);
        }
        state.release(id);
        // A batch of prompts is looked through as soon as it is done, a batch of decodes before the next decode.
        match self.prefilled.iter().position(|prefilled| *prefilled == id) {
            Some(place) => {
                self.prefilled.remove(place);
                self.batch_is_full = false;
            }
            None => self.somebody_left = true,
        }
        self.chunked = self.chunked.filter(|chunked| *chunked != id);
    }
}
