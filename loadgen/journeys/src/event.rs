//! What the client tells of a journey while it runs: one line of JSON for each event.

use llmlab_results::manifest::ClientFacts;
use llmlab_results::record::RequestRecord;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// CLOCK_MONOTONIC at time zero of all that follows.
    Started {
        start_monotonic_ns: u64,
    },
    Sent {
        index: u64,
    },
    FirstToken {
        index: u64,
        ttft_ns: u64,
    },
    Tokens {
        tokens: u32,
    },
    /// An ask is over. Its [`StepSample`] follows.
    Record {
        record: Box<RequestRecord>,
    },
    Step(StepSample),
    Ended(End),
    /// Nothing more will come: why the journey could not be made or had to stop.
    Failed {
        words: String,
    },
}

/// A step that a user took, or would have taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSample {
    /// Positions in the plan.
    pub flow: u32,
    pub step: u32,
    pub user: u32,
    pub iteration: u32,
    /// Of the ask's record.
    pub index: Option<u64>,
    pub started_ns: u64,
    /// To the last byte of a page, to the end of an ask's stream.
    pub elapsed_ns: u64,
    /// Left out because an earlier step of the iteration failed.
    pub skipped: bool,
    pub failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// To the end of the last step.
    pub elapsed_ns: u64,
    /// Every user went through all iterations.
    pub complete: bool,
    pub client: ClientFacts,
    pub goose: Vec<GooseStep>,
}

/// What goose itself counted and timed. A transaction takes in what its user does around the request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GooseStep {
    pub flow: u32,
    pub step: u32,
    pub requests: u64,
    pub failures: u64,
    /// Skipped steps among them.
    pub transactions: u64,
    /// 50th, 95th and 99th percentile, as finely as goose keeps times.
    pub request_us: Option<[u64; 3]>,
    pub transaction_us: Option<[u64; 3]>,
}
