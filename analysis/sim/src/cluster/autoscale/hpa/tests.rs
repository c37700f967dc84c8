//! Sequences by hand from the rules.

use super::super::signal::{Signal, Target};
use super::*;
use crate::cluster::PoolState;

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
    let sum = |value, current| proposal(Target::AverageValue(5.0), value, PoolState::default(), current, 0.1);
    assert_eq!((sum(40.0, 4), sum(21.0, 4), sum(23.0, 4), sum(0.0, 4)), (8, 4, 5, 0));
}

/// The controller compares the ratio with 1 - 0.1 and 1 + 0.1, ends included, and rounds products as they come.
#[test]
fn the_tolerance_and_the_rounding_are_those_of_the_controller() {
    let value = |value, ready| {
        proposal(Target::Value(1.0), value, PoolState { ready, ..PoolState::default() }, ready, 0.1)
    };
    assert_eq!((value(1.1, 10), value(0.9, 10)), (10, 10));
    assert_eq!((value(1.101, 10), value(0.899, 10)), (12, 9));
    assert_eq!(value(1.12, 25), 29, "25 x 1.12 is 28.000000000000004");
    let sum = |value, target| proposal(Target::AverageValue(target), value, PoolState::default(), 1, 0.1);
    assert_eq!(sum(0.9, 0.3), 3, "900 thousandths over 300");
    let draining = PoolState { ready: 2, draining: 2, ..PoolState::default() };
    assert_eq!(proposal(Target::Value(1.0), 2.0, draining, 2, 0.1), 8, "a pod that drains is ready");
}

/// Pods without a container count as idle when it would scale up and not at all on the way down; pods that load have no
/// metrics, and are on target on the way down. Neither can turn the direction.
#[test]
fn starting_replicas_damp_scaling() {
    let with = |value, ready, loading, pending| {
        let starting = loading + pending;
        let state = PoolState { ready, starting, pending, ..PoolState::default() };
        proposal(Target::Pods(0.5), value, state, ready + starting, 0.1)
    };
    for (loading, pending) in [(1, 0), (0, 1)] {
        assert_eq!(with(1.0, 2, loading, pending), 4);
        assert_eq!(with(1.0, 2, 2 * loading, 2 * pending), 4, "4 x 0.5 is the target already");
        assert_eq!(with(0.6, 2, 3 * loading, 3 * pending), 5, "it would go down: nothing happens");
        assert_eq!(with(0.5, 2, 3 * loading, 3 * pending), 5, "on target");
    }
    assert_eq!(with(1.0, 2, 0, 0), 4);
    assert_eq!(with(0.25, 4, 0, 2), 2, "half of four");
    assert_eq!(with(0.25, 4, 2, 0), 4, "four at a half and two at the whole: two thirds of six");
    assert_eq!(with(0.5, 0, 3, 0), 3, "nobody to ask");
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

/// What there was when a period began is what there is, less what was added and more what was removed since. Four pods a minute
/// up and two down: from 10 to 14; the period began with 10, so to 8 it may go; with 8 - 4 + 6 = 10 at its beginning it may
/// go up to 14 again.
#[test]
fn changes_of_both_directions_move_the_beginning_of_a_period() {
    let minute = seconds(60);
    let rules = |value| Rules {
        stabilization_window: Duration::ZERO,
        policies: vec![ScalingPolicy::Pods { value, period: minute }],
    };
    let mut config = hpa(Target::AverageValue(1.0)).config.clone();
    (config.scale_up, config.scale_down) = (rules(4), rules(2));
    let mut hpa = Hpa::new(config);
    let mut current = 10;
    let mut at = |t, waiting| {
        current = hpa.sync(seconds(t), &seen(waiting, 0.0, current, 0), current);
        current
    };
    assert_eq!((at(0, 40), at(15, 1), at(30, 40)), (14, 8, 14));
    assert_eq!(at(45, 40), 14, "14 - 10 + 6 are 10 again, and 14 are there");
}

/// The number at the first sync is a recommendation, and a sync without metrics leaves none.
#[test]
fn what_was_there_first_counts_and_what_was_not_measured_does_not() {
    let mut one = hpa(Target::AverageValue(1.0));
    let mut sync = |t, waiting, current| one.sync(seconds(t), &seen(waiting, 0.0, current, 0), current);
    assert_eq!((sync(0, 3, 8), sync(285, 3, 8), sync(300, 3, 8)), (8, 8, 3));
    let mut kv = hpa(Target::Pods(0.5));
    let mut sync = |t, share, ready| kv.sync(seconds(t), &seen(0, share, ready, 6 - ready), 6);
    // 6 pods at 0.25 of 0.5 are 3. The outage ends at 210 s; 300 s after the beginning only wishes of 3 are left.
    assert_eq!((sync(0, 0.25, 6), sync(15, 0.25, 6)), (6, 6));
    assert_eq!([30, 90, 150, 210].map(|t| sync(t, 0.0, 0)), [6; 4]);
    assert_eq!((sync(225, 0.25, 6), sync(300, 0.25, 6)), (6, 3));
}

#[test]
fn outside_of_its_limits_it_comes_back_at_once() {
    let mut hpa = hpa(Target::AverageValue(1.0));
    (hpa.config.min_replicas, hpa.config.max_replicas) = (10, 20);
    assert_eq!(hpa.sync(seconds(0), &seen(1, 0.0, 1, 0), 1), 10);
    assert_eq!(hpa.sync(seconds(15), &seen(90, 0.0, 40, 0), 40), 20, "no window holds it");
}

#[test]
fn a_missing_metric_takes_nothing_away() {
    let mut hpa = hpa(Target::Pods(0.5));
    assert_eq!(hpa.sync(seconds(0), &seen(0, 0.0, 0, 3), 3), 3);
    hpa.config.metrics.push(Metric { signal: Signal::WaitingRequests, target: Target::AverageValue(1.0) });
    assert_eq!(hpa.sync(seconds(400), &seen(0, 0.0, 0, 3), 3), 3, "one is missing, the other asks for less");
    assert_eq!(hpa.sync(seconds(800), &seen(6, 0.0, 0, 3), 3), 6, "one is missing, the other asks for more");
    assert_eq!(hpa.sync(seconds(1200), &seen(50, 0.9, 3, 0), 0), 0, "none: switched off");
}

#[test]
fn a_change_too_old_for_its_direction_is_overwritten() {
    let mut added = Changes::default();
    added.store(seconds(0), 3, seconds(15));
    added.store(seconds(15), 2, seconds(15));
    assert_eq!((added.within(seconds(15), seconds(60)), added.within(seconds(15), seconds(15))), (5, 2));
    added.store(seconds(16), 1, seconds(15));
    assert_eq!(
        added.within(seconds(16), seconds(60)),
        3,
        "the first one is gone, for the other direction too"
    );
}
