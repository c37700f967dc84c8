//! When requests arrive. Open-loop processes fix every arrival before the run starts; a closed loop only fixes how
//! many users there are.
//!
//! The first request arrives at 0 and gap `i` lies between request `i - 1` and `i`, so n requests at rate r take
//! (n - 1) / r on average. Gaps are never rescaled to hit that exactly (vLLM's client does): it would no longer be a
//! Poisson process, and request `i` would move when the total changes.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

use crate::arrivals::clients::ClientMix;
use crate::arrivals::mmpp::Mmpp;
use crate::arrivals::profile::Profile;
use crate::lengths::{Lengths, TraceRow};
use crate::streams::{Purpose, stream, unit};
use crate::workload::WorkloadError;

pub mod clients;
pub mod mmpp;
pub mod profile;

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
    /// mean gap after the last row. `jitter` (of the trace's time) is the most by which each request comes later, evenly
    /// distributed: for traces whose clock is coarse. Times are then sorted, so requests within one jitter may swap places.
    Trace {
        speed: f64,
        jitter: Duration,
    },
    /// Poisson, at `rate_rps` times what the profile says.
    Profile {
        rate_rps: f64,
        profile: Profile,
    },
    Mmpp {
        rate_rps: f64,
        states: Mmpp,
    },
    /// `rate_rps` is that of all clients together.
    Clients {
        rate_rps: f64,
        mix: ClientMix,
    },
}

/// Accepted rates, requests per second. The upper end is one request per nanosecond, the resolution of a record.
pub const RATE_RANGE_RPS: std::ops::RangeInclusive<f64> = 1e-6..=1e9;
/// A gap or an arrival never exceeds this; beyond it a heavy-tailed process is only a way to hang.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Arrivals {
    /// Arrival times of the first `n` requests, not decreasing. All zero for a closed loop, where the issuer decides.
    pub(crate) fn times(&self, seed: u64, lengths: &Lengths, n: u64) -> Vec<Duration> {
        let all_seconds = |times: Vec<f64>| times.into_iter().map(seconds).collect();
        match (self, lengths) {
            (Arrivals::Trace { speed, jitter }, Lengths::Trace { rows }) => {
                let times = jittered(rows, jitter.as_secs_f64(), seed, n);
                return all_seconds(times.into_iter().map(|at| at / speed).collect());
            }
            (Arrivals::Profile { rate_rps, profile }, _) => {
                return all_seconds(profile.times(areas(seed, n).map(|area| area / rate_rps)));
            }
            (Arrivals::Mmpp { rate_rps, states }, _) => {
                return all_seconds(states.times(seed, areas(seed, n).map(|area| area / rate_rps)));
            }
            (Arrivals::Clients { rate_rps, mix }, _) => return all_seconds(mix.times(seed, *rate_rps, n)),
            _ => {}
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
            Arrivals::Poisson { rate_rps } => exponential(&mut rng) / rate_rps,
            Arrivals::Gamma { rate_rps, cv } if *cv > 0.0 => {
                let (shape, scale) = (1.0 / (cv * cv), cv * cv / rate_rps);
                Gamma::new(shape, scale).map_or(0.0, |g| g.sample(&mut rng))
            }
            Arrivals::Gamma { rate_rps, .. } | Arrivals::Constant { rate_rps } => 1.0 / rate_rps,
            Arrivals::Closed { .. }
            | Arrivals::Trace { .. }
            | Arrivals::Profile { .. }
            | Arrivals::Mmpp { .. }
            | Arrivals::Clients { .. } => 0.0,
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
            Arrivals::Profile { rate_rps, profile } => profile.check().and_then(|()| check_rate(*rate_rps)),
            Arrivals::Mmpp { rate_rps, states } => {
                check_rate(*rate_rps).and_then(|()| states.check(*rate_rps))
            }
            Arrivals::Clients { rate_rps, mix } => mix.check().and_then(|()| check_rate(*rate_rps)),
            Arrivals::Trace { speed, jitter: _ } => {
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

/// Points of a Poisson process of rate 1, the first at 0.
fn areas(seed: u64, n: u64) -> impl Iterator<Item = f64> {
    let mut area = 0.0;
    (0..n).map(move |i| {
        if i > 0 {
            area += exponential(&mut stream(seed, Purpose::Arrivals, i));
        }
        area
    })
}

/// 1 - u lies in (0, 1], so the logarithm is finite.
fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -libm::log(1.0 - unit(rng))
}

/// The first `n` times of the trace, each up to `jitter_s` later, in order, the first at 0. A row behind the n-th that
/// could come before it is looked at too, so that the times do not depend on how many are asked for.
fn jittered(rows: &[TraceRow], jitter_s: f64, seed: u64, n: u64) -> Vec<f64> {
    let plain = |i: u64| trace_time(rows, i);
    if jitter_s <= 0.0 || n == 0 {
        return (0..n).map(plain).collect();
    }
    let end = plain(n - 1) + jitter_s;
    // A trace of equal times never passes the end; all its rows have been looked at after one lap.
    let more = (n..n + rows.len() as u64).take_while(|i| plain(*i) < end).count() as u64;
    let late = |i: u64| plain(i) + jitter_s * unit(&mut stream(seed, Purpose::Jitter, i));
    let mut times: Vec<f64> = (0..n + more).map(late).collect();
    times.sort_by(f64::total_cmp);
    times.truncate(n as usize);
    let first = times[0];
    times.into_iter().map(|at| at - first).collect()
}

/// Of request `i`, in seconds of the trace.
fn trace_time(rows: &[TraceRow], i: u64) -> f64 {
    let n = rows.len() as u64;
    let time = |r: &TraceRow| r.arrival.unwrap_or_default().as_secs_f64();
    let (first, last) = (time(&rows[0]), time(&rows[rows.len() - 1]));
    let mean_gap = if n > 1 { (last - first) / (n - 1) as f64 } else { 0.0 };
    let lap = last - first + mean_gap;
    (i / n) as f64 * lap + time(&rows[(i % n) as usize]) - first
}

pub(crate) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).map_or(LONGEST, |d| d.min(LONGEST))
}
