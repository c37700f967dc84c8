//! What a request pays outside the forward pass: HTTP, tokenizing, queues between threads, detokenizing, and the way back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cost_model::{Calibration, duration};

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
    /// Of a request in a front end that does one thing after another, before `request_s`; steps do not wait for it.
    #[serde(default)]
    pub serial_request_s: f64,
    /// Of a token in that front end, before `delivery_s`.
    #[serde(default)]
    pub serial_token_s: f64,
    /// What a step waits for each request that it admits.
    #[serde(default)]
    pub admission_s: f64,
}

impl Overhead {
    /// None at all, for tests and for the engine alone.
    pub const NONE: Overhead = Overhead {
        request_s: 0.0,
        prompt_token_s: 0.0,
        step_s: 0.0,
        step_token_s: 0.0,
        delivery_s: 0.0,
        serial_request_s: 0.0,
        serial_token_s: 0.0,
        admission_s: 0.0,
    };

    /// Of a served GPU under this software, as it was fitted to measurements; under the default one where that is unknown.
    /// What a step costs beside its kernels is in [`crate::cost_model::efficiency`].
    pub fn served(runtime: &str) -> Overhead {
        let host = Calibration::shipped().runtime(runtime);
        Overhead {
            request_s: 1e-3 * host.request_ms,
            step_token_s: 1e-6 * host.token_us,
            serial_request_s: 1e-3 * host.serial_ms,
            serial_token_s: 1e-6 * host.serial_token_us,
            admission_s: 1e-3 * host.admission_ms,
            ..Overhead::NONE
        }
    }

    pub fn before_queue(&self, prompt_tokens: u32) -> Duration {
        positive(self.request_s + self.prompt_token_s * f64::from(prompt_tokens))
    }

    pub fn between_steps(&self, tokens: usize) -> Duration {
        positive(self.step_s + self.step_token_s * tokens as f64)
    }

    pub fn delivery(&self) -> Duration {
        positive(self.delivery_s)
    }

    /// Time of the front end.
    pub fn taking_in(&self) -> Duration {
        positive(self.serial_request_s)
    }

    /// Time of the front end.
    pub fn giving_out(&self, tokens: usize) -> Duration {
        positive(self.serial_token_s * tokens as f64)
    }

    pub fn admission(&self, admitted: usize) -> Duration {
        positive(self.admission_s * admitted as f64)
    }
}

fn positive(seconds: f64) -> Duration {
    if seconds > 0.0 { duration(seconds) } else { Duration::ZERO }
}
