//! The steps of a trial whose users made a journey, summed up; the asks among them are in the trial's records too.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JourneyFacts {
    pub users: u32,
    pub iterations: u32,
    /// In the scenario's order.
    pub steps: Vec<StepFacts>,
}

/// One step of a flow, over all users and iterations, warm-up included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepFacts {
    pub flow: String,
    pub name: String,
    /// "GET /v1/models", "POST /login", "ask".
    pub action: String,
    /// How often it was taken.
    pub count: u64,
    pub failures: u64,
    /// How often it was left out because an earlier step had failed.
    pub skipped: u64,
    /// From the step's start to a page's last byte or an ask's last token.
    pub e2e: Percentiles,
    /// Of asks.
    pub ttft: Option<Percentiles>,
    pub tpot: Option<Percentiles>,
    pub goose: GooseFacts,
    /// Why the first failure failed.
    pub example: Option<String>,
}

/// In nanoseconds. A failure counts as infinite; `None` is infinite, or nothing to take a percentile of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50_ns: Option<f64>,
    pub p95_ns: Option<f64>,
    pub p99_ns: Option<f64>,
}

/// What goose counted and timed by its own definitions: failures with the time they took, streams to their terminator,
/// transactions with all that the user does around the request and with skipped steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GooseFacts {
    pub requests: u64,
    pub failures: u64,
    pub transactions: u64,
    pub request: Percentiles,
    pub transaction: Percentiles,
}
