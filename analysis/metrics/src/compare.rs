//! Is one target faster than the other, beyond noise?
//!
//! The run is the statistical unit: requests inside a run share a queue and are not independent, so tests over pooled requests
//! see differences that are not there. Repeats are interleaved and paired: repeat r of every target saw the same prompts
//! and arrival times close together in time, so the ratio within a repeat cancels drift.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::analysis::TrialAnalysis;
use crate::metric::{Better, Metric, Value};
use crate::quantile::{mean, quantile};
use crate::stats::t_interval;

pub const CONFIDENCE: f64 = 0.95;

/// Median and range of a target's per-trial values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    pub metric: Metric,
    /// `None` when no trial has a finite value.
    pub median: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Trials with a finite value.
    pub n: u64,
    /// Trials whose value is infinite because too many requests failed.
    pub infinite: u64,
}

pub fn spread(metric: Metric, trials: &[&TrialAnalysis]) -> Spread {
    let values: Vec<Value> = trials.iter().map(|t| metric.value(t)).collect();
    let mut finite: Vec<f64> = values.iter().filter_map(|v| v.finite()).collect();
    crate::quantile::sort(&mut finite);
    let infinite = values.iter().filter(|v| **v == Value::Infinite).count() as u64;
    // An infinite trial takes part in the median as what it is: with most trials infinite the median is too.
    let median = crate::quantile::quantile_with_failures(&finite, infinite, 0.5);
    Spread {
        metric,
        median,
        min: quantile(&finite, 0.0),
        max: if infinite > 0 { None } else { quantile(&finite, 1.0) },
        n: finite.len() as u64,
        infinite,
    }
}

/// A target against the baseline in one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub metric: Metric,
    /// Geometric mean of target / baseline over the paired repeats.
    pub ratio: f64,
    /// 95 % t-interval on log ratios, as ratios; `None` with one repeat.
    pub interval: Option<(f64, f64)>,
    /// Paired repeats.
    pub n: u64,
    /// Every repeat points the same way.
    pub one_way: bool,
}

/// A change this large in every repeat is worth a word even where few repeats cannot prove it.
const NOTABLE: f64 = 0.05;
/// From here on a consistent change would show in the interval if there were one.
const ENOUGH_REPEATS: u64 = 5;

impl Difference {
    /// The interval excludes 1. With one repeat nothing can be clear.
    pub fn clear(&self) -> bool {
        self.interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    }

    /// `Some(true)` when the clear difference is in the target's favour.
    pub fn favourable(&self) -> Option<bool> {
        match (self.clear(), self.metric.better()) {
            (false, _) | (_, Better::Neither) => None,
            (true, Better::Lower) => Some(self.ratio < 1.0),
            (true, Better::Higher) => Some(self.ratio > 1.0),
        }
    }

    /// "TTFT p95 31 % lower [24, 38]".
    pub fn words(&self) -> String {
        let label = self.metric.label();
        match self.interval {
            Some(_) if !self.clear() => {
                if self.one_way && self.n < ENOUGH_REPEATS && (self.ratio - 1.0).abs() >= NOTABLE {
                    let (size, n) = (change(self.ratio), self.n);
                    return format!("{label} {size} in each of {n} repeats, too few to be sure");
                }
                format!("{label} no clear difference (within noise)")
            }
            Some((low, high)) => {
                let (size, (a, b)) = (change(self.ratio), interval_words(self.ratio, low, high));
                format!("{label} {size} [{a}, {b}]")
            }
            // That there is no interval is said once, above all differences.
            None => format!("{label} {}", change(self.ratio)),
        }
    }
}

/// Everything about one target against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub target: String,
    pub baseline: String,
    /// Repeats that both completed.
    pub pairs: u64,
    pub differences: Vec<Difference>,
    /// Headline metrics in which one side is infinite, so that no ratio exists.
    pub infinite: Vec<Metric>,
    /// One line in plain words.
    pub verdict: String,
}

/// `None` when no repeat has both.
pub fn compare(
    target: &str,
    baseline: &str,
    target_trials: &[&TrialAnalysis],
    baseline_trials: &[&TrialAnalysis],
) -> Option<Comparison> {
    let by_repeat = |trials: &[&TrialAnalysis]| -> BTreeMap<u32, usize> {
        trials.iter().enumerate().rev().map(|(i, t)| (t.repeat, i)).collect()
    };
    let (ours, theirs) = (by_repeat(target_trials), by_repeat(baseline_trials));
    let pairs: Vec<(&TrialAnalysis, &TrialAnalysis)> = ours
        .iter()
        .filter_map(|(repeat, i)| Some((target_trials[*i], baseline_trials[*theirs.get(repeat)?])))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let (mut differences, mut infinite) = (Vec::new(), Vec::new());
    for metric in Metric::ALL.into_iter().filter(|m| m.compared()) {
        let values: Vec<(Value, Value)> =
            pairs.iter().map(|(t, b)| (metric.value(t), metric.value(b))).collect();
        if values.iter().any(|(t, b)| *t == Value::Infinite || *b == Value::Infinite) {
            infinite.push(metric);
        } else if let Some(d) = difference(metric, &values) {
            differences.push(d);
        }
    }
    let pairs = pairs.len() as u64;
    let verdict = verdict(target, &differences, &infinite);
    Some(Comparison {
        target: target.into(),
        baseline: baseline.into(),
        pairs,
        differences,
        infinite,
        verdict,
    })
}

fn difference(metric: Metric, values: &[(Value, Value)]) -> Option<Difference> {
    let logs: Vec<f64> = values
        .iter()
        .filter_map(|(t, b)| {
            let (t, b) = (t.finite()?, b.finite()?);
            (t > 0.0 && b > 0.0).then(|| (t / b).ln())
        })
        .collect();
    let ratio = mean(&logs)?.exp();
    // With few, noisy repeats an end of the interval can leave the range of f64; then no interval can be printed either.
    let interval = t_interval(&logs, CONFIDENCE)
        .map(|i| (i.low.exp(), i.high.exp()))
        .filter(|(low, high)| *low > 0.0 && high.is_finite());
    let one_way = logs.iter().all(|x| *x > 0.0) || logs.iter().all(|x| *x < 0.0);
    let n = logs.len() as u64;
    (ratio.is_finite() && ratio > 0.0).then_some(Difference { metric, ratio, interval, n, one_way })
}

/// The headline in pieces: words, and whether they are in the target's favour (`None`: even, or not clear).
pub fn verdict_parts(differences: &[Difference], infinite: &[Metric]) -> Vec<(String, Option<bool>)> {
    let mut parts = Vec::new();
    let lost: Vec<&str> =
        Metric::HEADLINE.into_iter().filter(|m| infinite.contains(m)).map(Metric::label).collect();
    if !lost.is_empty() {
        parts.push((format!("{} not comparable (too many failed requests)", lost.join(", ")), Some(false)));
    }
    for metric in Metric::HEADLINE {
        if let Some(d) = differences.iter().find(|d| d.metric == metric) {
            parts.push((d.words(), d.favourable()));
        }
    }
    if parts.is_empty() {
        parts.push(("nothing to compare".to_owned(), None));
    }
    parts
}

fn verdict(target: &str, differences: &[Difference], infinite: &[Metric]) -> String {
    let parts: Vec<String> =
        verdict_parts(differences, infinite).into_iter().map(|(words, _)| words).collect();
    format!("{target}: {}", parts.join(", "))
}

/// A ratio in words: per cent up to a factor of two, times beyond.
fn change(ratio: f64) -> String {
    if ratio >= 2.0 {
        format!("{ratio:.1}x higher")
    } else {
        let direction = if ratio < 1.0 { "lower" } else { "higher" };
        format!("{} % {direction}", percent((ratio - 1.0).abs() * 100.0))
    }
}

/// Ends of the interval in the unit and direction of `change`, smaller first.
fn interval_words(ratio: f64, low: f64, high: f64) -> (String, String) {
    if ratio >= 2.0 {
        (format!("{low:.1}x"), format!("{high:.1}x"))
    } else if ratio < 1.0 {
        (percent((1.0 - high) * 100.0), percent((1.0 - low) * 100.0))
    } else {
        (percent((low - 1.0) * 100.0), percent((high - 1.0) * 100.0))
    }
}

/// Whole per cent from 2 up, one decimal below, so that small clear differences are not printed as "0 %" or "[1, 1]".
fn percent(value: f64) -> String {
    if value.abs() < 1.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}
