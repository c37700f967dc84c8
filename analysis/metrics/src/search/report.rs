//! What a search came to: for each target the edge, every value tried, and the throughput-latency curve through them.

use llmlab_results::manifest::Manifest;
use serde::Serialize;

use crate::Trial;
use crate::analysis::{Analysis, TrialAnalysis};
use crate::compare::spread;
use crate::metric::Metric;
use crate::search::judge::{Decision, TrialJudgement, decide, judge_trial};
use crate::search::watch::StopReason;
use crate::trust::UntrustedCause;
use crate::window::is_closed_loop;

pub const SCHEMA_VERSION: u32 = 1;

/// What is raised until the SLO breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Searched {
    /// Requests per second.
    Rate,
    /// Share of the target's own saturation.
    Load,
    /// Users with one request in flight each.
    Users,
}

impl Searched {
    pub fn from_name(name: &str) -> Option<Searched> {
        [Searched::Rate, Searched::Load, Searched::Users].into_iter().find(|s| s.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Searched::Rate => "rate",
            Searched::Load => "load",
            Searched::Users => "users",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Searched::Rate => "requests/s",
            Searched::Load => "of saturation",
            Searched::Users => "users",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchReport {
    pub schema_version: u32,
    pub name: String,
    pub searched: Searched,
    pub tolerance: f64,
    pub most_trials: u32,
    /// "TTFT p95 <= 200 ms"
    pub slo: Vec<String>,
    pub targets: Vec<TargetSearch>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetSearch {
    pub name: String,
    pub description: String,
    pub saturation_rps: Option<f64>,
    /// Values that the search may try.
    pub range: Option<(f64, f64)>,
    /// `None` where no value was decided.
    pub edge: Option<Edge>,
    /// The highest value that clearly held and the lowest that was clearly missed.
    pub interval: (Option<f64>, Option<f64>),
    /// By value.
    pub values: Vec<TriedValue>,
    pub trusted: bool,
    /// Why the search did not come to its end.
    pub error: Option<String>,
}

/// Where the SLO breaks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Edge {
    Between {
        held: f64,
        missed: f64,
    },
    /// Nothing missed up to the highest value.
    AtLeast {
        held: f64,
    },
    /// Not even the lowest value held.
    Below {
        missed: f64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriedValue {
    pub value: f64,
    /// Its run, beside the search's file.
    pub dir: String,
    pub trials: Vec<TrialJudgement>,
    pub decision: Option<Decision>,
    pub curve: CurvePoint,
    /// Why figures of its trials must not be used; empty where they may.
    pub untrusted: Vec<String>,
}

/// Medians over all trials; of those that were stopped, what was seen until then. Without them the point would be made of
/// the lucky ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CurvePoint {
    /// `None` in a closed loop.
    pub offered_rps: Option<f64>,
    pub achieved_rps: Option<f64>,
    pub output_tokens_per_s: Option<f64>,
    pub ttft_p50_ns: Option<f64>,
    pub ttft_p95_ns: Option<f64>,
    pub tpot_p50_ns: Option<f64>,
    pub tpot_p95_ns: Option<f64>,
    pub goodput_rps: Option<f64>,
}

/// A trial that was stopped, by its directory.
pub type Stops = [(String, StopReason)];

impl TriedValue {
    /// From the run of one value: its analysis, manifest and trials.
    pub fn of(
        value: f64,
        offered_rps: Option<f64>,
        dir: &str,
        analysis: &Analysis,
        manifest: &Manifest,
        trials: &[Trial],
        stops: &Stops,
        most_trials: u32,
    ) -> TriedValue {
        let stop = |dir: &str| stops.iter().find(|(known, _)| known == dir).map(|(_, reason)| reason);
        let open_loop = !is_closed_loop(manifest);
        let warmup = manifest.workload.warmup_requests;
        let judged = analysis.trials.iter().filter_map(|analysed| {
            let trial = trials.iter().find(|trial| trial.facts.dir == analysed.dir)?;
            let stopped = stop(&analysed.dir);
            // What an interruption cut short says nothing.
            (analysed.complete || stopped.is_some()).then(|| {
                judge_trial(
                    &manifest.slo,
                    &trial.facts,
                    &trial.records,
                    &analysed.slo,
                    warmup,
                    open_loop,
                    stopped,
                )
            })
        });
        let trials: Vec<TrialJudgement> = judged.collect();
        // A trial that was stopped on purpose is no less to be trusted for it, and refusing everything is an answer.
        let by_design = |dir: &str, cause: &UntrustedCause| match cause {
            UntrustedCause::Incomplete => stop(dir).is_some(),
            UntrustedCause::NothingSucceeded { .. } => true,
            _ => false,
        };
        let untrusted = analysis.trials.iter().flat_map(|trial| {
            let causes = trial.trust.causes.iter().filter(|cause| !by_design(&trial.dir, cause));
            causes.map(|cause| format!("{}: {cause}", trial.dir))
        });
        TriedValue {
            value,
            dir: dir.to_owned(),
            decision: decide(&trials, most_trials),
            trials,
            curve: CurvePoint::of(&analysis.trials, offered_rps),
            untrusted: untrusted.collect(),
        }
    }
}

impl CurvePoint {
    fn of(trials: &[TrialAnalysis], offered_rps: Option<f64>) -> CurvePoint {
        let trials: Vec<&TrialAnalysis> = trials.iter().collect();
        let median = |metric: Metric| spread(metric, &trials).median;
        CurvePoint {
            offered_rps,
            achieved_rps: median(Metric::RequestsPerS),
            output_tokens_per_s: median(Metric::OutputTokensPerS),
            ttft_p50_ns: median(Metric::TtftP50),
            ttft_p95_ns: median(Metric::TtftP95),
            tpot_p50_ns: median(Metric::TpotP50),
            tpot_p95_ns: median(Metric::TpotP95),
            goodput_rps: median(Metric::Goodput),
        }
    }
}

impl TargetSearch {
    /// Puts the values in order and reads the edge off them.
    pub fn concluded(mut self) -> TargetSearch {
        self.values.sort_by(|a, b| a.value.total_cmp(&b.value));
        let decided = |holds: bool, clear: bool| {
            let kept = move |d: &Decision| d.holds == holds && (d.clear || !clear);
            self.values.iter().filter(move |v| v.decision.as_ref().is_some_and(kept)).map(|v| v.value)
        };
        let missed = decided(false, false).reduce(f64::min);
        // What held above a miss was luck, or the miss was: the edge is the lower one.
        let below = |value: &f64| missed.is_none_or(|missed| *value < missed);
        let held = decided(true, false).filter(below).reduce(f64::max);
        let above = |value: &f64| held.is_none_or(|held| *value > held);
        self.interval = (
            decided(true, true).filter(below).reduce(f64::max),
            decided(false, true).filter(above).reduce(f64::min),
        );
        self.edge = match (held, missed) {
            (Some(held), Some(missed)) => Some(Edge::Between { held, missed }),
            (Some(held), None) => Some(Edge::AtLeast { held }),
            (None, Some(missed)) => Some(Edge::Below { missed }),
            (None, None) => None,
        };
        self.trusted = self.values.iter().all(|value| value.untrusted.is_empty());
        self
    }
}
