//! An API of somebody else for what the cluster cannot take.

use std::time::Duration;

use llmlab_core::request::At;
use llmlab_loadgen::workload::PlannedRequest;

use super::config::ClusterError;
use super::random::{Draws, Purpose};

/// When requests go to the API, how it answers and what it costs. A request goes there if one of the thresholds is passed.
#[derive(Debug, Clone, PartialEq)]
pub struct SpillOver {
    /// More requests than this, a ready replica, have no token yet.
    pub waiting_per_replica: Option<f64>,
    /// Those without a token, divided by the rate at which first tokens came lately, are a longer wait than this.
    pub predicted_wait: Option<Duration>,
    /// From sending to the first token: median and 95th percentile of a lognormal distribution.
    pub ttft: (Duration, Duration),
    /// From one token to the next, the same for all tokens of an answer; likewise.
    pub tpot: (Duration, Duration),
    pub usd_per_million_input_tokens: f64,
    pub usd_per_million_output_tokens: f64,
}

impl SpillOver {
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let wrong = |key, accepted| Err(ClusterError::value("spill_over", key, accepted));
        if self.ttft.0.is_zero() || self.tpot.0.is_zero() {
            return wrong("ttft and tpot", "medians above 0");
        }
        let prices = [self.usd_per_million_input_tokens, self.usd_per_million_output_tokens];
        if prices.iter().any(|usd| !(usd.is_finite() && *usd >= 0.0)) {
            return wrong("prices", "numbers from 0");
        }
        Ok(())
    }

    /// `waiting` requests have no token yet, `ready` replicas serve, and first tokens come at this rate; none where too few
    /// came to say.
    pub(super) fn wanted(&self, waiting: usize, ready: usize, first_tokens_rps: Option<f64>) -> bool {
        let crowded =
            self.waiting_per_replica.is_some_and(|most| waiting as f64 > most * ready.max(1) as f64);
        let slow = self.predicted_wait.zip(first_tokens_rps);
        crowded || slow.is_some_and(|(most, rate)| waiting as f64 / rate > most.as_secs_f64())
    }

    /// When each token of an answer arrives, in nanoseconds.
    pub(super) fn answer_ns(&self, now: At, request: &PlannedRequest, seed: u64) -> Vec<u64> {
        let mut draws = Draws::new(seed, Purpose::Api, request.index);
        let first = now + draws.lognormal(self.ttft.0, self.ttft.1);
        let gap = draws.lognormal(self.tpot.0, self.tpot.1);
        (0..request.max_tokens).map(|token| crate::driver::clients::ns(first + gap * token)).collect()
    }

    pub(super) fn usd(&self, prompt_tokens: u32, output_tokens: u32) -> f64 {
        (f64::from(prompt_tokens) * self.usd_per_million_input_tokens
            + f64::from(output_tokens) * self.usd_per_million_output_tokens)
            / 1e6
    }
}
