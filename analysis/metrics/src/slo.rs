//! Service-level objectives: does the run meet each percentile limit, and how many requests per second meet all of them.

use llmlab_results::manifest::Slo;
use llmlab_results::record::RequestRecord;
use serde::Serialize;

use crate::frame;
use crate::latency::{LatencySamples, Samples};
use crate::window::Window;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SloMetric {
    Ttft,
    Tpot,
    Itl,
    E2e,
}

impl SloMetric {
    pub fn label(self) -> &'static str {
        match self {
            SloMetric::Ttft => "TTFT",
            SloMetric::Tpot => "TPOT",
            SloMetric::Itl => "ITL",
            SloMetric::E2e => "E2E",
        }
    }
}

/// One limit and what the trial did against it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SloCheck {
    pub metric: SloMetric,
    pub percentile: f64,
    pub limit_ns: u64,
    /// Adjusted percentile; `None` is infinite (too many failures) or nothing measured.
    pub value_ns: Option<f64>,
    /// `None` when the metric does not exist here, e.g. TPOT of one-token answers.
    pub met: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goodput {
    /// Measured requests that met every limit and completed inside the window, per second.
    pub requests_per_s: f64,
    /// Measured requests that met every limit, of those that succeeded or failed.
    pub share: f64,
}

pub(crate) fn limits(slo: &Slo) -> [(SloMetric, &Vec<(f64, u64)>); 4] {
    [
        (SloMetric::Ttft, &slo.ttft),
        (SloMetric::Tpot, &slo.tpot),
        (SloMetric::Itl, &slo.itl),
        (SloMetric::E2e, &slo.e2e),
    ]
}

/// Every percentile limit, judged on adjusted percentiles.
pub fn check(slo: &Slo, samples: &LatencySamples) -> Vec<SloCheck> {
    let mut checks = Vec::new();
    for (metric, limits) in limits(slo) {
        let samples = match metric {
            SloMetric::Ttft => &samples.ttft,
            SloMetric::Tpot => &samples.tpot,
            SloMetric::Itl => &samples.itl,
            SloMetric::E2e => &samples.e2e_last,
        };
        for &(percentile, limit_ns) in limits {
            let value_ns = samples.adjusted(percentile);
            let met = (!samples.is_empty()).then(|| value_ns.is_some_and(|v| v <= limit_ns as f64));
            checks.push(SloCheck { metric, percentile, limit_ns, value_ns, met });
        }
    }
    checks
}

/// `None` when the scenario sets no limit, so that "no SLO" is never read as "all good".
pub fn goodput(slo: &Slo, records: &[RequestRecord], warmup: u64, window: &Window) -> Option<Goodput> {
    if limits(slo).iter().all(|(_, limits)| limits.is_empty()) {
        return None;
    }
    let (mut good, mut good_inside, mut judged) = (0_u64, 0_u64, 0_u64);
    for r in records.iter().filter(|r| r.index >= warmup) {
        if !r.outcome.is_success() && !r.outcome.is_failure() {
            continue;
        }
        judged += 1;
        if r.outcome.is_success() && meets_all(slo, r) {
            good += 1;
            good_inside += u64::from(frame::completed_ns(r).is_some_and(|t| window.contains(t as f64)));
        }
    }
    (judged > 0).then(|| Goodput {
        requests_per_s: good_inside as f64 / window.duration_s(),
        share: good as f64 / judged as f64,
    })
}

/// A request is held to each metric's limit of the highest percentile: the tighter limits of lower percentiles are promises about the
/// crowd. Its ITL is its own percentile of that order. A metric that a request cannot have (TPOT of one token) does not fail it.
fn meets_all(slo: &Slo, r: &RequestRecord) -> bool {
    limits(slo).into_iter().all(|(metric, limits)| {
        let Some(&(percentile, limit_ns)) = limits.iter().max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return true;
        };
        let value = match metric {
            SloMetric::Ttft => frame::ttft_ns(r),
            SloMetric::Tpot => frame::tpot_ns(r),
            SloMetric::E2e => frame::e2e_last_ns(r),
            SloMetric::Itl => request_itl(r).raw(percentile),
        };
        value.is_none_or(|v| v <= limit_ns as f64)
    })
}

pub(crate) fn request_itl(r: &RequestRecord) -> Samples {
    let mut gaps = Vec::new();
    for pair in r.events.windows(2) {
        let gap = pair[1].at_ns.saturating_sub(pair[0].at_ns) as f64 / f64::from(pair[1].tokens.max(1));
        gaps.extend(std::iter::repeat_n(gap, pair[1].tokens as usize));
    }
    Samples::new(gaps, 0)
}
