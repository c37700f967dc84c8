//! One look of the router into its queue: first come first served, as far as the limits and the memory allow.

use crate::request::RequestId;
use crate::scheduler::Work;
use crate::scheduler::state::State;
use crate::scheduler::tgi::allocator::Allocation;
use crate::scheduler::tgi::leg::Leg;
use crate::scheduler::tgi::{Entry, Tgi};

/// Limits of one look into the queue.
pub(super) struct Wanted {
    pub min_size: usize,
    pub max_size: usize,
    pub prefill_tokens: usize,
    pub total_tokens: usize,
}

/// A request that was taken out of the queue and may have to go back.
struct Candidate {
    id: RequestId,
    leg: Leg,
    allocation: Allocation,
    /// Its first `cached` tokens are in the cache, the next `tokens` are fed in its first forward.
    cached: usize,
    tokens: usize,
}

/// What the requests taken so far use of the limits.
#[derive(Default)]
struct Used {
    prefill_tokens: usize,
    longest_prompt: usize,
    new_tokens: usize,
}

impl Tgi {
    /// Takes new requests into the batch and returns each with the tokens of its first forward.
    pub(super) fn next_batch(&mut self, state: &mut State, wanted: &Wanted) -> Vec<Work> {
        let visible = self.visible(state);
        let queued = visible + self.ghosts.len();
        let closed = wanted.prefill_tokens == 0 || wanted.total_tokens == 0 || wanted.max_size == 0;
        if closed || queued == 0 || queued < wanted.min_size {
            return Vec::new();
        }
        let taken = self.take(state, wanted, visible);
        if taken.len() < wanted.min_size {
            // Back to the front of the queue, last one first.
            for candidate in taken.into_iter().rev() {
                self.free_unused(state, candidate.id, candidate.allocation);
            }
            return Vec::new();
        }
        for ahead in &mut self.ghosts {
            *ahead -= taken.len();
        }
        self.admit(state, taken)
    }

    /// Requests in the queue that this look can see.
    fn visible(&self, state: &State) -> usize {
        let returning = self.returning.iter().filter_map(|id| state.waiting.place(*id)).min();
        returning.unwrap_or(state.waiting.len())
    }

    fn take(&mut self, state: &mut State, wanted: &Wanted, visible: usize) -> Vec<Candidate> {
        // The router rounds its budget up to whole blocks.
        let budget = state.blocks.blocks_for(wanted.prefill_tokens) * state.blocks.block_size() as usize;
        let (mut used, mut taken) = (Used::default(), Vec::new());
        while taken.len() < wanted.max_size {
            let place = taken.len();
            self.ghosts.retain(|ahead| *ahead > place);
            let Some(id) = state.waiting.get(place).filter(|_| place < visible) else {
                self.ghosts.clear();
                break;
            };
            let candidate = if self.config.requires_padding {
                self.take_padded(state, id, &mut used, place + 1, budget, wanted.total_tokens)
            } else {
                self.take_paged(state, id, &mut used, budget)
            };
            let Some(candidate) = candidate else { break };
            let chunked = candidate.cached + candidate.tokens < candidate.leg.prompt_tokens;
            taken.push(candidate);
            // A prompt in pieces uses up the budget.
            if chunked {
                break;
            }
        }
        taken
    }

    fn take_paged(
        &mut self,
        state: &mut State,
        id: RequestId,
        used: &mut Used,
        budget: usize,
    ) -> Option<Candidate> {
        let leg = Leg::of(&self.config, state.seq(id), state.max_model_len);
        let allocation = self.allocate(state, id, leg)?;
        // The last token of a prompt is computed even if it is known, since its logits are needed.
        let hit = allocation.cached_blocks * state.blocks.block_size() as usize;
        let cached = hit.min(leg.prompt_tokens - 1);
        let mut tokens = leg.prompt_tokens - cached;
        let left = budget - used.prefill_tokens;
        if tokens > left {
            if left == 0 || !self.config.prefill_chunking {
                self.free_unused(state, id, allocation);
                return None;
            }
            // With chunking the last one in gets what is left of the budget.
            tokens = left;
        }
        used.prefill_tokens += tokens;
        Some(Candidate { id, leg, allocation, cached, tokens })
    }

    /// The `rows`-th request of a batch that is padded to a rectangle.
    fn take_padded(
        &mut self,
        state: &mut State,
        id: RequestId,
        used: &mut Used,
        rows: usize,
        budget: usize,
        total_tokens: usize,
    ) -> Option<Candidate> {
        let leg = Leg::of(&self.config, state.seq(id), state.max_model_len);
        used.longest_prompt = used.longest_prompt.max(leg.prompt_tokens);
        used.new_tokens += leg.new_tokens;
        let prefill = rows * used.longest_prompt;
        if prefill > budget || prefill + used.new_tokens + self.config.speculate as usize > total_tokens {
            return None;
        }
        // TGI's shard has no blocks here. Our executors do, so a request also waits for those of its whole life.
        let allocation = self.allocate(state, id, leg)?;
        Some(Candidate { id, leg, allocation, cached: 0, tokens: leg.prompt_tokens })
    }

    fn allocate(&mut self, state: &mut State, id: RequestId, leg: Leg) -> Option<Allocation> {
        let seq = &state.seqs[&id];
        let prompt = (!seq.request.skip_prefix_cache).then_some(seq.tokens.as_slice());
        self.allocator.allocate(&mut state.blocks, leg.reserved_tokens(self.config.speculate), prompt)
    }

    /// Gives back the memory of a request that stays in the queue. The router takes it for one that ran and remembers its
    /// prompt, of which nothing was computed.
    fn free_unused(&mut self, state: &mut State, id: RequestId, allocation: Allocation) {
        let seq = &state.seqs[&id];
        let remembered = self.config.upstream_defects && !seq.request.skip_prefix_cache;
        let prompt = remembered.then_some(seq.tokens.as_slice());
        self.allocator.free(&mut state.blocks, allocation, prompt);
    }

    fn admit(&mut self, state: &mut State, taken: Vec<Candidate>) -> Vec<Work> {
        let longest = taken.iter().map(|candidate| candidate.leg.prompt_tokens).max().unwrap_or(0);
        if self.config.requires_padding && !taken.is_empty() {
            let new_tokens = taken.iter().map(|candidate| candidate.leg.new_tokens).sum();
            self.padded.prefill(taken.len(), longest, new_tokens);
        }
        let block_size = state.blocks.block_size() as usize;
        let mut work = Vec::with_capacity(taken.len());
        for Candidate { id, leg, allocation, cached, tokens } in taken {
            let table = allocation.table(leg.reserved_tokens(self.config.speculate), block_size);
            state.start(id, table, cached);
            if self.config.use_prefix_caching {
                state.stats.prefix_query_tokens_total += leg.prompt_tokens as u64;
                state.stats.prefix_hit_tokens_total += cached as u64;
            }
            let padding = if self.config.requires_padding { longest - tokens } else { 0 };
            work.push(Work { padding, ..Work::tokens(id, tokens) });
            self.batch.push(Entry { id, leg, allocation: Some(allocation), gone: false });
        }
        work
    }
}
