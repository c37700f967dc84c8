//! Kubernetes' Horizontal Pod Autoscaler, by its documentation (Horizontal Pod Autoscaling, autoscaling/v2, 1.33).

use std::collections::VecDeque;
use std::time::Duration;

use llmlab_core::request::At;

use super::signal::{Metric, Target};
use crate::cluster::{Controller, PoolState, Scraped};

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
    recommendations: VecDeque<(At, u32)>,
    /// Changes: when, and how many replicas more or fewer.
    changes: VecDeque<(At, i64)>,
}

impl Hpa {
    pub fn new(config: HpaConfig) -> Hpa {
        Hpa { config, recommendations: VecDeque::new(), changes: VecDeque::new() }
    }

    pub fn config(&self) -> &HpaConfig {
        &self.config
    }

    /// The number of replicas after this sync. With none it is switched off.
    pub fn sync(&mut self, now: At, seen: &Scraped, current: u32) -> u32 {
        if current == 0 {
            return 0;
        }
        let desired = self.desired(seen, current);
        let stable = self.stabilized(now, desired.unwrap_or(current), current);
        let limited = self.limited(now, current, stable);
        let next =
            limited.clamp(self.config.min_replicas, self.config.max_replicas.max(self.config.min_replicas));
        if next != current {
            self.changes.push_back((now, i64::from(next) - i64::from(current)));
        }
        next
    }

    /// By the metrics alone. None where there is nothing to go by; where a metric is missing nothing is taken away.
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

    /// No further than the policies allow from where their periods began.
    fn limited(&mut self, now: At, current: u32, desired: u32) -> u32 {
        let rules = if desired > current { &self.config.scale_up } else { &self.config.scale_down };
        let longest = |rules: &Rules| rules.policies.iter().map(|policy| policy.period()).max();
        let kept = longest(&self.config.scale_up).max(longest(&self.config.scale_down)).unwrap_or_default();
        while self.changes.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= kept) {
            self.changes.pop_front();
        }
        let up = desired > current;
        let allowed = rules.policies.iter().map(|policy| {
            let recent = self.changes.iter().filter(|(at, _)| now.saturating_sub(*at) < policy.period());
            let moved: i64 = recent.map(|(_, change)| *change).filter(|change| (*change > 0) == up).sum();
            policy.limit(i64::from(current) - moved, up)
        });
        let allowed = if up { allowed.max() } else { allowed.min() };
        match allowed {
            None => current,
            Some(limit) if up => desired.min(limit.max(current)),
            Some(limit) => desired.max(limit.min(current)),
        }
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

/// What one metric asks for.
fn proposal(target: Target, value: f64, state: PoolState, current: u32, tolerance: f64) -> u32 {
    let close = |ratio: f64| (ratio - 1.0).abs() <= tolerance;
    // The cast saturates, and NaN becomes 0. Products such as 1.1 x 10 must not be rounded up for their last bit.
    let whole = |replicas: f64| (replicas - 1e-9).ceil().max(0.0) as u32;
    match target {
        Target::AverageValue(target) => {
            let ratio = value / (target * f64::from(current));
            if close(ratio) { current } else { whole(value / target) }
        }
        Target::Value(target) => {
            let ratio = value / target;
            if close(ratio) { current } else { whole(ratio * f64::from(state.ready)) }
        }
        Target::Pods(target) => {
            let ratio = value / target;
            if ratio <= 1.0 || state.starting == 0 {
                return if close(ratio) { current } else { whole(ratio * f64::from(state.ready)) };
            }
            let all = f64::from(state.ready + state.starting);
            let with_idle = ratio * f64::from(state.ready) / all;
            if close(with_idle) || with_idle < 1.0 { current } else { whole(with_idle * all).max(current) }
        }
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::signal::Signal;
    use super::*;

    pub fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    pub fn seen(waiting: usize, kv_share: f64, ready: u32, starting: u32) -> Scraped {
        let pool = PoolState { ready, starting, waiting, kv_share, ..PoolState::default() };
        Scraped { window: seconds(15), pools: vec![pool], ..Scraped::default() }
    }

    fn hpa(target: Target) -> Hpa {
        let signal =
            if matches!(target, Target::AverageValue(_)) { Signal::WaitingRequests } else { Signal::KvUsage };
        Hpa::new(HpaConfig::new(1, 100, vec![Metric { signal, target }]))
    }

    /// The documentation's own: 200 where 100 is wanted doubles the replicas, 50 halves them. And its blog's example of
    /// 50 replicas at 90 % where 75 % is wanted: 60.
    #[test]
    fn replicas_are_in_the_ratio_of_value_and_target() {
        let pods = |value, current| {
            proposal(
                Target::Value(1.0),
                value,
                PoolState { ready: current, ..PoolState::default() },
                current,
                0.1,
            )
        };
        assert_eq!((pods(2.0, 3), pods(0.5, 4)), (6, 2));
        assert_eq!(pods(90.0 / 75.0, 50), 60);
        // Rounded up, and nothing within a tenth.
        assert_eq!((pods(1.2, 4), pods(1.09, 10), pods(0.91, 10), pods(0.89, 10)), (5, 10, 10, 9));
        let sum =
            |value, current| proposal(Target::AverageValue(5.0), value, PoolState::default(), current, 0.1);
        assert_eq!((sum(40.0, 4), sum(21.0, 4), sum(23.0, 4), sum(0.0, 4)), (8, 4, 5, 0));
    }

    /// Replicas that are not ready yet count as idle when it would scale up, and cannot turn the direction.
    #[test]
    fn starting_replicas_damp_scaling_up() {
        let with = |value, ready, starting| {
            let state = PoolState { ready, starting, ..PoolState::default() };
            proposal(Target::Pods(0.5), value, state, ready + starting, 0.1)
        };
        assert_eq!((with(1.0, 2, 0), with(1.0, 2, 1)), (4, 4));
        assert_eq!(with(1.0, 2, 2), 4, "4 x 0.5 is the target already");
        assert_eq!(with(0.6, 2, 3), 5, "it would go down: nothing happens");
        assert_eq!(with(0.25, 4, 2), 2, "ignored on the way down");
    }

    #[test]
    fn the_most_careful_of_five_minutes_is_taken_down_and_the_latest_up() {
        let mut hpa = hpa(Target::AverageValue(1.0));
        let mut current = 4;
        let mut at = |t, waiting| {
            current = hpa.sync(seconds(t), &seen(waiting, 0.0, current, 0), current);
            current
        };
        assert_eq!((at(0, 8), at(15, 2)), (8, 8));
        assert_eq!(at(285, 5), 8, "the 8 of the beginning still counts");
        assert_eq!((at(300, 3), at(315, 2)), (5, 5), "the most of the last 300 s is the 5");
        assert_eq!(at(330, 6), 6);
    }

    /// Up: doubling, or four more in 15 s, whichever is more. The documentation's example of down: ten percent a minute, or
    /// four pods, the larger; 80 replicas become 72, then 64 (of 72 ten percent are 8), and in the end four at a time.
    #[test]
    fn policies_limit_the_speed() {
        let mut up = hpa(Target::AverageValue(1.0));
        let mut current = 1;
        let mut path = Vec::new();
        for t in 0..4 {
            current = up.sync(seconds(15 * t), &seen(90, 0.0, current, 0), current);
            path.push(current);
        }
        assert_eq!(path, [5, 10, 20, 40]);
        // Within the period of the last change no more is added.
        assert_eq!(up.sync(seconds(50), &seen(90, 0.0, 40, 0), 40), 40);
        let minute = seconds(60);
        let mut config = hpa(Target::AverageValue(1.0)).config.clone();
        config.scale_down = Rules {
            stabilization_window: Duration::ZERO,
            policies: vec![
                ScalingPolicy::Pods { value: 4, period: minute },
                ScalingPolicy::Percent { value: 10, period: minute },
            ],
        };
        let mut down = Hpa::new(config);
        let (mut current, mut path) = (80, Vec::new());
        for t in 0..10 {
            current = down.sync(minute * t, &seen(10, 0.0, current, 0), current);
            path.push(current);
        }
        assert_eq!(path, [72, 64, 57, 51, 45, 40, 36, 32, 28, 24]);
        down.config.scale_down.policies.clear();
        assert_eq!(down.sync(minute * 20, &seen(10, 0.0, 24, 0), 24), 24, "switched off");
    }

    #[test]
    fn a_missing_metric_takes_nothing_away() {
        let mut hpa = hpa(Target::Pods(0.5));
        assert_eq!(hpa.sync(seconds(0), &seen(0, 0.0, 0, 3), 3), 3);
        hpa.config
            .metrics
            .push(Metric { signal: Signal::WaitingRequests, target: Target::AverageValue(1.0) });
        assert_eq!(
            hpa.sync(seconds(400), &seen(0, 0.0, 0, 3), 3),
            3,
            "one is missing, the other asks for less"
        );
        assert_eq!(
            hpa.sync(seconds(800), &seen(6, 0.0, 0, 3), 3),
            6,
            "one is missing, the other asks for more"
        );
        assert_eq!(hpa.sync(seconds(1200), &seen(50, 0.9, 3, 0), 0), 0, "none: switched off");
    }
}
