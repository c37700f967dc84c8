//! How many KV blocks a device has room for, by vLLM's rule: the share of the memory it may use, less weights, less what a
//! forward pass needs at its peak, divided by the size of a block.

use llmlab_models::{Family, ModelSpec};

use crate::cost_model::Device;

const GIB: f64 = 1_073_741_824.0;

/// What a simulated server may take of the memory where nothing is said.
pub const DEFAULT_UTILIZATION: f64 = llmlab_models::memory::VLLM_GPU_MEMORY_UTILIZATION;

/// Memory that CUDA and its libraries take beside tensors, on one device (llm-d-planner,
/// docs/empirical-vllm-memory-results.md, H100).
const OUTSIDE_TENSORS_BYTES: f64 = 0.15 * GIB;

/// Peak of a forward pass's own tensors in vLLM's profile run, independent of `max_model_len` (the same source, H100).
/// Measured for models of 8 to 70 billion parameters; for much smaller ones it is too high.
pub fn activation_bytes(spec: &ModelSpec) -> f64 {
    let gib = match spec.family {
        _ if spec.moe.is_some() => 8.0,
        Family::Qwen2 | Family::Qwen3 => 5.6,
        _ => 4.8,
    };
    gib * GIB
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    pub usable_bytes: f64,
    pub weight_bytes: f64,
    pub activation_bytes: f64,
    pub outside_tensors_bytes: f64,
}

impl Budget {
    pub fn of(device: &Device, utilization: f64, spec: &ModelSpec, weight_bytes: u64) -> Budget {
        Budget {
            usable_bytes: device.memory_bytes * utilization,
            weight_bytes: weight_bytes as f64,
            activation_bytes: activation_bytes(spec),
            outside_tensors_bytes: OUTSIDE_TENSORS_BYTES,
        }
    }

    /// What is left for keys and values; negative when the model does not fit.
    pub fn kv_bytes(&self) -> f64 {
        self.usable_bytes - self.weight_bytes - self.activation_bytes - self.outside_tensors_bytes
    }

    /// Whole blocks, without the null block.
    pub fn blocks(&self, block_bytes: u64) -> u64 {
        (self.kv_bytes() / block_bytes.max(1) as f64).floor().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use llmlab_models::WeightFormat;

    use super::*;

    /// vLLM on an H100 with Llama-3.1-8B in bf16 and utilization 0.9 reports 51.38 GiB for keys and values (llm-d-planner,
    /// docs/empirical-vllm-memory-results.md).
    #[test]
    fn llama_8b_on_an_h100_leaves_what_vllm_reports() {
        let device = Device::from_catalogue(llmlab_models::catalogue::hardware("h100-sxm").unwrap()).unwrap();
        let spec = llmlab_models::load_spec("spec:llama-3.1-8b").unwrap();
        let budget = Budget::of(&device, 0.9, &spec, spec.stored_weight_bytes(WeightFormat::Bf16));
        let gib = budget.kv_bytes() / GIB;
        assert!((gib / 51.38 - 1.0).abs() < 0.01, "{gib} GiB");
        // 2 x 32 layers x 8 heads x 128 values x 2 bytes x 16 tokens.
        assert_eq!(budget.blocks(2 << 20), (budget.kv_bytes() / f64::from(2 << 20)) as u64);
    }
}
