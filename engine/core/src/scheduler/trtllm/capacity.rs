//! Who may run in this iteration, by memory.

use std::collections::HashSet;

use crate::prefix_cache::BlockHash;
use crate::request::RequestId;
use crate::scheduler::state::State;
use crate::scheduler::trtllm::Trtllm;

impl Trtllm {
    /// First everybody who generates, with the blocks to its completion; then prompts in order while theirs fit too.
    /// `alone`: nobody joins while anybody generates.
    pub(super) fn guaranteed_no_evict(&self, state: &mut State, alone: bool) -> Vec<RequestId> {
        let most = self.config.max_batch_size as usize;
        let active = active(state);
        let (generating, mut pending): (Vec<RequestId>, Vec<RequestId>) =
            active.into_iter().partition(|id| generates(state, *id));
        // Prompts in progress first: a newcomer of higher priority must not stop those whose memory it waits for.
        pending.sort_by_key(|id| state.seq(*id).blocks.is_empty());
        let mut fitting: Vec<RequestId> = generating.into_iter().take(most).collect();
        let outstanding =
            |id: &RequestId| Trtllm::blocks_to_completion(state, *id) - state.seq(*id).blocks.len();
        let mut reserved: usize = fitting.iter().map(outstanding).sum();
        if alone && !fitting.is_empty() {
            return fitting;
        }
        let mut produced = if alone { HashSet::new() } else { self.blocks_in_production(state) };
        for id in pending {
            if !alone && self.is_worth_waiting(state, id, &mut produced) {
                continue;
            }
            let need = self.missing_blocks(state, id, Trtllm::blocks_to_completion(state, id));
            if fitting.len() >= most || need + reserved > state.blocks.free().len() {
                break;
            }
            reserved += need;
            fitting.push(id);
        }
        fitting
    }

    /// In order, whoever fits for this iteration. When one does not, the last that has started is paused, which may be
    /// this one itself, and the walk ends before it.
    pub(super) fn max_utilization(&self, state: &mut State) -> Vec<RequestId> {
        let active = active(state);
        let mut produced = self.blocks_in_production(state);
        let (mut fitting, mut claimed) = (Vec::new(), 0);
        let (mut next, mut end) = (0, active.len());
        while next < end {
            let id = active[next];
            if self.is_worth_waiting(state, id, &mut produced) {
                next += 1;
                continue;
            }
            let tokens = state.seq(id).tokens.len();
            let need = self.missing_blocks(state, id, state.blocks.blocks_for(tokens));
            if fitting.len() < self.config.max_batch_size as usize
                && need + claimed <= state.blocks.free().len()
            {
                claimed += need;
                fitting.push(id);
                next += 1;
                continue;
            }
            let started = |id: &RequestId| !state.seq(*id).blocks.is_empty();
            let Some(last) = active[next..end].iter().rposition(started) else { break };
            end = next + last;
            self.store(state, active[end]);
            state.preempt(active[end]);
        }
        fitting
    }

    /// Free blocks it takes to bring a request to `total` blocks. Blocks it can reuse count only if nobody holds them.
    fn missing_blocks(&self, state: &mut State, id: RequestId, total: usize) -> usize {
        let held = state.seq(id).blocks.len();
        if held > 0 {
            return total.saturating_sub(held);
        }
        let reusable = self.reusable_blocks(state, id);
        total - reusable.len() + state.blocks.unheld(&reusable)
    }

    /// First new block of each prompt in progress: another request that begins with the same tokens can soon reuse it.
    fn blocks_in_production(&self, state: &mut State) -> HashSet<BlockHash> {
        let in_progress: Vec<RequestId> =
            state.running.iter().copied().filter(|id| state.seq(*id).prefilling).collect();
        in_progress.into_iter().filter_map(|id| self.first_new_block(state, id)).collect()
    }

    /// Whether a prompt that has not started had better wait for one that computes its next block already. If not, it
    /// will be the one that computes it.
    fn is_worth_waiting(&self, state: &mut State, id: RequestId, produced: &mut HashSet<BlockHash>) -> bool {
        let fresh = state.seq(id).blocks.is_empty();
        fresh && self.first_new_block(state, id).is_some_and(|block| !produced.insert(block))
    }

    /// The first full block of a sequence that cannot be reused.
    fn first_new_block(&self, state: &mut State, id: RequestId) -> Option<BlockHash> {
        if !self.config.enable_block_reuse {
            return None;
        }
        let known = state.known_prefix(id).len();
        let block_size = state.blocks.block_size() as usize;
        let seq = state.seq_mut(id);
        let full = (seq.tokens.len() - 1) / block_size;
        seq.block_hashes(full, block_size, false).get(known).copied()
    }
}

fn generates(state: &State, id: RequestId) -> bool {
    let seq = state.seq(id);
    !seq.blocks.is_empty() && !seq.prefilling
}

/// Running and waiting requests in one order: by priority, then arrival.
fn active(state: &State) -> Vec<RequestId> {
    let key = |id: &RequestId| {
        let seq = state.seq(*id);
        (seq.request.priority, seq.arrived, seq.number)
    };
    let mut running = state.running.clone();
    running.sort_by_key(key);
    let (mut running, mut waiting) = (running.into_iter().peekable(), state.waiting.iter().peekable());
    let mut active = Vec::with_capacity(state.running.len() + state.waiting.len());
    loop {
        let run_first = match (running.peek(), waiting.peek()) {
            (Some(a), Some(b)) => key(a) < key(b),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return active,
        };
        active.extend(if run_first { running.next() } else { waiting.next() });
    }
}
