//! What the engine was doing meanwhile, from its step log.

use polars::prelude::DataFrame;
use serde::Serialize;

use crate::frame;
use crate::quantile::{quantile, sort};
use crate::window::Window;

/// Means are weighted by step time: a value counts for as long as it held, and idle time is told by `busy_share`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineLog {
    pub steps: u64,
    /// Share of the window in which a step was running.
    pub busy_share: f64,
    pub batch_mean: f64,
    pub batch_max: f64,
    pub waiting_mean: f64,
    pub waiting_max: f64,
    /// Share of KV blocks in use, 0..=1.
    pub kv_use_mean: Option<f64>,
    pub kv_use_max: Option<f64>,
    /// Share of the room held by sequences that has no token in it, 0..=1.
    pub internal_fragmentation_mean: Option<f64>,
    /// Share of the free room in stretches too short for a request, 0..=1; 0 where memory need not be in one piece.
    pub external_fragmentation_mean: Option<f64>,
    /// Rows computed only to fill a rectangle, of all rows computed.
    pub padding_share: f64,
    pub preemptions: u64,
    /// Tokens computed again because a preemption had thrown them away, of all tokens computed.
    pub recomputed_share: f64,
    pub prefill_tokens: u64,
    pub decode_tokens: u64,
    /// Of the drafts that were verified, the share that was right; `None` without speculation.
    pub draft_acceptance_rate: Option<f64>,
    /// Tokens that a sequence with drafts got in a step: one, and those accepted.
    pub acceptance_length: Option<f64>,
    /// Sequences that computed something, summed over steps.
    pub sequence_steps: u64,
    /// Of how long steps took.
    pub step_p99_ns: Option<f64>,
}

/// Steps that start inside the window; `None` when there are none.
pub fn engine_log(steps: &DataFrame, window: &Window) -> Option<EngineLog> {
    let inside = frame::rows_between(steps, "start_ns", window.start_ns as f64, window.end_ns as f64);
    if inside.height() == 0 {
        return None;
    }
    let sum = |name: &str| frame::values(&inside, name).iter().sum::<f64>();
    let elapsed = frame::optional(&inside, "elapsed_ns");
    let mean = |name: &str| time_weighted(&frame::optional(&inside, name), &elapsed);
    let max = |name: &str| frame::values(&inside, name).into_iter().reduce(f64::max);
    let (new, padding, prefill) = (sum("new_tokens"), sum("padding"), sum("prefill_tokens"));
    let rows = new + padding;
    Some(EngineLog {
        steps: inside.height() as u64,
        busy_share: (sum("elapsed_ns") / (window.duration_s() * 1e9)).min(1.0),
        batch_mean: mean("batch").unwrap_or(0.0),
        batch_max: max("batch").unwrap_or(0.0),
        waiting_mean: mean("waiting").unwrap_or(0.0),
        waiting_max: max("waiting").unwrap_or(0.0),
        kv_use_mean: mean("kv_use"),
        kv_use_max: max("kv_use"),
        internal_fragmentation_mean: mean("internal_fragmentation"),
        external_fragmentation_mean: mean("external_fragmentation"),
        padding_share: if rows > 0.0 { padding / rows } else { 0.0 },
        preemptions: sum("preempted") as u64,
        recomputed_share: if new > 0.0 { sum("recomputed") / new } else { 0.0 },
        prefill_tokens: prefill as u64,
        decode_tokens: (new - prefill) as u64,
        sequence_steps: sum("at_work") as u64,
        draft_acceptance_rate: ratio(sum("accepted_drafts"), sum("drafts")),
        acceptance_length: ratio(sum("accepted_drafts"), sum("drafting")).map(|accepted| 1.0 + accepted),
        step_p99_ns: quantile(&sorted(frame::values(&inside, "elapsed_ns")), 0.99),
    })
}

fn ratio(part: f64, all: f64) -> Option<f64> {
    (all > 0.0).then(|| part / all)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    sort(&mut values);
    values
}

/// Σ value·time / Σ time over rows that have the value; the plain mean when no time passed; `None` without values.
fn time_weighted(values: &[Option<f64>], elapsed: &[Option<f64>]) -> Option<f64> {
    let (mut weighted, mut time, mut plain, mut count) = (0.0, 0.0, 0.0, 0.0);
    for (value, elapsed) in values.iter().zip(elapsed) {
        let (Some(value), Some(elapsed)) = (value, elapsed) else { continue };
        weighted += value * elapsed;
        time += elapsed;
        plain += value;
        count += 1.0;
    }
    match (time > 0.0, count > 0.0) {
        (true, _) => Some(weighted / time),
        (false, true) => Some(plain / count),
        (false, false) => None,
    }
}
