//! What one metric asks for, before windows and policies.

use crate::cluster::PoolState;
use crate::cluster::autoscale::Target;

/// Kubernetes reckons in thousandths and rounds up, the last bit of a product too: 1.12 times the target of 25 pods are 29.
pub(super) fn proposal(target: Target, value: f64, state: PoolState, current: u32, tolerance: f64) -> u32 {
    let close = |ratio: f64| (1.0 - tolerance..=1.0 + tolerance).contains(&ratio);
    match target {
        Target::AverageValue(target) => {
            let (value, target) = (thousandths(value), thousandths(target).max(1.0));
            if close(value / (target * f64::from(current))) { current } else { whole(value / target) }
        }
        Target::Value(target) => {
            let ratio = thousandths(value) / thousandths(target).max(1.0);
            // A pod that drains is ready as long as its server answers.
            if close(ratio) { current } else { whole(ratio * f64::from(state.ready + state.draining)) }
        }
        Target::Pods(target) => of_pods(thousandths(target).max(1.0), value, state, current, close),
    }
}

/// A pod whose container does not run yet counts as idle when it would scale up; one that runs and shows no metrics, because it
/// loads, counts as idle on the way up and as on target on the way down. Neither may turn the direction.
fn of_pods(target: f64, mean: f64, state: PoolState, current: u32, close: impl Fn(f64) -> bool) -> u32 {
    let mut total = (mean * 1000.0).round() * f64::from(state.ready);
    // Kubernetes divides whole numbers here.
    let ratio_of = |total: f64, pods: u32| (total / f64::from(pods.max(1))).floor() / target;
    let ratio = ratio_of(total, state.ready);
    let loading = state.starting.saturating_sub(state.pending);
    let idle = if ratio > 1.0 { state.pending } else { 0 };
    if idle + loading == 0 {
        return if close(ratio) { current } else { whole(ratio * f64::from(state.ready)) };
    }
    let pods = if ratio == 1.0 { state.ready } else { state.ready + loading + idle };
    if ratio < 1.0 {
        total += target * f64::from(loading);
    }
    let filled = ratio_of(total, pods);
    let turned = |filled: f64| (ratio < 1.0 && filled > 1.0) || (ratio > 1.0 && filled < 1.0);
    if close(filled) || turned(filled) {
        return current;
    }
    let replicas = whole(filled * f64::from(pods));
    let against = (filled < 1.0 && replicas > current) || (filled > 1.0 && replicas < current);
    if against { current } else { replicas }
}

/// Rounded up, as quantities are.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0 - 1e-6).ceil()
}

/// The cast saturates, and NaN becomes 0.
fn whole(replicas: f64) -> u32 {
    replicas.ceil().max(0.0) as u32
}
