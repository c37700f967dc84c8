//! Level, trend and a season that comes again every period, each exponentially smoothed, the season added to the rest (Holt 1957,
//! Winters 1960; the error-correction form of Hyndman and Athanasopoulos).

use std::time::Duration;

use llmlab_core::request::At;

#[derive(Debug, Clone, PartialEq)]
pub struct HoltWinters {
    pub bin: Duration,
    /// Of the period before, bin by bin: what level and season begin with.
    pub rates_rps: Vec<f64>,
    /// Factors for each bin, 0 to 1: of the level, the trend, the season.
    pub alpha: f64,
    pub beta: f64,
    pub gamma: f64,
}

/// What it has seen: bins, the last of which is not over yet.
#[derive(Debug, Clone)]
pub(super) struct Smoothed {
    level: f64,
    trend_per_bin: f64,
    season: Vec<f64>,
    /// The bin that observations are added to.
    open: u128,
    sum: f64,
    count: u32,
}

impl HoltWinters {
    fn place(&self, at: At) -> u128 {
        at.as_nanos() / self.bin.as_nanos().max(1)
    }

    fn begin(&self, open: u128) -> Smoothed {
        let level = self.rates_rps.iter().sum::<f64>() / self.rates_rps.len().max(1) as f64;
        let season = self.rates_rps.iter().map(|rate| rate - level).collect();
        Smoothed { level, trend_per_bin: 0.0, season, open, sum: 0.0, count: 0 }
    }

    pub(super) fn observe(&self, seen: &mut Option<Smoothed>, now: At, rate_rps: f64) {
        let place = self.place(now);
        let smoothed = seen.get_or_insert_with(|| self.begin(place));
        while smoothed.open < place {
            let mean = (smoothed.count > 0).then(|| smoothed.sum / f64::from(smoothed.count));
            self.close(smoothed, mean);
        }
        smoothed.sum += rate_rps;
        smoothed.count += 1;
    }

    /// A bin is over; without an observation it passes as it was expected.
    fn close(&self, smoothed: &mut Smoothed, observed: Option<f64>) {
        let expected = smoothed.level + smoothed.trend_per_bin;
        let place = (smoothed.open % self.rates_rps.len().max(1) as u128) as usize;
        let before = smoothed.level;
        match (observed, smoothed.season.get_mut(place)) {
            (Some(rate), Some(season)) => {
                smoothed.level = self.alpha * (rate - *season) + (1.0 - self.alpha) * expected;
                *season = self.gamma * (rate - expected) + (1.0 - self.gamma) * *season;
                smoothed.trend_per_bin =
                    self.beta * (smoothed.level - before) + (1.0 - self.beta) * smoothed.trend_per_bin;
            }
            _ => smoothed.level = expected,
        }
        (smoothed.open, smoothed.sum, smoothed.count) = (smoothed.open + 1, 0.0, 0);
    }

    pub(super) fn at(&self, seen: &Option<Smoothed>, at: At) -> f64 {
        let place = self.place(at);
        let begun;
        let smoothed = match seen {
            Some(smoothed) => smoothed,
            None => {
                begun = self.begin(place);
                &begun
            }
        };
        let ahead = (place + 1).saturating_sub(smoothed.open) as f64;
        let season = smoothed.season.get((place % self.rates_rps.len().max(1) as u128) as usize);
        smoothed.level + ahead * smoothed.trend_per_bin + season.copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn winters() -> HoltWinters {
        HoltWinters { bin: s(10), rates_rps: vec![12.0, 32.0, 50.0, 18.0], alpha: 0.4, beta: 0.1, gamma: 0.3 }
    }

    /// statsmodels 0.15.0: ExponentialSmoothing(y, trend="add", seasonal="add", seasonal_periods=4, initialization_method="known",
    /// initial_level=28, initial_trend=0.5, initial_seasonal=[-16, 4, 22, -10]).fit(0.4, 0.1, 0.3, optimized=False): its last
    /// level, trend and four seasons, and forecast(3). (Its fourth forecast takes the season of a period earlier.)
    #[test]
    fn it_agrees_with_statsmodels() {
        const SEEN: [f64; 12] = [12.0, 31.0, 52.0, 18.0, 14.0, 36.0, 55.0, 20.0, 11.0, 38.0, 60.0, 25.0];
        const LEVEL: f64 = 35.330472404728255;
        const TREND: f64 = 0.6708818717272953;
        const SEASON: [f64; 4] =
            [-17.498968109448967, 5.225724743433151, 24.267367550652615, -10.712510146682076];
        const FORECAST: [f64; 3] = [18.502386167, 41.8979608916, 61.6104855706];
        let winters = winters();
        let mut seen = Some(Smoothed { trend_per_bin: 0.5, ..winters.begin(0) });
        assert_eq!(seen.as_ref().unwrap().level, 28.0);
        for (bin, rate) in (0..).zip(SEEN) {
            // Two observations of a bin count as their mean.
            winters.observe(&mut seen, s(10 * bin + 2), rate - 1.0);
            winters.observe(&mut seen, s(10 * bin + 9), rate + 1.0);
        }
        winters.observe(&mut seen, s(120), 0.0);
        let smoothed = seen.as_ref().unwrap();
        let close = |told: f64, oracle: f64| assert!((told - oracle).abs() < 1e-9, "{told} for {oracle}");
        close(smoothed.level, LEVEL);
        close(smoothed.trend_per_bin, TREND);
        smoothed.season.iter().zip(SEASON).for_each(|(told, oracle)| close(*told, oracle));
        for (bin, rate) in (12..).zip(FORECAST) {
            close(winters.at(&seen, s(10 * bin + 5)), rate);
        }
        close(winters.at(&seen, s(195)), LEVEL + 8.0 * TREND + SEASON[3]);
    }

    #[test]
    fn before_it_saw_anything_the_period_before_comes_again() {
        let winters = winters();
        assert_eq!([3, 13, 29, 47].map(|t| winters.at(&None, s(t))), [12.0, 32.0, 50.0, 12.0]);
    }

    /// A day half as busy again, and an hour without scrapes in it.
    #[test]
    fn the_level_follows_and_gaps_pass_as_expected() {
        let winters = winters();
        let mut seen = None;
        for bin in (0..40).filter(|bin| !(17..23).contains(bin)) {
            winters.observe(&mut seen, s(10 * bin), winters.rates_rps[bin as usize % 4] + 14.0);
        }
        let told = winters.at(&seen, s(402));
        assert!((told - 26.0).abs() < 1.5, "{told}");
    }
}
