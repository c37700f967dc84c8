//! What a user can choose about scheduling and KV memory, and which choices contradict each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ngram;
use crate::request::TokenId;

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
///
/// Policy `tgi` reserves by its own rule (prompt + `max_tokens` - 1 up front) and does not look at this.
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

/// vLLM V1, rules as of 0.33, one full-attention cache group.
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
    /// Different adapters among the running requests at most.
    pub max_loras: u32,
    /// Plan each step while the one before it runs, before its tokens are known.
    pub async_scheduling: bool,
    pub speculative_config: Option<SpeculativeConfig>,
    /// Do as 0.33 does where that goes wrong, see [`crate::scheduler::vllm`].
    pub upstream_defects: bool,
}

/// Guessing tokens ahead and verifying them in one forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeculativeConfig {
    pub method: SpeculativeMethod,
    /// Drafts a step verifies at most.
    pub num_speculative_tokens: u32,
    /// Method `ngram`: how many tokens at the end of the text must have occurred before, at least and at most. With a
    /// most of 0 the scheduler does not look itself and takes what the executor proposes.
    pub prompt_lookup_min: u32,
    pub prompt_lookup_max: u32,
}

/// Where drafts come from, as far as it matters to memory and to the prefix cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeculativeMethod {
    /// What followed the last tokens earlier in the same text. Needs no memory.
    Ngram,
    /// A head on the model's own hidden states. It needs slots for its drafts, and the hash of a block covers the token
    /// after it, since the head's keys and values depend on it.
    Eagle,
    /// The same with plain hashes: the last block of a hit is computed again instead.
    EagleDropLastBlock,
    /// A smaller model. Needs slots for its drafts and one of the step's tokens for each sequence.
    DraftModel,
}

impl SpeculativeConfig {
    /// The scheduler itself proposes drafts.
    pub fn looks_up(&self) -> bool {
        self.method == SpeculativeMethod::Ngram && self.prompt_lookup_max > 0
    }

    /// Drafts for a text, as far as the context length leaves room.
    pub fn look_up(&self, tokens: &[TokenId], max_model_len: usize) -> Vec<TokenId> {
        let count = (self.num_speculative_tokens as usize).min(max_model_len.saturating_sub(tokens.len()));
        let (least, most) = (self.prompt_lookup_min as usize, self.prompt_lookup_max as usize);
        ngram::propose(tokens, least, most, count)
    }

    /// Slots beyond a step's own tokens that the drafter writes to.
    pub fn look_ahead_slots(&self) -> usize {
        match self.method {
            SpeculativeMethod::Ngram => 0,
            _ => self.num_speculative_tokens as usize,
        }
    }
}

impl Default for VllmConfig {
    /// What the API server of 0.33 uses on a device below 70 GiB, but synchronous: our executors compute on the thread that
    /// plans.
    fn default() -> Self {
        VllmConfig {
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            enable_chunked_prefill: true,
            enable_prefix_caching: true,
            long_prefill_token_threshold: 0,
            prefill_schedule_interval: 1,
            scheduler_reserve_full_isl: true,
            watermark: 0.0,
            priority: false,
            max_loras: 1,
            async_scheduling: false,
            speculative_config: None,
            upstream_defects: false,
        }
    }
}

/// TGI v3 router, rules of 3.3.6, see [`crate::scheduler::tgi`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TgiConfig {
    pub max_batch_prefill_tokens: u32,
    pub max_batch_total_tokens: u32,
    pub waiting_served_ratio: f64,
    pub max_waiting_tokens: u32,
    pub max_batch_size: Option<u32>,
    /// Longest prompt; None is the context less one.
    pub max_input_tokens: Option<u32>,
    pub prefill_chunking: bool,
    pub use_prefix_caching: bool,
    /// Batches are padded to rectangles, as for models without flash attention.
    pub requires_padding: bool,
    /// Blocks for a sliding window of so many tokens, used again and again. Only for virtual executors: one that attends
    /// to the whole history would read what was overwritten.
    pub window_size: Option<u32>,
    /// Tokens speculated per step, for which memory is reserved.
    pub speculate: u32,
    /// Output tokens reserved at a time. 1024, a constant of the router (`DEFAULT_GENERATION_LENGTH`).
    pub leg_tokens: u32,
    /// The exact twin of the product, what is wrong with it included.
    pub upstream_defects: bool,
}

impl TgiConfig {
    /// The launcher's defaults; the total is what its warm-up would have measured.
    pub fn new(max_batch_total_tokens: u32) -> Self {
        TgiConfig {
            max_batch_prefill_tokens: 4096,
            max_batch_total_tokens,
            waiting_served_ratio: 0.3,
            max_waiting_tokens: 20,
            max_batch_size: None,
            max_input_tokens: None,
            prefill_chunking: true,
            use_prefix_caching: true,
            requires_padding: false,
            window_size: None,
            speculate: 0,
            leg_tokens: 1024,
            upstream_defects: false,
        }
    }
}

/// A configuration no request could be served with, or one that contradicts itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key} must be at least {least}")]
    TooSmall { key: &'static str, least: u32 },
    #[error("watermark must be in 0..1, it is {0}")]
    Watermark(f64),
    #[error("waiting_served_ratio must be a number of at least 0, it is {0}")]
    WaitingServedRatio(f64),
    #[error("preferred_batch_size {preferred} must be in 1..={max}, the max_batch_size")]
    PreferredBatchSize { preferred: u32, max: u32 },
    #[error(
        "enable_chunked_prefill = false needs max_num_batched_tokens ({budget}) of at least max_model_len ({limit})"
    )]
    PromptLargerThanBudget { budget: u32, limit: u32 },
    #[error(
        "enable_prefix_caching = true needs pages to share; set it to false or choose kv = paged or reserve"
    )]
    PrefixCachingWithoutPages,
    #[error("num_speculative_tokens ({k}) must be less than max_model_len ({limit})")]
    TooManyDrafts { k: u32, limit: u32 },
    #[error("max_num_batched_tokens ({budget}) must hold {needed} tokens, one sequence with its drafts")]
    DraftsLargerThanBudget { budget: u32, needed: u32 },
    #[error("prompt_lookup_min ({least}) must be in 1..={most}, the prompt_lookup_max")]
    PromptLookup { least: u32, most: u32 },
    #[error("speculation by ngram needs the tokens of the step before, which async_scheduling = true does not wait for")]
    AsyncNgram,
    #[error("one request takes {blocks} consecutive blocks (max_model_len), the pool has {usable}")]
    ContiguousNeverFits { blocks: usize, usable: u32 },
    #[error("max_batch_total_tokens ({total}) must hold at least two blocks of {block_size} tokens")]
    TotalTokens { total: u32, block_size: u32 },
    #[error("{first} = true excludes {second}: TGI has no such models")]
    TgiExcludes { first: &'static str, second: &'static str },
}

impl EngineConfig {
    /// Checks everything that does not depend on a request.
    pub fn validate(&self) -> Result<(), ConfigError> {
        at_least("block_size", self.block_size, 1)?;
        at_least("num_blocks", self.num_blocks, 2)?;
        at_least("max_model_len", self.max_model_len, 2)?;
        if self.kv == KvStrategy::Contiguous && !matches!(self.policy, PolicyConfig::Tgi(_)) {
            let (blocks, usable) =
                (self.max_model_len.div_ceil(self.block_size) as usize, self.num_blocks - 1);
            if blocks > usable as usize {
                return Err(ConfigError::ContiguousNeverFits { blocks, usable });
            }
        }
        match &self.policy {
            PolicyConfig::Static(c) => at_least("batch_size", c.batch_size, 1),
            PolicyConfig::Dynamic(c) => self.validate_dynamic(c),
            PolicyConfig::Vllm(c) => self.validate_vllm(c),
            PolicyConfig::Tgi(c) => self.validate_tgi(c),
        }
    }

    fn validate_dynamic(&self, c: &DynamicConfig) -> Result<(), ConfigError> {
        at_least("max_batch_size", c.max_batch_size, 1)?;
        match c.preferred_batch_size.iter().find(|&&size| size == 0 || size > c.max_batch_size) {
            Some(&preferred) => Err(ConfigError::PreferredBatchSize { preferred, max: c.max_batch_size }),
            None => Ok(()),
        }
    }

    fn validate_vllm(&self, c: &VllmConfig) -> Result<(), ConfigError> {
        at_least("max_num_seqs", c.max_num_seqs, 1)?;
        at_least("max_num_batched_tokens", c.max_num_batched_tokens, 1)?;
        at_least("prefill_schedule_interval", c.prefill_schedule_interval, 1)?;
        at_least("max_loras", c.max_loras, 1)?;
        if let Some(speculation) = &c.speculative_config {
            at_least("num_speculative_tokens", speculation.num_speculative_tokens, 1)?;
            let (k, limit) = (speculation.num_speculative_tokens, self.max_model_len);
            if k >= limit {
                return Err(ConfigError::TooManyDrafts { k, limit });
            }
            let needed = 1 + k + u32::from(speculation.method == SpeculativeMethod::DraftModel);
            if c.max_num_batched_tokens < needed && !c.upstream_defects {
                return Err(ConfigError::DraftsLargerThanBudget { budget: c.max_num_batched_tokens, needed });
            }
            let (least, most) = (speculation.prompt_lookup_min, speculation.prompt_lookup_max);
            if most > 0 && !(1..=most).contains(&least) {
                return Err(ConfigError::PromptLookup { least, most });
            }
            if c.async_scheduling && speculation.method == SpeculativeMethod::Ngram {
                return Err(ConfigError::AsyncNgram);
            }
        }
        if !(0.0..1.0).contains(&c.watermark) {
            return Err(ConfigError::Watermark(c.watermark));
        }
        if !c.enable_chunked_prefill && c.max_num_batched_tokens < self.max_model_len {
            let (budget, limit) = (c.max_num_batched_tokens, self.max_model_len);
            return Err(ConfigError::PromptLargerThanBudget { budget, limit });
        }
        if c.enable_prefix_caching && self.kv == KvStrategy::Contiguous {
            return Err(ConfigError::PrefixCachingWithoutPages);
        }
        Ok(())
    }

    fn validate_tgi(&self, c: &TgiConfig) -> Result<(), ConfigError> {
        at_least("max_batch_prefill_tokens", c.max_batch_prefill_tokens, 1)?;
        at_least("max_input_tokens", c.max_input_tokens.unwrap_or(1), 1)?;
        at_least("window_size", c.window_size.unwrap_or(1), 1)?;
        at_least("leg_tokens", c.leg_tokens, 1)?;
        let excluded = [
            ("requires_padding", c.requires_padding, "prefill_chunking", c.prefill_chunking),
            ("requires_padding", c.requires_padding, "use_prefix_caching", c.use_prefix_caching),
            ("requires_padding", c.requires_padding, "a sliding window", c.window_size.is_some()),
            ("use_prefix_caching", c.use_prefix_caching, "a sliding window", c.window_size.is_some()),
        ];
        if let Some(&(first, _, second, _)) = excluded.iter().find(|(_, a, _, b)| *a && *b) {
            return Err(ConfigError::TgiExcludes { first, second });
        }
        if c.max_batch_size.is_some() {
            at_least("max_batch_size", c.max_batch_size.unwrap_or(1), 1)?;
        }
        if !c.waiting_served_ratio.is_finite() || c.waiting_served_ratio < 0.0 {
            return Err(ConfigError::WaitingServedRatio(c.waiting_served_ratio));
        }
        if c.max_batch_total_tokens / self.block_size < 2 {
            let (total, block_size) = (c.max_batch_total_tokens, self.block_size);
            return Err(ConfigError::TotalTokens { total, block_size });
        }
        Ok(())
    }
}

fn at_least(key: &'static str, value: u32, least: u32) -> Result<(), ConfigError> {
    if value < least { Err(ConfigError::TooSmall { key, least }) } else { Ok(()) }
}
