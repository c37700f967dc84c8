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
    /// Over TLS, as the trial was.
    #[serde(default)]
    pub tls: bool,
    /// Answers were read as those that a later turn of a conversation needs, as in the trial.
    #[serde(default)]
    pub keep_answers: bool,
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

/// Of the requests, that may be missing without a word.
const MOST_LEFT_OUT: f64 = 0.01;

impl CalibrationFacts {
    /// The client did not get through what it was to send and read in twice the time.
    pub fn is_behind(&self) -> bool {
        self.left_out as f64 > MOST_LEFT_OUT * self.requests as f64
    }

    /// Of two attempts, in each figure the better one.
    pub fn better_of(self, other: CalibrationFacts) -> CalibrationFacts {
        let pick = |a: Errors, b: Errors| if b.p99_ns < a.p99_ns { b } else { a };
        let (ttft, itl) = (pick(self.ttft, other.ttft), pick(self.itl, other.itl));
        let whole = match (self.is_behind(), other.is_behind()) {
            (true, false) => return other,
            (false, true) => return self,
            _ if other.worst_p99_ns() < self.worst_p99_ns() => other,
            _ => self,
        };
        CalibrationFacts { ttft, itl, ..whole }
    }

    /// Of two clients of one run, in each figure the worse one.
    pub fn worse_of(&self, other: &CalibrationFacts) -> CalibrationFacts {
        let pick = |a: Errors, b: Errors| if b.p99_ns > a.p99_ns { b } else { a };
        let whole = match (self.is_behind(), other.is_behind()) {
            (false, true) => other,
            (true, false) => self,
            _ if other.worst_p99_ns() > self.worst_p99_ns() => other,
            _ => self,
        };
        let (ttft, itl) = (pick(self.ttft, other.ttft), pick(self.itl, other.itl));
        CalibrationFacts { ttft, itl, ..whole.clone() }
    }

    /// The larger p99 of what a report would have wrong.
    pub fn worst_p99_ns(&self) -> u64 {
        self.ttft.p99_ns.max(self.itl.p99_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(left_out: u64, ttft: u64, itl: u64) -> CalibrationFacts {
        let errors = |p99_ns| Errors { samples: 100, p50_ns: 1, p99_ns, max_ns: p99_ns };
        CalibrationFacts {
            trial: "r1".into(),
            protocol: "openai-chat".into(),
            tls: false,
            keep_answers: false,
            streams: 4,
            requests: 100,
            rate_rps: 3.0,
            events_per_s: 30.0,
            ttft_ns: 50,
            itl_ns: 10,
            elapsed_ns: 2_000,
            left_out,
            send_lag: errors(1),
            ttft: errors(ttft),
            itl: errors(itl),
            served_late: errors(1),
        }
    }

    #[test]
    fn a_second_attempt_counts_where_it_is_better_and_a_second_client_where_it_is_worse() {
        let (one, two) = (facts(0, 60, 5), facts(0, 5, 40));
        let better = one.clone().better_of(two.clone());
        assert_eq!((better.ttft.p99_ns, better.itl.p99_ns), (5, 5));
        let worse = one.worse_of(&two);
        assert_eq!((worse.ttft.p99_ns, worse.itl.p99_ns), (60, 40));
        assert!(!worse.is_behind());
    }

    #[test]
    fn a_client_that_falls_behind_is_not_excused_by_small_errors_of_what_it_did() {
        let (behind, slow) = (facts(2, 1, 1), facts(1, 60, 5));
        assert!(behind.is_behind() && !slow.is_behind());
        assert_eq!(behind.clone().better_of(slow.clone()).ttft.p99_ns, 60);
        assert!(slow.worse_of(&behind).is_behind());
    }
}
