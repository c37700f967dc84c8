//! What a request pays outside the forward pass: HTTP, tokenizing, queues between threads, detokenizing, and the way back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cost_model::duration;

/// Seconds. A live engine shares its machine with its clients, a served GPU has a server in front of it; both show in TTFT and
/// TPOT and neither is in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overhead {
    /// From sending a request until the scheduler has it.
    pub request_s: f64,
    /// The same, for each prompt token.
    pub prompt_token_s: f64,
    /// From the end of a step to the start of the next.
    pub step_s: f64,
    /// The same, for each token that the step emitted.
    pub step_token_s: f64,
    /// From the end of a step until a client has the token.
    pub delivery_s: f64,
}

impl Overhead {
    /// None at all, for tests and for the engine alone.
    pub const NONE: Overhead =
        Overhead { request_s: 0.0, prompt_token_s: 0.0, step_s: 0.0, step_token_s: 0.0, delivery_s: 0.0 };

    /// vLLM's server on an H100 machine: 15.56 ms for a request before it is queued, 46 us for an output token after its
    /// step (BLIS, fitted to vLLM on H100). What a step costs beside its kernels is in [`crate::cost_model::efficiency`].
    pub const SERVED_GPU: Overhead = Overhead { request_s: 15.56e-3, delivery_s: 46e-6, ..Overhead::NONE };

    pub fn before_queue(&self, prompt_tokens: u32) -> Duration {
        positive(self.request_s + self.prompt_token_s * f64::from(prompt_tokens))
    }

    pub fn between_steps(&self, tokens: usize) -> Duration {
        positive(self.step_s + self.step_token_s * tokens as f64)
    }

    pub fn delivery(&self) -> Duration {
        positive(self.delivery_s)
    }
}

fn positive(seconds: f64) -> Duration {
    if seconds > 0.0 { duration(seconds) } else { Duration::ZERO }
}
