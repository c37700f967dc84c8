//! Which formats of weights the kernels of vLLM multiply on a device.
//!
//! Sources: vLLM's documentation of 0.32, features/quantization/llm_compressor/fp8 (FP8 products from compute capability 8.9 on,
//! weight-only FP8 from 7.5 on); its `is_fp8_marlin_supported` and `is_fp4_marlin_supported` (CUDA, 7.5); its recipe of gpt-oss
//! (MXFP4 on MI300X and later).

use super::{DeviceKind, Hardware};
use crate::memory::Weights;

/// Marlin: weights of few bits are expanded to 16 on the way into a 16-bit product.
const MARLIN_COMPUTE_CAPABILITY: f64 = 7.5;

/// A device that has no kernel for a format of weights.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{device} has no kernel for {weights} weights: {needed}")]
pub struct NoKernel {
    pub device: String,
    pub weights: Weights,
    needed: &'static str,
}

impl Hardware {
    /// `weights` are those of a model, with `published` looked up ([`Weights::of`]).
    pub fn multiplies(&self, weights: Weights) -> Result<(), NoKernel> {
        let marlin = self
            .compute_capability
            .as_ref()
            .is_some_and(|capability| capability.value >= MARLIN_COMPUTE_CAPABILITY);
        let has_fp8 = self.fp8_tflops.is_some();
        let (known, needed) = match weights {
            Weights::Fp8 => {
                (marlin || has_fp8, "needed is FP8 arithmetic, or CUDA with compute capability 7.5")
            }
            Weights::Mxfp4 => {
                let gpu = has_fp8 && self.kind == DeviceKind::Gpu;
                (marlin || gpu, "needed is a GPU with FP8 arithmetic, or CUDA with compute capability 7.5")
            }
            Weights::Nvfp4 => (marlin, "needed is CUDA with compute capability 7.5"),
            _ => (true, ""),
        };
        if known { Ok(()) } else { Err(NoKernel { device: self.name.clone(), weights, needed }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::hardware;

    #[test]
    fn formats_run_where_vllm_has_kernels_for_them() {
        let runs = |device: &str| {
            let device = hardware(device).unwrap();
            [Weights::Fp8, Weights::Mxfp4, Weights::Nvfp4].map(|weights| device.multiplies(weights).is_ok())
        };
        for device in ["t4", "a100", "rtx-3090", "l4", "h100", "b200", "dgx-spark"] {
            assert_eq!(runs(device), [true; 3], "{device}");
        }
        for device in ["v100", "mi250x", "apple-m3", "tpu-v5e"] {
            assert_eq!(runs(device), [false; 3], "{device}");
        }
        assert_eq!(runs("mi300x"), [true, true, false]);
        assert_eq!(runs("gaudi3"), [true, false, false]);
        assert!(hardware("v100").unwrap().multiplies(Weights::Bf16).is_ok());
    }

    #[test]
    fn devices_of_nvidia_say_their_compute_capability_and_no_others_do() {
        for device in crate::catalogue::hardwares() {
            let nvidia = device.description.starts_with("NVIDIA");
            assert_eq!(device.compute_capability.is_some(), nvidia, "{}", device.name);
        }
    }
}
