//! The engine's own log: one row per scheduler step, written by `llmlab serve --step-log`.

use serde::{Deserialize, Serialize};

/// One sequence's share of a step: `new_tokens` computed on top of `context` tokens already in the KV cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSeq {
    pub id: u64,
    pub new_tokens: u32,
    pub context: u32,
    /// Rows computed for this sequence only to fill a rectangular batch (static batching).
    #[serde(default)]
    pub padding: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Tokens whose keys and values are stored, summed over running sequences; with `block_size` gives internal waste.
    pub kv_tokens: u64,
    pub block_size: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempted: Vec<u64>,
    /// (request id, nanoseconds from enqueue to first scheduling) for requests first scheduled in this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admitted: Vec<(u64, u64)>,
}
