//! The bytes a step moves at least: the memory side of its roofline.

use llmlab_core::step::StepPlan;
use llmlab_kernels::attention::KvCache;
use llmlab_models::ModelSpec;

use crate::weights::{DecoderWeights, FeedForward, LayerWeights};

/// Each byte counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBytes {
    /// Packed matrices, norms and biases of the layers, the rows looked up in the embedding, and the output projection if
    /// anything is sampled. Of experts, as many as the step's tokens choose on average when each chooses at random.
    pub weights: u64,
    /// Keys and values of the positions that attention sees, window by window.
    pub kv_read: u64,
    /// Keys and values of the new tokens.
    pub kv_written: u64,
}

pub(crate) fn of(plan: &StepPlan, weights: &DecoderWeights, spec: &ModelSpec, kv: &KvCache) -> StepBytes {
    let rows: u64 = plan.seqs.iter().map(|seq| seq.tokens.len() as u64 + u64::from(seq.padding)).sum();
    let logit_rows = plan
        .seqs
        .iter()
        .filter(|seq| seq.sample || seq.tokens.is_empty())
        .map(|seq| 1 + u64::from(seq.drafts))
        .sum();
    let head = if logit_rows > 0 { weights.head().bytes() } else { 0 };
    let last = weights.layers.len() - 1;
    let layers: u64 = weights
        .layers
        .iter()
        .enumerate()
        // The last layer computes only the rows that get logits.
        .map(|(index, layer)| layer_bytes(layer, if index == last { logit_rows } else { rows }, spec))
        .sum();
    let slots = (kv.num_blocks() * kv.block_size() * kv.layers()) as u64;
    let kv_layer_token_bytes = kv.bytes() / slots;
    let computing = || plan.seqs.iter().filter(|seq| !seq.tokens.is_empty());
    let seen: u64 = computing()
        .map(|seq| {
            let (new, all) = (seq.tokens.len() as u64, u64::from(seq.context) + seq.tokens.len() as u64);
            let window =
                |window: Option<u32>| window.map_or(all, |window| all.min(u64::from(window) + new - 1));
            spec.layers.iter().map(|layer| window(layer.window)).sum::<u64>()
        })
        .sum();
    StepBytes {
        weights: layers + rows * weights.embedding_row_bytes() + head,
        kv_read: seen * kv_layer_token_bytes,
        kv_written: plan.new_tokens() as u64 * kv.layers() as u64 * kv_layer_token_bytes,
    }
}

/// What a layer reads to compute so many rows. Keys and values are needed of every row, so attention counts whole.
fn layer_bytes(layer: &LayerWeights, rows: u64, spec: &ModelSpec) -> u64 {
    let feed_forward = match &layer.feed_forward {
        _ if rows == 0 => 0,
        FeedForward::Dense(mlp) => mlp.bytes(),
        FeedForward::Experts(experts) => {
            let moe = spec.moe.as_ref().expect("experts without a mixture in the spec");
            // An expert is left out by one token with probability 1 - k / n.
            let share = 1.0 - f64::from(moe.experts_per_token) / f64::from(moe.experts);
            let read = 1.0 - share.powf(rows as f64);
            experts.every_step_bytes() + (experts.routed_bytes() as f64 * read) as u64
        }
    };
    layer.attention.bytes() + layer.feed_forward_norm_bytes() + feed_forward
}
