//! Lengths of time that are drawn: pauses between turns, and how long a client waits before it hangs up.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::arrivals::seconds;
use crate::lengths::Z95;
use crate::streams::unit;
use crate::workload::WorkloadError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeDist {
    Fixed {
        time: Duration,
    },
    Exponential {
        mean: Duration,
    },
    /// By median and 95th percentile.
    Lognormal {
        median: Duration,
        p95: Duration,
    },
}

impl TimeDist {
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng) -> Duration {
        match self {
            TimeDist::Fixed { time } => *time,
            // 1 - u lies in (0, 1], so the logarithm is finite.
            TimeDist::Exponential { mean } => seconds(-libm::log(1.0 - unit(rng)) * mean.as_secs_f64()),
            TimeDist::Lognormal { median, p95 } => {
                let z: f64 = StandardNormal.sample(rng);
                let (median, p95) = (median.as_secs_f64(), p95.as_secs_f64());
                seconds(median * libm::exp(libm::log(p95 / median) / Z95 * z))
            }
        }
    }

    pub(crate) fn check(&self, what: &'static str) -> Result<(), WorkloadError> {
        match self {
            TimeDist::Lognormal { median, p95 } if median.is_zero() || p95 < median => {
                let reason = format!("needs 0 < median <= p95, got median {median:?} and p95 {p95:?}");
                Err(WorkloadError::Time { what, reason })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Purpose, stream};

    /// `count` draws in ascending order, seconds.
    fn draws(dist: TimeDist, count: u64) -> Vec<f64> {
        let draw = |index| dist.draw(&mut stream(3, Purpose::ThinkTime, index)).as_secs_f64();
        let mut draws: Vec<f64> = (0..count).map(draw).collect();
        draws.sort_by(f64::total_cmp);
        draws
    }

    #[test]
    fn draws_follow_their_distribution() {
        let second = Duration::from_secs(1);
        assert_eq!(draws(TimeDist::Fixed { time: second }, 2), [1.0, 1.0]);
        let exponential = draws(TimeDist::Exponential { mean: 2 * second }, 10_000);
        let mean = exponential.iter().sum::<f64>() / 1e4;
        assert!((1.92..2.08).contains(&mean), "{mean}");
        assert!((1.30..1.47).contains(&exponential[5000]), "the median is 2 ln 2: {}", exponential[5000]);
        let lognormal = draws(TimeDist::Lognormal { median: second, p95: 4 * second }, 10_000);
        assert!((0.96..1.04).contains(&lognormal[5000]), "{}", lognormal[5000]);
        assert!((3.7..4.3).contains(&lognormal[9500]), "{}", lognormal[9500]);
    }

    #[test]
    fn what_has_no_draws_is_refused() {
        let lognormal = |median, p95| TimeDist::Lognormal {
            median: Duration::from_secs(median),
            p95: Duration::from_secs(p95),
        };
        assert!(lognormal(0, 1).check("think time").is_err());
        assert!(lognormal(2, 1).check("think time").is_err());
        assert!(lognormal(2, 2).check("think time").is_ok());
    }
}
