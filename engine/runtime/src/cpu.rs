//! The executor on our own kernels and paged cache.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_kernels::attention::KvCache;
use llmlab_kernels::{Isa, ThreadPool};
use llmlab_models::lora::LoraAdapter;
use llmlab_models::{LoadedModel, ModelSpec, WeightSource};

use crate::batch::{Batch, Limits};
use crate::config::{RuntimeConfig, RuntimeError};
use crate::lora::Adapters;
use crate::model::{Decoder, Workspace};
use crate::sampler::Sampler;
use crate::step_bytes::{self, StepBytes};
use crate::weights::loader::Loader;

/// Logits that [`CpuExecutor::map_logits`] holds at a time, unless one row takes more.
const LOGIT_BYTES: usize = 32 << 20;

/// Executes plans on the CPU.
///
/// The logits of a sequence are the same bits whatever else the plans contain and however its prompt was chunked; see
/// the two promises of `llmlab_kernels`.
pub struct CpuExecutor {
    model: Decoder,
    kv: KvCache,
    pool: Arc<ThreadPool>,
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
        Self::on_pool(Arc::new(pool), spec, source, config)
    }

    /// A second model that computes in turns with this one, on the same threads and in blocks of the same numbers.
    pub(crate) fn companion(
        &self,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        config: &RuntimeConfig,
    ) -> Result<Self, RuntimeError> {
        config.validate(spec)?;
        Self::on_pool(Arc::clone(&self.pool), spec, source, config)
    }

    fn on_pool(
        pool: Arc<ThreadPool>,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        config: &RuntimeConfig,
    ) -> Result<Self, RuntimeError> {
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

    /// From now on requests may name these adapters, by their place in the list.
    pub fn load_adapters(&mut self, adapters: &[LoraAdapter]) -> Result<(), RuntimeError> {
        self.model.adapters = Adapters::new(&self.spec, adapters, &self.pool)?;
        self.limits.adapters = adapters.len() as u32;
        Ok(())
    }

    pub fn vocab_size(&self) -> u32 {
        self.spec.vocab_size
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

    /// Computes the plan and returns what `f` makes of the logits after each of the last `tail` tokens of every sampling
    /// sequence, in plan order. `f` gets the number of the result and the logits, on any thread of the pool. Only some rows
    /// of logits exist at a time, however many are asked for and however large the vocabulary is.
    pub fn map_logits<T: Send>(
        &mut self,
        plan: &StepPlan,
        tail: usize,
        f: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<T>, ExecutorError> {
        let at_once = (LOGIT_BYTES / (4 * self.spec.vocab_size as usize)).max(1);
        self.map_logits_by(plan, tail, at_once, f)
    }

    fn map_logits_by<T: Send>(
        &mut self,
        plan: &StepPlan,
        tail: usize,
        at_once: usize,
        f: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<T>, ExecutorError> {
        self.batch.fill_with_logits(plan, &self.limits, tail)?;
        self.model.layers(&self.pool, &self.batch, &mut self.kv, &mut self.work);
        let vocab = self.spec.vocab_size as usize;
        let mut results = Vec::with_capacity(self.batch.samples);
        while results.len() < self.batch.samples {
            let first = results.len();
            let rows = first..self.batch.samples.min(first + at_once);
            let logits = self.model.logits(&self.pool, rows.clone(), &mut self.work);
            let found: Vec<Mutex<Option<T>>> = rows.map(|_| Mutex::new(None)).collect();
            self.pool.split(found.len(), 1, &|_, rows| {
                for row in rows {
                    let result = f(first + row, &logits[row * vocab..(row + 1) * vocab]);
                    *found[row].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            });
            let filled = |cell: Mutex<Option<T>>| cell.into_inner().unwrap_or_else(PoisonError::into_inner);
            results.extend(found.into_iter().map(|cell| filled(cell).expect("the pool ran every row")));
        }
        Ok(results)
    }
}

impl Executor for CpuExecutor {
    #[allow(clippy::disallowed_methods, reason = "an executor times itself")]
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        let start = Instant::now();
        self.batch.fill(plan, &self.limits)?;
        let logits = self.model.forward(&self.pool, &self.batch, &mut self.kv, &mut self.work);
        let sampled = self.sampler.sample(&self.pool, plan, logits, self.spec.vocab_size as usize)?;
        Ok(StepOutcome { sampled, drafts: Vec::new(), elapsed: start.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use llmlab_core::request::RequestId;
    use llmlab_core::step::{BlockId, SeqStep};
    use llmlab_kernels::attention::KvFormat;
    use llmlab_quant::{WeightFormat, WeightRecipe};

    use super::*;

    #[test]
    fn logits_are_the_same_however_many_rows_exist_at_a_time() {
        let model = llmlab_models::load("synthetic:gemma2-tiny", 1).unwrap();
        let config = RuntimeConfig {
            weights: WeightRecipe::Uniform(WeightFormat::Q8_0),
            kv: KvFormat::F32,
            threads: 2,
            num_blocks: 3,
            block_size: 16,
            max_model_len: 32,
        };
        let mut executor = CpuExecutor::new(&model, &config).unwrap();
        let seq = SeqStep::new(RequestId(0), 0, (40..51).collect(), vec![BlockId(2)]);
        let plan = StepPlan { step: 1, seqs: vec![seq], preempted: Vec::new(), admitted: Vec::new() };
        let mut rows = |at_once| {
            let keep = |row: usize, logits: &[f32]| (row, logits.to_vec());
            executor.map_logits_by(&plan, 7, at_once, keep).unwrap()
        };
        let all = rows(100);
        assert_eq!(all.iter().map(|(row, _)| *row).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
        assert_eq!(rows(3), all);
        assert_eq!(rows(1), all);
        assert_eq!(executor.logits(&plan).unwrap(), [all[6].1.clone()]);
    }
}
