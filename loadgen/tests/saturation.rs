//! The ramp on servers with known limits.

use std::convert::Infallible;
use std::time::Duration;

use llmlab_loadgen::saturation::{Ramp, RampEnd, Throughput, find_saturation, step_workload};
use llmlab_loadgen::{Arrivals, LengthDist, Lengths, PromptStyle, WorkloadConfig, generate};
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

#[test]
fn a_step_has_other_prompts_than_the_measured_run() {
    let fixed = LengthDist::Fixed { tokens: 20 };
    let measured = WorkloadConfig {
        seed: 1,
        requests: 10,
        lengths: Lengths::Independent { input: fixed.clone(), output: fixed },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 100),
        output_range: (1, 100),
        arrivals: Arrivals::Constant { rate_rps: 1.0 },
        prompts: PromptStyle::TokenIds { first: 0, end: 1000 },
        shared_prefix_tokens: 0,
    };
    let prompts = |config: &WorkloadConfig| generate(config).unwrap().requests.into_iter().map(|r| r.prompt);
    let four: Vec<_> = prompts(&step_workload(&measured, 4)).collect();
    let eight: Vec<_> = prompts(&step_workload(&measured, 8)).collect();
    assert!(prompts(&measured).all(|p| !four.contains(&p) && !eight.contains(&p)));
    assert!(four.iter().all(|p| !eight.contains(p)));
}
