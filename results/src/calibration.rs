//! What the client of a run was found to get wrong, against a server whose timing is known.

use serde::{Deserialize, Serialize};

/// Over all samples; percentiles by nearest rank, 0 of none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    pub samples: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[allow(clippy::large_enum_variant, reason = "a manifest has one")]
pub enum ClientCalibration {
    Measured(CalibrationFacts),
    /// Not wanted, or there is nothing to copy.
    Skipped {
        why: String,
    },
    /// It was tried.
    Failed {
        why: String,
    },
}

/// A stretch of the run's busiest trial, driven again by the same client against `llmlab mock`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationFacts {
    /// Directory of the trial that was copied.
    pub trial: String,
    /// What was spoken with the mock; another than with the target where the mock does not know that one.
    pub protocol: String,
    /// Most requests in flight at once.
    pub streams: u64,
    pub requests: u64,
    /// Arrivals per second, once the streams that were under way at the stretch's beginning are there.
    pub rate_rps: f64,
    /// Events with tokens per second that the mock was to send then.
    pub events_per_s: f64,
    /// The mock's own times.
    pub ttft_ns: u64,
    pub itl_ns: u64,
    pub elapsed_ns: u64,
    /// Requests that failed or that the mock's log does not have whole.
    pub left_out: u64,
    /// Sent after the scheduled time.
    pub send_lag: Errors,
    /// Between what the client recorded and what was served, either way.
    pub ttft: Errors,
    pub itl: Errors,
    /// The mock's own lateness, which is in none of the errors.
    pub served_late: Errors,
}

impl CalibrationFacts {
    /// The larger p99 of what a report would have wrong.
    pub fn worst_p99_ns(&self) -> u64 {
        self.ttft.p99_ns.max(self.itl.p99_ns)
    }
}
