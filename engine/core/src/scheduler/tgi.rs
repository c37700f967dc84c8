//! TGI v3: the router's batching loop with the flash-attention shard's chunking.
//!
//! Memory for prompt + `max_tokens` - 1 is reserved at admission whatever the KV strategy says, so nothing is ever
//! preempted. The loop alternates: look for new requests and, if there are any, one prefill forward; then always one
//! decode forward. Without chunking the prefill runs alone and the running batch stalls; with chunking it carries the
//! running batch along.
//!
//! What differs from the product: no prefix cache (`USE_PREFIX_CACHING=0`); a generation is reserved whole, not cut
//! after 1024 tokens and queued again; a request that can never fit is refused, where the router would wait for ever;
//! a client that leaves in the middle of a chunked prefill is dropped at once, not at its first token.

use crate::config::TgiConfig;
use crate::request::{At, RequestId};
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work};

#[derive(Debug)]
pub struct Tgi {
    config: TgiConfig,
    /// The batch on the shard, oldest admission first. Those that left stay listed until the next forward is planned,
    /// because the shard sizes the next chunks before the router filters them out.
    batch: Vec<Entry>,
    /// A prefill forward just ran, so a decode forward is next.
    decode_next: bool,
    /// Forwards since the last prefill, counted as the router does: 1 right after it.
    waiting_tokens: u32,
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    gone: bool,
}

/// Limits of one look into the queue.
struct Wanted {
    min_size: usize,
    max_size: usize,
    prefill_tokens: usize,
    total_tokens: usize,
}

impl Tgi {
    pub fn new(config: TgiConfig) -> Self {
        Tgi { config, batch: Vec::new(), decode_next: false, waiting_tokens: 0 }
    }

    /// Tokens each batch entry feeds in the next forward, by the shard's rule: one for a decode; prompts that are not
    /// done share what the decodes leave of the prefill budget, newest first, and get at least one token each.
    fn next_inputs(&self, state: &State) -> Vec<usize> {
        let others = self.batch.len().saturating_sub(1);
        let mut budget = (self.config.max_batch_prefill_tokens as usize).saturating_sub(others);
        let mut inputs = vec![1; self.batch.len()];
        for (entry, input) in self.batch.iter().zip(&mut inputs).rev() {
            if !entry.gone && state.seq(entry.id).prefilling {
                *input = state.seq(entry.id).uncomputed().min(budget).max(1);
                budget = budget.saturating_sub(*input);
            }
        }
        inputs
    }

    /// Takes new requests from the queue, first come first served, as far as the limits and the free blocks allow.
    /// Returns each with the tokens of its first forward.
    fn next_batch(&self, state: &mut State, wanted: &Wanted) -> Vec<Work> {
        let queued = state.waiting.len();
        if wanted.prefill_tokens == 0 || wanted.total_tokens == 0 || queued == 0 || queued < wanted.min_size {
            return Vec::new();
        }
        // The router rounds its budget up to whole blocks.
        let budget = state.blocks.blocks_for(wanted.prefill_tokens) * state.blocks.block_size() as usize;
        let (mut used, mut new) = (0, Vec::new());
        let mut free = state.blocks.free().len();
        for id in state.waiting.iter().take(wanted.max_size) {
            let seq = state.seq(id);
            let (prompt, need) =
                (seq.prompt_len(), self.reservation(state, seq.longest(state.max_model_len)));
            if need > free {
                break;
            }
            if used + prompt > budget {
                // With chunking the last one in gets what is left of the budget.
                if self.config.prefill_chunking && budget > used {
                    new.push(Work::tokens(id, budget - used));
                }
                break;
            }
            free -= need;
            used += prompt;
            new.push(Work::tokens(id, prompt));
        }
        if new.len() < wanted.min_size {
            return Vec::new();
        }
        for work in &new {
            let need = self.reservation(state, state.seq(work.id).longest(state.max_model_len));
            let blocks = state.blocks.take(need);
            state.start_front(Vec::new(), blocks);
        }
        new
    }

    fn reservation(&self, state: &State, longest_tokens: usize) -> usize {
        state.blocks.blocks_for(longest_tokens - 1)
    }

    /// From idle: a prefill of whatever fits, with no minimum.
    fn start(&mut self, state: &mut State) -> Decision {
        let new = self.next_batch(
            state,
            &Wanted {
                min_size: 0,
                max_size: self.config.max_batch_size.map_or(usize::MAX, |n| n as usize),
                prefill_tokens: self.config.max_batch_prefill_tokens as usize,
                total_tokens: self.config.max_batch_total_tokens as usize,
            },
        );
        self.join(&new);
        // The first pass of the loop looks for more before it decodes.
        self.decode_next = false;
        if new.is_empty() { Decision::Idle } else { Decision::Run(new) }
    }

    /// The limits under which waiting requests may join the running batch, whose next forward feeds `inputs` tokens.
    fn join_limits(&self, state: &State, inputs: &[usize]) -> Wanted {
        let held: usize = self.batch.iter().map(|entry| state.seq(entry.id).blocks.len()).sum();
        let held_tokens = held * state.blocks.block_size() as usize;
        let total_tokens = (self.config.max_batch_total_tokens as usize).saturating_sub(held_tokens);
        let prefill_tokens = self.config.max_batch_prefill_tokens as usize;
        if self.config.prefill_chunking {
            let current: usize = inputs.iter().sum();
            let prefill_tokens = prefill_tokens.saturating_sub(current);
            return Wanted { min_size: 0, max_size: usize::MAX, prefill_tokens, total_tokens };
        }
        let size = self.batch.len();
        let patient = self.waiting_tokens < self.config.max_waiting_tokens;
        // In single precision, as the router computes it.
        let ratio = (size as f32 * self.config.waiting_served_ratio as f32).floor() as usize;
        Wanted {
            min_size: if patient { ratio } else { 0 },
            max_size: self.config.max_batch_size.map_or(usize::MAX, |n| (n as usize).saturating_sub(size)),
            prefill_tokens,
            total_tokens,
        }
    }

    fn join(&mut self, new: &[Work]) {
        self.batch.extend(new.iter().map(|work| Entry { id: work.id, gone: false }));
        self.waiting_tokens = 1;
        self.decode_next = true;
    }
}

impl Policy for Tgi {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let inputs = self.next_inputs(state);
        let kept = self.batch.iter().map(|entry| !entry.gone);
        let inputs: Vec<usize> =
            inputs.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(n, _)| n).collect();
        self.batch.retain(|entry| !entry.gone);
        if self.batch.is_empty() {
            return self.start(state);
        }
        let mut running: Vec<Work> =
            self.batch.iter().zip(&inputs).map(|(entry, &tokens)| Work::tokens(entry.id, tokens)).collect();
        if !std::mem::take(&mut self.decode_next) {
            let wanted = self.join_limits(state, &inputs);
            let new = self.next_batch(state, &wanted);
            if !new.is_empty() {
                self.join(&new);
                if !self.config.prefill_chunking {
                    return Decision::Run(new);
                }
                running.extend(new);
                return Decision::Run(running);
            }
        }
        self.waiting_tokens += 1;
        Decision::Run(running)
    }

    fn refuses(&self, state: &State, prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        let block_size = state.blocks.block_size() as usize;
        let limit = state.blocks.blocks_for(self.config.max_batch_prefill_tokens as usize) * block_size;
        if !self.config.prefill_chunking && prompt_tokens > limit {
            return Some(EnqueueError::TooLong { tokens: prompt_tokens, limit });
        }
        let (blocks, total) = (self.reservation(state, longest_tokens), state.blocks.usable());
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }

    fn retire(&mut self, state: &mut State, id: RequestId) {
        for entry in self.batch.iter_mut().filter(|entry| entry.id == id) {
            entry.gone = true;
        }
        state.release(id);
    }
}
