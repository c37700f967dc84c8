//! What the scheduler knows about itself: enough for a report to show why a run was slow.

use serde::{Deserialize, Serialize};

/// A snapshot. Fields in `_total` only grow; the others are the state now.
/// `submitted_total = waiting + running + finished_total + aborted_total + failed_total + rejected_total` always
/// holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub submitted_total: u64,
    /// Refused by `enqueue`.
    pub rejected_total: u64,
    pub finished_total: u64,
    /// The client left, or the policy did not let the request wait any longer.
    pub aborted_total: u64,
    /// Ended by a step that could not be computed.
    pub failed_total: u64,
    pub waiting: usize,
    /// Admitted and not yet finished.
    pub running: usize,

    /// Blocks that can be handed out at all; the null block is not among them.
    pub total_blocks: usize,
    pub free_blocks: usize,
    /// Blocks that only a policy's own cache holds (the trie of `tgi`, the radix tree of `sglang`, the idle slots of
    /// `llamacpp`). They are given up when a request needs them; free + cached + those that sequences hold = total. Blocks
    /// in the cache of `vllm` are free.
    pub cached_blocks: usize,
    /// Longest stretch of consecutive free blocks under the contiguous strategy, else `free_blocks`.
    pub largest_free_run_blocks: usize,
    /// Share of the free blocks in stretches too short for one request, 0..=1; only the contiguous strategy has any.
    pub external_fragmentation: f64,
    /// Tokens in the cache, summed over the sequences that hold blocks; a shared block counts for each of them.
    pub kv_tokens: usize,
    /// What `kv_tokens` counts more than once, because blocks are shared. Shared blocks are full.
    pub kv_shared_tokens: usize,
    /// Tokens the blocks held by sequences have room for, each block once. What `kv_tokens - kv_shared_tokens` leaves of it is
    /// wasted by reserving ahead and by half-filled blocks: internal fragmentation.
    pub kv_held_tokens: usize,

    pub steps_total: u64,
    /// Tokens that went through the model, recomputed ones included, padding not.
    pub computed_tokens_total: u64,
    pub sampled_tokens_total: u64,
    /// Drafts that were verified, and how many of them were accepted.
    pub draft_tokens_total: u64,
    pub accepted_draft_tokens_total: u64,
    /// Padded rows of prefill in rectangular batches.
    pub prefill_padding_total: u64,
    /// Rows of finished sequences in rectangular batches, one per sequence and decode step.
    pub decode_padding_total: u64,

    pub preemptions_total: u64,
    /// Tokens whose keys and values a preemption threw away. The prefix cache may save part of recomputing them.
    pub preempted_tokens_total: u64,
    /// Tokens of admitted sequences that were looked up in the prefix cache, and how many were found.
    pub prefix_query_tokens_total: u64,
    pub prefix_hit_tokens_total: u64,
}
