//! Kubernetes' Horizontal Pod Autoscaler: the rules of its controller (pkg/controller/podautoscaler, autoscaling/v2 with
//! `behavior`, 1.33).

mod changes;
mod proposal;
#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use llmlab_core::request::At;

use self::changes::Changes;
use self::proposal::proposal;
use super::signal::Metric;
use crate::cluster::{Controller, Scraped};

#[derive(Debug, Clone, PartialEq)]
pub struct HpaConfig {
    /// The place of the pool in the cluster.
    pub pool: usize,
    pub min_replicas: u32,
    pub max_replicas: u32,
    /// The largest number that any of them asks for is taken.
    pub metrics: Vec<Metric>,
    /// Nothing changes while the ratio to the target is within this of 1.
    pub tolerance: f64,
    pub sync_period: Duration,
    pub scale_up: Rules,
    pub scale_down: Rules,
}

/// `behavior.scaleUp` or `behavior.scaleDown`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The most careful recommendation of this time counts.
    pub stabilization_window: Duration,
    /// The one that allows the most counts (`selectPolicy: Max`); none at all: this direction is switched off.
    pub policies: Vec<ScalingPolicy>,
}

/// How much may change in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalingPolicy {
    Percent { value: u32, period: Duration },
    Pods { value: u32, period: Duration },
}

const PERIOD: Duration = Duration::from_secs(15);

impl HpaConfig {
    /// Kubernetes' defaults.
    pub fn new(min_replicas: u32, max_replicas: u32, metrics: Vec<Metric>) -> HpaConfig {
        let all = ScalingPolicy::Percent { value: 100, period: PERIOD };
        let four = ScalingPolicy::Pods { value: 4, period: PERIOD };
        HpaConfig {
            pool: 0,
            min_replicas,
            max_replicas,
            metrics,
            tolerance: 0.1,
            sync_period: PERIOD,
            scale_up: Rules { stabilization_window: Duration::ZERO, policies: vec![all, four] },
            scale_down: Rules { stabilization_window: Duration::from_secs(300), policies: vec![all] },
        }
    }
}

#[derive(Debug)]
pub struct Hpa {
    config: HpaConfig,
    /// What the metrics asked for; the first is what there was at the first sync. Never empty after it.
    recommendations: VecDeque<(At, u32)>,
    added: Changes,
    removed: Changes,
}

impl Hpa {
    pub fn new(config: HpaConfig) -> Hpa {
        Hpa {
            config,
            recommendations: VecDeque::new(),
            added: Changes::default(),
            removed: Changes::default(),
        }
    }

    pub fn config(&self) -> &HpaConfig {
        &self.config
    }

    /// The number of replicas after this sync. With none it is switched off.
    pub fn sync(&mut self, now: At, seen: &Scraped, current: u32) -> u32 {
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, current));
        }
        if current == 0 {
            return 0;
        }
        let least = self.config.min_replicas;
        let most = self.config.max_replicas.max(least);
        let next = if (least..=most).contains(&current) {
            // A sync without an answer leaves no recommendation either.
            let Some(desired) = self.desired(seen, current) else { return current };
            let stable = self.stabilized(now, desired, current);
            self.limited(now, current, stable).clamp(least, most)
        } else {
            current.clamp(least, most)
        };
        if next > current {
            self.added.store(now, next - current, self.config.scale_up.longest_period());
        } else if next < current {
            self.removed.store(now, current - next, self.config.scale_down.longest_period());
        }
        next
    }

    /// By the metrics alone. None where there is nothing to go by: no metric at all, or one is missing and the others would
    /// take replicas away.
    fn desired(&self, seen: &Scraped, current: u32) -> Option<u32> {
        let state = seen.pools.get(self.config.pool).copied().unwrap_or_default();
        let (mut most, mut missing) = (None, false);
        for metric in &self.config.metrics {
            match metric.signal.value(seen, self.config.pool) {
                Some(value) => {
                    most =
                        most.max(Some(proposal(metric.target, value, state, current, self.config.tolerance)));
                }
                None => missing = true,
            }
        }
        most.filter(|desired| !missing || *desired >= current)
    }

    fn stabilized(&mut self, now: At, desired: u32, current: u32) -> u32 {
        let (up, down) =
            (self.config.scale_up.stabilization_window, self.config.scale_down.stabilization_window);
        while self.recommendations.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= up.max(down)) {
            self.recommendations.pop_front();
        }
        let within = |window: Duration| {
            let recent = self.recommendations.iter().filter(move |(at, _)| now.saturating_sub(*at) < window);
            recent.map(|(_, desired)| *desired)
        };
        let fewest = within(up).fold(desired, u32::min);
        let most = within(down).fold(desired, u32::max);
        self.recommendations.push_back((now, desired));
        current.clamp(fewest, most)
    }

    /// No further than the policies allow from where their periods began. What there was then follows from the changes of
    /// both directions.
    fn limited(&self, now: At, current: u32, desired: u32) -> u32 {
        let up = desired > current;
        let rules = if up { &self.config.scale_up } else { &self.config.scale_down };
        let allowed = rules.policies.iter().map(|policy| {
            let period = policy.period();
            let start =
                i64::from(current) - self.added.within(now, period) + self.removed.within(now, period);
            policy.limit(start, up)
        });
        let allowed = if up { allowed.max() } else { allowed.min() };
        match allowed {
            None => current,
            Some(limit) if up => desired.min(limit.max(current)),
            Some(limit) => desired.max(limit.min(current)),
        }
    }
}

impl Rules {
    fn longest_period(&self) -> Duration {
        self.policies.iter().map(|policy| policy.period()).max().unwrap_or_default()
    }
}

impl ScalingPolicy {
    fn period(self) -> Duration {
        match self {
            ScalingPolicy::Percent { period, .. } | ScalingPolicy::Pods { period, .. } => period,
        }
    }

    /// From so many at the start of the period. Kubernetes rounds both up and down to the farther number.
    fn limit(self, start: i64, up: bool) -> u32 {
        let limit = match (self, up) {
            (ScalingPolicy::Pods { value, .. }, true) => start + i64::from(value),
            (ScalingPolicy::Pods { value, .. }, false) => start - i64::from(value),
            (ScalingPolicy::Percent { value, .. }, true) => {
                (start as f64 * (1.0 + f64::from(value) / 100.0)).ceil() as i64
            }
            (ScalingPolicy::Percent { value, .. }, false) => {
                (start as f64 * (1.0 - f64::from(value) / 100.0)).floor() as i64
            }
        };
        u32::try_from(limit.max(0)).unwrap_or(u32::MAX)
    }
}

impl Controller for Hpa {
    fn interval(&self) -> Duration {
        self.config.sync_period
    }

    fn wanted(&mut self, now: At, seen: &Scraped, wanted: &[u32]) -> Vec<u32> {
        let mut wanted = wanted.to_vec();
        if let Some(current) = wanted.get(self.config.pool).copied() {
            wanted[self.config.pool] = self.sync(now, seen, current);
        }
        wanted
    }
}
