//! KEDA (ScaledObject, keda.sh/v1alpha1, 2.22): from none to one and back by activation, between them by the HPA it makes.

use std::time::Duration;

use llmlab_core::request::At;

use super::hpa::{Hpa, HpaConfig};
use super::signal::Metric;
use crate::cluster::{Controller, Scraped};

#[derive(Debug, Clone, PartialEq)]
pub struct KedaConfig {
    pub pool: usize,
    /// 0: it scales to zero.
    pub min_replica_count: u32,
    pub max_replica_count: u32,
    /// Each with the value above which it is active.
    pub triggers: Vec<(Metric, f64)>,
    /// Activity is looked at so often.
    pub polling_interval: Duration,
    /// From the last activity to zero.
    pub cooldown_period: Duration,
}

impl KedaConfig {
    /// KEDA's defaults.
    pub fn new(triggers: Vec<(Metric, f64)>) -> KedaConfig {
        KedaConfig {
            pool: 0,
            min_replica_count: 0,
            max_replica_count: 100,
            triggers,
            polling_interval: Duration::from_secs(30),
            cooldown_period: Duration::from_secs(300),
        }
    }
}

#[derive(Debug)]
pub struct Keda {
    config: KedaConfig,
    hpa: Hpa,
    next_poll: At,
    next_sync: At,
    last_active: At,
}

impl Keda {
    pub fn new(config: KedaConfig) -> Keda {
        let metrics = config.triggers.iter().map(|(metric, _)| *metric).collect();
        // An HPA has one replica at least; the last step is KEDA's.
        let least = config.min_replica_count.max(1);
        let hpa = HpaConfig { pool: config.pool, ..HpaConfig::new(least, config.max_replica_count, metrics) };
        let (next_poll, next_sync) = (config.polling_interval, hpa.sync_period);
        Keda { config, hpa: Hpa::new(hpa), next_poll, next_sync, last_active: At::ZERO }
    }

    fn poll(&mut self, now: At, seen: &Scraped, current: u32) -> u32 {
        let active = self.config.triggers.iter().any(|(metric, activation)| {
            metric.signal.value(seen, self.config.pool).is_some_and(|value| value > *activation)
        });
        if active {
            self.last_active = now;
        }
        match current {
            0 if active => self.config.min_replica_count.max(1),
            0 => self.config.min_replica_count,
            _ if self.config.min_replica_count == 0
                && !active
                && now.saturating_sub(self.last_active) >= self.config.cooldown_period =>
            {
                0
            }
            _ => current,
        }
    }
}

impl Controller for Keda {
    /// Often enough for both clocks.
    fn interval(&self) -> Duration {
        let hpa = self.hpa.config().sync_period;
        gcd_s(self.config.polling_interval, hpa)
    }

    fn wanted(&mut self, now: At, seen: &Scraped, wanted: &[u32]) -> Vec<u32> {
        let mut wanted = wanted.to_vec();
        let Some(current) = wanted.get_mut(self.config.pool) else { return wanted };
        if now >= self.next_poll {
            self.next_poll = now + self.config.polling_interval;
            *current = self.poll(now, seen, *current);
        }
        if now >= self.next_sync {
            self.next_sync = now + self.hpa.config().sync_period;
            *current = self.hpa.sync(now, seen, *current);
        }
        wanted
    }
}

/// The longest time that goes into both, in whole seconds; one where there is none.
fn gcd_s(one: Duration, other: Duration) -> Duration {
    let (mut a, mut b) = (one.as_secs(), other.as_secs());
    while b > 0 {
        (a, b) = (b, a % b);
    }
    Duration::from_secs(a.max(1))
}

#[cfg(test)]
mod tests {
    use super::super::hpa::tests::{seconds, seen};
    use super::super::signal::{Signal, Target};
    use super::*;

    #[test]
    fn from_none_to_one_by_activation_and_back_after_the_cooldown() {
        let waiting = Metric { signal: Signal::WaitingRequests, target: Target::AverageValue(5.0) };
        let mut keda = Keda::new(KedaConfig::new(vec![(waiting, 2.0)]));
        assert_eq!(keda.interval(), seconds(15));
        let mut current = 0;
        let mut at = |t, waiting| {
            current = keda.wanted(seconds(t), &seen(waiting, 0.0, current, 0), &[current])[0];
            current
        };
        assert_eq!(at(15, 9), 0, "it polls every 30 s");
        assert_eq!((at(30, 2), at(60, 3)), (0, 1), "2 is not more than the activation threshold");
        assert_eq!(at(75, 20), 4, "the rest is the HPA's");
        // Last active at 90.
        assert_eq!((at(90, 20), at(105, 0), at(375, 0)), (4, 4, 4));
        assert_eq!(
            (at(390, 0), at(420, 0)),
            (1, 0),
            "the HPA leaves one, the poll more than 300 s after 90 none"
        );
    }

    #[test]
    fn with_a_least_number_it_never_goes_to_zero() {
        let waiting = Metric { signal: Signal::WaitingRequests, target: Target::AverageValue(5.0) };
        let config = KedaConfig { min_replica_count: 2, ..KedaConfig::new(vec![(waiting, 0.0)]) };
        let mut keda = Keda::new(config);
        let mut current = 4;
        for t in 1..100 {
            current = keda.wanted(seconds(15 * t), &seen(0, 0.0, current, 0), &[current])[0];
        }
        assert_eq!(current, 2);
    }
}
