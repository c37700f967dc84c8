//! What a user can choose about scheduling and KV memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Sizes shared by every policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineConfig {
    pub policy: PolicyConfig,
    pub kv: KvStrategy,
    /// Tokens per block.
    pub block_size: u32,
    /// Blocks in the pool, block 0 (the null block, never handed out) included.
    pub num_blocks: u32,
    /// Prompt plus output of one request at most.
    pub max_model_len: u32,
}

/// How blocks are handed out. Separate from the policy so that the cost of each shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvStrategy {
    /// A block when a token needs it (PagedAttention).
    Paged,
    /// Prompt plus `max_tokens` at admission.
    Reserve,
    /// `max_model_len` in consecutive blocks at admission: the baseline before PagedAttention.
    Contiguous,
}

/// Each policy with the knob names and defaults of the system it is named after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub enum PolicyConfig {
    Static(StaticConfig),
    Dynamic(DynamicConfig),
    Vllm(VllmConfig),
    Tgi(TgiConfig),
}

/// Request-level batching as in a Hugging Face pipeline or FasterTransformer: a batch is formed, padded to a rectangle,
/// and runs until its longest request ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StaticConfig {
    pub batch_size: u32,
    /// Wait this long for a full batch, counted from the oldest waiting request.
    pub max_queue_delay: Duration,
}

/// Triton's dynamic batcher over a batch that runs to completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynamicConfig {
    pub max_batch_size: u32,
    pub preferred_batch_size: Vec<u32>,
    pub max_queue_delay: Duration,
}

/// vLLM V1, rules as of 0.33.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VllmConfig {
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub enable_chunked_prefill: bool,
    pub enable_prefix_caching: bool,
    pub long_prefill_token_threshold: u32,
    pub prefill_schedule_interval: u32,
    pub scheduler_reserve_full_isl: bool,
    /// Share of the pool kept free while something runs, 0..1.
    pub watermark: f64,
    pub priority: bool,
}

/// TGI v3 router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TgiConfig {
    pub max_batch_prefill_tokens: u32,
    pub max_batch_total_tokens: u32,
    pub waiting_served_ratio: f64,
    pub max_waiting_tokens: u32,
    pub max_batch_size: Option<u32>,
    pub prefill_chunking: bool,
}
