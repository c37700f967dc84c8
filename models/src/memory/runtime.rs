//! What a device holds besides weights and cache: the peak of a step, the runtime, adapters.
//!
//! The constants are fitted to what vLLM 0.11 reported for Llama 3.1 8B, Llama 3.3 70B in FP8 on two devices, Qwen3 0.6B and
//! Mistral Small 3.2 24B on H100 (llm-d-planner, docs/empirical-vllm-memory-results.md). A test states the error of each row.

use super::matrices::{self, Split};
use super::weights::Stage;
use super::{Framework, Item, LoraSlots, MemoryConfig, MemoryError};
use crate::architecture::{Architecture, FeedForward};

/// Bytes that sampling takes for each logit of each sequence: the logits in 32 bits, 9.6 times over (their sorted copy and its
/// indices, probabilities, sums, masks). Fitted; of the three text models the error is under 0.5 %.
const SAMPLER_BYTES_PER_LOGIT: f64 = 9.6 * 4.0;
const ACTIVATION_BYTES: u64 = 2;
/// CUDA context, cuBLAS and allocator of one process: 0.13 and 0.14 GiB measured.
const RUNTIME_BYTES: u64 = 143 << 20;
/// NCCL's buffers and those of custom all-reduce: 0.55 GiB measured on two devices, less the above.
const COMMUNICATION_BYTES: u64 = 420 << 20;
const ADAPTER_BYTES: u64 = 2;

/// Peak of a step, beside weights and cache.
pub(super) fn activations(model: &Architecture, stage: &Stage, config: &MemoryConfig) -> Item {
    let hidden = u64::from(model.hidden_size);
    let tokens = u64::from(config.max_num_batched_tokens);
    let widest = stage.blocks.iter().map(|(_, block)| mlp_values(block.feed_forward, hidden, config.tp));
    let forward = tokens * (2 * hidden + widest.max().unwrap_or(0)) * ACTIVATION_BYTES;
    let logits = u64::from(config.max_num_seqs) * u64::from(model.vocab_size);
    let sampled = (logits as f64 * SAMPLER_BYTES_PER_LOGIT) as u64;
    let sampling = sampled.saturating_add(tokens * hidden * ACTIVATION_BYTES);
    // What sampling for every sequence at once takes was measured of vLLM; TensorRT-LLM, which no source measures, is taken to be
    // like it. Only the last stage has logits.
    let samples = matches!(config.framework, Framework::Vllm | Framework::TensorRtLlm);
    if samples && stage.last && sampling > forward {
        let how = format!(
            "sampling: {} sequences x {} logits x {SAMPLER_BYTES_PER_LOGIT} B + {tokens} tokens x {hidden} x 2 B",
            config.max_num_seqs, model.vocab_size
        );
        return Item { what: "activations, peak".into(), bytes: sampling, how };
    }
    let how = format!("the widest layer: {tokens} tokens x {} values x 2 B", forward / tokens.max(1) / 2);
    Item { what: "activations, peak".into(), bytes: forward, how }
}

/// Values a token has in the MLP at once: gate and up, and their product.
fn mlp_values(feed_forward: FeedForward, hidden: u64, tp: u32) -> u64 {
    let values = |width: u32, gated: bool| u64::from(width.div_ceil(tp)) * if gated { 3 } else { 2 };
    match feed_forward {
        FeedForward::Dense { width, gated } => values(width, gated),
        FeedForward::Experts { per_token, width, shared_width, gated, .. } => {
            u64::from(per_token) * (values(width, gated) + hidden) + values(shared_width, gated)
        }
    }
}

/// CUDA graphs, the runtime and the buffers of collective operations.
pub(super) fn around(config: &MemoryConfig) -> Vec<Item> {
    if config.framework == Framework::Bare {
        return Vec::new();
    }
    let mut items = Vec::new();
    if config.framework == Framework::Vllm {
        items.push(Item {
            what: "CUDA graphs".into(),
            bytes: config.cuda_graph_bytes,
            how: "vLLM takes none of its share for them; between -0.76 and 0.1 GiB measured on four models"
                .into(),
        });
    }
    items.push(Item {
        what: "runtime".into(),
        bytes: RUNTIME_BYTES,
        how: "CUDA context and libraries, 0.13 to 0.14 GiB measured".into(),
    });
    if config.tp > 1 {
        items.push(Item {
            what: "communication buffers".into(),
            bytes: COMMUNICATION_BYTES,
            how: "NCCL and all-reduce, 0.55 GiB measured with the runtime on two devices".into(),
        });
    }
    items
}

/// Adapters that are resident: two matrices beside each projection, of attention and of an MLP without experts.
pub(super) fn lora(
    model: &Architecture,
    stage: &Stage,
    config: &MemoryConfig,
    slots: LoraSlots,
) -> Result<Item, MemoryError> {
    let mut values: u64 = 0;
    for (count, block) in &stage.blocks {
        for matrix in matrices::layer(model, block).iter().filter(|matrix| !matrix.routed) {
            let (rows, cols) = matrix.part(u64::from(config.tp));
            // What the projection divides, the adapter divides on that side.
            let sides = match matrix.split {
                Split::Rows(_) => rows + matrix.cols,
                Split::Cols => matrix.rows + cols,
                Split::Copied if matrix.class != super::TensorClass::Router => rows + cols,
                _ => 0,
            };
            values += u64::from(*count) * matrix.count * sides;
        }
    }
    let bytes = u64::from(slots.max_loras) * u64::from(slots.max_rank);
    let bytes = bytes.checked_mul(values * ADAPTER_BYTES).ok_or(MemoryError::LoraTooLarge)?;
    let how = format!(
        "{} adapters x rank {} x {values} rows and columns x {ADAPTER_BYTES} B",
        slots.max_loras, slots.max_rank
    );
    Ok(Item { what: "LoRA adapters".into(), bytes, how })
}
