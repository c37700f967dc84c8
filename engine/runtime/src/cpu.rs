//! The executor on our own kernels and paged cache.

use std::time::Instant;

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_kernels::attention::KvCache;
use llmlab_kernels::{Isa, ThreadPool};
use llmlab_models::{LoadedModel, ModelSpec, WeightSource};

use crate::batch::{Batch, Limits};
use crate::config::{RuntimeConfig, RuntimeError};
use crate::model::{Decoder, Workspace};
use crate::sampler::Sampler;
use crate::step_bytes::{self, StepBytes};
use crate::weights::loader::Loader;

/// Executes plans on the CPU.
///
/// The logits of a sequence are the same bits whatever else the plans contain and however its prompt was chunked; see
/// the two promises of `llmlab_kernels`.
pub struct CpuExecutor {
    model: Decoder,
    kv: KvCache,
    pool: ThreadPool,
    limits: Limits,
    spec: ModelSpec,
    batch: Batch,
    work: Workspace,
    sampler: Sampler,
}

impl CpuExecutor {
    pub fn new(model: &LoadedModel, config: &RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::from_weights(&model.spec, model.weights.as_ref(), config)
    }

    /// As [`CpuExecutor::new`] without a tokenizer and the rest of a loaded model.
    pub fn from_weights(
        spec: &ModelSpec,
        source: &dyn WeightSource,
        config: &RuntimeConfig,
    ) -> Result<Self, RuntimeError> {
        config.validate(spec)?;
        let pool = ThreadPool::try_new(config.threads).map_err(RuntimeError::Threads)?;
        let mut kv = KvCache::new(
            config.kv,
            spec.num_layers as usize,
            config.num_blocks as usize,
            config.block_size as usize,
            spec.num_kv_heads as usize,
            spec.head_dim as usize,
        )
        .map_err(RuntimeError::KvCache)?;
        kv.touch();
        let loader = Loader { spec, source, recipe: config.weights, isa: Isa::detect(), pool: &pool };
        let weights = loader.load()?;
        Ok(CpuExecutor {
            model: Decoder::new(spec, weights, config.max_model_len),
            kv,
            pool,
            limits: Limits::new(spec, config),
            spec: spec.clone(),
            batch: Batch::default(),
            work: Workspace::default(),
            sampler: Sampler::default(),
        })
    }

    /// Packed weights in memory.
    pub fn weight_bytes(&self) -> u64 {
        self.model.weights.bytes()
    }

    /// The threads that compute, for probes that must run on the same ones.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// The whole block pool, used or not.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    /// What the plan moves at least.
    pub fn step_bytes(&self, plan: &StepPlan) -> StepBytes {
        step_bytes::of(plan, &self.model.weights, &self.spec, &self.kv)
    }

    /// Computes the plan as [`Executor::execute`] does, but returns the logits that it would have sampled from: one row
    /// of the vocabulary for each sampling sequence, in plan order.
    pub fn logits(&mut self, plan: &StepPlan) -> Result<Vec<Vec<f32>>, ExecutorError> {
        self.batch.fill(plan, &self.limits)?;
        let logits = self.model.forward(&self.pool, &self.batch, &mut self.kv, &mut self.work);
        Ok(logits
            .chunks_exact(self.spec.vocab_size as usize)
            .take(self.batch.samples)
            .map(<[f32]>::to_vec)
            .collect())
    }
}

impl Executor for CpuExecutor {
    #[allow(clippy::disallowed_methods, reason = "an executor times itself")]
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        let start = Instant::now();
        self.batch.fill(plan, &self.limits)?;
        let logits = self.model.forward(&self.pool, &self.batch, &mut self.kv, &mut self.work);
        let sampled = self.sampler.sample(&self.pool, plan, logits, self.spec.vocab_size as usize)?;
        Ok(StepOutcome { sampled, elapsed: start.elapsed() })
    }
}
