//! What an executor is built from, and why that may fail.

use llmlab_kernels::KernelError;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::{ModelError, ModelSpec};
use llmlab_quant::WeightRecipe;

/// Sizes and formats of an executor. Blocks must be those of the scheduler whose plans it executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Formats of the matrices, the embedding table included; a matrix the checkpoint holds in its format already is taken
    /// as it is. Norms, biases and routers stay f32.
    pub weights: WeightRecipe,
    pub kv: KvFormat,
    /// Threads of the forward pass, the calling one included.
    pub threads: usize,
    /// Blocks in the pool, block 0 included.
    pub num_blocks: u32,
    /// Tokens per block.
    pub block_size: u32,
    /// Positions of one sequence at most.
    pub max_model_len: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("tensor {tensor}: {source}")]
    Pack { tensor: String, source: KernelError },
    #[error("threads: {0}")]
    Threads(KernelError),
    #[error("KV cache: {0}")]
    KvCache(KernelError),
    #[error("tensor {tensor} has {found} values, its shape needs {expected}")]
    TensorSize { tensor: String, found: usize, expected: usize },
    #[error("model {model}: {problem}")]
    Unsupported { model: String, problem: String },
    #[error("{key}: {problem}")]
    Config { key: &'static str, problem: String },
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

impl RuntimeConfig {
    /// Checks the sizes against the model; both executors start with this.
    pub fn validate(&self, spec: &ModelSpec) -> Result<(), RuntimeError> {
        let fail = |key, problem| Err(RuntimeError::Config { key, problem });
        if self.threads == 0 {
            return fail("threads", "must be at least 1".into());
        }
        if self.block_size == 0 {
            return fail("block_size", "must be at least 1".into());
        }
        if self.num_blocks.checked_mul(self.block_size).is_none_or(|slots| slots == 0) {
            let problem =
                format!("{} blocks of {} tokens are not in 1..2^32", self.num_blocks, self.block_size);
            return fail("num_blocks", problem);
        }
        if self.max_model_len == 0 || self.max_model_len > spec.max_position_embeddings {
            let limit = spec.max_position_embeddings;
            let problem = format!("{} is not in 1..={limit}, the positions of the model", self.max_model_len);
            return fail("max_model_len", problem);
        }
        let unsupported = |problem| Err(RuntimeError::Unsupported { model: spec.name.clone(), problem });
        if spec.head_dim == 0 || !spec.head_dim.is_multiple_of(2) {
            return unsupported(format!("head_dim {} must be even and positive", spec.head_dim));
        }
        if spec.num_kv_heads == 0 || !spec.num_heads.is_multiple_of(spec.num_kv_heads) || spec.num_heads == 0
        {
            return unsupported(format!("{} heads on {} KV heads", spec.num_heads, spec.num_kv_heads));
        }
        if spec.vocab_size == 0
            || spec.hidden_size == 0
            || spec.intermediate_size == 0
            || spec.num_layers == 0
        {
            return unsupported("a size is zero".into());
        }
        let layers = spec.layers.len();
        if layers != spec.num_layers as usize {
            return unsupported(format!(
                "attention of {layers} layers described, of {} in all",
                spec.num_layers
            ));
        }
        if let Some(layer) = spec.layers.iter().find(|layer| usize::from(layer.rope) >= spec.ropes.len()) {
            return unsupported(format!("rotary embedding {} of {}", layer.rope, spec.ropes.len()));
        }
        if spec.layers.iter().any(|layer| layer.window == Some(0)) {
            return unsupported("a window of 0 positions".into());
        }
        if let Some(rope) = spec.ropes.iter().find(|rope| {
            rope.rotary_dim == 0 || !rope.rotary_dim.is_multiple_of(2) || rope.rotary_dim > spec.head_dim
        }) {
            return unsupported(format!("{} rotary values in a head of {}", rope.rotary_dim, spec.head_dim));
        }
        if let Some(moe) = &spec.moe
            && !(1..=moe.experts).contains(&moe.experts_per_token)
        {
            return unsupported(format!("{} of {} experts per token", moe.experts_per_token, moe.experts));
        }
        Ok(())
    }
}
