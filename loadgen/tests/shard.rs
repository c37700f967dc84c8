//! The shards of a schedule together are the schedule of one machine, byte for byte.

use std::time::Duration;

use llmlab_loadgen::shard::{ShardError, schedule_digest};
use llmlab_loadgen::{
    Adapters, Arrivals, LengthDist, Lengths, Mode, PlannedRequest, Popularity, Prefixes, PromptStyle, Shard,
    Workload, WorkloadConfig, generate,
};
use proptest::prelude::*;

fn config(seed: u64, requests: u64, arrivals: Arrivals) -> WorkloadConfig {
    WorkloadConfig {
        seed,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Lognormal { median: 20.0, p95: 60.0 },
            output: LengthDist::Uniform { min: 2, max: 30 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 100),
        output_range: (1, 50),
        arrivals,
        prompts: PromptStyle::TokenIds { first: 5, end: 505 },
        prefixes: Prefixes::Each { count: 3, tokens: 8, popularity: Popularity::Zipf { exponent: 1.0 } },
        adapters: Some(Adapters { names: vec!["a".into(), "b".into()], popularity: Popularity::Uniform }),
        sessions: None,
        abandonment: None,
    }
}

fn shards(whole: &Workload, total: u32) -> Vec<Workload> {
    (0..total).map(|index| Shard::new(index, total).unwrap().of(whole).unwrap()).collect()
}

fn union(parts: &[Workload]) -> Vec<PlannedRequest> {
    let mut requests: Vec<PlannedRequest> = parts.iter().flat_map(|part| part.requests.clone()).collect();
    requests.sort_by_key(|request| request.index);
    requests
}

proptest! {
    #[test]
    fn shards_of_an_open_loop_are_its_schedule(seed: u64, requests in 40_u64..120, total in 1_u32..=40) {
        let whole = generate(&config(seed, requests, Arrivals::Poisson { rate_rps: 50.0 })).unwrap();
        let parts = shards(&whole, total);
        prop_assert_eq!(union(&parts), whole.requests.clone());
        for (shard, part) in parts.iter().enumerate() {
            prop_assert!(part.requests.is_sorted_by_key(|request| request.at));
            prop_assert!(part.requests.iter().all(|r| r.index % u64::from(total) == shard as u64));
        }
        // What is put together again has the fingerprint of the whole.
        let again = Workload { requests: union(&parts), ..whole.clone() };
        prop_assert_eq!(schedule_digest(&again), schedule_digest(&whole));
    }

    #[test]
    fn shards_of_a_closed_loop_deal_out_users_and_requests_alike(
        seed: u64, users in 1_u32..30, rounds in 1_u64..6, total in 1_u32..=30,
    ) {
        let think_time = Duration::from_millis(7);
        let requests = rounds * u64::from(users);
        let whole = generate(&config(seed, requests, Arrivals::Closed { users, think_time })).unwrap();
        if total > users {
            let refused = Shard::new(0, total).unwrap().of(&whole);
            let (what, have) = match requests < u64::from(total) {
                true => ("requests", requests),
                false => ("users", u64::from(users)),
            };
            prop_assert_eq!(refused, Err(ShardError::TooFew { what, have, total }));
            return Ok(());
        }
        let parts = shards(&whole, total);
        prop_assert_eq!(union(&parts), whole.requests);
        let mut dealt = 0;
        for part in &parts {
            let Mode::Closed { users, think_time: same } = part.mode else { panic!("{:?}", part.mode) };
            prop_assert_eq!(same, think_time);
            prop_assert_eq!(part.requests.len() as u64, rounds * u64::from(users));
            dealt += users;
        }
        prop_assert_eq!(dealt, users);
    }
}

#[test]
fn the_digest_sees_every_part_of_a_request() {
    let whole = generate(&config(1, 4, Arrivals::Constant { rate_rps: 10.0 })).unwrap();
    let digest = schedule_digest(&whole);
    let changed = |change: &dyn Fn(&mut PlannedRequest)| {
        let mut other = whole.clone();
        change(&mut other.requests[2]);
        schedule_digest(&other)
    };
    assert_eq!(changed(&|_| {}), digest);
    for other in [
        changed(&|r| r.at += Duration::from_nanos(1)),
        changed(&|r| r.max_tokens += 1),
        changed(&|r| r.adapter = None),
        changed(&|r| r.index += 100),
        schedule_digest(&generate(&config(2, 4, Arrivals::Constant { rate_rps: 10.0 })).unwrap()),
        schedule_digest(&generate(&config(1, 5, Arrivals::Constant { rate_rps: 10.0 })).unwrap()),
    ] {
        assert_ne!(other, digest);
    }
}

#[test]
fn a_shard_is_written_index_of_total_from_zero() {
    for (typed, index, total) in [("0/1", 0, 1), ("3/4", 3, 4), ("0/10000", 0, 10_000)] {
        let shard: Shard = typed.parse().unwrap();
        assert_eq!((shard.index(), shard.total(), shard.to_string()), (index, total, typed.to_owned()));
    }
    for typed in ["", "/", "1", "4/4", "1/0", "-1/4", "0/10001", "a/4", "1/4/4", " 1/4", "99999999999/4"] {
        let error = typed.parse::<Shard>().unwrap_err().to_string();
        assert!(error.contains("INDEX/TOTAL"), "{typed}: {error}");
    }
}

#[test]
fn a_schedule_with_fewer_requests_than_shards_is_refused() {
    let whole = generate(&config(1, 3, Arrivals::Poisson { rate_rps: 5.0 })).unwrap();
    for index in 0..4 {
        let refused = Shard::new(index, 4).unwrap().of(&whole);
        assert_eq!(refused, Err(ShardError::TooFew { what: "requests", have: 3, total: 4 }), "{index}");
    }
}
