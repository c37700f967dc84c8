//! What autoscalers look at.

use crate::cluster::Scraped;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Requests that wait for their first step, at the router and in the pool (`vllm:num_requests_waiting`).
    WaitingRequests,
    /// Requests that are computed in the pool (`vllm:num_requests_running`), and those that wait.
    RequestsInFlight,
    /// Mean share of KV blocks in use, 0 to 1 (`vllm:kv_cache_usage_perc`).
    KvUsage,
    RequestsPerS,
    /// Tokens in and out, as asked for.
    TokensPerS,
    /// Seconds, over the window of a scrape.
    TtftMean,
    TtftP95,
}

/// How a signal becomes a number of replicas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// So much a replica of what is a sum over replicas: an external metric with `averageValue`.
    AverageValue(f64),
    /// The value itself, in proportion to the replicas that are ready: an object metric with `value`.
    Value(f64),
    /// The mean over replicas that are ready: a pods metric. Those that start count as idle when it says to scale up.
    Pods(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    pub signal: Signal,
    pub target: Target,
}

impl Signal {
    /// None where nothing was measured.
    pub fn value(self, seen: &Scraped, pool: usize) -> Option<f64> {
        let state = seen.pools.get(pool)?;
        Some(match self {
            Signal::WaitingRequests => (seen.router_queue + state.waiting) as f64,
            Signal::RequestsInFlight => (seen.router_queue + state.waiting + state.running) as f64,
            Signal::KvUsage if state.ready == 0 => return None,
            Signal::KvUsage => state.kv_share,
            Signal::RequestsPerS => seen.arrival_rps(),
            Signal::TokensPerS => seen.tokens_per_s(),
            Signal::TtftMean => seen.ttft_mean?.as_secs_f64(),
            Signal::TtftP95 => seen.ttft_p95?.as_secs_f64(),
        })
    }
}
