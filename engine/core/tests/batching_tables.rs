//! Policies `static` and `dynamic` on worked tables.

mod common;

use std::time::Duration;

use common::trace::{Arrival, arrival, trace};
use common::{outcome, request};
use llmlab_core::config::{
    DynamicConfig, EngineConfig, KvStrategy, PolicyConfig, StaticConfig, TimeoutAction,
};
use llmlab_core::request::{At, Request};
use llmlab_core::{Planned, Scheduler};

fn engine(policy: PolicyConfig) -> EngineConfig {
    EngineConfig { policy, kv: KvStrategy::Paged, block_size: 4, num_blocks: 65, max_model_len: 64 }
}

/// A line is: forward | rows computed | rows that carry a token | emits | finished.
fn check_static(batch_size: u32, arrivals: Vec<Arrival>, table: &str) {
    let config = StaticConfig { batch_size, max_queue_delay: Duration::ZERO };
    let (rows, _) = trace(engine(PolicyConfig::Static(config)), arrivals);
    let got = rows
        .iter()
        .map(|r| format!("{} | {} | {} | {} | {}", r.step, r.width, r.useful, r.emits, r.finished));
    let want = table.lines().map(str::trim).filter(|line| !line.is_empty());
    assert_eq!(got.collect::<Vec<_>>(), want.collect::<Vec<_>>());
}

#[test]
fn s1_prompts_are_padded_and_finished_rows_stay() {
    check_static(
        4,
        vec![arrival("A", 10, 4), arrival("B", 12, 4), arrival("C", 6, 2)],
        "
        1 | 36 | 28 | A,B,C | -
        2 | 3 | 3 | A,B,C | C
        3 | 3 | 2 | A,B | -
        4 | 3 | 2 | A,B | A,B",
    );
}

#[test]
fn s2_the_next_batch_waits_for_the_longest_request() {
    check_static(
        2,
        vec![arrival("A", 4, 3), arrival("B", 4, 1), arrival("C", 8, 2), arrival("D", 2, 2)],
        "
        1 | 8 | 8 | A,B | B
        2 | 2 | 1 | A | -
        3 | 2 | 1 | A | A
        4 | 16 | 10 | C,D | -
        5 | 2 | 2 | C,D | C,D",
    );
}

#[test]
fn s3_a_request_that_just_missed_the_batch_waits_for_its_end() {
    check_static(
        4,
        vec![arrival("A", 4, 4), arrival("B", 4, 2).at_step(2)],
        "
        1 | 4 | 4 | A | -
        2 | 1 | 1 | A | -
        3 | 1 | 1 | A | -
        4 | 1 | 1 | A | A
        5 | 4 | 4 | B | -
        6 | 1 | 1 | B | B",
    );
}

/// 256 tokens of memory: by blocks all would fit together, but the long prompt pads each row beside it to 60.
#[test]
fn s4_a_long_prompt_pads_only_as_many_rows_as_the_pool_has_tokens() {
    let names = ["B", "C", "D", "E", "F"];
    let arrivals = [arrival("A", 60, 1)].into_iter().chain(names.map(|name| arrival(name, 4, 1)));
    check_static(
        8,
        arrivals.collect(),
        "
        1 | 240 | 72 | A,B,C,D | A,B,C,D
        2 | 8 | 8 | E,F | E,F",
    );
    // The request that would stretch the rectangle too far waits, not those before it.
    let arrivals = names.map(|name| arrival(name, 4, 1)).into_iter().chain([arrival("A", 60, 1)]);
    check_static(
        8,
        arrivals.collect(),
        "
        1 | 20 | 20 | B,C,D,E,F | B,C,D,E,F
        2 | 60 | 60 | A | A",
    );
}

fn micros(us: u64) -> At {
    Duration::from_micros(us)
}

/// When batches are sent and how large they are, for requests of one forward of 1000 us each.
fn sent(preferred: &[u32], delay_us: u64, arrivals_us: &[u64]) -> Vec<(u64, usize)> {
    let config = DynamicConfig {
        max_batch_size: 8,
        preferred_batch_size: preferred.to_vec(),
        max_queue_delay: micros(delay_us),
        ..DynamicConfig::default()
    };
    let arrivals: Vec<(u64, i32)> = arrivals_us.iter().map(|us| (*us, 0)).collect();
    batches(config, &arrivals).0.into_iter().map(|(at, ids)| (at, ids.len())).collect()
}

/// When which requests are sent, and who was rejected, for arrivals with a priority.
fn batches(config: DynamicConfig, arrivals: &[(u64, i32)]) -> (Vec<(u64, Vec<u64>)>, usize) {
    let mut scheduler = Scheduler::new(engine(PolicyConfig::Dynamic(config))).unwrap();
    let mut coming = arrivals.iter().enumerate().peekable();
    let (mut now, mut batches, mut rejected) = (0, Vec::new(), 0);
    loop {
        while let Some((i, &(us, priority))) = coming.next_if(|(_, (us, _))| *us <= now) {
            let request = Request { priority, ..request(i as u64, vec![1, 2, 3], 1) };
            scheduler.enqueue_arrived(micros(now), micros(us), request).unwrap();
        }
        let planned = scheduler.plan(micros(now));
        rejected += scheduler.take_expired().len();
        match planned {
            Planned::Step(plan) => {
                batches.push((now, plan.seqs.iter().map(|seq| seq.id.0).collect()));
                now += 1000;
                scheduler.commit(micros(now), &plan, &outcome(&plan, |_| 7));
            }
            Planned::WaitUntil(until) => {
                let until = until.as_micros() as u64;
                now = coming.peek().map_or(until, |(_, (us, _))| until.min(*us));
            }
            Planned::Idle => match coming.peek() {
                Some((_, (us, _))) => now = *us,
                None => return (batches, rejected),
            },
        }
    }
}

#[test]
fn d1_a_preferred_size_is_sent_at_once_and_a_late_request_alone() {
    assert_eq!(sent(&[4, 8], 100, &[0, 10, 20, 30, 40]), [(30, 4), (1030, 1)]);
}

#[test]
fn d2_the_delay_ends_the_wait_for_a_preferred_size() {
    assert_eq!(sent(&[4, 8], 100, &[0, 10]), [(100, 2)]);
}

#[test]
fn d3_without_delay_whatever_is_there_is_sent() {
    assert_eq!(sent(&[], 0, &[0, 10, 20, 30, 40]), [(0, 1), (1000, 4)]);
}

#[test]
fn an_exceeded_delay_sends_more_than_the_preferred_size() {
    // Six wait when the first batch is done; the delay of the oldest is long over, so all go, not only four.
    assert_eq!(sent(&[4], 100, &[0, 110, 111, 112, 113, 114, 115]), [(100, 1), (1100, 6)]);
}

/// The first runs alone until 1000. Level 1 goes first; who names no level, or one there is not, has level 2.
#[test]
fn priority_levels_are_served_in_order() {
    let config = DynamicConfig {
        max_batch_size: 2,
        priority_levels: 3,
        default_priority_level: 2,
        ..DynamicConfig::default()
    };
    let arrivals = [(0, 0), (10, 3), (20, 1), (30, 0), (40, 9)];
    assert_eq!(batches(config, &arrivals), (vec![(0, vec![0]), (1000, vec![2, 3]), (2000, vec![4, 1])], 0));
}

/// The first runs until 1000. By then the second has waited for 900 and the third for 300.
#[test]
fn a_request_that_waits_too_long_is_delayed_or_rejected() {
    let config = |timeout_action| DynamicConfig {
        max_batch_size: 1,
        default_timeout: micros(500),
        timeout_action,
        ..DynamicConfig::default()
    };
    let arrivals = [(0, 0), (100, 0), (700, 0)];
    let delayed = batches(config(TimeoutAction::Delay), &arrivals);
    assert_eq!(delayed, (vec![(0, vec![0]), (1000, vec![2]), (2000, vec![1])], 0));
    let rejected = batches(config(TimeoutAction::Reject), &arrivals);
    assert_eq!(rejected, (vec![(0, vec![0]), (1000, vec![2])], 1));
}

/// Nobody else comes: the wait for a preferred size ends at the timeout, not at the longer delay.
#[test]
fn a_timeout_ends_a_wait_for_company() {
    let config = DynamicConfig {
        max_batch_size: 4,
        preferred_batch_size: vec![4],
        max_queue_delay: micros(800),
        default_timeout: micros(300),
        ..DynamicConfig::default()
    };
    assert_eq!(batches(config, &[(0, 0), (200, 0)]), (vec![], 2));
}
