//! From a log of requests to traffic that looks like it: quantiles of both lengths, their rank correlation, and an
//! arrival process. Says what the result does not keep.

use crate::spec::{QuantileTable, TraceRow};

/// With fewer requests, quantiles and rates are luck.
pub const MIN_ROWS: usize = 20;
/// Gaps closer to evenly spaced than this are taken as evenly spaced.
const CONSTANT_CV: f64 = 0.01;
/// The scenario's own limit.
const MAX_CV: f64 = 100.0;
const TENTHS: usize = 10;
/// The 99.9th percentile of chi-squared with 9 degrees of freedom, over 9: ten counts of a steady process vary more than this
/// times their expected variance in one log of a thousand.
const STEADY: f64 = 3.10;
/// Standard errors by which a correlation must differ from none to be mentioned.
const NOTABLE: f64 = 4.0;
/// A log in which more requests than this share their time with another has a coarse clock.
const SHARED_TIMES: f64 = 0.2;

#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    pub input: QuantileTable,
    pub output: QuantileTable,
    /// Spearman's.
    pub rank_correlation: f64,
    /// `None` where the log has no times.
    pub arrivals: Option<FittedArrivals>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FittedArrivals {
    pub rate_rps: f64,
    pub process: Process,
    /// What of the log's arrivals the process does not keep, a sentence each.
    pub left_out: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Process {
    Poisson,
    /// Coefficient of variation of the gaps.
    Gamma {
        cv: f64,
    },
    Constant,
}

/// `rows` in order of arrival. The error is one sentence.
pub fn fit(rows: &[TraceRow]) -> Result<Fit, String> {
    if rows.len() < MIN_ROWS {
        return Err(format!("{} requests are too few to fit; at least {MIN_ROWS} are needed", rows.len()));
    }
    let of = |pick: fn(&TraceRow) -> u32| rows.iter().map(|row| f64::from(pick(row))).collect::<Vec<_>>();
    let (input, output) = (of(|row| row.input_tokens), of(|row| row.output_tokens));
    Ok(Fit {
        rank_correlation: rank_correlation(&input, &output),
        input: quantiles(input),
        output: quantiles(output),
        arrivals: times(rows).map(|times| arrivals(&times)).transpose()?,
    })
}

/// Arrival times in seconds, if every request has one.
fn times(rows: &[TraceRow]) -> Option<Vec<f64>> {
    rows.iter().map(|row| row.arrival_s).collect()
}

/// Between values by linear interpolation (Hyndman and Fan's type 7), to a tenth of a token.
fn quantiles(mut values: Vec<f64>) -> QuantileTable {
    values.sort_by(f64::total_cmp);
    QuantileTable {
        values: QuantileTable::PROBABILITIES.map(|p| {
            let place = p * (values.len() - 1) as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(values.len() - 1);
            let value = values[below] + (place - below as f64) * (values[above] - values[below]);
            (value * 10.0).round() / 10.0
        }),
    }
}

/// Spearman's: the correlation of ranks, equal values sharing their mean rank. 0 where one side does not vary.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    correlation(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let mean = start as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|&i| ranks[i] = mean);
        start += equal.len();
    }
    ranks
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |product: &dyn Fn(f64, f64) -> f64| {
        a.iter().zip(b).map(|(x, y)| product(x - mean_a, y - mean_b)).sum::<f64>()
    };
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    if spread > 0.0 { (sum(&|x, y| x * y) / spread).clamp(-1.0, 1.0) } else { 0.0 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn arrivals(times: &[f64]) -> Result<FittedArrivals, String> {
    let span = times[times.len() - 1] - times[0];
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if span <= 0.0 {
        return Err("all requests arrive at the same time, so there is no rate".into());
    }
    let mean_gap = mean(&gaps);
    let variance = mean(&gaps.iter().map(|gap| (gap - mean_gap).powi(2)).collect::<Vec<_>>());
    let cv = variance.sqrt() / mean_gap;
    // The estimate of a Poisson process's own cv has a standard error of about 1/sqrt(n).
    let poisson = (cv - 1.0).abs() <= f64::max(0.05, 2.0 / (gaps.len() as f64).sqrt());
    let process = match cv {
        _ if poisson => Process::Poisson,
        cv if cv < CONSTANT_CV => Process::Constant,
        cv => Process::Gamma { cv: cv.min(MAX_CV) },
    };
    let left_out = [drift(times, span, cv), bursts(&gaps), coarse_clock(&gaps)];
    Ok(FittedArrivals {
        rate_rps: gaps.len() as f64 / span,
        process,
        left_out: left_out.into_iter().flatten().collect(),
    })
}

/// A rate that changes over the log, by the hour of the day or otherwise: counts in tenths of its span against a steady
/// process of the same cv, whose counts have a variance of cv^2 times their mean.
fn drift(times: &[f64], span: f64, cv: f64) -> Option<String> {
    let mut counts = [0.0; TENTHS];
    for at in times {
        let tenth = ((at - times[0]) / span * TENTHS as f64) as usize;
        counts[tenth.min(TENTHS - 1)] += 1.0;
    }
    let mean = mean(&counts);
    let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / (TENTHS - 1) as f64;
    if variance <= STEADY * mean * (cv * cv).max(CONSTANT_CV) {
        return None;
    }
    let per_second = TENTHS as f64 / span;
    let least = counts.iter().copied().fold(f64::MAX, f64::min) * per_second;
    let most = counts.iter().copied().fold(0.0, f64::max) * per_second;
    Some(format!(
        "the rate changes over the log: {least:.3} to {most:.3} requests/s between tenths of its span; the scenario's is steady"
    ))
}

/// Short gaps that follow short gaps, which no renewal process has.
fn bursts(gaps: &[f64]) -> Option<String> {
    let found = rank_correlation(&gaps[1..], &gaps[..gaps.len() - 1]);
    let notable = found > NOTABLE / (gaps.len() as f64).sqrt();
    notable.then(|| {
        format!("gaps are like the gap before them (rank correlation {found:.2}): bursts of several requests; the scenario's gaps are independent")
    })
}

fn coarse_clock(gaps: &[f64]) -> Option<String> {
    let shared = gaps.iter().filter(|gap| **gap == 0.0).count() as f64 / gaps.len() as f64;
    (shared > SHARED_TIMES).then(|| {
        format!(
            "{:.0} % of the requests have the same time as the one before: the log's clock is coarse, and the variation of its gaps is partly that of the clock",
            shared * 100.0
        )
    })
}

/// Largest difference between the distribution functions of two samples (Kolmogorov and Smirnov): 0 for the same values, 1
/// where they do not overlap.
pub fn ks_distance(a: &[f64], b: &[f64]) -> f64 {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(a), sorted(b));
    let (mut i, mut j, mut largest) = (0, 0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        i += a[i..].iter().take_while(|value| **value <= at).count();
        j += b[j..].iter().take_while(|value| **value <= at).count();
        largest = largest.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ks_distances_by_hand() {
        assert_eq!(ks_distance(&[1.0, 2.0, 3.0], &[3.0, 1.0, 2.0]), 0.0);
        assert_eq!(ks_distance(&[1.0, 2.0], &[3.0, 4.0, 5.0]), 1.0);
        // At 2: three of four here, one of four there.
        assert_eq!(ks_distance(&[1.0, 2.0, 2.0, 9.0], &[2.0, 3.0, 4.0, 9.0]), 0.5);
    }

    #[test]
    fn ranks_share_their_mean_and_a_constant_side_has_no_correlation() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [1.5, 0.0, 1.5]);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]), 1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[7.0, 7.0, 7.0]), 0.0);
    }

    #[test]
    fn quantiles_interpolate() {
        let table = quantiles((0..=100).rev().map(|i| f64::from(i) + 1.0).collect());
        assert_eq!(table.values, [1.0, 2.0, 6.0, 11.0, 26.0, 51.0, 76.0, 91.0, 96.0, 100.0, 101.0]);
    }

    fn rows(times: impl Iterator<Item = f64>) -> Vec<TraceRow> {
        let row = |at| TraceRow { input_tokens: 5, output_tokens: 5, arrival_s: Some(at) };
        times.map(row).collect()
    }

    fn arrivals_of(times: impl Iterator<Item = f64>) -> FittedArrivals {
        fit(&rows(times)).unwrap().arrivals.unwrap()
    }

    #[test]
    fn even_gaps_are_constant_and_nothing_is_left_out() {
        let found = arrivals_of((0..1000).map(|i| f64::from(i) * 0.5));
        assert_eq!((found.rate_rps, found.process), (2.0, Process::Constant));
        assert_eq!(found.left_out, [""; 0]);
    }

    #[test]
    fn a_rate_that_changes_bursts_and_coarse_clocks_are_said() {
        // Five times as many in the second half.
        let changing = (0..100).map(f64::from).chain((0..500).map(|i| 100.0 + f64::from(i) / 5.0));
        let found = arrivals_of(changing);
        assert!(found.left_out.iter().any(|words| words.contains("1.001 to 5.005")), "{found:?}");
        // Ten close together, then ten far apart, over and over.
        let mut at = 0.0;
        let bursty = (0..2000).map(|i| {
            at += if (i / 10) % 2 == 0 { 0.01 } else { 1.0 };
            at
        });
        let found = arrivals_of(bursty.collect::<Vec<_>>().into_iter());
        assert!(found.left_out.iter().any(|words| words.contains("bursts")), "{found:?}");
        let found = arrivals_of((0..300).map(|i| f64::from(i / 3)));
        assert!(found.left_out.iter().any(|words| words.contains("67 %")), "{found:?}");
    }

    #[test]
    fn too_little_to_fit_is_an_error() {
        assert!(fit(&rows((0..19).map(f64::from))).unwrap_err().contains("at least 20"));
        assert!(fit(&rows((0..30).map(|_| 1.0))).unwrap_err().contains("same time"));
    }
}
