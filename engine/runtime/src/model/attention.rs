//! The attention half of a layer.

use llmlab_kernels::ThreadPool;
use llmlab_kernels::attention::{AttentionParams, AttentionScratch, AttentionSeq, KvCache, paged_attention};
use llmlab_kernels::ops::{RopeTable, RowsMut, RowsRef, rms_norm_heads};
use llmlab_models::ModelSpec;

use crate::batch::Batch;
use crate::lora::AdaptedLayer;
use crate::model::decoder::Workspace;
use crate::weights::AttentionWeights;

/// What attention computes, for all layers.
pub struct Attention {
    ropes: Vec<RopeTable>,
    layers: Vec<Layer>,
    heads: usize,
    query_width: usize,
    kv_width: usize,
    eps: f32,
}

struct Layer {
    rope: usize,
    params: AttentionParams,
}

#[derive(Default)]
pub struct AttentionSpace {
    /// [rows, query + key + value width].
    qkv: Vec<f32>,
    /// [rows, query width].
    attended: Vec<f32>,
    scratch: AttentionScratch,
    /// Empty between calls; keeps its memory.
    seqs: Vec<AttentionSeq<'static>>,
}

impl Attention {
    pub fn new(spec: &ModelSpec, max_positions: u32) -> Self {
        let head_dim = spec.head_dim as usize;
        let ropes = spec.ropes.iter().map(|rope| {
            let inv_freq = rope.inv_freq(max_positions);
            let rotary_dim = rope.rotary_dim as usize;
            RopeTable::from_inv_freq(
                rotary_dim,
                head_dim,
                max_positions as usize,
                &inv_freq,
                rope.magnitude(),
            )
        });
        let layers = spec.layers.iter().map(|layer| Layer {
            rope: usize::from(layer.rope),
            params: AttentionParams {
                scale: spec.attention_scale,
                softcap: spec.attention_softcap,
                window: layer.window.map(|window| window as usize),
            },
        });
        Attention {
            ropes: ropes.collect(),
            layers: layers.collect(),
            heads: spec.num_heads as usize,
            query_width: spec.query_width() as usize,
            kv_width: spec.kv_width() as usize,
            eps: spec.rms_norm_eps,
        }
    }

    /// normed -> queries; keys and values go to the cache.
    pub fn keys_and_values(
        &self,
        pool: &ThreadPool,
        batch: &Batch,
        kv: &mut KvCache,
        index: usize,
        weights: &AttentionWeights,
        adapted: AdaptedLayer<'_>,
        work: &mut Workspace,
    ) {
        let Workspace { attention: space, normed, projection, .. } = work;
        weights.qkv.apply(pool, normed, &mut space.qkv, projection);
        adapted.add(pool, |deltas| &deltas.qkv, &weights.qkv, normed, &mut space.qkv, projection);
        let width = self.query_width + 2 * self.kv_width;
        let qkv = &mut space.qkv[..batch.real_rows() * width];
        if let Some(norm) = &weights.q_norm {
            rms_norm_heads(pool, RowsMut::strided(qkv, width, 0, self.query_width), norm, self.eps);
        }
        if let Some(norm) = &weights.k_norm {
            let keys = RowsMut::strided(qkv, width, self.query_width, self.kv_width);
            rms_norm_heads(pool, keys, norm, self.eps);
        }
        // Queries and keys lie side by side and turn alike.
        let turned = RowsMut::strided(qkv, width, 0, self.query_width + self.kv_width);
        self.ropes[self.layers[index].rope].apply(pool, turned, &batch.positions);
        let k = RowsRef::strided(qkv, width, self.query_width, self.kv_width);
        let v = RowsRef::strided(qkv, width, self.query_width + self.kv_width, self.kv_width);
        kv.write(pool, index, &batch.slots, k, v);
    }

    /// queries -> update. Of the last layer only the rows that get logits are computed, and only they are left.
    pub fn attend(
        &self,
        pool: &ThreadPool,
        batch: &Batch,
        kv: &KvCache,
        index: usize,
        last: bool,
        weights: &AttentionWeights,
        adapted: AdaptedLayer<'_>,
        work: &mut Workspace,
    ) {
        let Workspace { attention: space, update, projection, .. } = work;
        let real = batch.real_rows();
        let width = self.query_width + 2 * self.kv_width;
        // Attention leaves padding rows alone, so they are zero in every layer.
        space.attended.truncate(real * self.query_width);
        space.attended.resize(batch.tokens.len() * self.query_width, 0.0);
        let mut seqs = recycle(std::mem::take(&mut space.seqs));
        if last {
            batch.sampled_seqs(&mut seqs);
        } else {
            batch.attention_seqs(&mut seqs);
        }
        let q = RowsRef::strided(&space.qkv[..real * width], width, 0, self.query_width);
        let out = &mut space.attended[..real * self.query_width];
        let params = self.layers[index].params;
        paged_attention(pool, kv, index, &seqs, q, self.heads, params, out, &mut space.scratch);
        space.seqs = recycle(seqs);
        let mut values = space.attended.len();
        if last {
            values = super::decoder::keep_rows(&mut space.attended, self.query_width, &batch.logit_rows);
        }
        let attended = &space.attended[..values];
        weights.o.apply(pool, attended, update, projection);
        adapted.add(pool, |deltas| &deltas.o, &weights.o, attended, update, projection);
    }
}

/// The memory of `seqs` for entries of another lifetime; collecting an emptied vector in place allocates nothing.
fn recycle<'b>(mut seqs: Vec<AttentionSeq<'_>>) -> Vec<AttentionSeq<'b>> {
    seqs.clear();
    seqs.into_iter().map(|_| unreachable!("the vector was cleared")).collect()
}
