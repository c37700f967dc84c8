//! What a server's own metrics page said, reduced to the families the reports use.

use serde::{Deserialize, Serialize};

/// One scrape. Counters count since the server started; a family that the page does not have is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerSample {
    /// The middle of the scrape in the trial's time. The page was written somewhere within `scrape_ns / 2` of it.
    pub at_ns: u64,
    /// From asking to the last byte; `None` in runs from before it was recorded.
    #[serde(default)]
    pub scrape_ns: Option<u64>,
    pub running: Option<f64>,
    pub waiting: Option<f64>,
    /// 0..=1
    pub kv_usage: Option<f64>,
    pub preemptions_total: Option<f64>,
    pub generation_tokens_total: Option<f64>,
    pub prompt_tokens_total: Option<f64>,
    /// What was looked up in the prefix cache, and what of it was found, both in the server's own unit (tokens or blocks).
    #[serde(default)]
    pub prefix_lookups_total: Option<f64>,
    #[serde(default)]
    pub prefix_hits_total: Option<f64>,
    /// The server's own latencies in seconds, as it defines them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<HistogramSample>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl: Option<HistogramSample>,
    /// Time in the server's queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<HistogramSample>,
}

/// A histogram at one moment: counters since the server started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramSample {
    /// Upper bounds, rising; the last bucket, which has none, is `count`.
    pub bounds: Vec<f64>,
    /// Observations at or below each bound.
    pub cumulative: Vec<f64>,
    pub count: f64,
    pub sum: f64,
}
