//! Points for charts, from raw records. Charts show shapes; every judged number comes from the analysis.

use llmlab_results::manifest::TrialKind;
use llmlab_results::record::RequestRecord;
use llmlab_results::step::StepRow;
use polars::prelude::DataFrame;

use crate::latency::{LatencySamples, Samples};
use crate::rates::throughput_over_time;
use crate::{Trial, frame};

/// More points than pixels only make the file larger.
const CURVE_POINTS: usize = 300;
const TIME_BINS: usize = 120;
/// A waterfall beyond this is a texture, not a picture of requests.
const WATERFALL_ROWS: usize = 80;

pub type Points = Vec<(f64, f64)>;

/// The trials a target's charts are drawn from: measured, and complete where any is.
pub fn trials_of<'a>(trials: &'a [Trial], target: &str) -> Vec<&'a Trial> {
    let own = || trials.iter().filter(|t| t.facts.kind == TrialKind::Measure && t.facts.target == target);
    let complete: Vec<&Trial> = own().filter(|t| t.facts.complete).collect();
    if complete.is_empty() { own().collect() } else { complete }
}

/// Share of values at or below x, over all repeats; failures hold the curve below 1.
pub fn cdf(parts: &[Samples]) -> Points {
    let mut values: Vec<f64> = parts.iter().flat_map(|s| s.sorted().iter().copied()).collect();
    let failures: u64 = parts.iter().map(Samples::failures).sum();
    crate::quantile::sort(&mut values);
    let total = values.len() as f64 + failures as f64;
    let n = values.len();
    let mut points: Points = Vec::new();
    for i in 0..n.min(CURVE_POINTS) {
        // Evenly spaced ranks with both ends kept.
        let rank = if n <= CURVE_POINTS { i } else { i * (n - 1) / (CURVE_POINTS - 1) };
        points.push((values[rank], (rank + 1) as f64 / total));
    }
    points
}

pub fn samples(trial: &Trial, warmup: u64) -> LatencySamples {
    let requests = frame::requests(&trial.records, warmup);
    let events = frame::token_events(&trial.records, warmup);
    LatencySamples::collect(&requests, &events, &[], trial.facts.start_monotonic_ns, None)
}

/// Output tokens per second over time: (s, tokens/s), at bin centres.
pub fn throughput(trial: &Trial) -> Points {
    let bins = throughput_over_time(&trial.records, TIME_BINS / 2);
    let half = bins.get(1).map_or(0.0, |b| b.0 / 2.0);
    bins.into_iter().map(|(t, v)| (t + half, v)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gauge {
    /// Slots taken, those that only compute padding included.
    Batch,
    /// Sequences that compute tokens of their own; only the step log knows.
    AtWork,
    Waiting,
    KvUse,
}

/// A gauge over time in s: from the step log (mean per bin, idle time counts as zero), else from scrapes.
pub fn gauge(trial: &Trial, gauge: Gauge) -> Points {
    if trial.steps.is_empty() {
        let points = trial.server.iter().filter_map(|s| {
            let value = match gauge {
                Gauge::Batch => s.running,
                Gauge::AtWork => None,
                Gauge::Waiting => s.waiting,
                Gauge::KvUse => s.kv_usage,
            }?;
            value.is_finite().then_some((s.at_ns as f64 / 1e9, value))
        });
        return points.collect();
    }
    let steps = frame::steps(&trial.steps, trial.facts.start_monotonic_ns);
    let column = match gauge {
        Gauge::Batch => "batch",
        Gauge::AtWork => "at_work",
        Gauge::Waiting => "waiting",
        Gauge::KvUse => "kv_use",
    };
    binned(&steps, column, trial.facts.elapsed_ns as f64)
}

fn binned(steps: &DataFrame, column: &str, elapsed_ns: f64) -> Points {
    let (start, length) = (frame::values(steps, "start_ns"), frame::values(steps, "elapsed_ns"));
    let end = start.iter().zip(&length).map(|(s, l)| s + l).fold(elapsed_ns, f64::max);
    let width = end / TIME_BINS as f64;
    if width <= 0.0 {
        return Vec::new();
    }
    let mut sums = [0.0; TIME_BINS];
    for ((start, length), value) in start.iter().zip(&length).zip(frame::optional(steps, column)) {
        let Some(value) = value else { continue };
        let (from, to) = (start.max(0.0), start + length);
        if to <= from {
            continue;
        }
        let last = ((to / width) as usize).min(TIME_BINS - 1);
        for bin in (from / width) as usize..=last {
            let overlap = to.min((bin + 1) as f64 * width) - from.max(bin as f64 * width);
            sums[bin] += value * overlap.max(0.0);
        }
    }
    sums.iter().enumerate().map(|(i, sum)| ((i as f64 + 0.5) * width / 1e9, sum / width)).collect()
}

/// One request's life in seconds since the start of the trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    pub index: u64,
    pub scheduled: f64,
    /// First scheduling by the engine, where its log has it.
    pub admitted: Option<f64>,
    pub first: Option<f64>,
    pub last: Option<f64>,
    /// Last thing seen of a failed request.
    pub failed: Option<f64>,
    pub tokens: u32,
}

/// The first measured requests in order of schedule, at most a screenful.
pub fn lanes(trial: &Trial, warmup: u64) -> Vec<Lane> {
    let mut records: Vec<&RequestRecord> = trial.records.iter().filter(|r| r.index >= warmup).collect();
    records.sort_by_key(|r| (r.scheduled_ns, r.index));
    let admitted = match_admissions(&trial.records, &trial.steps, trial.facts.start_monotonic_ns);
    records
        .into_iter()
        .take(WATERFALL_ROWS)
        .map(|r| {
            let s = |ns: u64| ns as f64 / 1e9;
            let ok = r.outcome.is_success();
            Lane {
                index: r.index,
                scheduled: s(r.scheduled_ns),
                admitted: admitted.iter().find(|(i, _)| *i == r.index).map(|(_, t)| t / 1e9),
                first: r.first_token_ns().map(s),
                last: r.last_token_ns().map(s),
                failed: (!ok).then(|| frame::completed_ns(r).map_or(s(r.scheduled_ns), s)),
                tokens: r.output_tokens,
            }
        })
        .collect()
}

/// The engine numbers requests itself, so its log is joined with the client's records by time: in order of sending, each
/// request takes the first unclaimed queue entry between its sending and its first token.
fn match_admissions(records: &[RequestRecord], steps: &[StepRow], start_ns: u64) -> Vec<(u64, f64)> {
    let mut entries: Vec<(f64, f64, bool)> = steps
        .iter()
        .flat_map(|row| {
            let at = row.start_monotonic_ns as f64 - start_ns as f64;
            row.admitted.iter().map(move |(_, waited)| (at - *waited as f64, at, false))
        })
        .collect();
    entries.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sent: Vec<(u64, u64, u64)> =
        records.iter().filter_map(|r| Some((r.sent_ns?, r.first_token_ns()?, r.index))).collect();
    sent.sort_unstable();
    let mut matched = Vec::new();
    for (sent, first, index) in sent {
        let from = entries.partition_point(|e| e.0 < sent as f64);
        let free = entries[from..].iter_mut().take_while(|e| e.0 <= first as f64).find(|e| !e.2);
        if let Some(entry) = free.filter(|e| e.1 <= first as f64) {
            entry.2 = true;
            matched.push((index, entry.1));
        }
    }
    matched
}
