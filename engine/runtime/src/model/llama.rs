//! The Llama forward pass (Touvron et al. 2023) over a ragged batch.

use llmlab_kernels::attention::{AttentionParams, AttentionScratch, AttentionSeq, KvCache, paged_attention};
use llmlab_kernels::ops::{RopeTable, RowsMut, RowsRef, add_rms_norm, rms_norm, silu_mul_fused};
use llmlab_kernels::{Activations, PackedMatrix, ThreadPool, matmul};
use llmlab_models::ModelSpec;

use crate::batch::Batch;
use crate::weights::{LayerWeights, LlamaWeights};

pub struct Llama {
    pub weights: LlamaWeights,
    rope: RopeTable,
    hidden: usize,
    ffn: usize,
    vocab: usize,
    heads: usize,
    query_width: usize,
    kv_width: usize,
    eps: f32,
    attention_scale: f32,
}

/// Buffers of a step, kept for the next: nothing is allocated once they have grown to the largest batch.
#[derive(Default)]
pub struct Workspace {
    /// The residual stream [rows, hidden].
    residual: Vec<f32>,
    /// Input of the next product [rows, hidden].
    normed: Vec<f32>,
    /// [rows, query + key + value width].
    qkv: Vec<f32>,
    /// Attention output [rows, query width].
    attended: Vec<f32>,
    /// What a half layer adds to the residual stream [rows, hidden].
    update: Vec<f32>,
    /// [rows, 2 * ffn].
    gate_up: Vec<f32>,
    /// [rows, ffn].
    activated: Vec<f32>,
    /// Rows that get logits [logit rows, hidden].
    last: Vec<f32>,
    /// [logit rows, vocab].
    logits: Vec<f32>,
    activations: Activations,
    attention: AttentionScratch,
    /// Empty between steps; keeps its memory.
    seqs: Vec<AttentionSeq<'static>>,
}

impl Llama {
    pub fn new(spec: &ModelSpec, weights: LlamaWeights, max_positions: usize) -> Self {
        Llama {
            weights,
            rope: RopeTable::new(spec.head_dim as usize, max_positions, spec.ropes[0].theta as f32),
            hidden: spec.hidden_size as usize,
            ffn: spec.intermediate_size as usize,
            vocab: spec.vocab_size as usize,
            heads: spec.num_heads as usize,
            query_width: spec.query_width() as usize,
            kv_width: spec.kv_width() as usize,
            eps: spec.rms_norm_eps,
            attention_scale: spec.attention_scale,
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
        let mut seqs = recycle(std::mem::take(&mut work.seqs));
        batch.attention_seqs(&mut seqs);
        self.embed(batch, work);
        let last_layer = self.weights.layers.len() - 1;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attention(pool, batch, kv, index, layer, &seqs, work);
            self.add_update_and_norm(pool, &layer.post_attention_norm, work);
            self.mlp(pool, layer, work);
            if index < last_layer {
                self.add_update_and_norm(pool, &self.weights.layers[index + 1].input_norm, work);
            }
        }
        work.seqs = recycle(seqs);
        self.logits(pool, batch, work)
    }

    /// Looks the tokens up and norms them for the first layer.
    fn embed(&self, batch: &Batch, work: &mut Workspace) {
        let values = batch.tokens.len() * self.hidden;
        work.residual.resize(values, 0.0);
        work.normed.resize(values, 0.0);
        work.update.resize(values, 0.0);
        for (token, row) in batch.tokens.iter().zip(work.residual.chunks_exact_mut(self.hidden)) {
            self.weights.embedding.dequantize_row(*token as usize, row);
        }
        // Attention leaves padding rows alone, so they are zero in every layer.
        work.attended.clear();
        work.attended.resize(batch.tokens.len() * self.query_width, 0.0);
    }

    /// normed -> update
    fn attention(
        &self,
        pool: &ThreadPool,
        batch: &Batch,
        kv: &mut KvCache,
        index: usize,
        layer: &LayerWeights,
        seqs: &[AttentionSeq<'_>],
        work: &mut Workspace,
    ) {
        if index == 0 {
            rms_norm(pool, &work.residual, &layer.input_norm, self.eps, &mut work.normed);
        }
        let width = self.query_width + 2 * self.kv_width;
        linear(pool, &layer.qkv, &work.normed, &mut work.qkv, &mut work.activations);
        let real = batch.real_rows();
        let qkv = &mut work.qkv[..real * width];
        // Queries and keys lie side by side and turn alike.
        let turned = RowsMut::strided(qkv, width, 0, self.query_width + self.kv_width);
        self.rope.apply(pool, turned, &batch.positions);
        let q = RowsRef::strided(qkv, width, 0, self.query_width);
        let k = RowsRef::strided(qkv, width, self.query_width, self.kv_width);
        let v = RowsRef::strided(qkv, width, self.query_width + self.kv_width, self.kv_width);
        kv.write(pool, index, &batch.slots, k, v);
        let out = &mut work.attended[..real * self.query_width];
        let params = AttentionParams::plain(self.attention_scale);
        paged_attention(pool, kv, index, seqs, q, self.heads, params, out, &mut work.attention);
        linear(pool, &layer.o, &work.attended, &mut work.update, &mut work.activations);
    }

    /// normed -> update
    fn mlp(&self, pool: &ThreadPool, layer: &LayerWeights, work: &mut Workspace) {
        linear(pool, &layer.gate_up, &work.normed, &mut work.gate_up, &mut work.activations);
        work.activated.resize(work.gate_up.len() / 2, 0.0);
        silu_mul_fused(pool, &work.gate_up, self.ffn, &mut work.activated);
        linear(pool, &layer.down, &work.activated, &mut work.update, &mut work.activations);
    }

    /// residual += update; normed = norm(residual)
    fn add_update_and_norm(&self, pool: &ThreadPool, weight: &[f32], work: &mut Workspace) {
        add_rms_norm(pool, &mut work.residual, &work.update, weight, self.eps, &mut work.normed);
    }

    /// The last residual sum and norm, for the rows that need them, then the output projection.
    fn logits<'w>(&self, pool: &ThreadPool, batch: &Batch, work: &'w mut Workspace) -> &'w [f32] {
        let hidden = self.hidden;
        work.last.clear();
        for &row in &batch.logit_rows {
            let span = row * hidden..(row + 1) * hidden;
            work.last.extend(work.residual[span.clone()].iter().zip(&work.update[span]).map(|(a, b)| a + b));
        }
        let normed = &mut work.normed[..work.last.len()];
        rms_norm(pool, &work.last, &self.weights.final_norm, self.eps, normed);
        work.logits.resize(batch.logit_rows.len() * self.vocab, 0.0);
        let head = self.weights.lm_head();
        matmul(pool, head, normed, batch.logit_rows.len(), &mut work.logits, &mut work.activations);
        &work.logits
    }
}

fn linear(pool: &ThreadPool, w: &PackedMatrix, x: &[f32], out: &mut Vec<f32>, scratch: &mut Activations) {
    let rows = x.len() / w.cols();
    out.resize(rows * w.rows(), 0.0);
    matmul(pool, w, x, rows, out, scratch);
}

/// The memory of `seqs` for entries of another lifetime; collecting an emptied vector in place allocates nothing.
fn recycle<'b>(mut seqs: Vec<AttentionSeq<'_>>) -> Vec<AttentionSeq<'b>> {
    seqs.clear();
    seqs.into_iter().map(|_| unreachable!("the vector was cleared")).collect()
}
