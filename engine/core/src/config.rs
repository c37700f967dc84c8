//! What a user can choose about scheduling and KV memory, and which choices contradict each other.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::scheduler::Policy;
pub use crate::scheduler::dynamic_batch::{DynamicConfig, TimeoutAction};
pub use crate::scheduler::fastgen::FastgenConfig;
pub use crate::scheduler::llamacpp::LlamacppConfig;
pub use crate::scheduler::orca::OrcaConfig;
pub use crate::scheduler::sarathi::SarathiConfig;
pub use crate::scheduler::sglang::{SchedulePolicy, SglangConfig};
pub use crate::scheduler::trtllm::{CapacitySchedulerPolicy, ContextChunkingPolicy, TrtllmConfig};
use crate::scheduler::{static_batch, tgi, vllm};
pub use crate::speculation::{SpeculativeConfig, SpeculativeMethod};

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
/// Only policies whose [`PolicyKnobs::memory`] says so look at this (`vllm`, `static`, `dynamic`); the others are named
/// after systems for which the way they hand out memory is part of the rule.
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

/// What a policy's configuration says about itself. Implemented next to the policy, on the struct of its knobs.
pub trait PolicyKnobs: std::fmt::Debug + Send + Sync {
    /// Name and version of the rules, for reports.
    fn rules(&self) -> String;

    /// The scheduler that follows these knobs.
    fn build(&self, engine: &EngineConfig) -> Box<dyn Policy>;

    /// Checks everything that does not depend on a request.
    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError>;

    /// Most sequences running at once, where the policy bounds them.
    fn max_num_seqs(&self) -> Option<u32> {
        None
    }

    /// Who decides how blocks are handed out.
    fn memory(&self) -> Memory {
        Memory::Strategy
    }

    /// Prompt plus output of the longest request this policy serves from the engine's pool; the context length of the
    /// model is another limit. At most what the pool holds.
    fn longest_request(&self, engine: &EngineConfig) -> u32 {
        engine.pool_tokens()
    }

    /// The waiting queue is ordered by (priority, arrival) instead of arrival.
    fn queue_by_priority(&self) -> bool {
        false
    }
}

/// Who decides how blocks are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The engine's [`KvStrategy`].
    Strategy,
    /// The policy, a block when a token needs it.
    Paged,
    /// The policy, for a request's whole life at admission.
    Reserved,
}

/// Declares the policies. A new one is a file under `scheduler/` and a line here.
macro_rules! policies {
    ($($(#[$about:meta])* $name:ident($config:ty),)*) => {
        /// Each policy with the knob names and defaults of the system it is named after.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "policy", rename_all = "snake_case")]
        pub enum PolicyConfig {
            $($(#[$about])* $name($config),)*
        }

        impl PolicyConfig {
            pub fn knobs(&self) -> &dyn PolicyKnobs {
                match self {
                    $(PolicyConfig::$name(config) => config,)*
                }
            }
        }
    };
}

policies! {
    Static(StaticConfig),
    Dynamic(DynamicConfig),
    Orca(OrcaConfig),
    Vllm(VllmConfig),
    Sarathi(SarathiConfig),
    Fastgen(FastgenConfig),
    Tgi(TgiConfig),
    Trtllm(TrtllmConfig),
    Llamacpp(LlamacppConfig),
    Sglang(SglangConfig),
    /// A policy from outside this crate. It has no name in a file.
    #[serde(skip)]
    Own(OwnPolicy),
}

/// A policy of one's own, see `docs/policies.md`.
#[derive(Debug, Clone)]
pub struct OwnPolicy(pub Arc<dyn PolicyKnobs>);

impl PartialEq for OwnPolicy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PolicyKnobs for OwnPolicy {
    fn rules(&self) -> String {
        self.0.rules()
    }

    fn build(&self, engine: &EngineConfig) -> Box<dyn Policy> {
        self.0.build(engine)
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        self.0.validate(engine)
    }

    fn max_num_seqs(&self) -> Option<u32> {
        self.0.max_num_seqs()
    }

    fn memory(&self) -> Memory {
        self.0.memory()
    }

    fn longest_request(&self, engine: &EngineConfig) -> u32 {
        self.0.longest_request(engine)
    }

    fn queue_by_priority(&self) -> bool {
        self.0.queue_by_priority()
    }
}

/// Request-level batching as in a Hugging Face pipeline or FasterTransformer: a batch is formed, padded to a rectangle,
/// and runs until its longest request ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    pub batch_size: u32,
    /// Wait this long for a full batch, counted from the oldest waiting request.
    pub max_queue_delay: Duration,
}

impl Default for StaticConfig {
    /// There is no conventional batch size.
    fn default() -> Self {
        StaticConfig { batch_size: 8, max_queue_delay: Duration::ZERO }
    }
}

impl PolicyKnobs for StaticConfig {
    fn rules(&self) -> String {
        format!("static (batches of {})", self.batch_size)
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(static_batch::StaticBatch::new(self.clone()))
    }

    fn validate(&self, _engine: &EngineConfig) -> Result<(), ConfigError> {
        at_least("batch_size", self.batch_size, 1)
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.batch_size)
    }
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

impl PolicyKnobs for VllmConfig {
    fn rules(&self) -> String {
        let defects = if self.upstream_defects {
            "vllm-0.33.0 (V1 rules, defects included"
        } else {
            "vllm (V1, 0.33 rules"
        };
        let ahead = if self.async_scheduling { ", async" } else { "" };
        let drafts = self.speculative_config.map_or_else(String::new, |speculation| {
            let by = match speculation.method {
                SpeculativeMethod::Ngram => "prompt lookup",
                SpeculativeMethod::DraftModel => "a draft model",
                SpeculativeMethod::Eagle | SpeculativeMethod::EagleDropLastBlock => "eagle",
            };
            format!(", {} drafts by {by}", speculation.num_speculative_tokens)
        });
        format!("{defects}{ahead}{drafts})")
    }

    fn build(&self, engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(vllm::Vllm::new(self.clone(), engine.num_blocks))
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        engine.validate_vllm(self)
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_num_seqs)
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

impl PolicyKnobs for TgiConfig {
    fn rules(&self) -> String {
        let rules =
            if self.upstream_defects { "tgi-3.3.6 (v3 rules, defects included)" } else { "tgi (v3 rules)" };
        rules.into()
    }

    fn build(&self, engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(tgi::Tgi::new(self.clone(), engine))
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        engine.validate_tgi(self)
    }

    fn max_num_seqs(&self) -> Option<u32> {
        self.max_batch_size
    }

    fn memory(&self) -> Memory {
        Memory::Reserved
    }
}

/// A configuration no request could be served with, or one that contradicts itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key} must be at least {least}")]
    TooSmall { key: &'static str, least: u32 },
    #[error(
        "several batches in flight are planned by the policy vllm, without async_scheduling and without speculation"
    )]
    BatchesInFlight,
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
    #[error(
        "speculation by ngram needs the tokens of the step before, which async_scheduling = true does not wait for"
    )]
    AsyncNgram,
    #[error("{key} must be in {low}..={high}, it is {value}")]
    OutOfRange { key: &'static str, low: f64, high: f64, value: f64 },
    #[error("{key} needs {needs}")]
    Needs { key: &'static str, needs: &'static str },
    #[error("one request reserves {blocks} blocks (max_model_len), the pool has {usable}")]
    ReservationNeverFits { blocks: usize, usable: u32 },
    #[error("one request takes {blocks} consecutive blocks (max_model_len), the pool has {usable}")]
    ContiguousNeverFits { blocks: usize, usable: u32 },
    #[error("max_batch_total_tokens ({total}) must hold at least two blocks of {block_size} tokens")]
    TotalTokens { total: u32, block_size: u32 },
    #[error("{first} = true excludes {second}: TGI has no such models")]
    TgiExcludes { first: &'static str, second: &'static str },
}

impl EngineConfig {
    /// Whether [`crate::Scheduler::with_batches_in_flight`] takes so many.
    pub fn validate_batches_in_flight(&self, batches: usize) -> Result<(), ConfigError> {
        match &self.policy {
            _ if batches <= 1 => Ok(()),
            PolicyConfig::Vllm(vllm) if !vllm.async_scheduling && vllm.speculative_config.is_none() => Ok(()),
            _ => Err(ConfigError::BatchesInFlight),
        }
    }

    /// Checks everything that does not depend on a request.
    pub fn validate(&self) -> Result<(), ConfigError> {
        at_least("block_size", self.block_size, 1)?;
        at_least("num_blocks", self.num_blocks, 2)?;
        at_least("max_model_len", self.max_model_len, 2)?;
        if self.kv_in_use() == KvStrategy::Contiguous {
            let (blocks, usable) =
                (self.max_model_len.div_ceil(self.block_size) as usize, self.num_blocks - 1);
            if blocks > usable as usize {
                return Err(ConfigError::ContiguousNeverFits { blocks, usable });
            }
        }
        self.policy.knobs().validate(self)
    }

    /// The KV strategy that applies: a policy that hands out blocks by its own rule takes them one at a time.
    pub fn kv_in_use(&self) -> KvStrategy {
        match self.policy.knobs().memory() {
            Memory::Strategy => self.kv,
            Memory::Paged | Memory::Reserved => KvStrategy::Paged,
        }
    }

    /// Tokens the whole pool holds.
    pub fn pool_tokens(&self) -> u32 {
        self.num_blocks.saturating_sub(1).saturating_mul(self.block_size)
    }

    /// Prompt plus output of the longest request this configuration serves.
    pub fn longest_request(&self) -> u32 {
        self.max_model_len.min(self.policy.knobs().longest_request(self))
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

pub(crate) fn at_least(key: &'static str, value: u32, least: u32) -> Result<(), ConfigError> {
    if value < least { Err(ConfigError::TooSmall { key, least }) } else { Ok(()) }
}
