//! The engine's own log: one row per scheduler step, written by `llmlab serve --step-log`.

use serde::{Deserialize, Serialize};

/// One sequence's share of a step: `new_tokens` computed on top of `context` tokens already in the KV cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSeq {
    pub id: u64,
    pub new_tokens: u32,
    pub context: u32,
    /// Rows computed for this sequence only to fill a rectangular batch (static batching).
    #[serde(default)]
    pub padding: u32,
    /// The last so many of `new_tokens` are guesses that the step verified (speculation).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drafts: u32,
}

/// Fields after `block_size` that a log does not have are from before they were written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    pub step: u64,
    /// CLOCK_MONOTONIC at the start of the step; comparable with the client's on one machine.
    pub start_monotonic_ns: u64,
    pub elapsed_ns: u64,
    pub seqs: Vec<StepSeq>,
    pub running: u32,
    pub waiting: u32,
    pub free_blocks: u32,
    pub total_blocks: u32,
    /// Tokens whose keys and values are stored, summed over running sequences.
    pub kv_tokens: u64,
    pub block_size: u32,
    /// What `kv_tokens` counts more than once, because running sequences share blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_shared_tokens: Option<u64>,
    /// Tokens that the blocks of running sequences have room for, each block once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_held_tokens: Option<u64>,
    /// Share of the free blocks in stretches too short for a request, 0..=1; 0 where blocks need not be consecutive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_fragmentation: Option<f64>,
    /// Of the sequences' `drafts`, how many were right.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted_drafts: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempted: Vec<u64>,
    /// (request id, nanoseconds from enqueue to first scheduling) for requests first scheduled in this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admitted: Vec<(u64, u64)>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
