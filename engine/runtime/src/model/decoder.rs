//! The forward pass over a ragged batch: embedding, layers, logits.
//!
//! Layers follow Llama (Touvron et al. 2023); what other families add is read from the [`ModelSpec`], whose fields say
//! where each comes from. A layer is two halves that read the normed residual stream and add an update to it.

use std::ops::Range;

use llmlab_kernels::ThreadPool;
use llmlab_kernels::attention::KvCache;
use llmlab_kernels::ops::{add_rms_norm, rms_norm, soft_cap};
use llmlab_models::ModelSpec;

use crate::batch::Batch;
use crate::lora::Adapters;
use crate::model::attention::{Attention, AttentionSpace};
use crate::model::mlp::{self, MlpSpace};
use crate::model::moe::{self, MoeSpace};
use crate::weights::{DecoderWeights, FeedForward, ProjectionScratch};

pub struct Decoder {
    pub weights: DecoderWeights,
    pub adapters: Adapters,
    attention: Attention,
    feed_forward: mlp::Shape,
    moe: Option<moe::Shape>,
    hidden: usize,
    eps: f32,
    embedding_scale: f32,
    logit_softcap: Option<f32>,
}

/// Buffers of a step, kept for the next: nothing is allocated once they have grown to the largest batch.
#[derive(Default)]
pub struct Workspace {
    /// The residual stream [rows, hidden].
    pub residual: Vec<f32>,
    /// Input of the next half layer [rows, hidden].
    pub normed: Vec<f32>,
    /// What a half layer adds to the residual stream [rows, hidden].
    pub update: Vec<f32>,
    pub attention: AttentionSpace,
    pub mlp: MlpSpace,
    pub moe: MoeSpace,
    pub projection: ProjectionScratch,
    /// [logit rows, vocab].
    logits: Vec<f32>,
}

impl Decoder {
    pub fn new(spec: &ModelSpec, weights: DecoderWeights, max_positions: u32) -> Self {
        Decoder {
            weights,
            adapters: Adapters::default(),
            attention: Attention::new(spec, max_positions),
            feed_forward: mlp::Shape { activation: spec.activation },
            moe: spec.moe.as_ref().map(|moe| moe::Shape::new(moe, spec)),
            hidden: spec.hidden_size as usize,
            eps: spec.rms_norm_eps,
            embedding_scale: spec.embedding_scale,
            logit_softcap: spec.logit_softcap,
        }
    }

    /// Computes the batch, writes its keys and values, and returns the logits [logit rows, vocab].
    pub fn forward<'w>(
        &self,
        pool: &ThreadPool,
        batch: &Batch,
        kv: &mut KvCache,
        work: &'w mut Workspace,
    ) -> &'w [f32] {
        self.layers(pool, batch, kv, work);
        self.logits(pool, 0..batch.logit_rows.len(), work)
    }

    /// [`Decoder::forward`] up to the output projection, for which [`Decoder::logits`] then takes any of the logit rows.
    pub fn layers(&self, pool: &ThreadPool, batch: &Batch, kv: &mut KvCache, work: &mut Workspace) {
        self.embed(pool, batch, work);
        let layers = &self.weights.layers;
        for (index, layer) in layers.iter().enumerate() {
            let last = index + 1 == layers.len();
            let adapted = self.adapters.layer(index, &batch.adapted);
            self.attention.keys_and_values(pool, batch, kv, index, &layer.attention, adapted, work);
            if last {
                // Nothing reads the other rows any more: their keys and values are written.
                let kept = keep_rows(&mut work.residual, self.hidden, &batch.logit_rows);
                work.residual.truncate(kept);
            }
            let kept = if last { &batch.adapted_logits } else { &batch.adapted };
            let adapted = self.adapters.layer(index, kept);
            self.attention.attend(pool, batch, kv, index, last, &layer.attention, adapted, work);
            self.join(pool, layer.attention.output_norm.as_deref(), &layer.feed_forward_norm, work);
            match &layer.feed_forward {
                FeedForward::Dense(mlp) => self.feed_forward.compute(pool, mlp, adapted, work),
                FeedForward::Experts(experts) => {
                    let shape = self.moe.as_ref().expect("experts without a mixture in the spec");
                    shape.compute(pool, experts, &self.feed_forward, work);
                }
            }
            let next_norm =
                layers.get(index + 1).map_or(&self.weights.final_norm, |next| &next.attention.input_norm);
            self.join(pool, layer.feed_forward_output_norm.as_deref(), next_norm, work);
        }
    }

    /// The logits of some of the logit rows of the batch computed last: [rows, vocab].
    pub fn logits<'w>(&self, pool: &ThreadPool, rows: Range<usize>, work: &'w mut Workspace) -> &'w [f32] {
        let hidden = &work.normed[rows.start * self.hidden..rows.end * self.hidden];
        self.weights.head().apply(pool, hidden, &mut work.logits, &mut work.projection);
        if let Some(cap) = self.logit_softcap {
            soft_cap(pool, &mut work.logits, cap);
        }
        &work.logits
    }

    /// Looks the tokens up and norms them for the first layer.
    fn embed(&self, pool: &ThreadPool, batch: &Batch, work: &mut Workspace) {
        let values = batch.tokens.len() * self.hidden;
        work.residual.resize(values, 0.0);
        work.normed.resize(values, 0.0);
        for (token, row) in batch.tokens.iter().zip(work.residual.chunks_exact_mut(self.hidden)) {
            self.weights.embedding.row(*token as usize, row);
            if self.embedding_scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= self.embedding_scale);
            }
        }
        let first_norm = &self.weights.layers[0].attention.input_norm;
        rms_norm(pool, &work.residual, first_norm, self.eps, &mut work.normed);
    }

    /// residual += update, itself normed where the family does that; normed = norm(residual)
    fn join(&self, pool: &ThreadPool, update_norm: Option<&[f32]>, next_norm: &[f32], work: &mut Workspace) {
        work.normed.resize(work.residual.len(), 0.0);
        if let Some(weight) = update_norm {
            rms_norm(pool, &work.update, weight, self.eps, &mut work.normed);
            std::mem::swap(&mut work.update, &mut work.normed);
        }
        add_rms_norm(pool, &mut work.residual, &work.update, next_norm, self.eps, &mut work.normed);
    }
}

/// Moves the given rows, in ascending order, to the front and returns how many values they are.
pub(super) fn keep_rows(values: &mut [f32], width: usize, rows: &[usize]) -> usize {
    for (to, from) in rows.iter().enumerate() {
        debug_assert!(to <= *from, "rows must ascend");
        values.copy_within(from * width..(from + 1) * width, to * width);
    }
    rows.len() * width
}
