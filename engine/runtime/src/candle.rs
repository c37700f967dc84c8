//! The same model on candle's tensors: the baseline to beat, and the oracle our kernels must agree with.
//!
//! f32 throughout; with narrower [`RuntimeConfig::weights`] the weights are first rounded to their formats and back, so
//! that both executors compute with the same matrices. Keys and values are dense tensors per request. Plain Llama models
//! only: the other families are checked against recordings of transformers instead.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{D, Device, Result as CandleResult, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::rope_thd;
use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::RequestId;
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_kernels::{Isa, ThreadPool};
use llmlab_models::spec::names::{EMBEDDING, FINAL_NORM, LM_HEAD};
use llmlab_models::spec::{FeedForward, Linear, RopeScaling};
use llmlab_models::{Activation, LoadedModel, ModelSpec, WeightSource};
use llmlab_quant::MatrixRole;

use crate::batch::{Batch, Limits, Span};
use crate::config::{RuntimeConfig, RuntimeError};
use crate::sampler::Sampler;
use crate::weights::loader::Loader;
use crate::weights::projection::Part;

/// Executes plans with candle on the CPU, on as many threads as candle chooses (`RAYON_NUM_THREADS`).
///
/// A request's keys and values are kept under its id, not in blocks, so prefix caching is refused: a sequence whose
/// context this executor did not compute itself is an error. They are dropped when the request is preempted, starts
/// again from 0, or when one of its blocks turns up in the table of another request, which can only happen after it
/// ended. So what is kept never exceeds the scheduler's block pool by more than rounding.
pub struct CandleExecutor {
    spec: ModelSpec,
    layers: Vec<Layer>,
    embedding: Tensor,
    final_norm: Tensor,
    lm_head: Tensor,
    /// [max_model_len, head_dim / 2].
    cos: Tensor,
    sin: Tensor,
    limits: Limits,
    batch: Batch,
    sampler: Sampler,
    /// Packs the weights and draws the tokens.
    pool: ThreadPool,
    held: HashMap<RequestId, Held>,
    /// The request that last named each block, and the step in which it had started.
    owners: Vec<Option<(RequestId, u64)>>,
}

/// What is kept of a request.
struct Held {
    /// The step in which it was computed from position 0.
    since: u64,
    /// One per layer.
    layers: Vec<DenseKv>,
}

/// Matrices are stored [in, out] as a view of the checkpoint's [out, in].
struct Layer {
    input_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    post_attention_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// Keys and values of one request in one layer, [kv_heads, capacity, head_dim] each.
struct DenseKv {
    k: Tensor,
    v: Tensor,
    len: usize,
}

impl DenseKv {
    fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> CandleResult<Self> {
        let shape = (kv_heads, capacity, head_dim);
        let zeros = || Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu);
        Ok(DenseKv { k: zeros()?, v: zeros()?, len: 0 })
    }

    /// Puts `k` and `v` [kv_heads, tokens, head_dim] after the first `len` tokens; room doubles when it runs out.
    fn append(&mut self, k: &Tensor, v: &Tensor) -> CandleResult<(Tensor, Tensor)> {
        let (kv_heads, tokens, head_dim) = k.dims3()?;
        let needed = self.len + tokens;
        if needed > self.k.dim(1)? {
            let mut larger = DenseKv::new(kv_heads, head_dim, needed.next_power_of_two())?;
            if self.len > 0 {
                larger.k.slice_set(&self.k.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
                larger.v.slice_set(&self.v.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
            }
            larger.len = self.len;
            *self = larger;
        }
        self.k.slice_set(k, 1, self.len)?;
        self.v.slice_set(v, 1, self.len)?;
        self.len = needed;
        Ok((self.k.narrow(1, 0, needed)?, self.v.narrow(1, 0, needed)?))
    }
}

impl CandleExecutor {
    pub fn new(model: &LoadedModel, config: &RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::from_weights(&model.spec, model.weights.as_ref(), config)
    }

    pub fn from_weights(
        spec: &ModelSpec,
        source: &dyn WeightSource,
        config: &RuntimeConfig,
    ) -> Result<Self, RuntimeError> {
        config.validate(spec)?;
        check_plain_llama(spec)?;
        let pool = ThreadPool::try_new(config.threads).map_err(RuntimeError::Threads)?;
        let loader = Loader { spec, source, recipe: config.weights, isa: Isa::detect(), pool: &pool };
        let tensor = |part: Part| -> Result<Tensor, RuntimeError> {
            let shape = (part.matrix.rows(), part.matrix.cols());
            Ok(Tensor::from_vec(part.dequantize(), shape, &Device::Cpu)?)
        };
        let hidden = spec.hidden_size as usize;
        let norm = |name: &str| -> Result<Tensor, RuntimeError> {
            Ok(Tensor::from_vec(loader.norm(name, hidden)?, hidden, &Device::Cpu)?)
        };
        let tied = spec.tie_word_embeddings;
        let role = if tied { MatrixRole::TiedEmbedding } else { MatrixRole::Embedding };
        let embedding = tensor(loader.outside(EMBEDDING, role)?)?;
        let mut layers = Vec::with_capacity(spec.num_layers as usize);
        for layer in 0..spec.num_layers {
            let linear = |linear: &Linear| -> Result<Tensor, RuntimeError> {
                Ok(tensor(loader.part(linear, layer)?)?.t()?)
            };
            let names = spec.names(layer);
            let ([q, k, v], FeedForward::Dense(mlp)) = (names.qkv.as_slice(), &names.feed_forward) else {
                return Err(not_plain_llama(spec, "fused projections or experts"));
            };
            let [gate, up] = mlp.gate_up.as_slice() else {
                return Err(not_plain_llama(spec, "fused projections"));
            };
            layers.push(Layer {
                input_norm: norm(&names.input_norm)?,
                q: linear(q)?,
                k: linear(k)?,
                v: linear(v)?,
                o: linear(&names.o)?,
                post_attention_norm: norm(&names.post_attention_norm)?,
                gate: linear(gate)?,
                up: linear(up)?,
                down: linear(&mlp.down)?,
            });
        }
        let lm_head =
            if tied { embedding.t()? } else { tensor(loader.outside(LM_HEAD, MatrixRole::Output)?)?.t()? };
        let (cos, sin) = rotary_table(spec, config.max_model_len as usize)?;
        Ok(CandleExecutor {
            spec: spec.clone(),
            layers,
            embedding,
            final_norm: norm(FINAL_NORM)?,
            lm_head,
            cos,
            sin,
            limits: Limits::new(spec, config),
            batch: Batch::default(),
            sampler: Sampler::default(),
            pool,
            held: HashMap::new(),
            owners: vec![None; config.num_blocks as usize],
        })
    }

    /// As [`crate::CpuExecutor::logits`].
    pub fn logits(&mut self, plan: &StepPlan) -> Result<Vec<Vec<f32>>, ExecutorError> {
        let logits = self.run(plan)?;
        let rows = logits.chunks_exact(self.spec.vocab_size as usize);
        Ok(rows.take(self.batch.samples).map(<[f32]>::to_vec).collect())
    }

    /// Requests whose keys and values are held.
    pub fn held_requests(&self) -> usize {
        self.held.len()
    }

    fn run(&mut self, plan: &StepPlan) -> Result<Vec<f32>, ExecutorError> {
        let mut batch = std::mem::take(&mut self.batch);
        let result = batch.fill(plan, &self.limits).and_then(|()| {
            let failed = |error| ExecutorError(format!("step {}: {error}", plan.step));
            self.forget(plan).map_err(failed)?;
            self.check_contexts(plan)?;
            self.forward(plan, &batch).map_err(failed)
        });
        self.batch = batch;
        result
    }

    /// Drops the keys and values of requests that ended, and makes room for those that start.
    fn forget(&mut self, plan: &StepPlan) -> CandleResult<()> {
        for id in &plan.preempted {
            self.held.remove(id);
        }
        for seq in plan.seqs.iter().filter(|seq| !seq.tokens.is_empty()) {
            if seq.context == 0 {
                let (kv_heads, head_dim) = (self.spec.num_kv_heads as usize, self.spec.head_dim as usize);
                let capacity = (seq.tokens.len() + 1).next_power_of_two();
                let layers = (0..self.layers.len()).map(|_| DenseKv::new(kv_heads, head_dim, capacity));
                let layers = layers.collect::<CandleResult<Vec<_>>>()?;
                self.held.insert(seq.id, Held { since: plan.step, layers });
            }
            let Some(Held { since, .. }) = self.held.get(&seq.id) else { continue };
            let owner = (seq.id, *since);
            for block in &seq.blocks {
                let before = self.owners[block.0 as usize].replace(owner);
                // A request that was preempted and started again no longer owns the blocks of its first life.
                if let Some((id, since)) = before.filter(|before| *before != owner)
                    && self.held.get(&id).is_some_and(|held| held.since == since)
                {
                    self.held.remove(&id);
                }
            }
        }
        Ok(())
    }

    fn check_contexts(&self, plan: &StepPlan) -> Result<(), ExecutorError> {
        for seq in plan.seqs.iter().filter(|seq| !seq.tokens.is_empty()) {
            let held = self.held.get(&seq.id).map_or(0, |held| held.layers[0].len);
            if (seq.context as usize) > held {
                return Err(ExecutorError(format!(
                    "step {}, request {}: context of {} tokens, of which candle holds {held}; it keeps keys and values \
                     per request, so prefix caching must be off",
                    plan.step, seq.id.0, seq.context
                )));
            }
        }
        Ok(())
    }

    fn forward(&mut self, plan: &StepPlan, batch: &Batch) -> CandleResult<Vec<f32>> {
        let real = batch.real_rows();
        let (heads, kv_heads) = (self.spec.num_heads as usize, self.spec.num_kv_heads as usize);
        let (head_dim, eps) = (self.spec.head_dim as usize, self.spec.rms_norm_eps);
        let tokens = Tensor::new(batch.tokens.as_slice(), &Device::Cpu)?;
        let positions = Tensor::new(batch.positions.as_slice(), &Device::Cpu)?;
        let (cos, sin) = (self.cos.index_select(&positions, 0)?, self.sin.index_select(&positions, 0)?);
        let mut residual = self.embedding.index_select(&tokens, 0)?;
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            let x = rms_norm(&residual, &layer.input_norm, eps)?;
            let heads_of = |w: &Tensor, heads: usize| {
                x.matmul(w)?.narrow(0, 0, real)?.reshape((1, real, heads, head_dim))
            };
            let (q, k, v) =
                (heads_of(&layer.q, heads)?, heads_of(&layer.k, kv_heads)?, heads_of(&layer.v, kv_heads)?);
            let mut attended = Vec::with_capacity(batch.seqs.len() + 1);
            if real > 0 {
                let (q, k) = (rope_thd(&q, &cos, &sin)?.squeeze(0)?, rope_thd(&k, &cos, &sin)?.squeeze(0)?);
                let v = v.squeeze(0)?;
                for span in &batch.seqs {
                    let id = plan.seqs[span.seq].id;
                    attended.push(self.attend(index, id, span, &q, &k, &v)?);
                }
            }
            if real < batch.tokens.len() {
                let shape = (batch.tokens.len() - real, heads * head_dim);
                attended.push(Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?);
            }
            let layer = &self.layers[index];
            residual = (residual + Tensor::cat(&attended, 0)?.matmul(&layer.o)?)?;
            let x = rms_norm(&residual, &layer.post_attention_norm, eps)?;
            let gated = (silu(&x.matmul(&layer.gate)?)? * x.matmul(&layer.up)?)?;
            residual = (residual + gated.matmul(&layer.down)?)?;
        }
        if batch.logit_rows.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<u32> = batch.logit_rows.iter().map(|row| *row as u32).collect();
        let last = residual.index_select(&Tensor::new(rows.as_slice(), &Device::Cpu)?, 0)?;
        rms_norm(&last, &self.final_norm, eps)?.matmul(&self.lm_head)?.flatten_all()?.to_vec1()
    }

    /// Attention of one sequence: `q` is [rows, heads, head_dim] of the whole batch, the result [span rows, heads * head_dim].
    fn attend(
        &mut self,
        layer: usize,
        id: RequestId,
        span: &Span,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> CandleResult<Tensor> {
        let (heads, kv_heads) = (self.spec.num_heads as usize, self.spec.num_kv_heads as usize);
        let (head_dim, group) = (self.spec.head_dim as usize, heads / kv_heads);
        let by_head = |x: &Tensor| x.narrow(0, span.first_row, span.rows)?.transpose(0, 1)?.contiguous();
        let held = &mut self.held.get_mut(&id).expect("contexts were checked").layers[layer];
        held.len = span.context;
        let (k, v) = held.append(&by_head(k)?, &by_head(v)?)?;
        let positions = span.context + span.rows;
        // The query heads of a KV head become rows of one product.
        let q = by_head(q)?.reshape((kv_heads, group * span.rows, head_dim))?;
        let scores = (q.matmul(&k.transpose(D::Minus1, D::Minus2)?)? * (1.0 / (head_dim as f64).sqrt()))?;
        let scores = if span.rows == 1 {
            scores
        } else {
            let mask = causal_mask(span.rows, span.context)?;
            scores
                .reshape((kv_heads, group, span.rows, positions))?
                .broadcast_add(&mask)?
                .reshape(scores.shape())?
        };
        let out = softmax_last_dim(&scores)?.matmul(&v.contiguous()?)?;
        out.reshape((heads, span.rows, head_dim))?.transpose(0, 1)?.reshape((span.rows, heads * head_dim))
    }
}

impl Executor for CandleExecutor {
    #[allow(clippy::disallowed_methods, reason = "an executor times itself")]
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        let start = Instant::now();
        let logits = self.run(plan)?;
        let sampled = self.sampler.sample(&self.pool, plan, &logits, self.spec.vocab_size as usize)?;
        Ok(StepOutcome { sampled, drafts: Vec::new(), elapsed: start.elapsed() })
    }
}

fn not_plain_llama(spec: &ModelSpec, what: &str) -> RuntimeError {
    let problem = format!("the candle executor runs plain Llama models, this one has {what}");
    RuntimeError::Unsupported { model: spec.name.clone(), problem }
}

fn check_plain_llama(spec: &ModelSpec) -> Result<(), RuntimeError> {
    let plain_rope = spec.ropes.len() == 1
        && spec.ropes[0].scaling == RopeScaling::None
        && spec.ropes[0].rotary_dim == spec.head_dim;
    let extras = [
        (spec.qkv_bias || spec.o_bias || spec.mlp_bias, "biases"),
        (spec.qk_norm || spec.norm_plus_one || spec.sandwich_norms, "other norms"),
        (spec.attention_softcap.is_some() || spec.logit_softcap.is_some(), "soft caps"),
        (spec.embedding_scale != 1.0, "scaled embeddings"),
        (spec.attention_scale != 1.0 / (spec.head_dim as f32).sqrt(), "another attention scale"),
        (spec.activation != Activation::Silu, "another activation"),
        (spec.layers.iter().any(|layer| layer.window.is_some()), "sliding windows"),
        (!plain_rope, "another rotary embedding"),
        (spec.moe.is_some(), "experts"),
    ];
    match extras.into_iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(not_plain_llama(spec, what)),
        None => Ok(()),
    }
}

/// 0 where row i may look (positions up to `context + i`), minus infinity elsewhere: [rows, context + rows].
fn causal_mask(rows: usize, context: usize) -> CandleResult<Tensor> {
    let positions = context + rows;
    let mask: Vec<f32> = (0..rows * positions)
        .map(|at| if at % positions <= context + at / positions { 0.0 } else { f32::NEG_INFINITY })
        .collect();
    Tensor::from_vec(mask, (rows, positions), &Device::Cpu)
}

/// cos and sin of `position * frequency`, the product in f32 as Hugging Face computes it.
fn rotary_table(spec: &ModelSpec, positions: usize) -> CandleResult<(Tensor, Tensor)> {
    let half = spec.head_dim as usize / 2;
    let frequencies = spec.ropes[0].inv_freq(positions as u32);
    let frequencies = Tensor::from_vec(frequencies, (1, half), &Device::Cpu)?;
    let positions = Tensor::arange(0u32, positions as u32, &Device::Cpu)?
        .to_dtype(candle_core::DType::F32)?
        .reshape((positions, 1))?;
    let angles = positions.matmul(&frequencies)?;
    Ok((angles.cos()?, angles.sin()?))
}
