//! How a batch of prompts is put together: in which order the queue is looked at, and who still fits.

use std::cmp::Reverse;

use crate::request::RequestId;
use crate::scheduler::Work;
use crate::scheduler::sglang::radix_tree::ROOT;
use crate::scheduler::sglang::{SchedulePolicy, Sglang, max_new_tokens};
use crate::scheduler::state::State;

/// A request is not expected to generate more than this, however much it may.
const CLIP_MAX_NEW_TOKENS: usize = 4096;
/// Above this many waiting requests `lpm` is not worth its time and the queue keeps its order.
const LPM_QUEUE_LIMIT: usize = 128;
/// A request that finds at most so many tokens in the cache, but shares at least so many with one before it in the
/// queue, is put off: it will find them once the other is computed.
const IN_BATCH_PREFIX_TOKENS: usize = 32;

/// What a batch of prompts may still use.
struct Budget {
    /// Tokens of the pool promised away, to running requests and to those admitted.
    promised_tokens: f64,
    /// Blocks handed out since the batch was begun: part of what `promised_tokens` stands for.
    taken_blocks: usize,
    input_tokens: usize,
    /// `None` when prompts are never cut.
    chunk_tokens: Option<usize>,
    admitted: Vec<RequestId>,
}

enum Verdict {
    Go,
    /// Memory is promised away: the batch is full.
    NoToken,
    /// The budget of the batch is used up.
    Other,
}

impl Sglang {
    /// The next batch of prompts; empty if decoding is next.
    pub(super) fn prefill(&mut self, state: &mut State) -> Vec<Work> {
        if self.chunked.is_none() && (self.batch_is_full || state.waiting.is_empty()) {
            return Vec::new();
        }
        let decoding = Sglang::decoding(state);
        let seats = (self.config.max_running_requests as usize).saturating_sub(decoding.len());
        if seats == 0 && self.chunked.is_none() {
            self.batch_is_full = true;
            return Vec::new();
        }
        self.order_queue(state);
        let mixes = self.mixes();
        let mut budget = self.budget(state, &decoding, if mixes { decoding.len() } else { 0 });
        let mut work = Vec::new();
        let mut verdict = match self.chunked {
            Some(id) => self.continue_chunk(state, id, &mut budget, &mut work),
            None => Verdict::Go,
        };
        for id in state.waiting.iter().collect::<Vec<_>>() {
            if !matches!(verdict, Verdict::Go) {
                break;
            }
            if budget.admitted.len() >= seats {
                verdict = Verdict::NoToken;
                break;
            }
            verdict = self.admit(state, id, &mut budget, &mut work);
        }
        self.batch_is_full |= matches!(verdict, Verdict::NoToken);
        self.prefilled = budget.admitted;
        if mixes && !work.is_empty() {
            self.mix_in(state, decoding, &mut work);
        }
        work
    }

    fn budget(&self, state: &State, decoding: &[RequestId], mixed: usize) -> Budget {
        let expected = |id: &RequestId| {
            let left = max_new_tokens(state, *id) - state.seq(*id).generated();
            left.min(CLIP_MAX_NEW_TOKENS) as f64 * self.new_token_ratio
        };
        let chunk = self.config.chunked_prefill_size as usize;
        Budget {
            promised_tokens: mixed as f64 + decoding.iter().map(expected).sum::<f64>(),
            taken_blocks: 0,
            input_tokens: (self.config.max_prefill_tokens as usize).saturating_sub(mixed),
            chunk_tokens: (chunk > 0).then(|| chunk.saturating_sub(mixed)),
            admitted: Vec::new(),
        }
    }

    /// Tokens of the pool that are free, can be freed, and are not promised to anybody.
    fn free_tokens(&self, state: &State, budget: &Budget) -> f64 {
        let blocks = state.blocks.free().len() + self.tree.evictable() + budget.taken_blocks;
        (blocks * state.blocks.block_size() as usize) as f64 - budget.promised_tokens
    }

    /// Longest cached beginning first; who shares an uncached one with somebody before goes last.
    fn order_queue(&mut self, state: &mut State) {
        let lpm = self.config.schedule_policy == SchedulePolicy::Lpm && !self.config.disable_radix_cache;
        if !lpm || state.waiting.len() > LPM_QUEUE_LIMIT {
            return;
        }
        let (mut keys, mut ahead) = (std::collections::HashMap::new(), Vec::new());
        for id in state.waiting.iter() {
            let tokens = &state.seq(id).tokens;
            let hit = self.tree.longest_prefix(tokens).0.len() * state.blocks.block_size() as usize;
            let shares = |other: &&Vec<u32>| {
                let common = tokens.iter().zip(other.iter()).take_while(|(a, b)| a == b).count();
                common >= IN_BATCH_PREFIX_TOKENS
            };
            let put_off = hit <= IN_BATCH_PREFIX_TOKENS && ahead.iter().any(shares);
            if hit <= IN_BATCH_PREFIX_TOKENS && !put_off {
                ahead.push(tokens);
            }
            keys.insert(id, (put_off, Reverse(if put_off { 0 } else { hit.min(tokens.len() - 1) })));
        }
        state.waiting.sort_by_key(|id| keys[&id]);
    }

    /// The prompt that was cut goes on, before anybody else.
    fn continue_chunk(
        &mut self,
        state: &mut State,
        id: RequestId,
        budget: &mut Budget,
        work: &mut Vec<Work>,
    ) -> Verdict {
        let free = self.free_tokens(state, budget).max(0.0) as usize;
        let room = budget.chunk_tokens.unwrap_or(usize::MAX).min(free);
        let left = state.seq(id).uncomputed();
        let page = state.blocks.block_size() as usize;
        let tokens = if left <= room { left } else { room / page * page };
        if tokens == 0 {
            return Verdict::NoToken;
        }
        let expected = if tokens == left { max_new_tokens(state, id).min(CLIP_MAX_NEW_TOKENS) } else { 0 };
        self.compute(state, id, tokens, expected, budget, work);
        if tokens == left {
            self.chunked = None;
        }
        self.verdict(state, budget)
    }

    fn admit(
        &mut self,
        state: &mut State,
        id: RequestId,
        budget: &mut Budget,
        work: &mut Vec<Work>,
    ) -> Verdict {
        let page = state.blocks.block_size() as usize;
        let seq = state.seq(id);
        let (blocks, node) = match self.config.disable_radix_cache {
            true => (Vec::new(), ROOT),
            false => self.tree.longest_prefix(&seq.tokens[..seq.tokens.len() - 1]),
        };
        let hit = blocks.len() * page;
        let extend = seq.tokens.len() - hit;
        let may_generate = max_new_tokens(state, id);
        let left = (may_generate - seq.generated()).min(CLIP_MAX_NEW_TOKENS);
        // What it reuses can no longer be evicted.
        self.tree.lock(node);
        let fits = ((extend + left + page) as f64) < self.free_tokens(state, budget);
        let padded = extend.next_multiple_of(page);
        let (tokens, verdict) = match budget.chunk_tokens {
            _ if !fits => (0, Verdict::NoToken),
            None if !budget.admitted.is_empty() && padded >= budget.input_tokens => (0, Verdict::Other),
            Some(chunk) if padded > chunk => (chunk / page * page, Verdict::Other),
            _ => (extend, Verdict::Go),
        };
        if tokens == 0 {
            self.tree.unlock(node);
            return verdict;
        }
        state.blocks.share(&blocks);
        state.start(id, blocks, hit);
        if !self.config.disable_radix_cache {
            state.count_prefix_lookup(id, hit);
        }
        self.standing.insert(id, node);
        let whole = tokens == extend;
        self.chunked = if whole { self.chunked } else { Some(id) };
        let expected = if whole { may_generate.min(CLIP_MAX_NEW_TOKENS) } else { 0 };
        self.compute(state, id, tokens, expected, budget, work);
        self.verdict(state, budget)
    }

    /// Hands out the pages of a share of the batch and charges for it.
    fn compute(
        &mut self,
        state: &mut State,
        id: RequestId,
        tokens: usize,
        expected: usize,
        budget: &mut Budget,
        work: &mut Vec<Work>,
    ) {
        let seq = state.seq(id);
        let end = seq.computed + tokens;
        let pages = state.blocks.blocks_for(end) - seq.blocks.len();
        let made = self.make_free(state, pages) && state.grow(id, end);
        assert!(made, "no pages for request {}, though the estimate found them", id.0);
        let page = state.blocks.block_size() as usize;
        let padded = tokens.next_multiple_of(page);
        budget.taken_blocks += pages;
        budget.promised_tokens += (padded + expected + page) as f64;
        budget.input_tokens = budget.input_tokens.saturating_sub(padded);
        budget.chunk_tokens = budget.chunk_tokens.map(|left| left.saturating_sub(padded));
        budget.admitted.push(id);
        work.push(Work::tokens(id, tokens));
    }

    fn verdict(&self, state: &State, budget: &Budget) -> Verdict {
        if self.free_tokens(state, budget) <= 0.0 {
            Verdict::NoToken
        } else if budget.input_tokens == 0 || budget.chunk_tokens == Some(0) {
            Verdict::Other
        } else {
            Verdict::Go
        }
    }

    /// Running sequences decode in the same batch, as far as there are pages.
    fn mix_in(&mut self, state: &mut State, decoding: Vec<RequestId>, work: &mut Vec<Work>) {
        for id in decoding {
            let pages = Sglang::next_pages(state, &[id]);
            let end = state.seq(id).computed + 1;
            if self.make_free(state, pages) && state.grow(id, end) {
                work.push(Work::tokens(id, 1));
            }
        }
    }
}
