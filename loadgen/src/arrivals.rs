//! When requests arrive. Open-loop processes fix every arrival before the run starts; a closed loop only fixes how
//! many users there are.
//!
//! The first request arrives at 0 and gap `i` lies between request `i - 1` and `i`, so n requests at rate r take
//! (n - 1) / r on average. Gaps are never rescaled to hit that exactly (vLLM's client does): it would no longer be a
//! Poisson process, and request `i` would move when the total changes.

use std::time::Duration;

use rand_distr::{Distribution, Gamma};

use crate::lengths::{Lengths, TraceRow};
use crate::streams::{Purpose, stream, unit};
use crate::workload::WorkloadError;

#[derive(Debug, Clone, PartialEq)]
pub enum Arrivals {
    Poisson {
        rate_rps: f64,
    },
    /// Gamma renewal process; `cv` is the coefficient of variation of the gaps (1 = Poisson, above 1 = bursty).
    Gamma {
        rate_rps: f64,
        cv: f64,
    },
    Constant {
        rate_rps: f64,
    },
    /// `users` keep one request in flight each and wait `think_time` between.
    Closed {
        users: u32,
        think_time: Duration,
    },
    /// The arrival times of [`Lengths::Trace`], divided by `speed`. When the rows start over, so does the time, one
    /// mean gap after the last row.
    Trace {
        speed: f64,
    },
}

/// Accepted rates, requests per second. The upper end is one request per nanosecond, the resolution of a record.
pub const RATE_RANGE_RPS: std::ops::RangeInclusive<f64> = 1e-6..=1e9;
/// A gap or an arrival never exceeds this; beyond it a heavy-tailed process is only a way to hang.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Arrivals {
    /// Arrival times of the first `n` requests, not decreasing. All zero for a closed loop, where the issuer decides.
    pub(crate) fn times(&self, seed: u64, lengths: &Lengths, n: u64) -> Vec<Duration> {
        if let (Arrivals::Trace { speed }, Lengths::Trace { rows }) = (self, lengths) {
            return (0..n).map(|i| trace_time(rows, *speed, i)).collect();
        }
        let mut at = 0.0;
        (0..n)
            .map(|i| {
                if i > 0 {
                    at += self.gap_s(seed, i);
                }
                seconds(at)
            })
            .collect()
    }

    fn gap_s(&self, seed: u64, i: u64) -> f64 {
        let mut rng = stream(seed, Purpose::Arrivals, i);
        match self {
            // 1 - u lies in (0, 1], so the logarithm is finite.
            Arrivals::Poisson { rate_rps } => -libm::log(1.0 - unit(&mut rng)) / rate_rps,
            Arrivals::Gamma { rate_rps, cv } if *cv > 0.0 => {
                let (shape, scale) = (1.0 / (cv * cv), cv * cv / rate_rps);
                Gamma::new(shape, scale).map_or(0.0, |g| g.sample(&mut rng))
            }
            Arrivals::Gamma { rate_rps, .. } | Arrivals::Constant { rate_rps } => 1.0 / rate_rps,
            Arrivals::Closed { .. } | Arrivals::Trace { .. } => 0.0,
        }
    }

    pub(crate) fn check(&self, lengths: &Lengths) -> Result<(), WorkloadError> {
        match self {
            Arrivals::Poisson { rate_rps } | Arrivals::Constant { rate_rps } => check_rate(*rate_rps),
            Arrivals::Gamma { rate_rps, cv } => {
                if !(0.0..=1000.0).contains(cv) {
                    return Err(WorkloadError::Cv { value: *cv });
                }
                check_rate(*rate_rps)
            }
            Arrivals::Closed { users: 0, .. } => Err(WorkloadError::NoUsers),
            Arrivals::Closed { .. } => Ok(()),
            Arrivals::Trace { speed } => {
                if !(1e-6..=1e6).contains(speed) {
                    return Err(WorkloadError::Speed { value: *speed });
                }
                let Lengths::Trace { rows } = lengths else {
                    return Err(WorkloadError::ArrivalsWithoutTrace);
                };
                check_trace(rows)
            }
        }
    }
}

fn check_rate(rate_rps: f64) -> Result<(), WorkloadError> {
    if RATE_RANGE_RPS.contains(&rate_rps) { Ok(()) } else { Err(WorkloadError::Rate { value: rate_rps }) }
}

fn check_trace(rows: &[TraceRow]) -> Result<(), WorkloadError> {
    let mut last = Duration::ZERO;
    for (row, r) in rows.iter().enumerate() {
        match r.arrival {
            None => return Err(WorkloadError::TraceWithoutTime { row }),
            Some(at) if at < last => return Err(WorkloadError::TraceNotSorted { row }),
            Some(at) => last = at,
        }
    }
    Ok(())
}

fn trace_time(rows: &[TraceRow], speed: f64, i: u64) -> Duration {
    let n = rows.len() as u64;
    let time = |r: &TraceRow| r.arrival.unwrap_or_default().as_secs_f64();
    let (first, last) = (time(&rows[0]), time(&rows[rows.len() - 1]));
    let mean_gap = if n > 1 { (last - first) / (n - 1) as f64 } else { 0.0 };
    let lap = last - first + mean_gap;
    seconds(((i / n) as f64 * lap + time(&rows[(i % n) as usize]) - first) / speed)
}

pub(crate) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).map_or(LONGEST, |d| d.min(LONGEST))
}
