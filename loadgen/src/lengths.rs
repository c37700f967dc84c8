//! Prompt and output lengths: quantile tables of published traffic, simple distributions, or the rows of a trace.
//!
//! A table has 11 points and is sampled by inverse CDF, log-linear between points: a lognormal fit is a poor picture
//! of real traffic (Azure's 2023 conversation outputs are bimodal, its code inputs are cut at 7437 tokens).
//! Input and output are joined by a Gaussian copula, so a published rank correlation survives.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::workload::WorkloadError;

/// Probabilities of the points of a quantile table.
pub const PROBABILITIES: [f64; 11] = [0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0];

/// Token counts at [`PROBABILITIES`], not decreasing.
pub type QuantileTable = [f64; 11];

#[derive(Debug, Clone, PartialEq)]
pub enum Lengths {
    /// `rank_correlation` is Spearman's, between input and output length.
    Quantiles {
        input: QuantileTable,
        output: QuantileTable,
        rank_correlation: f64,
    },
    Independent {
        input: LengthDist,
        output: LengthDist,
    },
    /// Request `i` takes row `i`; the rows start over when there are more requests than rows.
    Trace {
        rows: Vec<TraceRow>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LengthDist {
    Fixed {
        tokens: u32,
    },
    /// Both ends included.
    Uniform {
        min: u32,
        max: u32,
    },
    /// By median and 95th percentile, in tokens.
    Lognormal {
        median: f64,
        p95: f64,
    },
    Quantiles {
        table: QuantileTable,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceRow {
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// Since the start of the trace.
    pub arrival: Option<Duration>,
}

/// 95th percentile of the standard normal distribution.
pub(crate) const Z95: f64 = 1.644_853_626_951_472_2;

impl Lengths {
    /// Draws (input, output) in tokens, before scaling and clamping. `rng` must be the request's own stream.
    pub(crate) fn draw(&self, index: u64, rng: &mut ChaCha8Rng) -> (f64, f64) {
        let a: f64 = StandardNormal.sample(rng);
        let b: f64 = StandardNormal.sample(rng);
        match self {
            Lengths::Quantiles { input, output, rank_correlation } => {
                let r = copula_correlation(*rank_correlation);
                let b = r * a + (1.0 - r * r).max(0.0).sqrt() * b;
                (quantile(input, normal_cdf(a)), quantile(output, normal_cdf(b)))
            }
            Lengths::Independent { input, output } => (input.at(a), output.at(b)),
            Lengths::Trace { rows } => {
                let row = rows[(index % rows.len() as u64) as usize];
                (f64::from(row.input_tokens), f64::from(row.output_tokens))
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        match self {
            Lengths::Quantiles { input, output, rank_correlation } => {
                check_table("input", input)?;
                check_table("output", output)?;
                if !(-1.0..=1.0).contains(rank_correlation) {
                    return Err(WorkloadError::Correlation { value: *rank_correlation });
                }
                Ok(())
            }
            Lengths::Independent { input, output } => {
                input.check("input").and_then(|()| output.check("output"))
            }
            Lengths::Trace { rows } if rows.is_empty() => Err(WorkloadError::EmptyTrace),
            Lengths::Trace { .. } => Ok(()),
        }
    }
}

impl LengthDist {
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        self.at(StandardNormal.sample(rng))
    }

    /// The length at the standard normal score `z`, i.e. at probability `normal_cdf(z)`.
    fn at(&self, z: f64) -> f64 {
        match self {
            LengthDist::Fixed { tokens } => f64::from(*tokens),
            LengthDist::Uniform { min, max } => {
                let n = f64::from(max - min) + 1.0;
                (f64::from(*min) + (normal_cdf(z) * n).floor()).min(f64::from(*max))
            }
            LengthDist::Lognormal { median, p95 } => {
                let sigma = libm::log(p95 / median) / Z95;
                median * libm::exp(sigma * z)
            }
            LengthDist::Quantiles { table } => quantile(table, normal_cdf(z)),
        }
    }

    pub(crate) fn check(&self, side: &'static str) -> Result<(), WorkloadError> {
        let bad = |reason: String| Err(WorkloadError::Distribution { side, reason });
        match self {
            LengthDist::Fixed { .. } => Ok(()),
            LengthDist::Uniform { min, max } if min > max => bad(format!("min {min} is above max {max}")),
            LengthDist::Uniform { .. } => Ok(()),
            LengthDist::Lognormal { median, p95 } => {
                if median.is_finite() && p95.is_finite() && *median > 0.0 && p95 >= median {
                    Ok(())
                } else {
                    bad(format!("needs 0 < median <= p95, got median {median} and p95 {p95}"))
                }
            }
            LengthDist::Quantiles { table } => check_table(side, table),
        }
    }
}

fn check_table(side: &'static str, table: &QuantileTable) -> Result<(), WorkloadError> {
    if table.iter().any(|v| !v.is_finite() || *v < 0.0) || table.windows(2).any(|w| w[0] > w[1]) {
        return Err(WorkloadError::Distribution {
            side,
            reason: format!("quantiles must be finite, not negative and not decreasing: {table:?}"),
        });
    }
    Ok(())
}

/// Inverse CDF of a quantile table, linear in log(value) between points. Values under one token count as one.
pub fn quantile(table: &QuantileTable, p: f64) -> f64 {
    let p = p.clamp(0.0, 1.0);
    // The last point with probability <= p, but never the very last one, so that a segment follows.
    let i = PROBABILITIES.partition_point(|&q| q <= p).clamp(1, PROBABILITIES.len() - 1) - 1;
    let t = (p - PROBABILITIES[i]) / (PROBABILITIES[i + 1] - PROBABILITIES[i]);
    let (low, high) = (table[i].max(1.0), table[i + 1].max(1.0));
    libm::exp(libm::log(low) * (1.0 - t) + libm::log(high) * t)
}

/// Pearson correlation of the copula's normals that gives the wanted Spearman rank correlation
/// (Kruskal 1958: rho_s = 6/pi asin(r/2)).
fn copula_correlation(spearman: f64) -> f64 {
    2.0 * libm::sin(std::f64::consts::PI * spearman / 6.0)
}

/// Standard normal CDF. libm rather than the platform's, so that the same seed gives the same lengths everywhere.
fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}
