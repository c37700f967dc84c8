//! One trial from its start to its end: the latency of its requests, and under it, on the same time axis, what the server
//! and its machine were doing.

use llmlab_results::machine_sample::MachineSample;
use llmlab_results::manifest::Manifest;
use llmlab_results::record::RequestRecord;

use crate::analysis::Analysis;
use crate::report::charts::Chart;
use crate::report::series::{Gauge, Points, gauge, trials_of};
use crate::report::svg::{Axis, Unit, lines};
use crate::{Trial, frame};

const SIZE: (u32, u32) = (1140, 130);
/// More points than pixels only make the file larger.
const SLICES: usize = 300;

#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    pub title: String,
    pub slot: usize,
    /// Shown at once; the others on a click.
    pub open: bool,
    pub panels: Vec<Chart>,
}

/// One for each measured trial with anything but latencies to show.
pub fn timelines(analysis: &Analysis, manifest: &Manifest, trials: &[Trial]) -> Vec<Timeline> {
    let warmup = manifest.workload.warmup_requests;
    let mut all = Vec::new();
    for (slot, target) in analysis.targets.iter().enumerate() {
        for (position, trial) in trials_of(trials, &target.name).into_iter().enumerate() {
            let panels = panels(trial, slot, warmup);
            if !panels.is_empty() {
                let title = format!("{}, repeat {}", target.name, trial.facts.repeat);
                all.push(Timeline { title, slot, open: position == 0, panels });
            }
        }
    }
    all
}

fn panels(trial: &Trial, slot: usize, warmup: u64) -> Vec<Chart> {
    let of_server: Vec<(&str, &str, Points, Unit)> = [
        ("waiting", "Requests waiting", gauge(trial, Gauge::Waiting), Unit::Number),
        ("batch", "Sequences in the batch", gauge(trial, Gauge::Batch), Unit::Number),
        ("kv", "KV cache in use", gauge(trial, Gauge::KvUse), Unit::Percent),
        ("preemptions", "Preemptions so far", preemptions(trial), Unit::Number),
        ("cpu", "Cores the server keeps busy", server_cores(trial), Unit::Number),
        ("gpu", "GPU utilization, mean of all", gpu_utilization(trial), Unit::Percent),
        ("power", "GPU power, all, W", gpu_power(trial), Unit::Number),
    ]
    .into_iter()
    .filter(|(_, _, points, _)| !points.is_empty())
    .collect();
    if of_server.is_empty() {
        return Vec::new();
    }
    let mut series = vec![
        (
            "ttft",
            "TTFT of requests by when they were scheduled, slowest of each slice",
            latencies(trial, warmup, frame::ttft_ns),
            Unit::Seconds,
        ),
        ("e2e", "End to end, the same", latencies(trial, warmup, frame::e2e_last_ns), Unit::Seconds),
    ];
    series.retain(|(_, _, points, _)| !points.is_empty());
    series.extend(of_server);
    let end_s = series.iter().flat_map(|(_, _, points, _)| points.iter().map(|p| p.0)).fold(0.0, f64::max);
    let x = Axis::from_zero("", end_s, Unit::Seconds);
    series
        .into_iter()
        .map(|(name, title, points, unit)| {
            let most = points.iter().map(|p| p.1).fold(0.0, f64::max);
            let svg = lines(SIZE, &x, &Axis::from_zero("", most, unit), &[(slot, points)]);
            let name = format!("{}-{name}", trial.facts.dir);
            Chart { name, title: title.into(), svg, rows: Vec::new(), slot }
        })
        .collect()
}

/// (scheduled in s, latency in s), the slowest request of each slice of the trial.
fn latencies(trial: &Trial, warmup: u64, of: fn(&RequestRecord) -> Option<f64>) -> Points {
    let measured = trial.records.iter().filter(|r| r.index >= warmup && r.outcome.is_success());
    let mut points: Points =
        measured.filter_map(|r| Some((r.scheduled_ns as f64 / 1e9, of(r)? / 1e9))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let slice = points.len().div_ceil(SLICES).max(1);
    let slowest = |slice: &[(f64, f64)]| slice.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
    points.chunks(slice).filter_map(slowest).collect()
}

/// From the step log, else from scrapes, counted from the first. Empty where none ever happened.
fn preemptions(trial: &Trial) -> Points {
    let start = trial.facts.start_monotonic_ns as f64;
    let mut points: Points = if trial.steps.is_empty() {
        let seen = || trial.server.iter().filter_map(|s| Some((s.at_ns, s.preemptions_total?)));
        let first = seen().next().map_or(0.0, |(_, total)| total);
        seen().map(|(at_ns, total)| (at_ns as f64 / 1e9, total - first)).collect()
    } else {
        let mut so_far = 0.0;
        let steps = trial.steps.iter().map(|step| {
            so_far += step.preempted.len() as f64;
            ((step.start_monotonic_ns as f64 - start).max(0.0) / 1e9, so_far)
        });
        steps.collect()
    };
    points.retain(|(_, total)| total.is_finite() && *total >= 0.0);
    let slice = points.len().div_ceil(SLICES).max(1);
    let last_of_slices: Points = points.chunks(slice).filter_map(|slice| slice.last().copied()).collect();
    if last_of_slices.last().is_some_and(|(_, total)| *total > 0.0) { last_of_slices } else { Points::new() }
}

/// Between two looks each.
fn server_cores(trial: &Trial) -> Points {
    let looks = trial.machine.windows(2).filter_map(|pair| {
        let used_ns = pair[1].server?.cpu_ns.checked_sub(pair[0].server?.cpu_ns)?;
        let passed_ns = pair[1].at_monotonic_ns.checked_sub(pair[0].at_monotonic_ns).filter(|ns| *ns > 0)?;
        Some((seconds(trial, &pair[1])?, used_ns as f64 / passed_ns as f64))
    });
    looks.collect()
}

fn gpu_utilization(trial: &Trial) -> Points {
    over_looks(trial, |look| {
        let known: Vec<f64> = look.gpus.iter().filter_map(|gpu| gpu.utilization).collect();
        crate::quantile::mean(&known)
    })
}

fn gpu_power(trial: &Trial) -> Points {
    over_looks(trial, |look| look.gpus.iter().filter_map(|gpu| gpu.power_w).reduce(|a, b| a + b))
}

fn over_looks(trial: &Trial, of: impl Fn(&MachineSample) -> Option<f64>) -> Points {
    let points = trial.machine.iter().filter_map(|look| Some((seconds(trial, look)?, of(look)?)));
    points.filter(|(_, value)| value.is_finite()).collect()
}

/// Since the start of the trial; `None` before it.
fn seconds(trial: &Trial, look: &MachineSample) -> Option<f64> {
    let since = look.at_monotonic_ns.checked_sub(trial.facts.start_monotonic_ns)?;
    Some(since as f64 / 1e9)
}
