//! The ramp on servers with known limits.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use llmlab_loadgen::saturation::{Ramp, RampEnd, Throughput, find_saturation, step_workload};
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, Prompt, PromptStyle, WorkloadConfig, generate,
};
use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent};
use proptest::prelude::*;

fn reached(rps: f64) -> (Throughput, Duration) {
    (Throughput { rps, output_tokens_per_s: 10.0 * rps, failed: 0 }, Duration::from_secs(1))
}

#[test]
fn stops_when_more_users_bring_no_more() {
    // One user gets 2 requests per second; the server does 30.
    let found = find_saturation(&Ramp::default(), |users| {
        Ok::<_, Infallible>(reached((2.0 * f64::from(users)).min(30.0)))
    })
    .unwrap();
    let users: Vec<u32> = found.steps.iter().map(|s| s.users).collect();
    assert_eq!(users, [4, 8, 16, 32]);
    assert_eq!((found.rps, found.end), (30.0, RampEnd::NoGain));
    assert!(found.describe().contains("16 users 30.00 req/s"), "{}", found.describe());
}

#[test]
fn a_collapse_under_load_does_not_lower_the_result() {
    let found = find_saturation(&Ramp::default(), |users| {
        Ok::<_, Infallible>(reached(if users <= 16 { f64::from(users) } else { 3.0 }))
    })
    .unwrap();
    assert_eq!((found.rps, found.users, found.end), (16.0, 16, RampEnd::NoGain));
}

#[test]
fn limits_end_the_ramp_and_say_so() {
    let linear = |users: u32| Ok::<_, Infallible>(reached(f64::from(users)));
    let by_users = find_saturation(&Ramp { max_users: 20, ..Ramp::default() }, linear).unwrap();
    assert_eq!((by_users.users, by_users.end), (20, RampEnd::MaxUsers));
    let by_time =
        find_saturation(&Ramp { total_time: Duration::from_secs(2), ..Ramp::default() }, linear).unwrap();
    assert_eq!((by_time.steps.len(), by_time.end), (2, RampEnd::TimeUp));
    let dead = find_saturation(&Ramp::default(), |_| Ok::<_, Infallible>(reached(0.0))).unwrap();
    assert_eq!((dead.rps, dead.end, dead.steps.len()), (0.0, RampEnd::NothingCompleted, 1));
    let error =
        find_saturation(&Ramp::default(), |users| if users < 8 { Ok(reached(1.0)) } else { Err("gone") });
    assert_eq!(error, Err("gone"));
}

proptest! {
    #[test]
    fn always_ends_and_finds_the_best_step(rates in prop::collection::vec(0.0..100.0f64, 12), max_users in 1u32..300) {
        let ramp = Ramp { max_users, ..Ramp::default() };
        let mut next = rates.iter();
        let found = find_saturation(&ramp, |users| {
            assert!(users <= max_users);
            Ok::<_, Infallible>(reached(*next.next().unwrap()))
        })
        .unwrap();
        let best = found.steps.iter().map(|s| s.throughput.rps).fold(0.0, f64::max);
        prop_assert_eq!(found.rps, best);
    }
}

fn record(outcome: Outcome, tokens: u32) -> RequestRecord {
    RequestRecord {
        index: 0,
        scheduled_ns: 0,
        sent_ns: Some(0),
        connect_ns: None,
        resends: 0,
        headers_ns: None,
        first_byte_ns: None,
        role_ns: None,
        first_reasoning_ns: None,
        events: vec![TokenEvent { at_ns: 1, tokens }],
        done_ns: None,
        prompt_tokens_requested: 1,
        prompt_tokens: 1,
        prompt_tokens_source: CountSource::TokenIds,
        output_tokens_requested: 10,
        output_tokens: tokens,
        output_tokens_source: CountSource::Usage,
        outcome,
        turn: None,
        http_status: None,
        finish_reason: None,
        error: None,
    }
}

#[test]
fn a_cut_off_request_counts_by_its_share() {
    let records = [
        record(Outcome::Ok, 10),
        record(Outcome::Cancelled, 5),
        record(Outcome::Http, 3),
        record(Outcome::Timeout, 1),
    ];
    let t = Throughput::from_records(&records, Duration::from_secs(2));
    assert_eq!((t.rps, t.output_tokens_per_s, t.failed), (0.75, 7.5, 2));
}

/// A request of ten tokens, one every `ms_per_token`.
fn finished(scheduled_ms: u64, ms_per_token: u64) -> RequestRecord {
    let at_ns = |token: u64| (scheduled_ms + token * ms_per_token) * 1_000_000;
    RequestRecord {
        scheduled_ns: at_ns(0),
        events: (1..=10).map(|token| TokenEvent { at_ns: at_ns(token), tokens: 1 }).collect(),
        done_ns: Some(at_ns(10)),
        ..record(Outcome::Ok, 10)
    }
}

#[test]
fn the_tail_of_a_step_that_ran_out_of_requests_does_not_count() {
    // Two users. The last request is issued at 200 ms; from 300 ms on, one user is idle, from 1200 ms on both.
    let records = [finished(0, 10), finished(0, 20), finished(100, 20), finished(200, 100)];
    let t = Throughput::from_records(&records, Duration::from_millis(1200));
    // By 300 ms three requests are complete and the fourth has one token of ten.
    assert!((t.rps - 3.1 / 0.3).abs() < 1e-9 && (t.output_tokens_per_s - 31.0 / 0.3).abs() < 1e-9, "{t:?}");
}

#[test]
fn a_step_that_was_cut_off_counts_to_its_end() {
    let cut = |scheduled_ms: u64, tokens| RequestRecord {
        scheduled_ns: scheduled_ms * 1_000_000,
        ..record(Outcome::Cancelled, tokens)
    };
    let records = [finished(0, 10), finished(0, 20), cut(100, 6), cut(200, 4)];
    let t = Throughput::from_records(&records, Duration::from_millis(500));
    assert!((t.rps - 3.0 / 0.5).abs() < 1e-9, "{t:?}");
}

#[test]
fn a_step_has_requests_for_a_fast_server_too() {
    let requests = |tokens, users| step_workload(&measured(tokens), users).requests;
    assert_eq!([1, 4, 32, 256].map(|users| requests(400, users)), [2048, 2048, 2048, 256 * 64]);
    // Bounded by the size of the prompts, but never less than a few for each user.
    assert_eq!(requests(4096, 256), 4096);
    assert_eq!(requests(100_000, 256), 256 * 8);
    assert_eq!(requests(100_000, 4), 167);
}

#[test]
fn a_step_has_other_prompts_than_the_measured_run() {
    let measured = measured(20);
    let prompts = |config: &WorkloadConfig| {
        generate(config).unwrap().requests.into_iter().map(|r| match r.prompt {
            Prompt::Tokens(ids) => ids,
            other => panic!("asked for token ids, got {other:?}"),
        })
    };
    let four: HashSet<Vec<u32>> = prompts(&step_workload(&measured, 4)).collect();
    let eight: HashSet<Vec<u32>> = prompts(&step_workload(&measured, 8)).collect();
    assert!(prompts(&measured).all(|p| !four.contains(&p) && !eight.contains(&p)));
    assert!(four.is_disjoint(&eight));
}

fn measured(tokens: u32) -> WorkloadConfig {
    let fixed = LengthDist::Fixed { tokens };
    WorkloadConfig {
        seed: 1,
        requests: 10,
        lengths: Lengths::Independent { input: fixed.clone(), output: fixed },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 100_000),
        output_range: (1, 100_000),
        arrivals: Arrivals::Constant { rate_rps: 1.0 },
        prompts: PromptStyle::TokenIds { first: 0, end: 1000 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}
