//! Prefill and decode in replicas of their own: how keys and values get from one to the other.
//!
//! As behind vLLM's NIXL connector and its proxy: a request goes to a prefill replica with one token to generate, which the
//! proxy drops; then to a decode replica, which fetches the keys and values, computes the last token of the prompt again and
//! answers. So the transfer lies before the first token that a client gets.

use std::time::Duration;

use llmlab_models::architecture::Window;

use super::config::ClusterError;
use crate::cost_model::duration;

/// The way of keys and values from a prefill replica to a decode replica. A prefill replica sends one request's after the
/// other's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvTransfer {
    /// Of a token, over all devices, in layers that keep every token.
    pub bytes_per_token: f64,
    /// The same in layers with a sliding window.
    pub window_bytes_per_token: f64,
    /// Of those layers. What crosses are the blocks that hold what the prompt's last token sees.
    pub window: Option<Window>,
    pub block_size: u32,
    /// Of all devices of a replica together.
    pub bytes_per_s: f64,
    pub latency: Duration,
}

impl KvTransfer {
    /// No time at all.
    pub const INSTANT: KvTransfer = KvTransfer {
        bytes_per_token: 0.0,
        window_bytes_per_token: 0.0,
        window: None,
        block_size: 1,
        bytes_per_s: f64::MAX,
        latency: Duration::ZERO,
    };

    /// Of a prompt, the tokens that cross in layers with a window.
    fn window_tokens(&self, prompt_tokens: u32) -> u32 {
        let (Some(window), Some(last)) = (self.window, prompt_tokens.checked_sub(1)) else {
            return prompt_tokens;
        };
        let first_seen = window.first_seen(u64::from(last)) as u32;
        prompt_tokens - (first_seen - first_seen % self.block_size.max(1))
    }

    /// The time on the wire, without the latency.
    pub fn sending(&self, prompt_tokens: u32) -> Duration {
        let bytes = f64::from(prompt_tokens) * self.bytes_per_token
            + f64::from(self.window_tokens(prompt_tokens)) * self.window_bytes_per_token;
        if bytes > 0.0 { duration(bytes / self.bytes_per_s) } else { Duration::ZERO }
    }

    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let wrong = |key, accepted| Err(ClusterError::value("kv_transfer", key, accepted));
        for (key, bytes) in [
            ("bytes_per_token", self.bytes_per_token),
            ("window_bytes_per_token", self.window_bytes_per_token),
        ] {
            if !(bytes.is_finite() && bytes >= 0.0) {
                return wrong(key, "numbers from 0");
            }
        }
        if !(self.bytes_per_s.is_finite() && self.bytes_per_s > 0.0) {
            return wrong("bytes_per_s", "numbers above 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gemma 3: of six layers five see 1024 tokens.
    #[test]
    fn of_layers_with_a_window_only_the_window_crosses() {
        let transfer = |window| KvTransfer {
            bytes_per_token: 1.0,
            window_bytes_per_token: 5.0,
            window: Some(window),
            block_size: 16,
            bytes_per_s: 1000.0,
            latency: Duration::ZERO,
        };
        let sliding = transfer(Window::Sliding(1024));
        assert_eq!(sliding.sending(0), Duration::ZERO);
        assert_eq!(sliding.sending(1000), Duration::from_secs(6));
        assert_eq!(sliding.sending(8000), Duration::from_millis(8000 + 5 * 1024));
        // The first token that is seen, 6977, is in the block of 6976.
        assert_eq!(sliding.sending(8001), Duration::from_millis(8001 + 5 * 1025));
        // Llama 4: 8000 tokens are 832 into the eighth chunk of 1024.
        let chunk = transfer(Window::Chunk(1024));
        assert_eq!(chunk.sending(8000), Duration::from_millis(8000 + 5 * 832));
    }
}
