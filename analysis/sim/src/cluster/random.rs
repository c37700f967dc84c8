//! Seeded draws. Each purpose and each subject has a stream of its own, so that one more draw here moves nothing there.

use std::time::Duration;

use crate::executor::{mix, unit};

#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Route = 1,
    Failure = 2,
    Preemption = 3,
    ColdStart = 4,
    Question = 5,
    Api = 6,
}

#[derive(Debug, Clone)]
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    pub fn new(seed: u64, purpose: Purpose, subject: u64) -> Draws {
        Draws { state: mix(mix(seed ^ ((purpose as u64) << 56)).wrapping_add(subject)) }
    }

    pub fn bits(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// One of so many, at least one.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    pub fn exponential(&mut self, mean: Duration) -> Duration {
        scaled(mean, -libm::log(1.0 - self.unit()))
    }

    /// By median and 95th percentile. Box and Muller (1958).
    pub fn lognormal(&mut self, median: Duration, p95: Duration) -> Duration {
        let normal = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()))
            * libm::cos(2.0 * std::f64::consts::PI * self.unit());
        let ratio = p95.as_secs_f64() / median.as_secs_f64();
        let sigma = if ratio > 1.0 { libm::log(ratio) / Z95 } else { 0.0 };
        scaled(median, libm::exp(sigma * normal))
    }
}

/// The 95th percentile of the standard normal distribution.
const Z95: f64 = 1.644_853_626_951;

/// Virtual time has an end: a hundred years are for ever.
pub(super) fn scaled(time: Duration, factor: f64) -> Duration {
    let seconds = time.as_secs_f64() * factor;
    Duration::from_secs_f64(if seconds >= 0.0 { seconds.min(3.2e9) } else { 0.0 })
}
