//! Everything the screen shows, as plain data. Whoever runs the load fills it; the panels are functions over it.

use serde::Serialize;

/// Latency percentiles so far, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TargetState {
    pub name: String,
    pub description: String,
    /// "waiting", "starting", "probing", "running", "done", "failed".
    pub phase: String,
    pub requests_total: u64,
    pub requests_done: u64,
    pub requests_failed: u64,
    pub in_flight: u64,
    pub ttft: Percentiles,
    pub tpot: Percentiles,
    pub output_tokens_per_s: f64,
    /// Server side, from /metrics, when it has one.
    pub queue: Option<f64>,
    pub batch: Option<f64>,
    /// 0..=1
    pub kv_usage: Option<f64>,
    pub preemptions: Option<f64>,
    /// Output tok/s, batch size and KV use over the trial, oldest first, at most 240 points each.
    pub throughput_history: Vec<f64>,
    pub batch_history: Vec<f64>,
    pub kv_history: Vec<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    pub run_name: String,
    /// What is happening now, in words: "vllm: measuring, repeat 2 of 3".
    pub activity: String,
    pub elapsed_s: f64,
    pub eta_s: Option<f64>,
    /// 0..=1 over the whole run.
    pub progress: f64,
    pub targets: Vec<TargetState>,
    /// The target being driven now.
    pub current: usize,
    /// Newest last; at most 50.
    pub log: Vec<String>,
    pub finished: bool,
}
