//! Which of several things a request takes: a system prompt, an adapter.

use rand_chacha::ChaCha8Rng;

use crate::streams::unit;
use crate::workload::WorkloadError;

/// How often each of several things is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Popularity {
    /// All alike.
    Uniform,
    /// The k-th most popular `k^-exponent` times as often as the first (Zipf's law).
    Zipf { exponent: f64 },
}

/// More than this have no place in a scenario, and a table of their shares is kept.
pub const MOST_CHOICES: u32 = 100_000;

/// Shares of `count` things, added up: a draw is a place in them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shares {
    cumulative: Vec<f64>,
}

impl Shares {
    pub fn new(count: u32, popularity: Popularity) -> Result<Shares, WorkloadError> {
        let exponent = match popularity {
            Popularity::Uniform => 0.0,
            Popularity::Zipf { exponent } => exponent,
        };
        if !(0.0..=10.0).contains(&exponent) {
            return Err(WorkloadError::Exponent { value: exponent });
        }
        if !(1..=MOST_CHOICES).contains(&count) {
            return Err(WorkloadError::Choices { count });
        }
        let mut sum = 0.0;
        let cumulative = (1..=count).map(|rank| {
            sum += libm::pow(f64::from(rank), -exponent);
            sum
        });
        Ok(Shares { cumulative: cumulative.collect() })
    }

    /// From 0, the most popular first.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> u32 {
        let last = self.cumulative.len() - 1;
        let place = unit(rng) * self.cumulative[last];
        self.cumulative.partition_point(|sum| *sum <= place).min(last) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Purpose, stream};

    fn counts(popularity: Popularity) -> [u32; 4] {
        let shares = Shares::new(4, popularity).unwrap();
        let mut counts = [0; 4];
        for index in 0..12_000 {
            counts[shares.draw(&mut stream(7, Purpose::Adapter, index)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_shares() {
        // Shares of 1, 1/2, 1/3 and 1/4 are 0.48, 0.24, 0.16 and 0.12.
        for (popularity, wanted) in [
            (Popularity::Uniform, [3000.0; 4]),
            (Popularity::Zipf { exponent: 1.0 }, [5760.0, 2880.0, 1920.0, 1440.0]),
        ] {
            for (count, wanted) in counts(popularity).into_iter().zip(wanted) {
                // Four standard deviations of a count.
                assert!((f64::from(count) - wanted).abs() < 4.0 * wanted.sqrt(), "{count} of {wanted}");
            }
        }
    }

    #[test]
    fn what_has_no_shares_is_refused() {
        assert!(Shares::new(0, Popularity::Uniform).is_err());
        assert!(Shares::new(u32::MAX, Popularity::Uniform).is_err());
        assert!(Shares::new(2, Popularity::Zipf { exponent: f64::NAN }).is_err());
        assert!(Shares::new(2, Popularity::Zipf { exponent: -1.0 }).is_err());
    }
}
