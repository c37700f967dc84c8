//! Which part of a trial counts for rates: warm-up is cut by request index, the rest by a rule that is printed with the result.

use llmlab_results::manifest::Manifest;
use polars::prelude::DataFrame;
use serde::Serialize;

use crate::frame;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowRule {
    /// From the first measured request's scheduled time to the last measured request's completion.
    OpenLoop,
    /// From the first to the last measured request's issue: afterwards users fall silent one by one and the load is no longer
    /// the one asked for.
    ClosedLoop,
    /// Closed loop with all requests issued at once: no steady part exists, so the whole span counts.
    ClosedLoopBurst,
}

impl WindowRule {
    /// One sentence for people.
    pub fn words(self) -> &'static str {
        match self {
            WindowRule::OpenLoop => {
                "open loop: from the scheduled time of the first measured request to the completion of the last measured request"
            }
            WindowRule::ClosedLoop => {
                "closed loop: from the issue of the first measured request to the issue of the last one, before users fall silent"
            }
            WindowRule::ClosedLoopBurst => {
                "closed loop with every request issued at once: from the first issue to the last completion, so ramp-down is included"
            }
        }
    }
}

/// Nanoseconds since the start of the trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    pub start_ns: u64,
    pub end_ns: u64,
    pub rule: WindowRule,
}

impl Window {
    pub fn duration_s(&self) -> f64 {
        (self.end_ns - self.start_ns) as f64 / 1e9
    }
    pub fn contains(&self, at_ns: f64) -> bool {
        at_ns >= self.start_ns as f64 && at_ns <= self.end_ns as f64
    }
}

/// `None` when nothing was measured or the window would have no length.
pub fn window(requests: &DataFrame, closed_loop: bool) -> Option<Window> {
    let measured = frame::rows_where(requests, &["measured"]);
    let scheduled = frame::values(&measured, "scheduled_ns");
    let start = scheduled.iter().copied().reduce(f64::min)?;
    let last_issue = scheduled.iter().copied().reduce(f64::max)?;
    let last_completion =
        frame::values(&measured, "completed_ns").into_iter().reduce(f64::max).unwrap_or(last_issue);
    let (end, rule) = match closed_loop {
        true if last_issue > start => (last_issue, WindowRule::ClosedLoop),
        true => (last_completion, WindowRule::ClosedLoopBurst),
        false => (last_completion, WindowRule::OpenLoop),
    };
    (end > start).then_some(Window { start_ns: start as u64, end_ns: end as u64, rule })
}

/// Whether arrivals wait for answers. The resolved scenario says so; the description is the fallback for foreign manifests.
pub fn is_closed_loop(manifest: &Manifest) -> bool {
    match manifest.resolved.pointer("/workload/arrivals/process").and_then(|v| v.as_str()) {
        Some(process) => process == "closed",
        None => manifest.workload.arrivals.to_lowercase().contains("closed"),
    }
}
