//! How close the engine came to what this host can do, and which limit binds.
//!
//! Roofline (Williams, Waterman, Patterson 2009): a step cannot take less than the time to move its bytes, nor less than the time
//! to do its arithmetic. Bytes: all weights once, plus keys and values of every cached token. FLOPs: linear layers per new
//! token plus attention per query-key pair; padding rows are not useful work and do not count.

use llmlab_results::manifest::{HostRoofline, ModelFacts, TargetFacts};
use polars::prelude::DataFrame;
use serde::Serialize;

use crate::frame;
use crate::window::Window;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    Memory,
    Compute,
}

impl Bound {
    pub fn label(self) -> &'static str {
        match self {
            Bound::Memory => "memory bandwidth",
            Bound::Compute => "arithmetic",
        }
    }
}

/// Over the steps of the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roofline {
    pub steps: u64,
    /// Σ elapsed of the steps.
    pub busy_s: f64,
    /// Σ max(bytes / bandwidth, flops / peak): no implementation could be faster on this host.
    pub ideal_s: f64,
    /// ideal / busy. Above 1 means the calibration was too low, not that physics gave way.
    pub share: f64,
    /// The limit that takes more of the ideal time.
    pub bound: Bound,
    /// Share of the ideal time spent in steps that memory bounds.
    pub memory_bound_share: f64,
    pub bytes_per_s: f64,
    pub flops_per_s: f64,
    /// Achieved over measured peak.
    pub bandwidth_share: f64,
    pub compute_share: f64,
    pub bytes_per_step_mean: f64,
    pub flops_per_step_mean: f64,
    /// "int8", "bf16" or "f32": the peak that the weight format can use here.
    pub peak_name: &'static str,
    pub peak_flops_per_s: f64,
    pub peak_bytes_per_s: f64,
}

/// The arithmetic peak for a weight format by its name, or by the first word of a longer description ("q4_k (as stored)");
/// falls back to f32 where the host lacks the instruction. Block and group formats are multiplied as bytes, FP8 as bf16, and f16
/// as f32, because no bf16 holds it.
pub fn peak(host: &HostRoofline, weight_format: Option<&str>) -> (&'static str, f64) {
    let format = weight_format.unwrap_or("f32").to_ascii_lowercase();
    let (name, value) = match format.split_whitespace().next() {
        Some("bf16" | "fp8") => ("bf16", host.bf16_flops_per_s),
        Some(q) if q.starts_with('q') || q.starts_with("int") || q.starts_with("iq") => {
            ("int8", host.int8_ops_per_s)
        }
        _ => ("f32", host.f32_flops_per_s),
    };
    if value > 0.0 { (name, value) } else { ("f32", host.f32_flops_per_s) }
}

/// `None` without a measured host, a step log, or known weight bytes.
pub fn roofline(
    steps: &DataFrame,
    window: &Window,
    host: Option<&HostRoofline>,
    model: &ModelFacts,
    target: &TargetFacts,
) -> Option<Roofline> {
    let host = host?;
    let bandwidth = host.read_bandwidth_bytes_per_s;
    let (peak_name, peak) = peak(host, target.weight_format.as_deref());
    let usable = |v: f64| v.is_finite() && v > 0.0;
    if target.weight_bytes == 0 || !usable(bandwidth) || !usable(peak) {
        return None;
    }
    let inside = frame::rows_between(steps, "start_ns", window.start_ns as f64, window.end_ns as f64);
    let column = |name: &str| frame::values(&inside, name);
    let busy_s = column("elapsed_ns").iter().sum::<f64>() / 1e9;
    let (mut ideal_s, mut memory_s, mut bytes_sum, mut flops_sum) = (0.0, 0.0, 0.0, 0.0);
    for ((context, new), attended) in
        column("context").into_iter().zip(column("new_tokens")).zip(column("attended"))
    {
        let bytes = target.weight_bytes as f64 + target.kv_bytes_per_token as f64 * context;
        let flops =
            new * model.linear_flops_per_token + attended * model.attention_flops_per_token_per_context;
        let (memory, compute) = (bytes / bandwidth, flops / peak);
        ideal_s += memory.max(compute);
        if memory >= compute {
            memory_s += memory;
        }
        bytes_sum += bytes;
        flops_sum += flops;
    }
    if !usable(busy_s) || !usable(ideal_s) {
        return None;
    }
    let steps = inside.height() as f64;
    let (bytes_per_s, flops_per_s) = (bytes_sum / busy_s, flops_sum / busy_s);
    let memory_bound_share = memory_s / ideal_s;
    Some(Roofline {
        steps: inside.height() as u64,
        busy_s,
        ideal_s,
        share: ideal_s / busy_s,
        bound: if memory_bound_share >= 0.5 { Bound::Memory } else { Bound::Compute },
        memory_bound_share,
        bytes_per_s,
        flops_per_s,
        bandwidth_share: bytes_per_s / bandwidth,
        compute_share: flops_per_s / peak,
        bytes_per_step_mean: bytes_sum / steps,
        flops_per_step_mean: flops_sum / steps,
        peak_name,
        peak_flops_per_s: peak,
        peak_bytes_per_s: bandwidth,
    })
}
