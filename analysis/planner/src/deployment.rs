//! A model on devices under a serving software.

use llmlab_models::architecture::Architecture;
use llmlab_models::memory::{self, Budget, Framework, KvDtype, MemoryConfig};
use llmlab_sim::cost_model::calibration::Runtime;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::cost_model::{Calibration, Sharding, Weights};
use llmlab_sim::{Device, Roofline};

use crate::closed_loop::{Admission, ClosedLoop};

#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub model: &'static Architecture,
    pub device: Device,
    pub weights: Weights,
    /// Bytes of a cached value.
    pub kv_value_bytes: f64,
    pub sharding: Sharding,
    /// A name of the calibration, such as "vllm"; another one gets the figures of the default.
    pub runtime: String,
}

impl Deployment {
    pub fn layers(&self) -> Layers {
        Layers::of(self.model, self.weights, self.kv_value_bytes, self.sharding)
    }

    pub fn roofline(&self, calibration: &Calibration) -> Roofline {
        let efficiency = calibration.efficiency(&self.device, &self.runtime);
        Roofline::with_efficiency(self.layers(), self.device.clone(), efficiency)
    }

    /// Tokens of the KV cache in requests of `request_tokens` tokens each; 0 if the weights do not fit.
    pub fn kv_tokens(&self, request_tokens: u32) -> u64 {
        let memory_bytes = self.device.memory_bytes as u64;
        let kv = if self.kv_value_bytes > 1.0 { KvDtype::Bits16 } else { KvDtype::Fp8 };
        let config = MemoryConfig {
            framework: self.framework(),
            kv,
            tp: self.sharding.tensor,
            pp: self.sharding.pipeline,
            ..MemoryConfig::vllm(&self.device.name, memory_bytes)
        };
        let budget = Budget::of(self.model, &config, memory_bytes, self.layers().stored_bytes);
        // Formats with scales take other bytes than those that are planned with.
        let bytes = budget.kv_bytes() as f64 * f64::from(kv.bytes()) / self.kv_value_bytes;
        memory::tokens_in_sequences(self.model, &config, bytes as u64, request_tokens).unwrap_or(0)
    }

    fn framework(&self) -> Framework {
        match self.runtime.as_str() {
            name if name.starts_with("tensorrt-llm") => Framework::TensorRtLlm,
            name if name.starts_with("llama.cpp") => Framework::Bare,
            "tgi" => Framework::Tgi,
            _ => Framework::Vllm,
        }
    }

    /// Users in a closed loop. `served`: over HTTP, with what a server adds, and not by the library alone.
    pub fn closed_loop(
        &self,
        host: &Runtime,
        users: u32,
        input: u32,
        output: u32,
        served: bool,
    ) -> ClosedLoop {
        let of_server = |seconds: f64| if served { seconds } else { 0.0 };
        ClosedLoop {
            users,
            input_tokens: input,
            output_tokens: output,
            max_num_seqs: if served && self.runtime == "tensorrt-llm" {
                // Its closed loops wait as if one user always had no slot: TTFT grows by the time of a whole answer over the users
                // (AIConfigurator's rows, 8 to 32 users).
                (users - 1).max(1)
            } else {
                2048
            },
            max_num_batched_tokens: 8192,
            kv_tokens: self.kv_tokens(input.saturating_add(output)),
            admission: if self.runtime.starts_with("tensorrt-llm") {
                Admission::WholeAnswer
            } else {
                Admission::Prompt
            },
            requests_per_user: 10,
            serial_s: of_server(1e-3 * host.serial_ms),
            serial_token_s: of_server(1e-6 * host.serial_token_us),
            request_s: of_server(1e-3 * host.request_ms),
            admission_s: of_server(1e-3 * host.admission_ms),
            token_s: of_server(1e-6 * host.token_us),
        }
    }
}
