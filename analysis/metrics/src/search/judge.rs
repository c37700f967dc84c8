//! What the trials of one value say: the SLO holds, it is missed, or another trial is needed.
//!
//! The rule, after each trial:
//! 1. A trial whose queue only grew decides: missed.
//! 2. The share of requests over each limit is held against what its percentile allows (5 % for p95). If the interval of the
//!    share lies above that for one limit, the value is missed; if it lies below it for every limit, and no trial was
//!    stopped, it holds. Both are *clear*. (What a stopped trial had not seen yet can only be worse.)
//! 3. Else the runs vote, each by its own percentiles: as soon as the rest of the trials could not change the majority, or when
//!    all are done. A tie is a miss.
//!
//! The interval is Wilson's, with Student's t, over an effective number of requests: neighbours share a queue and are not
//! independent, so the variance is that between parts of a trial (ten each), where it exceeds the binomial one.
//! Since it is looked at after each trial, its error is divided by the number of looks (Bonferroni).

use llmlab_results::manifest::{Slo, TrialFacts};
use llmlab_results::record::RequestRecord;
use serde::Serialize;

use crate::frame;
use crate::search::watch::{Queue, StopReason};
use crate::slo::{SloCheck, SloMetric, limits, request_itl};
use crate::stats::t_quantile;

/// Parts of a trial whose shares are compared.
const PARTS: usize = 10;
/// Of the interval, over all looks.
pub const CONFIDENCE: f64 = 0.95;

/// What one trial says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialJudgement {
    pub dir: String,
    /// Every limit is met by the trial's own percentiles, and it ran to its end.
    pub met: bool,
    /// Why it was stopped early.
    pub stopped: Option<String>,
    pub diverged: bool,
    pub limits: Vec<Observed>,
}

/// How often a limit was broken in each part of a trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observed {
    pub metric: SloMetric,
    pub percentile: f64,
    pub limit_ns: u64,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    pub over: u64,
    pub of: u64,
}

/// What the trials of a value say together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub holds: bool,
    /// Another set of trials would very likely say the same.
    pub clear: bool,
    pub why: String,
}

/// `checks` are those of the trial's analysis.
pub fn judge_trial(
    slo: &Slo,
    facts: &TrialFacts,
    records: &[RequestRecord],
    checks: &[SloCheck],
    warmup: u64,
    open_loop: bool,
    stopped: Option<&StopReason>,
) -> TrialJudgement {
    let growth = if open_loop { Queue::of(records).growth() } else { None };
    let diverged = stopped.is_some_and(|reason| reason.diverged) || growth.is_some();
    let judged = checks.iter().filter_map(|check| check.met);
    let met = checks.iter().any(|check| check.met.is_some()) && judged.into_iter().all(|met| met);
    TrialJudgement {
        dir: facts.dir.clone(),
        met: met && !diverged && stopped.is_none(),
        stopped: stopped.map(|reason| reason.words.clone()).or(growth),
        diverged,
        limits: observe(slo, records, warmup),
    }
}

fn observe(slo: &Slo, records: &[RequestRecord], warmup: u64) -> Vec<Observed> {
    let mut measured: Vec<&RequestRecord> =
        records.iter().filter(|r| r.index >= warmup && r.outcome.is_judged()).collect();
    measured.sort_by_key(|r| (r.scheduled_ns, r.index));
    let size = measured.len().div_ceil(PARTS).max(1);
    let mut observed = Vec::new();
    for (metric, limits) in limits(slo) {
        for &(percentile, limit_ns) in limits {
            let part = |requests: &[&RequestRecord]| {
                requests.iter().map(|r| broken(metric, limit_ns, r)).fold(Part::default(), |sum, part| Part {
                    over: sum.over + part.over,
                    of: sum.of + part.of,
                })
            };
            let parts = measured.chunks(size).map(part).filter(|part| part.of > 0).collect();
            observed.push(Observed { metric, percentile, limit_ns, parts });
        }
    }
    observed
}

/// Failed requests are over every limit; a latency that a request cannot have is not counted.
fn broken(metric: SloMetric, limit_ns: u64, r: &RequestRecord) -> Part {
    let failed = !r.outcome.is_success();
    let one = |value: Option<f64>| match (failed, value) {
        (true, _) => Part { over: 1, of: 1 },
        (false, None) => Part::default(),
        (false, Some(value)) => Part { over: u64::from(value > limit_ns as f64), of: 1 },
    };
    match metric {
        SloMetric::Ttft => one(frame::ttft_ns(r)),
        SloMetric::Tpot => one(frame::tpot_ns(r)),
        SloMetric::E2e => one(frame::e2e_last_ns(r)),
        SloMetric::Itl if failed => {
            let owed = u64::from(r.output_tokens_requested.saturating_sub(1));
            Part { over: owed, of: owed }
        }
        SloMetric::Itl => {
            let gaps = request_itl(r);
            let within = gaps.sorted().partition_point(|gap| *gap <= limit_ns as f64);
            Part { over: (gaps.sorted().len() - within) as u64, of: gaps.sorted().len() as u64 }
        }
    }
}

/// `most` is how many trials a value gets at most. `None`: another one is needed.
pub fn decide(trials: &[TrialJudgement], most: u32) -> Option<Decision> {
    let of = |holds: bool, clear: bool, why: String| Some(Decision { holds, clear, why });
    if let Some(trial) = trials.iter().find(|trial| trial.diverged) {
        return of(false, true, trial.stopped.clone().unwrap_or_else(|| "the queue only grew".into()));
    }
    let intervals = intervals(trials, most);
    if let Some(interval) = intervals.iter().find(|i| i.low > i.allowed) {
        return of(false, true, interval.words());
    }
    let closest = intervals.iter().max_by(|a, b| (a.high / a.allowed).total_cmp(&(b.high / b.allowed)));
    if let Some(closest) = closest.filter(|i| i.high <= i.allowed)
        && trials.iter().all(|trial| trial.stopped.is_none())
    {
        return of(true, true, closest.words());
    }
    let (met, most) = (trials.iter().filter(|trial| trial.met).count(), most as usize);
    let missed = trials.len() - met;
    let vote = format!("{met} of {} trials met it", trials.len());
    if 2 * met > most || (trials.len() >= most && met > missed) {
        of(true, false, vote)
    } else if 2 * missed >= most || trials.len() >= most {
        of(false, false, vote)
    } else {
        None
    }
}

/// The share of requests over a limit, over all trials of a value.
#[derive(Debug, Clone, PartialEq)]
struct LimitInterval {
    metric: SloMetric,
    percentile: f64,
    share: f64,
    low: f64,
    high: f64,
    allowed: f64,
}

impl LimitInterval {
    fn words(&self) -> String {
        let percent = |share: f64| crate::report::format::percent(share);
        format!(
            "{} p{}: {} % [{}, {}] over the limit, {} % allowed",
            self.metric.label(),
            self.percentile,
            percent(self.share),
            percent(self.low),
            percent(self.high),
            percent(self.allowed)
        )
    }
}

/// Limits that no request could be held to are left out.
fn intervals(trials: &[TrialJudgement], looks: u32) -> Vec<LimitInterval> {
    let Some(first) = trials.first() else { return Vec::new() };
    let mut found = Vec::new();
    for (i, limit) in first.limits.iter().enumerate() {
        let parts: Vec<Part> =
            trials.iter().filter_map(|trial| trial.limits.get(i)).flat_map(|o| o.parts.clone()).collect();
        if let Some((share, low, high)) = share_interval(&parts, looks) {
            let allowed = 1.0 - limit.percentile / 100.0;
            let (metric, percentile) = (limit.metric, limit.percentile);
            found.push(LimitInterval { metric, percentile, share, low, high, allowed });
        }
    }
    found
}

/// Share and interval. `None` with fewer than two parts.
fn share_interval(parts: &[Part], looks: u32) -> Option<(f64, f64, f64)> {
    if parts.len() < 2 {
        return None;
    }
    let of: f64 = parts.iter().map(|part| part.of as f64).sum();
    let share = parts.iter().map(|part| part.over as f64).sum::<f64>() / of;
    let freedom = (parts.len() - 1) as f64;
    let between: f64 = parts
        .iter()
        .map(|part| part.of as f64 * (part.over as f64 / part.of as f64 - share).powi(2))
        .sum::<f64>()
        / freedom;
    let binomial = share * (1.0 - share);
    let design_effect = if binomial > 0.0 { (between / binomial).max(1.0) } else { 1.0 };
    let n = of / design_effect;
    let t = t_quantile(1.0 - (1.0 - CONFIDENCE) / 2.0 / f64::from(looks.max(1)), freedom);
    // Wilson 1927.
    let scale = 1.0 + t * t / n;
    let middle = (share + t * t / (2.0 * n)) / scale;
    let half = t / scale * (binomial / n + t * t / (4.0 * n * n)).sqrt();
    Some((share, (middle - half).max(0.0), (middle + half).min(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(met: bool, over: [u64; 10], of: u64) -> TrialJudgement {
        let parts = over.into_iter().map(|over| Part { over, of }).collect();
        let limits = vec![Observed { metric: SloMetric::Ttft, percentile: 95.0, limit_ns: 1, parts }];
        TrialJudgement { dir: "t".into(), met, stopped: None, diverged: false, limits }
    }

    #[test]
    fn clear_shares_decide_after_one_trial_and_close_ones_do_not() {
        let holds = decide(&[trial(true, [0; 10], 50)], 3).unwrap();
        assert!(holds.holds && holds.clear, "{holds:?}");
        let missed = decide(&[trial(false, [10; 10], 50)], 3).unwrap();
        assert!(!missed.holds && missed.clear, "{missed:?}");
        assert_eq!(decide(&[trial(true, [2; 10], 50)], 3), None);
        // The same share as the clear miss, but all of it in one part: one long queue, seen once.
        let mut once = [0; 10];
        once[4] = 50;
        assert_eq!(decide(&[trial(false, once, 50)], 3), None);
    }

    #[test]
    fn close_values_are_voted_on_and_a_tie_is_a_miss() {
        let (yes, no) = (trial(true, [2; 10], 50), trial(false, [3; 10], 50));
        let vote = |trials: &[&TrialJudgement], most| {
            decide(&trials.iter().map(|t| (*t).clone()).collect::<Vec<_>>(), most).map(|d| (d.holds, d.clear))
        };
        assert_eq!(vote(&[&yes], 3), None);
        assert_eq!(vote(&[&yes, &yes], 3), Some((true, false)));
        assert_eq!(vote(&[&yes, &no], 3), None);
        assert_eq!(vote(&[&yes, &no, &no], 3), Some((false, false)));
        assert_eq!(vote(&[&yes, &no], 2), Some((false, false)));
        assert_eq!(vote(&[&yes], 1), Some((true, false)));
    }

    #[test]
    fn a_stopped_trial_is_a_vote_and_a_growing_queue_a_verdict() {
        let stopped = TrialJudgement { stopped: Some("certain".into()), ..trial(false, [0; 10], 50) };
        assert_eq!(decide(std::slice::from_ref(&stopped), 3), None);
        let missed = decide(&[stopped.clone(), stopped.clone()], 3).unwrap();
        assert!(!missed.holds && !missed.clear);
        let growing = TrialJudgement { diverged: true, ..stopped };
        let missed = decide(&[growing], 3).unwrap();
        assert!(!missed.holds && missed.clear);
    }

    /// Independent requests: the interval is Wilson's with t in place of z. Checked against the formula worked out by hand for
    /// 25 of 500, t(9) at 97.5 % = 2.262157.
    #[test]
    fn the_interval_of_independent_requests_is_wilsons() {
        let parts: Vec<Part> =
            [2, 3, 2, 3, 2, 3, 2, 3, 2, 3].into_iter().map(|over| Part { over, of: 50 }).collect();
        let (share, low, high) = share_interval(&parts, 1).unwrap();
        assert!((share - 0.05).abs() < 1e-12);
        assert!((low - 0.0321534).abs() < 1e-6 && (high - 0.0769645).abs() < 1e-6, "{low} {high}");
    }
}
