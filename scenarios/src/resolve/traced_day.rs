//! A trace with times as a plan's day: how busy its hours are, and how unevenly requests come within them.

use crate::spec::{ArrivalSpec, RateSpec, TraceRow};

const HOUR_S: f64 = 3600.0;
const DAY_S: f64 = 24.0 * HOUR_S;
/// Shorter than this, and an hour of the day was hardly seen.
const SHORTEST_S: f64 = 23.5 * HOUR_S;
/// Of a longer trace as many rows, from all over it, stand for the lengths.
const MOST_LENGTHS: usize = 10_000;
/// As with `llmlab fit`: nearer to 1 than this a coefficient of variation is that of a Poisson process.
const POISSON: f64 = 0.05;
const CONSTANT: f64 = 0.01;
const MOST_CV: f64 = 100.0;
/// A log in which more requests than this share their time with another has a coarse clock.
const SHARED_TIMES: f64 = 0.2;
/// Requests that are expected in a window of counts.
const WINDOW: f64 = 20.0;

#[derive(Debug)]
pub(super) struct TracedDay {
    /// Requests a second of each hour, the first of which begins with the first row.
    pub hourly_rps: Vec<f64>,
    /// Coefficient of variation of the gaps between requests, each gap measured by how many were expected in it.
    cv: f64,
    pub lengths: Vec<TraceRow>,
}

/// `rows` have times, in order; a day of theirs is `speed` times as short. The error is one sentence.
pub(super) fn of(rows: &[TraceRow], speed: f64) -> Result<TracedDay, String> {
    let times: Vec<f64> = rows.iter().filter_map(|row| row.arrival_s).map(|at| at / speed).collect();
    let span_s = times.last().copied().unwrap_or(0.0);
    if span_s < SHORTEST_S {
        let slower = speed * span_s / DAY_S;
        let help = match slower > 1e-6 {
            true => format!(
                "write speed = {slower:.4} to stretch it to one, or another process and [demand] hourly"
            ),
            false => "choose another process, e.g. poisson with a rate".to_owned(),
        };
        return Err(format!("the trace lasts {:.1} hours, and a plan needs a day; {help}", span_s / HOUR_S));
    }
    let hourly_rps = hourly(&times, span_s);
    let cv = cv(&times, &hourly_rps);
    Ok(TracedDay { hourly_rps, cv, lengths: lengths(rows) })
}

impl TracedDay {
    pub fn mean_rps(&self) -> f64 {
        self.hourly_rps.iter().sum::<f64>() / self.hourly_rps.len().max(1) as f64
    }

    /// The process within an hour, at a rate.
    pub fn arrivals(&self, rps: f64) -> ArrivalSpec {
        let rate = RateSpec::PerSecond { rps };
        match self.cv {
            cv if (cv - 1.0).abs() <= POISSON => ArrivalSpec::Poisson { rate },
            cv if cv < CONSTANT => ArrivalSpec::Constant { rate },
            cv => ArrivalSpec::Gamma { rate, cv: cv.min(MOST_CV) },
        }
    }
}

fn hour_of(at_s: f64) -> usize {
    (at_s.rem_euclid(DAY_S) / HOUR_S) as usize % 24
}

/// Requests of each hour of the day over the time in which it was seen: a trace may be of several days, and of a part of one.
fn hourly(times: &[f64], span_s: f64) -> Vec<f64> {
    let mut counts = [0.0; 24];
    for at in times {
        counts[hour_of(*at)] += 1.0;
    }
    let (days, rest_s) = ((span_s / DAY_S).floor(), span_s.rem_euclid(DAY_S));
    let seen_s = |hour: usize| days * HOUR_S + (rest_s - hour as f64 * HOUR_S).clamp(0.0, HOUR_S);
    (0..24).map(|hour| counts[hour] / seen_s(hour).max(1.0)).collect()
}

/// Time is replaced by the number of requests that the hours' rates expect until then, in which a Poisson process of any rates
/// has gaps of mean and deviation 1. Where many share their time, as by a coarse clock, gaps say little, and counts of windows
/// are used: their variance is the square of the same figure times their mean, if windows are long.
fn cv(times: &[f64], hourly_rps: &[f64]) -> f64 {
    let until: Vec<f64> = hourly_rps
        .iter()
        .scan(0.0, |sum, rps| {
            let before = *sum;
            *sum += rps * HOUR_S;
            Some(before)
        })
        .collect();
    let a_day: f64 = hourly_rps.iter().map(|rps| rps * HOUR_S).sum();
    let expected = times.iter().map(|at| {
        let hour = hour_of(*at);
        let within = at.rem_euclid(DAY_S) - hour as f64 * HOUR_S;
        (at / DAY_S).floor() * a_day + until[hour] + within * hourly_rps[hour]
    });
    let expected: Vec<f64> = expected.collect();
    let gaps: Vec<f64> = expected.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let shared = gaps.iter().filter(|gap| **gap <= 0.0).count();
    if shared as f64 <= SHARED_TIMES * gaps.len() as f64 {
        return deviation(&gaps).unwrap_or(1.0);
    }
    let all = expected.last().copied().unwrap_or(0.0);
    let mut counts = vec![0.0; (all / WINDOW) as usize];
    for at in &expected {
        if let Some(count) = counts.get_mut((at / WINDOW) as usize) {
            *count += 1.0;
        }
    }
    deviation(&counts).map_or(1.0, |of_counts| of_counts * WINDOW.sqrt())
}

/// Over the mean.
fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean > 0.0).then(|| variance.sqrt() / mean)
}

/// In an order in which the first hundred are from all over the trace already: steps of the golden section around it.
fn lengths(rows: &[TraceRow]) -> Vec<TraceRow> {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let place = |i: usize| ((i as f64 * GOLDEN).fract() * rows.len() as f64) as usize;
    let row = |i| rows.get(place(i)).map(|row| TraceRow { arrival_s: None, ..*row });
    (0..rows.len().min(MOST_LENGTHS)).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(times: impl IntoIterator<Item = f64>) -> Vec<TraceRow> {
        let row =
            |(i, at): (u32, f64)| TraceRow { input_tokens: i + 1, output_tokens: 1, arrival_s: Some(at) };
        (0..).zip(times).map(row).collect()
    }

    /// Gaps by `gap(uniform)` at the hour's own rate; 200 in the night and 2000 in the day.
    fn drawn(days: f64, gap: impl Fn(f64) -> f64) -> Vec<TraceRow> {
        let (mut at, mut state, mut times) = (0.0, 7_u64, Vec::new());
        while at < days * DAY_S {
            times.push(at);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            let an_hour = if (8..20).contains(&hour_of(at)) { 2000.0 } else { 200.0 };
            at += gap(unit) * HOUR_S / an_hour;
        }
        rows(times)
    }

    #[test]
    fn hours_are_counted_over_the_days_that_saw_them() {
        // Every ten seconds on the first day, twice as often in the first half of the second.
        let first = (0..8640).map(|i| f64::from(i) * 10.0);
        let second = (0..8641).map(|i| DAY_S + f64::from(i) * 5.0);
        let day = of(&rows(first.chain(second)), 1.0).unwrap();
        assert!(day.hourly_rps[..12].iter().all(|rps| (rps - 0.15).abs() < 1e-3), "{:?}", day.hourly_rps);
        assert!(day.hourly_rps[12..].iter().all(|rps| (rps - 0.1).abs() < 1e-3), "{:?}", day.hourly_rps);
        assert!((day.mean_rps() - 0.125).abs() < 1e-3);
    }

    #[test]
    fn a_process_is_known_again_under_the_hours() {
        let poisson = of(&drawn(1.0, |unit| -unit.ln()), 1.0).unwrap();
        assert!(matches!(poisson.arrivals(2.0), ArrivalSpec::Poisson { .. }), "{}", poisson.cv);
        assert!((poisson.hourly_rps[12] / poisson.hourly_rps[2] - 10.0).abs() < 1.5);
        // A gap of 0.1 in nine of ten, of 9.1 in one: mean 1, deviation 2.7.
        let bursts = of(&drawn(1.0, |unit| if unit < 0.9 { 0.1 } else { 9.1 }), 1.0).unwrap();
        assert!((bursts.cv - 2.7).abs() < 0.3, "{}", bursts.cv);
        let even = of(&rows((0..86_401).map(f64::from)), 1.0).unwrap();
        assert!(matches!(even.arrivals(2.0), ArrivalSpec::Constant { .. }), "{}", even.cv);
        // The same Poisson process by a clock of ten seconds.
        let mut coarse = drawn(1.0, |unit| -unit.ln());
        for row in &mut coarse {
            row.arrival_s = row.arrival_s.map(|at| (at / 10.0).floor() * 10.0);
        }
        assert!((of(&coarse, 1.0).unwrap().cv - 1.0).abs() < 0.2);
    }

    #[test]
    fn an_hour_is_no_day_unless_it_is_stretched() {
        let hour = rows((0..=360).map(|i| f64::from(i) * 10.0));
        let error = of(&hour, 1.0).unwrap_err();
        assert!(error.contains("lasts 1.0 hours") && error.contains("speed = 0.0417"), "{error}");
        let day = of(&hour, 1.0 / 24.0).unwrap();
        assert!((day.mean_rps() - 0.1 / 24.0).abs() < 1e-4);
        assert!(of(&rows([0.0]), 1.0).unwrap_err().contains("another process"));
    }

    #[test]
    fn lengths_are_from_all_over_the_trace() {
        let day = of(&rows((0..=86_400).map(f64::from)), 1.0).unwrap();
        assert_eq!(day.lengths.len(), MOST_LENGTHS);
        let tenths = day.lengths[..100].iter().map(|row| row.input_tokens / 8641);
        for tenth in 0..10 {
            assert!((8..=12).contains(&tenths.clone().filter(|t| *t == tenth).count()));
        }
    }
}
