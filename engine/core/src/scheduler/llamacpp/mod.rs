//! Policy `llamacpp`: the slots of llama-server, as vendored in llama-cpp-python 0.3.36.
//!
//! A request occupies one of `n_parallel` slots until it ends, and the slot then keeps the KV of its tokens. The next
//! request goes to the idle slot that shares the longest beginning with it, if that is more than
//! `slot_prompt_similarity` of its prompt, else to the one idle for longest; with `cache_prompt` it continues after the
//! shared tokens. An iteration is one batch: a token for every slot that generates, then prompts by slot number, not by
//! arrival, until `n_batch` tokens are reached. The batch is computed in pieces of `n_ubatch` tokens, and no new one is
//! formed before the last piece is done. With `kv_unified` all slots share the pool, and idle ones are emptied, lowest
//! number first, when a batch needs their memory; without it each slot has an equal share.
//!
//! What differs: KV is handed out in blocks, not cells. Where the pool is full although no slot is idle, the server
//! retries with smaller batches and fails every request in the end; here whoever finds no block sits the batch out, and
//! when nobody can move, the request that was admitted last is thrown out and recomputed once another ended. A token is emitted when
//! its piece is done, not when its batch is. Left out: `n_cache_reuse` (moving cached tokens to other positions needs
//! keys to be rotated again, which the executors cannot), `cache_ram` (keeping the state of reused slots on the host),
//! `id_slot`, and `context_shift`, which is off in the server too.

mod slot;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, Memory, PolicyKnobs, at_least};
use crate::request::{At, RequestId};
use crate::scheduler::llamacpp::slot::Slot;
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamacppConfig {
    /// Slots.
    pub n_parallel: u32,
    /// One pool for all slots instead of an equal share for each.
    pub kv_unified: bool,
    /// Tokens of one batch.
    pub n_batch: u32,
    /// Tokens of one forward pass.
    pub n_ubatch: u32,
    /// Let prompts join a batch in which others generate.
    pub cont_batching: bool,
    pub cache_prompt: bool,
    /// Share of a prompt that a slot must know to be chosen for it, 0..=1; 0 switches that choice off.
    pub slot_prompt_similarity: f64,
}

impl Default for LlamacppConfig {
    /// What `--parallel -1` comes to.
    fn default() -> Self {
        LlamacppConfig {
            n_parallel: 4,
            kv_unified: true,
            n_batch: 2048,
            n_ubatch: 512,
            cont_batching: true,
            cache_prompt: true,
            slot_prompt_similarity: 0.1,
        }
    }
}

impl PolicyKnobs for LlamacppConfig {
    fn rules(&self) -> String {
        format!("llamacpp (llama-server rules, {} slots)", self.n_parallel)
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        let slots = (0..self.n_parallel).map(|_| Slot::default()).collect();
        Box::new(Llamacpp { config: self.clone(), slots, pieces: Vec::new(), releases: 0, full: false })
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        for (key, value) in
            [("n_parallel", self.n_parallel), ("n_batch", self.n_batch), ("n_ubatch", self.n_ubatch)]
        {
            at_least(key, value, 1)?;
        }
        let similarity = self.slot_prompt_similarity;
        if !(0.0..=1.0).contains(&similarity) {
            let key = "slot_prompt_similarity";
            return Err(ConfigError::OutOfRange { key, low: 0.0, high: 1.0, value: similarity });
        }
        if !self.kv_unified && self.n_parallel > engine.num_blocks - 1 {
            return Err(ConfigError::Needs { key: "n_parallel", needs: "a block of the pool for each slot" });
        }
        if self.n_parallel > MAX_SLOTS {
            return Err(ConfigError::Needs { key: "n_parallel", needs: "to be at most 65536" });
        }
        Ok(())
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.n_parallel)
    }

    fn memory(&self) -> Memory {
        Memory::Paged
    }

    fn longest_request(&self, engine: &EngineConfig) -> u32 {
        let share = if self.kv_unified { 1 } else { self.n_parallel };
        ((engine.num_blocks - 1) / share).saturating_mul(engine.block_size)
    }
}

const MAX_SLOTS: u32 = 65_536;

#[derive(Debug)]
struct Llamacpp {
    config: LlamacppConfig,
    slots: Vec<Slot>,
    /// What is left of the batch, last piece first.
    pieces: Vec<Vec<Work>>,
    releases: u64,
    /// A request was thrown out for want of memory, and none has ended since: nobody joins.
    full: bool,
}

impl Llamacpp {
    fn assign(&mut self, state: &mut State) {
        while let Some(id) = state.waiting.front().filter(|_| !self.full) {
            let similarity = self.config.slot_prompt_similarity as f32;
            let Some(slot) = slot::choose(&self.slots, &state.seq(id).tokens, similarity) else { return };
            self.launch(state, slot, id);
        }
    }

    /// The request takes over the blocks of what its slot already knows; the rest of them is free.
    fn launch(&mut self, state: &mut State, slot: usize, id: RequestId) {
        let slot = &mut self.slots[slot];
        let tokens = &state.seq(id).tokens;
        let known = if self.config.cache_prompt { slot.common_prefix(tokens) } else { 0 };
        // The last token is computed in any case, for its logits.
        let known = known.min(tokens.len() - 1);
        let kept = slot.blocks[..state.blocks.blocks_for(known)].to_vec();
        state.blocks.share(&kept);
        slot.clear(state);
        slot.serving = Some(id);
        state.start(id, kept, known);
        state.count_prefix_lookup(id, known);
    }

    fn serving(&self) -> Vec<RequestId> {
        self.slots.iter().filter_map(|slot| slot.serving).collect()
    }

    /// The next batch, each share of it with its blocks.
    fn form_batch(&mut self, state: &mut State) -> Vec<Work> {
        let serving = self.serving();
        let (prompts, generating): (Vec<RequestId>, Vec<RequestId>) =
            serving.into_iter().partition(|id| state.seq(*id).prefilling);
        let mut batch = Vec::new();
        for id in generating {
            if self.make_room(state, id, 1) > 0 {
                batch.push(Work::tokens(id, 1));
            }
        }
        if !self.config.cont_batching && !batch.is_empty() {
            return batch;
        }
        let mut left = (self.config.n_batch as usize).saturating_sub(batch.len());
        for id in prompts {
            let wanted = state.seq(id).uncomputed().min(left);
            let tokens = self.make_room(state, id, wanted);
            if tokens > 0 {
                left -= tokens;
                batch.push(Work::tokens(id, tokens));
            }
        }
        batch
    }

    /// Finds blocks for the next `wanted` tokens, emptying idle slots if need be, and says for how many it did.
    fn make_room(&mut self, state: &mut State, id: RequestId, wanted: usize) -> usize {
        let computed = state.seq(id).computed;
        while !state.grow(id, computed + wanted) {
            let idle = self.slots.iter_mut().find(|slot| slot.serving.is_none() && !slot.tokens.is_empty());
            let Some(slot) = idle else {
                let blocks = state.seq(id).blocks.len() + state.blocks.free().len();
                let room = (blocks * state.blocks.block_size() as usize).saturating_sub(computed).min(wanted);
                assert!(state.grow(id, computed + room), "the free blocks do not hold what was counted");
                return room;
            };
            slot.clear(state);
        }
        wanted
    }

    /// Cuts a batch into forward passes.
    fn cut(&mut self, batch: Vec<Work>) {
        let (mut pieces, mut room) = (Vec::new(), 0);
        for mut work in batch {
            while work.tokens > 0 {
                if room == 0 {
                    pieces.push(Vec::new());
                    room = self.config.n_ubatch as usize;
                }
                let tokens = work.tokens.min(room);
                room -= tokens;
                work.tokens -= tokens;
                pieces.last_mut().into_iter().for_each(|piece| piece.push(Work::tokens(work.id, tokens)));
            }
        }
        pieces.reverse();
        self.pieces = pieces;
    }

    /// The next piece with something to compute; requests that left take no part.
    fn next_piece(&mut self) -> Option<Vec<Work>> {
        let serving = self.serving();
        while let Some(mut piece) = self.pieces.pop() {
            piece.retain(|work| serving.contains(&work.id));
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        None
    }

    fn free_slot(&mut self, id: RequestId) -> Option<&mut Slot> {
        let slot = self.slots.iter_mut().find(|slot| slot.serving == Some(id))?;
        self.releases += 1;
        slot.last_used = self.releases;
        slot.serving = None;
        Some(slot)
    }
}

impl Policy for Llamacpp {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        if let Some(piece) = self.next_piece() {
            return Decision::Run(piece);
        }
        self.assign(state);
        let batch = self.form_batch(state);
        if batch.is_empty()
            && let Some(&last) = state.running.last()
        {
            state.preempt(last);
            self.free_slot(last);
            self.full = true;
        }
        self.cut(batch);
        Decision::Run(self.next_piece().unwrap_or_default())
    }

    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        let share = if self.config.kv_unified { 1 } else { self.config.n_parallel as usize };
        let (blocks, total) = (state.blocks.blocks_for(longest_tokens - 1), state.blocks.usable() / share);
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }

    fn retire(&mut self, state: &mut State, id: RequestId) {
        self.full = false;
        let seq = state.seq(id);
        let (tokens, blocks) = (seq.tokens[..seq.computed].to_vec(), seq.blocks.clone());
        let known = state.blocks.blocks_for(tokens.len());
        if let Some(slot) = self.free_slot(id) {
            slot.blocks = blocks[..known].to_vec();
            slot.tokens = tokens;
            state.blocks.keep(&slot.blocks);
        }
        state.release(id);
    }
}
