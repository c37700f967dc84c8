//! What is said of a technique, held against what was measured and what was simulated.
//!
//! A claim is a ratio: how many times better a target with the technique is than one without, whichever way better is.
//! [`judge`] finds that ratio in a run, [`why`] takes it apart into what the records say, [`table`] prints claims.

pub mod table;
pub mod why;

use serde::Serialize;

use crate::analysis::{Analysis, TrialAnalysis};
use crate::compare::CONFIDENCE;
use crate::metric::{Better, Metric, Value};
use crate::stats::t_interval;
use llmlab_results::manifest::TargetKind;
pub use why::{Gap, Side, Why};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claim {
    pub name: String,
    pub says: String,
    pub source: String,
    pub metric: ClaimMetric,
    /// How many times better: least, most.
    pub claimed: (f64, f64),
    /// With the technique.
    pub target: String,
    /// Without.
    pub against: String,
}

/// A metric that claims are made about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimMetric {
    Of(Metric),
    /// The longest time between two tokens of a request.
    ItlMax,
    /// Share of handed-out KV slots that hold a token.
    KvUsed,
}

impl ClaimMetric {
    /// By the name that scenarios use.
    pub fn from_name(name: &str) -> Option<ClaimMetric> {
        let metric = match name {
            "output_tokens_per_s" => Metric::OutputTokensPerS,
            "requests_per_s" => Metric::RequestsPerS,
            "goodput" => Metric::Goodput,
            "ttft_p50" => Metric::TtftP50,
            "ttft_p95" => Metric::TtftP95,
            "tpot_p50" => Metric::TpotP50,
            "tpot_p99" => Metric::TpotP99,
            "itl_p50" => Metric::ItlP50,
            "itl_p99" => Metric::ItlP99,
            "e2e_p50" => Metric::E2eP50,
            "itl_max" => return Some(ClaimMetric::ItlMax),
            "kv_used" => return Some(ClaimMetric::KvUsed),
            _ => return None,
        };
        Some(ClaimMetric::Of(metric))
    }

    pub fn label(self) -> &'static str {
        match self {
            ClaimMetric::Of(metric) => metric.label(),
            ClaimMetric::ItlMax => "longest ITL",
            ClaimMetric::KvUsed => "KV memory used",
        }
    }

    fn better(self) -> Better {
        match self {
            ClaimMetric::Of(metric) => metric.better(),
            ClaimMetric::ItlMax => Better::Lower,
            ClaimMetric::KvUsed => Better::Higher,
        }
    }

    fn value(self, trial: &TrialAnalysis) -> Value {
        let finite = |value: Option<f64>| value.map_or(Value::Missing, Value::Finite);
        match self {
            ClaimMetric::Of(metric) => metric.value(trial),
            ClaimMetric::ItlMax => finite(trial.latency.itl.as_ref().and_then(|itl| itl.max_ns)),
            ClaimMetric::KvUsed => finite(
                trial
                    .engine
                    .as_ref()
                    .and_then(|log| log.internal_fragmentation_mean)
                    .map(|waste| 1.0 - waste),
            ),
        }
    }
}

/// How the ratio of a run stands to the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval meets the claimed range.
    Confirmed,
    /// All of the interval is below the range, and above 1.
    Smaller,
    /// All of the interval is above the range.
    Larger,
    /// Below the range, and no better than without the technique as far as the interval tells.
    NotSeen,
    /// The interval meets the range, and no gain at all lies in it too: the repeats differ too much to tell.
    Unclear,
}

impl Verdict {
    /// `interval` are the ends that the repeats leave open; one value twice where there is one repeat.
    pub fn of((low, high): (f64, f64), (least, most): (f64, f64)) -> Verdict {
        if high >= least && low <= most {
            if low <= 1.0 && least > 1.0 { Verdict::Unclear } else { Verdict::Confirmed }
        } else if low > most {
            Verdict::Larger
        } else if low > 1.0 {
            Verdict::Smaller
        } else {
            Verdict::NotSeen
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Verdict::Confirmed => "confirmed",
            Verdict::Smaller => "smaller",
            Verdict::Larger => "larger",
            Verdict::NotSeen => "not seen",
            Verdict::Unclear => "unclear",
        }
    }
}

/// A claim in one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    pub run: String,
    /// In virtual time, both targets.
    pub simulated: bool,
    /// Of the repeat in the middle, or the lower of two in the middle.
    pub ratio: f64,
    /// 95 % t-interval on log ratios; `None` with one repeat.
    pub interval: Option<(f64, f64)>,
    /// Paired repeats.
    pub repeats: u64,
    pub verdict: Verdict,
    /// The run passed its own checks.
    pub trusted: bool,
    /// Of the same repeat as `ratio`.
    pub why: Why,
}

/// The claim's ratio in a run, by repeat, as in [`crate::compare`]. The error is one sentence.
pub fn judge(claim: &Claim, analysis: &Analysis) -> Result<Found, String> {
    let mut pairs = pairs(claim, analysis)?;
    pairs.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let middle = &pairs[(pairs.len() - 1) / 2];
    let logs: Vec<f64> = pairs.iter().map(|pair| pair.ratio.ln()).collect();
    let interval = t_interval(&logs, CONFIDENCE)
        .map(|interval| (interval.low.exp(), interval.high.exp()))
        .filter(|(low, high)| *low > 0.0 && high.is_finite());
    let simulated = |name: &str| {
        analysis.targets.iter().any(|target| target.name == name && target.kind == Some(TargetKind::Simulate))
    };
    Ok(Found {
        run: analysis.name.clone(),
        simulated: simulated(&claim.target) && simulated(&claim.against),
        ratio: middle.ratio,
        verdict: Verdict::of(interval.unwrap_or((middle.ratio, middle.ratio)), claim.claimed),
        interval,
        repeats: pairs.len() as u64,
        trusted: analysis.trusted,
        why: Why { with: Side::of(middle.with), without: Side::of(middle.without) },
    })
}

struct Pair<'a> {
    ratio: f64,
    with: &'a TrialAnalysis,
    without: &'a TrialAnalysis,
}

/// Repeats that both targets completed; at least one.
fn pairs<'a>(claim: &Claim, analysis: &'a Analysis) -> Result<Vec<Pair<'a>>, String> {
    let of = |name: &str, repeat: u32| {
        analysis.trials.iter().find(|trial| trial.target == name && trial.repeat == repeat && trial.complete)
    };
    let mut pairs = Vec::new();
    for with in analysis.trials.iter().filter(|trial| trial.target == claim.target && trial.complete) {
        let Some(without) = of(&claim.against, with.repeat) else { continue };
        let (Some(ours), Some(theirs)) =
            (claim.metric.value(with).finite(), claim.metric.value(without).finite())
        else {
            return Err(format!("repeat {} has no {} to compare", with.repeat, claim.metric.label()));
        };
        let ratio = match claim.metric.better() {
            Better::Lower => theirs / ours,
            Better::Higher | Better::Neither => ours / theirs,
        };
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(format!("repeat {} has a {} of zero", with.repeat, claim.metric.label()));
        }
        pairs.push(Pair { ratio, with, without });
    }
    match pairs.is_empty() {
        true => Err(format!("no repeat of {} and {} was completed", claim.target, claim.against)),
        false => Ok(pairs),
    }
}

/// A claim with what its live and its simulated run found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub claim: Claim,
    pub measured: Option<Found>,
    pub simulated: Option<Found>,
    /// Why there is nothing to show, or not all of it.
    pub missing: Vec<String>,
}

/// Puts what a run found beside what other runs found about the claim of the same name. A later run of the same kind
/// takes the place of an earlier one.
pub fn join(rows: &mut Vec<Row>, claim: Claim, found: Result<Found, String>) {
    let place = rows.iter().position(|row| row.claim.name == claim.name).unwrap_or_else(|| {
        rows.push(Row { claim, measured: None, simulated: None, missing: Vec::new() });
        rows.len() - 1
    });
    match found {
        Ok(found) if found.simulated => rows[place].simulated = Some(found),
        Ok(found) => rows[place].measured = Some(found),
        Err(problem) => rows[place].missing.push(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_decides_against_the_claimed_range() {
        let claimed = (2.0, 4.0);
        for (interval, wanted) in [
            ((2.5, 3.0), Verdict::Confirmed),
            ((1.2, 2.0), Verdict::Confirmed),
            ((4.0, 9.0), Verdict::Confirmed),
            ((0.5, 9.0), Verdict::Unclear),
            ((1.0, 2.5), Verdict::Unclear),
            ((1.2, 1.9), Verdict::Smaller),
            ((4.1, 5.0), Verdict::Larger),
            ((0.9, 1.9), Verdict::NotSeen),
            ((1.0, 1.0), Verdict::NotSeen),
            ((0.3, 0.5), Verdict::NotSeen),
        ] {
            assert_eq!(Verdict::of(interval, claimed), wanted, "{interval:?}");
        }
        // "At no cost": a range around 1.
        assert_eq!(Verdict::of((0.97, 1.02), (0.95, 1.1)), Verdict::Confirmed);
    }
}
