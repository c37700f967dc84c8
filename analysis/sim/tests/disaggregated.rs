//! Prefill and decode in replicas of their own: one request by hand, what the parts do to each other, and that nothing is lost.

mod common;

use std::time::Duration;

use common::cluster::{GPU, Linear, pool};
use common::{Kept, fixed, patient, vllm, workload};
use llmlab_loadgen::{Arrivals, Timeouts, Workload};
use llmlab_results::record::RequestRecord;
use llmlab_sim::Overhead;
use llmlab_sim::cluster::{
    ClusterConfig, ClusterOutcome, Failures, KvTransfer, Pool, Retry, Role, ServedBy, simulate_with,
};

const MS: Duration = Duration::from_millis(1);

fn apart(prefill: u32, decode: u32, cost: Linear) -> ClusterConfig {
    let part = |role, replicas| Pool { role, ..pool(vllm(16, 400), cost, replicas) };
    let pools = vec![part(Role::Prefill, prefill), part(Role::Decode, decode)];
    // 1000 bytes a token at 1 MB/s: a millisecond a token.
    let kv_transfer =
        KvTransfer { bytes_per_token: 1e3, bytes_per_s: 1e6, latency: 2 * MS, ..KvTransfer::INSTANT };
    ClusterConfig { seed: 1, kv_transfer, ..ClusterConfig::new(pools, patient()) }
}

fn run(config: &ClusterConfig, load: &Workload) -> (ClusterOutcome, Vec<RequestRecord>) {
    let mut kept = Kept::default();
    let outcome = simulate_with(config, load, None, Some(&mut kept)).unwrap();
    (outcome, kept.0)
}

#[test]
fn one_request_by_hand() {
    let mut config = apart(1, 1, Linear { step_us: 1000, row_us: 100, key_ns: 0, foresees: true });
    for pool in &mut config.pools {
        pool.overhead = Overhead { request_s: 5e-3, delivery_s: 0.5e-3, ..Overhead::NONE };
    }
    let (outcome, records) = run(&config, &fixed(1, Arrivals::Constant { rate_rps: 1.0 }, 30, 3));
    // There after 5 ms, a prompt of 1 + 30 x 0.1 ms, 0.5 ms until the router knows: 9.5. Keys and values in 30 + 2 ms, the request
    // into the queue in 5 more: 46.5. Then a row a step, the first of them the last token of the prompt: 1.1 ms each, and 0.5 ms.
    let at: Vec<u64> = records[0].events.iter().map(|event| event.at_ns / 1000).collect();
    assert_eq!(at, [48_100, 49_200, 50_300]);
    assert_eq!(outcome.requests[0].served_by, ServedBy::Replica(1));
    let requests: Vec<u64> = outcome.replicas.iter().map(|replica| replica.requests).collect();
    assert_eq!(requests, [1, 1]);
    assert_eq!(outcome.replicas.iter().map(|replica| replica.steps).collect::<Vec<_>>(), [1, 3]);
}

/// A replica sends the keys and values of one prompt after those of the other.
#[test]
fn transfers_of_a_replica_follow_each_other() {
    let config = apart(1, 2, Linear { step_us: 1000, row_us: 0, key_ns: 0, foresees: true });
    let load = fixed(2, Arrivals::Closed { users: 2, think_time: Duration::ZERO }, 30, 1);
    let (_, mut records) = run(&config, &load);
    records.sort_by_key(|record| record.index);
    // Both prompts are done after 1 ms; 30 ms on the wire each, 2 ms of latency, a step.
    let first: Vec<u64> = records.iter().map(|record| record.events[0].at_ns / 1_000_000).collect();
    assert_eq!(first, [34, 64]);
}

/// Prompts of others do not make a decode wait: the gaps between tokens are decode steps.
#[test]
fn prompts_do_not_disturb_answers() {
    let load = fixed(300, Arrivals::Poisson { rate_rps: 20.0 }, 300, 20);
    let gaps = |records: &[RequestRecord]| -> u64 {
        let longest = |record: &RequestRecord| {
            record.events.windows(2).map(|pair| pair[1].at_ns - pair[0].at_ns).max().unwrap_or(0)
        };
        records.iter().map(longest).max().unwrap_or(0)
    };
    let (_, separate) = run(&apart(2, 2, GPU), &load);
    let whole = ClusterConfig { seed: 1, ..ClusterConfig::new(vec![pool(vllm(16, 400), GPU, 4)], patient()) };
    let (_, together) = run(&whole, &load);
    // A step of 16 rows and as many contexts of 320 at most, and the first step of a newcomer: under 8 ms; a prompt takes 20.
    assert!(gaps(&separate) < 8_000_000, "{}", gaps(&separate));
    assert!(gaps(&together) > 15_000_000, "{}", gaps(&together));
}

#[test]
fn no_request_is_lost_or_counted_twice() {
    let impatient = Timeouts { first_token: 120 * MS, ..patient() };
    for arrivals in [
        Arrivals::Poisson { rate_rps: 40.0 },
        Arrivals::Gamma { rate_rps: 30.0, cv: 3.0 },
        Arrivals::Closed { users: 25, think_time: 5 * MS },
    ] {
        let load = workload(300, arrivals);
        for (timeouts, failures) in [
            (patient(), None),
            (impatient, None),
            (patient(), Some(Failures { mtbf: 2 * 1000 * MS, mttr: 50 * MS })),
        ] {
            let mut config = ClusterConfig { timeouts, ..apart(2, 3, GPU) };
            config.retry = Retry { attempts: 3, ..Retry::default() };
            config.pools.iter_mut().for_each(|pool| pool.failures = failures);
            let (outcome, records) = run(&config, &load);
            assert_eq!(outcome.requests.len(), 300);
            assert_eq!(records.len(), 300);
            assert!(outcome.little.relative_gap().abs() < 1e-6, "{:?}", outcome.little);
            for (place, request) in outcome.requests.iter().enumerate() {
                assert_eq!(request.index, place as u64);
                assert!(request.arrival <= request.end);
            }
            let (again, _) = run(&config, &load);
            assert_eq!(again.requests, outcome.requests);
        }
    }
}

/// Stretches and replicas that are left alone change nothing.
#[test]
fn what_is_skipped_changes_nothing() {
    for arrivals in [Arrivals::Poisson { rate_rps: 40.0 }, Arrivals::Closed { users: 12, think_time: 5 * MS }]
    {
        let load = workload(300, arrivals);
        let of = |foresees| run(&apart(1, 2, Linear { foresees, ..GPU }), &load).0.requests;
        assert_eq!(of(true), of(false));
    }
}

/// One prefill replica takes 1 / (5 ms + 400 x 0.05 ms) = 40 prompts a second in steps of their own, more in shared ones.
#[test]
fn the_pool_that_is_too_small_is_the_one_that_is_busy() {
    let load = fixed(1500, Arrivals::Poisson { rate_rps: 60.0 }, 400, 4);
    let fast = |prefill| ClusterConfig { kv_transfer: KvTransfer::INSTANT, ..apart(prefill, 4, GPU) };
    let (few, _) = run(&fast(1), &load);
    assert!(few.stability.utilisation.is_some_and(|utilisation| utilisation > 1.0), "{:?}", few.stability);
    let busy: Vec<f64> = few.replicas.iter().map(|replica| replica.utilisation).collect();
    assert!(busy[0] > 0.98 && busy[1] < 0.6, "{busy:?}");
    let (enough, _) = run(&fast(3), &load);
    assert_eq!(enough.stability.verdict, llmlab_sim::cluster::Verdict::Stable);
}

#[test]
fn roles_that_do_not_go_together_are_refused() {
    let load = fixed(1, Arrivals::Constant { rate_rps: 1.0 }, 30, 3);
    let refused = |config: &ClusterConfig| simulate_with(config, &load, None, None).unwrap_err().to_string();
    let mut config = apart(1, 1, GPU);
    config.pools[1].role = Role::Prefill;
    assert!(refused(&config).contains("role"), "{}", refused(&config));
    config.pools[1].role = Role::Whole;
    assert!(refused(&config).contains("Prefill for some"));
    let mut config = apart(1, 1, GPU);
    config.kv_transfer.bytes_per_s = 0.0;
    assert!(refused(&config).contains("bytes_per_s"));
}
