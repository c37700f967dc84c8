//! How many requests a second there will be.

use std::time::Duration;

use llmlab_core::request::At;

use super::holt_winters::{HoltWinters, Smoothed};

#[derive(Debug, Clone, PartialEq)]
pub enum Forecast {
    /// As it was one period (a day) before, bin by bin, times how the time just over compares with then.
    PeriodBefore {
        bin: Duration,
        rates_rps: Vec<f64>,
    },
    /// Level and trend, exponentially smoothed (Holt 1957); factors for each observation, 0 to 1.
    Holt {
        alpha: f64,
        beta: f64,
    },
    HoltWinters(HoltWinters),
}

/// What a forecast has seen.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    last: Option<(At, f64)>,
    trend_rps_per_s: f64,
    /// Smoothed ratio of what came to what came a period before.
    growth: Option<f64>,
    smoothed: Option<Smoothed>,
}

/// How fast the ratio to the period before is learnt, an observation.
const GROWTH_ALPHA: f64 = 0.2;

impl Forecast {
    pub(super) fn observe(&self, history: &mut History, now: At, rate_rps: f64) {
        match self {
            Forecast::PeriodBefore { .. } => {
                let before = self.before(now);
                if before > 0.0 {
                    let (ratio, old) = (rate_rps / before, history.growth.unwrap_or(1.0));
                    history.growth = Some(old + GROWTH_ALPHA * (ratio - old));
                }
                history.last = Some((now, rate_rps));
            }
            Forecast::Holt { alpha, beta } => {
                let Some((at, level)) = history.last else {
                    history.last = Some((now, rate_rps));
                    return;
                };
                let gap = now.saturating_sub(at).as_secs_f64();
                if gap <= 0.0 {
                    return;
                }
                let expected = level + history.trend_rps_per_s * gap;
                let new = expected + alpha * (rate_rps - expected);
                history.trend_rps_per_s += beta * ((new - level) / gap - history.trend_rps_per_s);
                history.last = Some((now, new));
            }
            Forecast::HoltWinters(winters) => winters.observe(&mut history.smoothed, now, rate_rps),
        }
    }

    /// Never less than nothing.
    pub(super) fn at(&self, history: &History, at: At) -> f64 {
        let rate = match self {
            Forecast::PeriodBefore { .. } => self.before(at) * history.growth.unwrap_or(1.0),
            Forecast::Holt { .. } => history.last.map_or(0.0, |(since, level)| {
                level + history.trend_rps_per_s * at.saturating_sub(since).as_secs_f64()
            }),
            Forecast::HoltWinters(winters) => winters.at(&history.smoothed, at),
        };
        rate.max(0.0)
    }

    fn before(&self, at: At) -> f64 {
        match self {
            Forecast::PeriodBefore { bin, rates_rps } if !rates_rps.is_empty() && !bin.is_zero() => {
                let place = (at.as_nanos() / bin.as_nanos()) % rates_rps.len() as u128;
                rates_rps[place as usize]
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Holt's method with both factors at one half, by hand: 10, then 20 a second later gives level 15 and trend 2.5; then
    /// 20 gives 17.5 + 0.5 x 2.5 = 18.75 and trend 2.5 + 0.5 (3.75 - 2.5) = 3.125.
    #[test]
    fn level_and_trend_by_hand() {
        let holt = Forecast::Holt { alpha: 0.5, beta: 0.5 };
        let mut history = History::default();
        [10.0, 20.0, 20.0].iter().zip(0..).for_each(|(rate, t)| holt.observe(&mut history, s(t), *rate));
        assert!((holt.at(&history, s(2)) - 18.75).abs() < 1e-9);
        assert!((holt.at(&history, s(4)) - 25.0).abs() < 1e-9);
    }

    #[test]
    fn yesterday_comes_again_with_growth() {
        let day = Forecast::PeriodBefore { bin: s(10), rates_rps: vec![1.0, 4.0, 2.0] };
        let mut history = History::default();
        assert_eq!([0, 10, 25, 30, 45].map(|t| day.at(&history, s(t))), [1.0, 4.0, 2.0, 1.0, 4.0]);
        (0..60).for_each(|t| day.observe(&mut history, s(t), 2.0 * day.before(s(t))));
        assert!((day.at(&history, s(10)) - 8.0).abs() < 0.01);
    }
}
