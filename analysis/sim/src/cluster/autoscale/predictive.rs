//! Replicas for what is forecast for the time at which one that is started now would serve.

use std::collections::VecDeque;
use std::time::Duration;

use llmlab_core::request::At;

use super::forecast::{Forecast, History};
use crate::cluster::{Controller, Scraped};

#[derive(Debug, Clone, PartialEq)]
pub struct PredictiveConfig {
    pub pool: usize,
    pub min_replicas: u32,
    pub max_replicas: u32,
    pub forecast: Forecast,
    /// What a replica takes within its SLO.
    pub requests_per_s_per_replica: f64,
    /// Room on top of the forecast: 0.2 is a fifth.
    pub headroom: f64,
    /// How long a replica takes to start.
    pub lead: Duration,
    /// Nothing is taken away that was wanted in this time.
    pub hold: Duration,
    pub interval: Duration,
}

#[derive(Debug)]
pub struct Predictive {
    config: PredictiveConfig,
    history: History,
    observed: Option<At>,
    wanted: VecDeque<(At, u32)>,
}

impl Predictive {
    pub fn new(config: PredictiveConfig) -> Predictive {
        Predictive { config, history: History::default(), observed: None, wanted: VecDeque::new() }
    }

    fn for_rate(&self, rate_rps: f64) -> u32 {
        let replicas = rate_rps * (1.0 + self.config.headroom) / self.config.requests_per_s_per_replica;
        // The cast saturates, and NaN becomes 0.
        let whole = (replicas - 1e-9).ceil().max(0.0) as u32;
        whole.clamp(self.config.min_replicas, self.config.max_replicas.max(self.config.min_replicas))
    }
}

impl Controller for Predictive {
    fn interval(&self) -> Duration {
        self.config.interval
    }

    fn wanted(&mut self, now: At, seen: &Scraped, wanted: &[u32]) -> Vec<u32> {
        if self.observed != Some(seen.at) && !seen.window.is_zero() {
            self.observed = Some(seen.at);
            self.config.forecast.observe(&mut self.history, seen.at, seen.arrival_rps());
        }
        // What is started now must last until what is started at the next look serves.
        let serves = now + self.config.lead;
        let forecast = |at| self.config.forecast.at(&self.history, at);
        let rate = forecast(now).max(forecast(serves)).max(forecast(serves + self.config.interval));
        self.wanted.push_back((now, self.for_rate(rate)));
        while self.wanted.front().is_some_and(|(at, _)| now.saturating_sub(*at) > self.config.hold) {
            self.wanted.pop_front();
        }
        let most = self.wanted.iter().map(|(_, replicas)| *replicas).max();
        let mut wanted = wanted.to_vec();
        if let Some((place, most)) = wanted.get_mut(self.config.pool).zip(most) {
            *place = most;
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_there_when_they_are_needed() {
        let s = Duration::from_secs;
        let mut predictive = Predictive::new(PredictiveConfig {
            pool: 0,
            min_replicas: 1,
            max_replicas: 8,
            forecast: Forecast::PeriodBefore { bin: s(600), rates_rps: vec![2.0, 20.0, 2.0, 2.0] },
            requests_per_s_per_replica: 5.0,
            headroom: 0.25,
            lead: s(120),
            hold: s(60),
            interval: s(30),
        });
        let seen = Scraped::default();
        let mut path = Vec::new();
        for look in 0..60 {
            path.push((30 * look, predictive.wanted(s(30 * look), &seen, &[1])[0]));
        }
        let changes: Vec<(u64, u32)> =
            path.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1]).collect();
        // 20 x 1.25 / 5 = 5 from 600 s on: wanted two minutes and a look before, and held a minute after 1200 s.
        assert_eq!(changes, [(450, 5), (1260, 1)]);
    }
}
