//! Many clients at once, each with its own share of the requests and its own burstiness, as production traffic is made up
//! (Xiang et al. 2025, ServeGen). Each is a renewal process with gamma or Weibull gaps; what arrives is all of them together.
//!
//! Gap `j` of client `k` depends on the seed, `k` and `j`; so request `i` depends on the seed and its index, but through
//! all clients that came before it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, StandardNormal};

use crate::streams::{Purpose, stream, unit};
use crate::workload::WorkloadError;

pub const MOST_CLIENTS: u32 = 100_000;
/// Coefficients of variation are drawn within these: below nothing changes, above a client sends one burst a day.
const CV_RANGE: (f64, f64) = (0.05, 50.0);

/// How clients differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClientMix {
    pub count: u32,
    /// Client k (from 1) sends in proportion to (k + offset)^-exponent (Zipf and Mandelbrot).
    pub exponent: f64,
    pub offset: f64,
    /// Of the clients' coefficients of variation, which are lognormal.
    pub cv_median: f64,
    pub cv_mean: f64,
    /// Of the clients; the others have gamma gaps.
    pub weibull_share: f64,
}

impl ClientMix {
    pub(super) fn times(&self, seed: u64, rate_rps: f64, n: u64) -> Vec<f64> {
        let weight = |k: u32| libm::pow(f64::from(k + 1) + self.offset, -self.exponent);
        let total: f64 = (0..self.count).map(weight).sum();
        let mut clients: Vec<Client> =
            (0..self.count).map(|k| self.client(seed, k, total / (weight(k) * rate_rps))).collect();
        // Times are not negative, so their bits are in their order.
        let mut next: BinaryHeap<Reverse<(u64, u32)>> =
            clients.iter_mut().zip(0..).map(|(client, k)| Reverse((client.first().to_bits(), k))).collect();
        let mut times = Vec::new();
        while (times.len() as u64) < n
            && let Some(Reverse((bits, k))) = next.pop()
        {
            let at = f64::from_bits(bits);
            times.push(at);
            next.push(Reverse(((at + clients[k as usize].gap()).to_bits(), k)));
        }
        // The first request arrives at 0, here as everywhere.
        let first = times.first().copied().unwrap_or(0.0);
        times.iter_mut().for_each(|at| *at -= first);
        times
    }

    fn client(&self, seed: u64, k: u32, mean_gap_s: f64) -> Client {
        let mut rng = stream(seed, Purpose::Client, u64::from(k));
        let sigma = (2.0 * libm::log(self.cv_mean / self.cv_median)).max(0.0).sqrt();
        let normal: f64 = StandardNormal.sample(&mut rng);
        let cv = (self.cv_median * libm::exp(sigma * normal)).clamp(CV_RANGE.0, CV_RANGE.1);
        let weibull = unit(&mut rng) < self.weibull_share;
        let gaps = if weibull { Gaps::weibull(mean_gap_s, cv) } else { Gaps::gamma(mean_gap_s, cv) };
        Client { seed, k, drawn: 0, gaps }
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        let bad = |reason: String| Err(WorkloadError::Process { reason });
        let ClientMix { count, exponent, offset, cv_median, cv_mean, weibull_share } = *self;
        if count == 0 || count > MOST_CLIENTS {
            return bad(format!("{count} clients; accepted are 1 to {MOST_CLIENTS}"));
        }
        if !(0.0..=10.0).contains(&exponent) || !(0.0..=1e6).contains(&offset) {
            return bad(format!("exponent {exponent} (0 to 10) and offset {offset} (0 to 1000000)"));
        }
        if !(CV_RANGE.0..=CV_RANGE.1).contains(&cv_median) || !(cv_median..=CV_RANGE.1).contains(&cv_mean) {
            return bad(format!(
                "cv median {cv_median} and mean {cv_mean}; needed are {} <= median <= mean <= {}",
                CV_RANGE.0, CV_RANGE.1
            ));
        }
        if !(0.0..=1.0).contains(&weibull_share) {
            return bad(format!("a weibull share of {weibull_share} (0 to 1)"));
        }
        Ok(())
    }
}

struct Client {
    seed: u64,
    k: u32,
    drawn: u64,
    gaps: Gaps,
}

impl Client {
    fn rng(&mut self) -> ChaCha8Rng {
        self.drawn += 1;
        stream(self.seed, Purpose::ClientGap, (u64::from(self.k) << 32) | self.drawn)
    }

    /// Nobody begins when the trial begins: from a moment inside a gap, chosen as moments are, so long ones more often.
    fn first(&mut self) -> f64 {
        let gaps = self.gaps;
        let mut rng = self.rng();
        gaps.draw_by_length(&mut rng) * unit(&mut rng)
    }

    fn gap(&mut self) -> f64 {
        let gaps = self.gaps;
        gaps.draw(&mut self.rng())
    }
}

/// scale * G^power with G gamma distributed: gamma gaps with power 1, Weibull's with G exponential.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gaps {
    shape: f64,
    power: f64,
    scale: f64,
}

impl Gaps {
    pub(super) fn gamma(mean: f64, cv: f64) -> Gaps {
        Gaps { shape: 1.0 / (cv * cv), power: 1.0, scale: mean * cv * cv }
    }

    /// Of shape 1 / power: mean scale Γ(1 + power), 1 + cv² = Γ(1 + 2 power) / Γ(1 + power)².
    pub(super) fn weibull(mean: f64, cv: f64) -> Gaps {
        let target = libm::log1p(cv * cv);
        let (mut low, mut high) = (0.0, 20.0);
        for _ in 0..60 {
            let power = (low + high) / 2.0;
            let ratio = libm::lgamma(1.0 + 2.0 * power) - 2.0 * libm::lgamma(1.0 + power);
            if ratio < target { low = power } else { high = power }
        }
        let power = (low + high) / 2.0;
        Gaps { shape: 1.0, power, scale: mean / libm::tgamma(1.0 + power) }
    }

    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        self.with_shape(self.shape, rng)
    }

    /// A gap chosen in proportion to its length: x f(x) is the same family with a larger shape.
    pub(super) fn draw_by_length(&self, rng: &mut ChaCha8Rng) -> f64 {
        self.with_shape(self.shape + self.power, rng)
    }

    fn with_shape(&self, shape: f64, rng: &mut ChaCha8Rng) -> f64 {
        let drawn = Gamma::new(shape, 1.0).map_or(1.0, |gamma| gamma.sample(rng));
        self.scale * libm::pow(drawn, self.power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(draws: impl Iterator<Item = f64>) -> (f64, f64) {
        let values: Vec<f64> = draws.collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn gaps_of_both_families_have_the_mean_and_the_variation_asked_for() {
        for cv in [0.3, 1.0, 2.0] {
            for gaps in [Gaps::gamma(5.0, cv), Gaps::weibull(5.0, cv)] {
                let mut rng = stream(7, Purpose::Client, 0);
                let (mean, found) = moments((0..200_000).map(|_| gaps.draw(&mut rng)));
                assert!(
                    (mean / 5.0 - 1.0).abs() < 0.03 && (found / cv - 1.0).abs() < 0.05,
                    "{gaps:?}: {mean} {found}"
                );
                // E[x²] / E[x] is the mean of gaps chosen by length.
                let (mean, _) = moments((0..200_000).map(|_| gaps.draw_by_length(&mut rng)));
                assert!((mean / (5.0 * (1.0 + cv * cv)) - 1.0).abs() < 0.05, "{gaps:?}: {mean}");
            }
        }
    }
}
