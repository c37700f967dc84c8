//! Latency distributions of one trial, raw and adjusted for failures.

use llmlab_results::step::StepRow;
use polars::prelude::DataFrame;
use serde::Serialize;

use crate::frame;
use crate::quantile::{mean, quantile_with_failures, sort};
use crate::window::Window;

/// Percentiles in nanoseconds. In an adjusted set `None` means infinite: that share of requests never succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50_ns: Option<f64>,
    pub p90_ns: Option<f64>,
    pub p95_ns: Option<f64>,
    pub p99_ns: Option<f64>,
}

/// One latency over the measured requests (or tokens) of a trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// Values, all of successful requests.
    pub count: u64,
    /// Values that count as +infinity in `adjusted`.
    pub failures: u64,
    pub mean_ns: Option<f64>,
    pub min_ns: Option<f64>,
    pub max_ns: Option<f64>,
    /// Successful requests only, as most tools print it.
    pub raw: Percentiles,
    /// Failed requests count as slower than everything, so shedding load never looks good.
    pub adjusted: Percentiles,
}

/// Sorted values and the failures that belong to them: what percentiles of any order are taken from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    sorted: Vec<f64>,
    failures: u64,
}

impl Samples {
    pub fn new(mut values: Vec<f64>, failures: u64) -> Self {
        sort(&mut values);
        Samples { sorted: values, failures }
    }

    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty() && self.failures == 0
    }

    /// Ascending values of successes.
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }

    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// `None` when infinite (or when there are no samples at all).
    pub fn adjusted(&self, percentile: f64) -> Option<f64> {
        quantile_with_failures(&self.sorted, self.failures, percentile / 100.0)
    }

    pub fn raw(&self, percentile: f64) -> Option<f64> {
        quantile_with_failures(&self.sorted, 0, percentile / 100.0)
    }

    pub fn distribution(&self) -> Option<Distribution> {
        if self.is_empty() {
            return None;
        }
        let set = |f: &dyn Fn(f64) -> Option<f64>| Percentiles {
            p50_ns: f(50.0),
            p90_ns: f(90.0),
            p95_ns: f(95.0),
            p99_ns: f(99.0),
        };
        Some(Distribution {
            count: self.sorted.len() as u64,
            failures: self.failures,
            mean_ns: mean(&self.sorted),
            min_ns: self.sorted.first().copied(),
            max_ns: self.sorted.last().copied(),
            raw: set(&|p| self.raw(p)),
            adjusted: set(&|p| self.adjusted(p)),
        })
    }
}

/// The samples of one trial, before they are reduced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LatencySamples {
    pub ttft: Samples,
    pub tpot: Samples,
    pub itl: Samples,
    pub icl: Samples,
    pub e2e_last: Samples,
    pub e2e_done: Samples,
    pub queue: Samples,
    pub send_lag: Samples,
}

/// The reduced form. `None` where nothing of the kind was recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Scheduled time to the first event that carried a generated token.
    pub ttft: Option<Distribution>,
    /// Per request: (t_last - t_first) / (n - k); requests with n <= k have none.
    pub tpot: Option<Distribution>,
    /// Per token: the gap before its event divided by the event's tokens, counted once per token.
    pub itl: Option<Distribution>,
    /// Per event: the gap before it, whatever it carried.
    pub icl: Option<Distribution>,
    pub e2e_last: Option<Distribution>,
    pub e2e_done: Option<Distribution>,
    /// Enqueue to first scheduling, as the engine logged it.
    pub queue: Option<Distribution>,
    /// Scheduled to sent: the client's own lateness, part of every latency above.
    pub send_lag: Option<Distribution>,
}

impl LatencySamples {
    /// Measured requests only; the window matters for `queue` alone, because engine rows carry no request index.
    pub fn collect(
        requests: &DataFrame,
        events: &DataFrame,
        steps: &[StepRow],
        trial_start_ns: u64,
        window: Option<&Window>,
    ) -> Self {
        let good = frame::rows_where(requests, &["measured", "success"]);
        let failed = frame::rows_where(requests, &["measured", "failure"]);
        let failures = failed.height() as u64;
        let owed = frame::values(&failed, "undelivered").iter().sum::<f64>() as u64;
        let per_request = |name: &str, failures: u64| Samples::new(frame::values(&good, name), failures);
        let good_events = frame::rows_where(events, &["measured", "success"]);
        // Where good answers come whole, nothing is known of their tokens, and so nothing is owed by failed ones.
        let whole = good.height() > 0 && good_events.height() == 0;
        let (token_failures, owed) = if whole { (0, 0) } else { (failures, owed) };
        let (itl, icl) = gaps(&good_events);
        let lag = frame::values(&frame::rows_where(requests, &["measured"]), "send_lag_ns");
        LatencySamples {
            ttft: per_request("ttft_ns", token_failures),
            tpot: per_request("tpot_ns", token_failures),
            itl: Samples::new(itl, owed),
            icl: Samples::new(icl, 0),
            e2e_last: per_request("e2e_last_ns", failures),
            e2e_done: per_request("e2e_done_ns", failures),
            queue: Samples::new(queue_ns(steps, trial_start_ns, window), 0),
            send_lag: Samples::new(lag, 0),
        }
    }

    pub fn reduce(&self) -> Latency {
        Latency {
            ttft: self.ttft.distribution(),
            tpot: self.tpot.distribution(),
            itl: self.itl.distribution(),
            icl: self.icl.distribution(),
            e2e_last: self.e2e_last.distribution(),
            e2e_done: self.e2e_done.distribution(),
            queue: self.queue.distribution(),
            send_lag: self.send_lag.distribution(),
        }
    }
}

/// (inter-token per token, inter-chunk per event).
fn gaps(events: &DataFrame) -> (Vec<f64>, Vec<f64>) {
    let gaps = frame::optional(events, "gap_ns");
    let tokens = frame::counts(events, "tokens");
    let (mut itl, mut icl) = (Vec::with_capacity(gaps.len()), Vec::with_capacity(gaps.len()));
    for (gap, tokens) in gaps.into_iter().zip(tokens) {
        let Some(gap) = gap else { continue };
        icl.push(gap);
        itl.extend(std::iter::repeat_n(gap / f64::from(tokens.max(1)), tokens as usize));
    }
    (itl, icl)
}

/// Waiting times of requests that entered the engine's queue after the window began. There is no upper end: nothing is sent
/// after the last measured request, and its enqueue lies a network hop after its issue.
fn queue_ns(steps: &[StepRow], trial_start_ns: u64, window: Option<&Window>) -> Vec<f64> {
    let Some(window) = window else { return Vec::new() };
    steps
        .iter()
        .flat_map(|row| row.admitted.iter().map(move |(_, waited)| (row.start_monotonic_ns, *waited)))
        .filter(|(start, waited)| {
            *start as f64 - trial_start_ns as f64 - *waited as f64 >= window.start_ns as f64
        })
        .map(|(_, waited)| waited as f64)
        .collect()
}
