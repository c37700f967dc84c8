//! Who decides how many replicas there are: asked at an interval, with what was scraped.

use std::time::Duration;

use llmlab_core::request::At;

/// Decides the size of pools. Asked every [`Controller::interval`], from the first interval on.
pub trait Controller {
    fn interval(&self) -> Duration;

    /// How many replicas each pool is to have, in the order of the pools; pools beyond the list stay as they are. `seen` is
    /// the newest scrape that can be asked for, `wanted` what was said last.
    fn wanted(&mut self, now: At, seen: &Scraped, wanted: &[u32]) -> Vec<u32>;

    /// True: the simulation ends before the next decision, with the results there are.
    fn stops(&self) -> bool {
        false
    }
}

/// The state of the cluster, and what happened in it since the scrape before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scraped {
    pub at: At,
    /// Between this scrape and the one before.
    pub window: Duration,
    pub pools: Vec<PoolState>,
    /// Requests that wait at the router.
    pub router_queue: usize,
    /// Requests that have no token yet, wherever they are.
    pub without_token: usize,
    pub in_flight: usize,
    pub arrivals: u64,
    pub ends: u64,
    /// Tokens of the prompts that arrived, and of the answers that they asked for.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Of the first tokens in the window; none where there were none.
    pub ttft_mean: Option<Duration>,
    pub ttft_p95: Option<Duration>,
}

impl Scraped {
    pub fn arrival_rps(&self) -> f64 {
        self.per_s(self.arrivals)
    }

    /// Tokens in and out that were asked for, a second.
    pub fn tokens_per_s(&self) -> f64 {
        self.per_s(self.input_tokens + self.output_tokens)
    }

    fn per_s(&self, count: u64) -> f64 {
        let seconds = self.window.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PoolState {
    pub ready: u32,
    pub starting: u32,
    /// Of those that start, the ones that have no machine or no image yet.
    pub pending: u32,
    pub draining: u32,
    /// Requests in replicas that wait for their first step, and that are computed.
    pub waiting: usize,
    pub running: usize,
    /// Mean share of the KV blocks in use over ready replicas.
    pub kv_share: f64,
}
