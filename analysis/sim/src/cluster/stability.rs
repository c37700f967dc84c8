//! Whether a cluster keeps up with what arrives.

use std::time::Duration;

use llmlab_core::request::At;

use super::outcome::RequestResult;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stability {
    pub verdict: Verdict,
    /// Arrivals divided by what the replicas completed in the time in which somebody was waiting for them: an estimate of
    /// the utilisation. None where hardly anybody waited, so that there is much room.
    pub utilisation: Option<f64>,
    /// By how much the number of requests in the system grew in the second half of the arrivals, a second.
    pub growth_rps: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Stable,
    /// More arrives than is completed: every mean waiting time depends on how long the run is.
    Unstable,
}

/// Requests that must have ended with others waiting before their rate says anything.
const FEWEST_ENDS: u64 = 100;
/// A number in the system that has no trend stays within so many standard deviations of the arrivals' and services' count.
const SIGMAS: f64 = 4.0;

/// What all replicas together did while somebody was waiting.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Saturated {
    pub time: Duration,
    pub ended: u64,
    /// Replicas that were there, on average.
    pub replicas: f64,
}

impl Stability {
    pub(super) fn of(results: &[RequestResult], saturated: Saturated) -> Stability {
        let mut arrivals: Vec<At> = results.iter().map(|result| result.arrival).collect();
        let mut ends: Vec<At> = results.iter().map(|result| result.end).collect();
        arrivals.sort_unstable();
        ends.sort_unstable();
        let span = arrivals.last().copied().unwrap_or_default();
        if span.is_zero() {
            return Stability { verdict: Verdict::Stable, utilisation: None, growth_rps: 0.0 };
        }
        let count = |times: &[At], until: At| times.partition_point(|at| *at <= until) as f64;
        let in_system = |at: At| count(&arrivals, at) - count(&ends, at);
        // A tenth of the time around the middle and at the end, ten looks each.
        let around = |from: f64| {
            let looks = (0..10).map(|look| in_system(span.mul_f64(from + 0.01 * f64::from(look))));
            looks.sum::<f64>() / 10.0
        };
        let growth = around(0.91) - around(0.45);
        let second_half = arrivals.len() as f64 - count(&arrivals, span.mul_f64(0.45));
        let noise = SIGMAS * (second_half * (1.0 + gap_variation(&arrivals))).sqrt();
        let capacity_rps = saturated.replicas * saturated.ended as f64 / saturated.time.as_secs_f64();
        let arrival_rps = arrivals.len() as f64 / span.as_secs_f64();
        let utilisation = (saturated.ended >= FEWEST_ENDS).then(|| arrival_rps / capacity_rps);
        let overloaded = growth > 0.0 && utilisation.is_some_and(|utilisation| utilisation >= 1.0);
        Stability {
            verdict: if growth > noise || overloaded { Verdict::Unstable } else { Verdict::Stable },
            utilisation,
            growth_rps: growth / (0.46 * span.as_secs_f64()),
        }
    }
}

/// Squared coefficient of variation of the gaps; 1 for a Poisson process.
fn gap_variation(arrivals: &[At]) -> f64 {
    let gaps = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
    let count = gaps.len() as f64;
    let (sum, squares) = gaps.fold((0.0, 0.0), |(sum, squares), gap| (sum + gap, squares + gap * gap));
    if sum > 0.0 { (squares * count / (sum * sum) - 1.0).max(0.0) } else { 0.0 }
}
