//! The same records scored as other tools define their metrics, in their own names, beside ours. Where two tools disagree over
//! one server, this says how much of it is definition. Sources and reasons: `docs/compat.md`.
//!
//! Knows definitions only; each tool's are in a file of their own. Reading order: [`sample`] (what a request looks like to such a
//! tool, and its arithmetic), then any tool.

mod aiperf;
mod guidellm;
mod mlperf;
mod sample;
mod sglang;
mod table;
mod vllm;

use llmlab_results::manifest::Manifest;
use serde::Serialize;

use crate::Trial;
use crate::analysis::{Analysis, TrialAnalysis};
use crate::latency::Distribution;
use sample::Bench;

pub use table::terminal;

/// A tool whose definitions are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    Vllm,
    Sglang,
    Guidellm,
    Aiperf,
    Mlperf,
}

impl Tool {
    pub const ALL: [Tool; 5] = [Tool::Vllm, Tool::Sglang, Tool::Guidellm, Tool::Aiperf, Tool::Mlperf];

    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Vllm => "vllm",
            Tool::Sglang => "sglang",
            Tool::Guidellm => "guidellm",
            Tool::Aiperf => "aiperf",
            Tool::Mlperf => "mlperf",
        }
    }

    /// What was read to write the definitions down.
    pub fn version(self) -> &'static str {
        match self {
            Tool::Vllm => "vllm bench serve, vLLM 0.33.0",
            Tool::Sglang => "sglang.bench_serving, SGLang 0.5.23",
            Tool::Guidellm => "GuideLLM 0.8.1",
            Tool::Aiperf => "AIPerf 0.13.0",
            Tool::Mlperf => "MLPerf LoadGen, Server scenario with token latencies",
        }
    }
}

impl std::str::FromStr for Tool {
    type Err = String;

    fn from_str(typed: &str) -> Result<Tool, String> {
        Tool::ALL.into_iter().find(|tool| tool.name() == typed).ok_or_else(|| {
            let known = Tool::ALL.map(Tool::name).join(", ");
            format!("unknown tool {typed:?}; known: {known}")
        })
    }
}

/// A run under one tool's definitions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    pub tool: Tool,
    pub version: &'static str,
    /// Measured trials in the order they ran.
    pub trials: Vec<ScoredTrial>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredTrial {
    pub trial: String,
    pub rows: Vec<Row>,
    /// What this trial has that the tool would not have had, or the other way round.
    pub notes: Vec<String>,
}

/// One line of the tool's own output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The tool's name for it, unit included where the tool includes it.
    pub name: String,
    pub value: Option<f64>,
    /// What we say instead, in the same unit, and under which name; where we have such a metric.
    pub ours: Option<f64>,
    pub our_name: Option<&'static str>,
}

/// Scores every measured trial. `analysis` is that of the same run.
pub fn score(tool: Tool, manifest: &Manifest, trials: &[Trial], analysis: &Analysis) -> Scored {
    let of = |ours: &TrialAnalysis| {
        let trial = trials.iter().find(|trial| trial.facts.dir == ours.dir)?;
        let bench = Bench::new(&trial.records, manifest.workload.warmup_requests, &manifest.slo);
        let rows = match tool {
            Tool::Vllm => vllm::rows(&bench, ours),
            Tool::Sglang => sglang::rows(&bench, ours),
            Tool::Guidellm => guidellm::rows(&bench, ours),
            Tool::Aiperf => aiperf::rows(&bench, ours),
            Tool::Mlperf => mlperf::rows(&bench, ours),
        };
        Some(ScoredTrial { trial: ours.dir.clone(), rows, notes: bench.notes(tool) })
    };
    Scored { tool, version: tool.version(), trials: analysis.trials.iter().filter_map(of).collect() }
}

/// Rows under construction.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn put(&mut self, name: impl Into<String>, value: Option<f64>) {
        let value = value.filter(|v| v.is_finite());
        self.0.push(Row { name: name.into(), value, ours: None, our_name: None });
    }

    /// Beside ours of the same unit.
    fn beside(
        &mut self,
        name: impl Into<String>,
        value: Option<f64>,
        our_name: &'static str,
        ours: Option<f64>,
    ) {
        let value = value.filter(|v| v.is_finite());
        let ours = ours.filter(|v| v.is_finite());
        self.0.push(Row { name: name.into(), value, ours, our_name: Some(our_name) });
    }
}

/// Our distribution in milliseconds by the word a tool uses: mean (of successes) or a percentile (failures count as infinite).
fn ours_ms(distribution: &Option<Distribution>, statistic: Statistic) -> Option<f64> {
    let d = distribution.as_ref()?;
    let ns = match statistic {
        Statistic::Mean => d.mean_ns,
        Statistic::Min => d.min_ns,
        Statistic::Max => d.max_ns,
        Statistic::P50 => d.adjusted.p50_ns,
        Statistic::P90 => d.adjusted.p90_ns,
        Statistic::P95 => d.adjusted.p95_ns,
        Statistic::P99 => d.adjusted.p99_ns,
    };
    ns.map(|ns| ns / 1e6)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statistic {
    Mean,
    Min,
    Max,
    P50,
    P90,
    P95,
    P99,
}

impl Statistic {
    /// Share of the samples, for percentiles.
    fn share(self) -> Option<f64> {
        match self {
            Statistic::P50 => Some(0.5),
            Statistic::P90 => Some(0.9),
            Statistic::P95 => Some(0.95),
            Statistic::P99 => Some(0.99),
            Statistic::Mean | Statistic::Min | Statistic::Max => None,
        }
    }
}
