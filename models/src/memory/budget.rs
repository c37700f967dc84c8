//! Where the memory of one device goes: the one sum behind `models memory`, plans, simulations and predictions.

use super::{Framework, MemoryConfig, runtime, weights};
use crate::architecture::Architecture;

/// Of what is free beside all else, what TensorRT-LLM gives to the cache (`free_gpu_memory_fraction` of `KvCacheConfig`, its
/// documentation of 1.2).
const TENSORRT_LLM_SHARE_OF_FREE: f64 = 0.9;
/// TGI's `TGI_WIGGLE_ROOM`, read in the Gaudi backend of 3.3; its `cuda_memory_fraction` is 1.
const TGI_SHARE: f64 = 0.9;

/// What one device holds. The bytes are those of the items of a [`MemoryPlan`](super::MemoryPlan).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    pub device_memory_bytes: u64,
    /// What the framework may take of it.
    pub usable_bytes: u64,
    pub weight_bytes: u64,
    /// Peak of a step's own tensors.
    pub activation_bytes: u64,
    /// CUDA graphs, CUDA and its libraries, buffers of collective operations.
    pub outside_tensors_bytes: u64,
    pub adapter_bytes: u64,
    /// Of what is left of `usable_bytes`, what the framework gives to the cache.
    pub cache_share: f64,
}

impl Budget {
    /// Of a device of the last pipeline stage, where sequences are sampled, when `weight_bytes` of weights lie on it.
    pub fn of(
        model: &Architecture,
        config: &MemoryConfig,
        device_memory_bytes: u64,
        weight_bytes: u64,
    ) -> Budget {
        let stages = weights::stages(model, config.pp.clamp(1, model.num_layers().max(1)));
        let last = stages.last().expect("there is a stage for each number from 1");
        Budget {
            weight_bytes,
            activation_bytes: runtime::activations(model, last, config).bytes,
            outside_tensors_bytes: runtime::around(config).iter().map(|item| item.bytes).sum(),
            ..Budget::empty(config, device_memory_bytes)
        }
    }

    /// Nothing taken yet.
    pub(super) fn empty(config: &MemoryConfig, device_memory_bytes: u64) -> Budget {
        let (share, cache_share) = match config.framework {
            Framework::Vllm => (config.gpu_memory_utilization, 1.0),
            Framework::Tgi => (TGI_SHARE, 1.0),
            Framework::TensorRtLlm => (1.0, TENSORRT_LLM_SHARE_OF_FREE),
            Framework::Bare => (1.0, 1.0),
        };
        Budget {
            device_memory_bytes,
            usable_bytes: (device_memory_bytes as f64 * share) as u64,
            weight_bytes: 0,
            activation_bytes: 0,
            outside_tensors_bytes: 0,
            adapter_bytes: 0,
            cache_share,
        }
    }

    /// All but the cache.
    pub fn taken_bytes(&self) -> u64 {
        [self.weight_bytes, self.activation_bytes, self.outside_tensors_bytes, self.adapter_bytes]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// For keys and values; 0 where all else does not fit.
    pub fn kv_bytes(&self) -> u64 {
        (self.usable_bytes.saturating_sub(self.taken_bytes()) as f64 * self.cache_share) as u64
    }

    /// By how much all else exceeds what is usable; 0 where it fits.
    pub fn excess_bytes(&self) -> u64 {
        self.taken_bytes().saturating_sub(self.usable_bytes)
    }
}

#[cfg(test)]
mod tests {
    use llmlab_quant::WeightFormat;

    use super::*;
    use crate::catalogue::hardware;

    const GIB: f64 = (1u64 << 30) as f64;

    fn on_h100(change: impl FnOnce(&mut MemoryConfig)) -> Budget {
        let spec = crate::load_spec("spec:llama-3.1-8b").unwrap();
        let memory_bytes = hardware("h100-sxm").unwrap().usable_memory_bytes().unwrap();
        let mut config = MemoryConfig::vllm("h100-sxm", memory_bytes);
        change(&mut config);
        let weight_bytes = spec.stored_weight_bytes(WeightFormat::Bf16);
        Budget::of(&Architecture::of(&spec), &config, memory_bytes, weight_bytes)
    }

    /// vLLM on an H100 with Llama-3.1-8B in bf16 and utilization 0.9 reports 51.38 GiB for keys and values (llm-d-planner,
    /// docs/empirical-vllm-memory-results.md).
    #[test]
    fn llama_8b_on_an_h100_leaves_what_vllm_reports() {
        let gib = on_h100(|config| config.gpu_memory_utilization = 0.9).kv_bytes() as f64 / GIB;
        assert!((gib / 51.38 - 1.0).abs() < 0.01, "{gib} GiB");
    }

    #[test]
    fn each_framework_leaves_the_cache_its_own_share() {
        let of = |framework| on_h100(|config| config.framework = framework);
        let bare = of(Framework::Bare);
        assert_eq!(bare.kv_bytes(), bare.device_memory_bytes - bare.weight_bytes - bare.activation_bytes);
        let free = |budget: Budget| budget.device_memory_bytes - budget.taken_bytes();
        let trtllm = of(Framework::TensorRtLlm);
        assert_eq!(trtllm.kv_bytes(), (0.9 * free(trtllm) as f64) as u64);
        let tgi = of(Framework::Tgi);
        let tenth = tgi.device_memory_bytes as f64 / 10.0;
        assert!((free(tgi) as f64 - tgi.kv_bytes() as f64 - tenth).abs() < 2.0, "{tgi:?}");
        // Fewer sequences are sampled at once.
        let few = on_h100(|config| config.max_num_seqs = 64);
        assert!(few.kv_bytes() > of(Framework::Vllm).kv_bytes() + (3 << 30), "{few:?}");
    }

    #[test]
    fn what_does_not_fit_leaves_nothing() {
        let small = on_h100(|config| config.gpu_memory_utilization = 0.1);
        assert_eq!(small.kv_bytes(), 0);
        assert_eq!(small.excess_bytes(), small.taken_bytes() - small.usable_bytes);
    }
}
