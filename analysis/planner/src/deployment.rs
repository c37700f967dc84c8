//! A model on devices under a serving software.

use llmlab_models::architecture::{Architecture, FeedForward};
use llmlab_sim::cost_model::calibration::Runtime;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::cost_model::{Calibration, Sharding, Weights};
use llmlab_sim::memory::DEFAULT_UTILIZATION;
use llmlab_sim::{Device, Roofline};

use crate::closed_loop::{Admission, ClosedLoop};

const GIB: f64 = 1_073_741_824.0;

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

    /// Tokens of the KV cache when `utilization` of each device's memory is used; 0 if the weights do not fit.
    pub fn kv_tokens(&self, utilization: f64) -> u64 {
        let layers = self.layers();
        let experts = self
            .model
            .blocks
            .iter()
            .any(|(_, block)| matches!(block.feed_forward, FeedForward::Experts { .. }));
        // Peaks of a forward pass under vLLM on an H100, and what its libraries take (llm-d-planner).
        let activations = if experts { 8.0 } else { 4.8 } * GIB;
        let outside = if self.sharding.devices() > 1 { 0.6 } else { 0.15 } * GIB;
        let left =
            self.device.memory_bytes * utilization - layers.stored_bytes as f64 - activations - outside;
        (left / layers.kv_bytes_per_token().max(1.0)).max(0.0) as u64
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
            kv_tokens: self.kv_tokens(DEFAULT_UTILIZATION),
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
