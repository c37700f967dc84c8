//! Which charts a report has.

use llmlab_results::manifest::Manifest;
use serde::Serialize;

use crate::Trial;
use crate::analysis::Analysis;
use crate::latency::{LatencySamples, Samples};
use crate::report::format::duration;
use crate::report::series::{Gauge, Lane, Points, cdf, gauge, lanes, samples, throughput, trials_of};
use crate::report::svg::{Axis, Bar, Fill, Unit, lines, standalone, waterfall};

pub(super) const SMALL: (u32, u32) = (560, 300);
const WIDE_PX: u32 = 1140;

/// A chart and what to say about it. `svg` is safe to embed: target names are not in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// File stem; unique in a report.
    pub name: String,
    pub title: String,
    pub svg: String,
    /// Tooltip text per row of a waterfall.
    pub rows: Vec<String>,
    pub slot: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Charts {
    pub latency: Vec<Chart>,
    pub over_time: Vec<Chart>,
    pub waterfalls: Vec<Chart>,
}

/// Every chart as a file: (name with extension, SVG).
pub fn svgs(analysis: &Analysis, manifest: &Manifest, trials: &[Trial]) -> Vec<(String, String)> {
    let c = charts(analysis, manifest, trials);
    c.latency
        .iter()
        .chain(&c.over_time)
        .chain(&c.waterfalls)
        .map(|chart| (format!("{}.svg", chart.name), standalone(&chart.svg)))
        .collect()
}

pub fn charts(analysis: &Analysis, manifest: &Manifest, trials: &[Trial]) -> Charts {
    let warmup = manifest.workload.warmup_requests;
    let per_target: Vec<Vec<&Trial>> = analysis.targets.iter().map(|t| trials_of(trials, &t.name)).collect();
    Charts {
        latency: latency_charts(&per_target, warmup),
        over_time: time_charts(&per_target),
        waterfalls: waterfall_charts(analysis, &per_target, warmup),
    }
}

fn latency_charts(per_target: &[Vec<&Trial>], warmup: u64) -> Vec<Chart> {
    let all: Vec<Vec<LatencySamples>> =
        per_target.iter().map(|trials| trials.iter().map(|t| samples(t, warmup)).collect()).collect();
    type Pick = fn(&LatencySamples) -> &Samples;
    let kinds: [(&str, &str, Pick); 4] = [
        ("cdf-ttft", "Time to first token", |s| &s.ttft),
        ("cdf-tpot", "Time per output token", |s| &s.tpot),
        ("cdf-itl", "Inter-token latency", |s| &s.itl),
        ("cdf-e2e", "End to end, to the last token", |s| &s.e2e_last),
    ];
    let mut charts = Vec::new();
    for (name, title, pick) in kinds {
        let curves: Vec<(usize, Points)> = all
            .iter()
            .enumerate()
            .map(|(slot, trials)| (slot, cdf(&trials.iter().map(|t| pick(t).clone()).collect::<Vec<_>>())))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let xs = || curves.iter().flat_map(|(_, p)| p.iter().map(|(x, _)| x.max(1.0)));
        let (Some(low), Some(high)) = (xs().reduce(f64::min), xs().reduce(f64::max)) else { continue };
        let x = Axis::log_ns("", low, high);
        let y = Axis::from_zero("", 1.0, Unit::Percent);
        let logged: Vec<(usize, Points)> = curves
            .into_iter()
            .map(|(slot, p)| (slot, p.into_iter().map(|(x, y)| (x.max(1.0).log10(), y)).collect()))
            .collect();
        charts.push(Chart {
            name: name.into(),
            title: title.into(),
            svg: lines(SMALL, &x, &y, &logged),
            rows: Vec::new(),
            slot: 0,
        });
    }
    charts
}

/// The first usable repeat of each target: an average over repeats would smear what a timeline is for.
fn time_charts(per_target: &[Vec<&Trial>]) -> Vec<Chart> {
    type Make = fn(&Trial) -> Points;
    let mut kinds: Vec<(&str, &str, Make, Unit)> = vec![
        ("throughput", "Output tokens per second", throughput, Unit::Number),
        ("batch", "Sequences in the batch", |t| gauge(t, Gauge::Batch), Unit::Number),
        ("kv", "KV cache in use", |t| gauge(t, Gauge::KvUse), Unit::Percent),
        ("waiting", "Requests waiting", |t| gauge(t, Gauge::Waiting), Unit::Number),
    ];
    // Where a batch is a rectangle, a full one can be mostly empty: that is the cost of static batching.
    if per_target.iter().any(|trials| trials.first().is_some_and(|t| has_padding(t))) {
        let title = "Sequences at work (the rest of the batch computes padding)";
        kinds.insert(2, ("at-work", title, |t| gauge(t, Gauge::AtWork), Unit::Number));
    }
    let mut charts = Vec::new();
    for (name, title, make, unit) in kinds {
        let curves: Vec<(usize, Points)> = per_target
            .iter()
            .enumerate()
            .filter_map(|(slot, trials)| Some((slot, make(trials.first()?))))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        if curves.is_empty() {
            continue;
        }
        let most = |pick: fn(&(f64, f64)) -> f64| {
            curves.iter().flat_map(|(_, p)| p.iter().map(pick)).fold(0.0, f64::max)
        };
        let x = Axis::from_zero("time since start", most(|p| p.0), Unit::Seconds);
        let y = Axis::from_zero("", most(|p| p.1), unit);
        charts.push(Chart {
            name: name.into(),
            title: title.into(),
            svg: lines(SMALL, &x, &y, &curves),
            rows: Vec::new(),
            slot: 0,
        });
    }
    charts
}

fn has_padding(trial: &Trial) -> bool {
    trial.steps.iter().any(|step| step.seqs.iter().any(|s| s.padding > 0))
}

fn waterfall_charts(analysis: &Analysis, per_target: &[Vec<&Trial>], warmup: u64) -> Vec<Chart> {
    let all: Vec<(usize, Vec<Lane>)> = per_target
        .iter()
        .enumerate()
        .filter_map(|(slot, trials)| Some((slot, lanes(trials.first()?, warmup))))
        .filter(|(_, lanes)| !lanes.is_empty())
        .collect();
    // One time scale for all targets, so that the pictures can be compared.
    let end = all
        .iter()
        .flat_map(|(_, lanes)| lanes.iter().map(|l| l.last.or(l.failed).unwrap_or(l.scheduled)))
        .fold(0.0, f64::max);
    let x = Axis::from_zero("time since start", end, Unit::Seconds);
    all.iter()
        .map(|(slot, lanes)| Chart {
            name: format!("timeline-{}", slot + 1),
            title: analysis.targets[*slot].name.clone(),
            svg: waterfall(WIDE_PX, lanes.len(), &x, &bars(lanes, *slot, x.high)),
            rows: lanes.iter().map(lane_words).collect(),
            slot: *slot,
        })
        .collect()
}

fn bars(lanes: &[Lane], slot: usize, span_s: f64) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (row, lane) in lanes.iter().enumerate() {
        let mut add = |from: f64, to: f64, fill: Fill| {
            if to > from {
                bars.push(Bar { row, from, to, fill });
            }
        };
        if let Some(end) = lane.failed {
            // A refusal takes no time but must be seen.
            add(lane.scheduled, end.max(lane.scheduled + span_s * 0.005), Fill::Failed);
            continue;
        }
        let Some(first) = lane.first else { continue };
        // Without the engine's log, queue and prefill cannot be told apart: all of it is waiting.
        let served = lane.admitted.unwrap_or(first);
        add(lane.scheduled, served, Fill::Waiting);
        add(served, first, Fill::Prefill(slot));
        add(first, lane.last.unwrap_or(first), Fill::Decode(slot));
    }
    bars
}

fn lane_words(lane: &Lane) -> String {
    let span = |from: f64, to: f64| duration((to - from).max(0.0) * 1e9);
    if let Some(end) = lane.failed {
        return format!("request {}: failed after {}", lane.index, span(lane.scheduled, end));
    }
    let Some(first) = lane.first else { return format!("request {}: no tokens", lane.index) };
    let waiting = match lane.admitted {
        Some(admitted) => {
            format!("queue {}, prefill {}", span(lane.scheduled, admitted), span(admitted, first))
        }
        None => format!("first token after {}", span(lane.scheduled, first)),
    };
    let last = lane.last.unwrap_or(first);
    format!("request {}: {waiting}, decode {}, {} tokens", lane.index, span(first, last), lane.tokens)
}
