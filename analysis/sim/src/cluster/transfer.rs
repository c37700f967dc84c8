//! Prefill and decode in replicas of their own: how keys and values get from one to the other.
//!
//! As behind vLLM's NIXL connector and its proxy: a request goes to a prefill replica with one token to generate, which the
//! proxy drops; then to a decode replica, which fetches the keys and values, computes the last token of the prompt again and
//! answers. So the transfer lies before the first token that a client gets.

use std::time::Duration;

use super::config::ClusterError;
use crate::cost_model::duration;

/// The way of keys and values from a prefill replica to a decode replica. A prefill replica sends one request's after the
/// other's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvTransfer {
    /// Of a token, over all layers and devices.
    pub bytes_per_token: f64,
    /// Of all devices of a replica together.
    pub bytes_per_s: f64,
    pub latency: Duration,
}

impl KvTransfer {
    /// No time at all.
    pub const INSTANT: KvTransfer =
        KvTransfer { bytes_per_token: 0.0, bytes_per_s: f64::MAX, latency: Duration::ZERO };

    /// The time on the wire, without the latency.
    pub fn sending(&self, prompt_tokens: u32) -> Duration {
        let bytes = f64::from(prompt_tokens) * self.bytes_per_token;
        if bytes > 0.0 { duration(bytes / self.bytes_per_s) } else { Duration::ZERO }
    }

    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let wrong = |key, accepted| Err(ClusterError::value("kv_transfer", key, accepted));
        if !(self.bytes_per_token.is_finite() && self.bytes_per_token >= 0.0) {
            return wrong("bytes_per_token", "numbers from 0");
        }
        if !(self.bytes_per_s.is_finite() && self.bytes_per_s > 0.0) {
            return wrong("bytes_per_s", "numbers above 0");
        }
        Ok(())
    }
}
