//! The list of scalar metrics. Tables, comparisons and reports are loops over it, so a metric has one name everywhere.

use serde::Serialize;

use crate::analysis::TrialAnalysis;
use crate::latency::Distribution;
use crate::rates::Rates;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    TtftP50,
    TtftP95,
    TtftP99,
    TpotP50,
    TpotP95,
    TpotP99,
    ItlP50,
    ItlP95,
    ItlP99,
    E2eP50,
    E2eP95,
    E2eP99,
    QueueP50,
    QueueP95,
    RequestsPerS,
    OutputTokensPerS,
    InputTokensPerS,
    TotalTokensPerS,
    Goodput,
    SloShare,
    FailedShare,
    AbandonedShare,
    BatchMean,
    WaitingMean,
    WaitingMax,
    KvUseMean,
    InternalFragmentation,
    ExternalFragmentation,
    PaddingShare,
    Preemptions,
    RecomputedShare,
    PrefixHitShare,
    DraftAcceptanceRate,
    AcceptanceLength,
    RooflineShare,
    CostOutput,
    CostTotal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Nanoseconds,
    PerSecond,
    /// 0..=1, printed as per cent.
    Share,
    Count,
    UsDollars,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Lower,
    Higher,
    /// Describes, does not judge.
    Neither,
}

/// What one trial says about a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Missing,
    Finite(f64),
    /// So many requests failed that the percentile is a failure.
    Infinite,
}

impl Value {
    pub fn finite(self) -> Option<f64> {
        match self {
            Value::Finite(v) => Some(v),
            Value::Missing | Value::Infinite => None,
        }
    }

    fn of(value: Option<f64>) -> Value {
        value.filter(|v| v.is_finite()).map_or(Value::Missing, Value::Finite)
    }
}

impl Metric {
    pub const ALL: [Metric; 37] = [
        Metric::TtftP50,
        Metric::TtftP95,
        Metric::TtftP99,
        Metric::TpotP50,
        Metric::TpotP95,
        Metric::TpotP99,
        Metric::ItlP50,
        Metric::ItlP95,
        Metric::ItlP99,
        Metric::E2eP50,
        Metric::E2eP95,
        Metric::E2eP99,
        Metric::QueueP50,
        Metric::QueueP95,
        Metric::RequestsPerS,
        Metric::OutputTokensPerS,
        Metric::InputTokensPerS,
        Metric::TotalTokensPerS,
        Metric::Goodput,
        Metric::SloShare,
        Metric::FailedShare,
        Metric::AbandonedShare,
        Metric::BatchMean,
        Metric::WaitingMean,
        Metric::WaitingMax,
        Metric::KvUseMean,
        Metric::InternalFragmentation,
        Metric::ExternalFragmentation,
        Metric::PaddingShare,
        Metric::Preemptions,
        Metric::RecomputedShare,
        Metric::PrefixHitShare,
        Metric::DraftAcceptanceRate,
        Metric::AcceptanceLength,
        Metric::RooflineShare,
        Metric::CostOutput,
        Metric::CostTotal,
    ];

    /// What the verdict line speaks about, in its order.
    pub const HEADLINE: [Metric; 5] =
        [Metric::TtftP95, Metric::TpotP95, Metric::E2eP95, Metric::OutputTokensPerS, Metric::Goodput];

    /// What fits on a terminal page; the other reports print all.
    pub const BRIEF: [Metric; 16] = [
        Metric::TtftP50,
        Metric::TtftP95,
        Metric::TpotP50,
        Metric::TpotP95,
        Metric::ItlP99,
        Metric::E2eP50,
        Metric::E2eP95,
        Metric::QueueP95,
        Metric::RequestsPerS,
        Metric::OutputTokensPerS,
        Metric::Goodput,
        Metric::FailedShare,
        Metric::BatchMean,
        Metric::KvUseMean,
        Metric::Preemptions,
        Metric::CostOutput,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Metric::TtftP50 => "TTFT p50",
            Metric::TtftP95 => "TTFT p95",
            Metric::TtftP99 => "TTFT p99",
            Metric::TpotP50 => "TPOT p50",
            Metric::TpotP95 => "TPOT p95",
            Metric::TpotP99 => "TPOT p99",
            Metric::ItlP50 => "ITL p50",
            Metric::ItlP95 => "ITL p95",
            Metric::ItlP99 => "ITL p99",
            Metric::E2eP50 => "E2E p50",
            Metric::E2eP95 => "E2E p95",
            Metric::E2eP99 => "E2E p99",
            Metric::QueueP50 => "queue p50",
            Metric::QueueP95 => "queue p95",
            Metric::RequestsPerS => "requests/s",
            Metric::OutputTokensPerS => "output tok/s",
            Metric::InputTokensPerS => "input tok/s",
            Metric::TotalTokensPerS => "total tok/s",
            Metric::Goodput => "goodput req/s",
            Metric::SloShare => "within SLO",
            Metric::FailedShare => "failed",
            Metric::AbandonedShare => "abandoned",
            Metric::BatchMean => "batch size, mean",
            Metric::WaitingMean => "waiting, mean",
            Metric::WaitingMax => "waiting, max",
            Metric::KvUseMean => "KV use, mean",
            Metric::InternalFragmentation => "KV internal fragm.",
            Metric::ExternalFragmentation => "KV external fragm.",
            Metric::PaddingShare => "padding",
            Metric::Preemptions => "preemptions",
            Metric::RecomputedShare => "recomputed",
            Metric::PrefixHitShare => "prefix cache hits",
            Metric::DraftAcceptanceRate => "drafts accepted",
            Metric::AcceptanceLength => "acceptance length",
            Metric::RooflineShare => "of roofline",
            Metric::CostOutput => "USD/1M output tok",
            Metric::CostTotal => "USD/1M tokens",
        }
    }

    pub fn unit(self) -> Unit {
        match self {
            Metric::RequestsPerS
            | Metric::OutputTokensPerS
            | Metric::InputTokensPerS
            | Metric::TotalTokensPerS
            | Metric::Goodput => Unit::PerSecond,
            Metric::SloShare
            | Metric::FailedShare
            | Metric::AbandonedShare
            | Metric::PrefixHitShare
            | Metric::KvUseMean
            | Metric::InternalFragmentation
            | Metric::ExternalFragmentation
            | Metric::PaddingShare
            | Metric::RecomputedShare
            | Metric::DraftAcceptanceRate
            | Metric::RooflineShare => Unit::Share,
            Metric::BatchMean
            | Metric::WaitingMean
            | Metric::WaitingMax
            | Metric::AcceptanceLength
            | Metric::Preemptions => Unit::Count,
            Metric::CostOutput | Metric::CostTotal => Unit::UsDollars,
            _ => Unit::Nanoseconds,
        }
    }

    pub fn better(self) -> Better {
        match self {
            Metric::RequestsPerS
            | Metric::OutputTokensPerS
            | Metric::InputTokensPerS
            | Metric::TotalTokensPerS
            | Metric::Goodput
            | Metric::SloShare
            | Metric::PrefixHitShare
            | Metric::DraftAcceptanceRate
            | Metric::AcceptanceLength
            | Metric::RooflineShare => Better::Higher,
            Metric::AbandonedShare
            | Metric::BatchMean
            | Metric::WaitingMean
            | Metric::WaitingMax
            | Metric::KvUseMean => Better::Neither,
            _ => Better::Lower,
        }
    }

    /// Ratios of these mean something; ratios of small counts and shares near zero do not.
    pub fn compared(self) -> bool {
        matches!(self.unit(), Unit::Nanoseconds | Unit::PerSecond | Unit::UsDollars)
    }

    /// Latencies are adjusted percentiles: with failures, the failed share sits at +infinity.
    pub fn value(self, t: &TrialAnalysis) -> Value {
        let l = &t.latency;
        match self {
            Metric::TtftP50 => percentile(&l.ttft, |d| d.adjusted.p50_ns),
            Metric::TtftP95 => percentile(&l.ttft, |d| d.adjusted.p95_ns),
            Metric::TtftP99 => percentile(&l.ttft, |d| d.adjusted.p99_ns),
            Metric::TpotP50 => percentile(&l.tpot, |d| d.adjusted.p50_ns),
            Metric::TpotP95 => percentile(&l.tpot, |d| d.adjusted.p95_ns),
            Metric::TpotP99 => percentile(&l.tpot, |d| d.adjusted.p99_ns),
            Metric::ItlP50 => percentile(&l.itl, |d| d.adjusted.p50_ns),
            Metric::ItlP95 => percentile(&l.itl, |d| d.adjusted.p95_ns),
            Metric::ItlP99 => percentile(&l.itl, |d| d.adjusted.p99_ns),
            Metric::E2eP50 => percentile(&l.e2e_last, |d| d.adjusted.p50_ns),
            Metric::E2eP95 => percentile(&l.e2e_last, |d| d.adjusted.p95_ns),
            Metric::E2eP99 => percentile(&l.e2e_last, |d| d.adjusted.p99_ns),
            Metric::QueueP50 => percentile(&l.queue, |d| d.adjusted.p50_ns),
            Metric::QueueP95 => percentile(&l.queue, |d| d.adjusted.p95_ns),
            Metric::RequestsPerS => Value::of(t.rates.map(|r| r.requests_per_s)),
            Metric::OutputTokensPerS => Value::of(generating(t).map(|r| r.output_tokens_per_s)),
            Metric::InputTokensPerS => Value::of(t.rates.map(|r| r.input_tokens_per_s)),
            Metric::TotalTokensPerS => Value::of(generating(t).map(|r| r.total_tokens_per_s)),
            Metric::Goodput => Value::of(t.goodput.map(|g| g.requests_per_s)),
            Metric::SloShare => Value::of(t.goodput.map(|g| g.share)),
            Metric::FailedShare => {
                let judged = t.requests.succeeded + t.requests.failed;
                Value::of((judged > 0).then(|| t.requests.failed as f64 / judged as f64))
            }
            Metric::AbandonedShare => {
                let (abandoned, measured) = (t.requests.abandoned, t.requests.measured);
                Value::of((abandoned > 0).then(|| abandoned as f64 / measured as f64))
            }
            Metric::PrefixHitShare => Value::of(t.prefix_hit_share),
            Metric::BatchMean => Value::of(
                t.engine.as_ref().map(|e| e.batch_mean).or(t.server.as_ref().and_then(|s| s.running_mean)),
            ),
            Metric::WaitingMean => Value::of(
                t.engine.as_ref().map(|e| e.waiting_mean).or(t.server.as_ref().and_then(|s| s.waiting_mean)),
            ),
            Metric::WaitingMax => Value::of(
                t.engine.as_ref().map(|e| e.waiting_max).or(t.server.as_ref().and_then(|s| s.waiting_max)),
            ),
            Metric::KvUseMean => Value::of(match (&t.engine, &t.server) {
                (Some(e), _) => e.kv_use_mean,
                (None, Some(s)) => s.kv_use_mean,
                (None, None) => None,
            }),
            Metric::InternalFragmentation => {
                Value::of(t.engine.as_ref().and_then(|e| e.internal_fragmentation_mean))
            }
            Metric::ExternalFragmentation => {
                Value::of(t.engine.as_ref().and_then(|e| e.external_fragmentation_mean))
            }
            Metric::DraftAcceptanceRate => Value::of(t.engine.as_ref().and_then(|e| e.draft_acceptance_rate)),
            Metric::AcceptanceLength => Value::of(t.engine.as_ref().and_then(|e| e.acceptance_length)),
            Metric::PaddingShare => Value::of(t.engine.as_ref().map(|e| e.padding_share)),
            Metric::Preemptions => Value::of(match (&t.engine, &t.server) {
                (Some(e), _) => Some(e.preemptions as f64),
                (None, Some(s)) => s.preemptions,
                (None, None) => None,
            }),
            Metric::RecomputedShare => Value::of(t.engine.as_ref().map(|e| e.recomputed_share)),
            Metric::RooflineShare => Value::of(t.roofline.as_ref().map(|r| r.share)),
            Metric::CostOutput => Value::of(t.cost.map(|c| c.usd_per_million_output_tokens)),
            Metric::CostTotal => Value::of(t.cost.map(|c| c.usd_per_million_tokens)),
        }
    }
}

/// Without output, there is nothing to say of it, and the total is the input.
fn generating(t: &TrialAnalysis) -> Option<Rates> {
    t.rates.filter(|rates| rates.generates)
}

fn percentile(distribution: &Option<Distribution>, pick: impl Fn(&Distribution) -> Option<f64>) -> Value {
    match distribution {
        None => Value::Missing,
        Some(d) => pick(d).map_or(Value::Infinite, Value::Finite),
    }
}
