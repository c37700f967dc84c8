//! A Poisson process that switches between two rates, each kept for exponentially distributed times: the Markov-modulated
//! Poisson process (Fischer and Meier-Hellstern 1993). It has what no renewal process has, bursts of many requests.
//!
//! By inversion under the drawn path of rates, so request `i` depends on the seed and its index alone. The first request
//! arrives at 0, so the first state is drawn as an arriving request finds it.

use std::time::Duration;

use crate::streams::{Purpose, stream, unit};
use crate::workload::WorkloadError;

/// Switches between two requests, on average, at most: with more the process is Poisson, only slower to draw.
const MOST_SWITCHES: f64 = 1000.0;

/// Two states: rates in multiples of the mean rate, and mean times that they last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mmpp {
    pub factors: [f64; 2],
    pub dwell: [Duration; 2],
}

impl Mmpp {
    /// From the two rates themselves: the mean rate, and the process in multiples of it.
    pub fn from_rates(rates_rps: [f64; 2], dwell: [Duration; 2]) -> (f64, Mmpp) {
        let seconds = dwell.map(|d| d.as_secs_f64());
        let mean = (rates_rps[0] * seconds[0] + rates_rps[1] * seconds[1]) / (seconds[0] + seconds[1]);
        (mean, Mmpp { factors: rates_rps.map(|rate| rate / mean), dwell })
    }

    /// Times in seconds at which the area under the rate (in multiples of the mean) reaches each of `areas`.
    pub(super) fn times(&self, seed: u64, areas: impl Iterator<Item = f64>) -> Vec<f64> {
        let dwell_s = self.dwell.map(|d| d.as_secs_f64());
        let exponential = |mean: f64, draw: u64| {
            -libm::log(1.0 - unit(&mut stream(seed, Purpose::ArrivalState, draw))) * mean
        };
        let weight = [0, 1].map(|state| self.factors[state] * dwell_s[state]);
        let first = unit(&mut stream(seed, Purpose::ArrivalState, 0)) * (weight[0] + weight[1]);
        let mut state = usize::from(first >= weight[0]);
        let mut drawn = 1;
        let (mut start, mut before, mut length) = (0.0, 0.0, exponential(dwell_s[state], drawn));
        let mut time = |area: f64| {
            while area - before > self.factors[state] * length {
                before += self.factors[state] * length;
                start += length;
                state = 1 - state;
                drawn += 1;
                length = exponential(dwell_s[state], drawn);
            }
            match self.factors[state] {
                factor if factor > 0.0 => start + (area - before) / factor,
                _ => start,
            }
        };
        areas.map(&mut time).collect()
    }

    pub(super) fn check(&self, rate_rps: f64) -> Result<(), WorkloadError> {
        let Mmpp { factors, dwell } = self;
        let bad = |reason: String| Err(WorkloadError::Process { reason });
        let seconds = dwell.map(|d| d.as_secs_f64());
        if factors.iter().any(|f| !(0.0..=1e9).contains(f)) || factors.iter().sum::<f64>() <= 0.0 {
            return bad(format!("rates of {factors:?} times the mean"));
        }
        if seconds.iter().any(|s| *s <= 0.0) {
            return bad(format!("dwell times of {dwell:?}; each must be longer than nothing"));
        }
        // One of the two may be short, if the other is not.
        if 2.0 / ((seconds[0] + seconds[1]) * rate_rps) > MOST_SWITCHES {
            return bad(format!(
                "dwell times of {dwell:?} at {rate_rps} requests/s switch more than {MOST_SWITCHES} times a request: that is a Poisson process"
            ));
        }
        Ok(())
    }
}
