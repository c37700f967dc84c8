//! Virtual time: records as live clients would write them, the same ones every time.

mod common;

use std::time::Duration;

use common::{Fixed, Kept, fixed, patient, scheduler, vllm, workload};
use llmlab_core::engine::Engine;
use llmlab_loadgen::{Arrivals, Ended, Silent, Timeouts, Workload};
use llmlab_results::record::{Outcome, RequestRecord};
use llmlab_results::step::StepRow;
use llmlab_sim::{Facts, Options, Overhead, RooflineExecutor, simulate};

const MS: Duration = Duration::from_millis(1);

fn engine(config: &llmlab_core::config::EngineConfig, step: Duration) -> Engine<RooflineExecutor> {
    Engine::new(scheduler(config), RooflineExecutor::new(Box::new(Fixed(step)), 1, 500))
}

fn run(
    workload: &Workload,
    config: &llmlab_core::config::EngineConfig,
    step: Duration,
    options: Options<'_>,
) -> (Facts, Vec<RequestRecord>) {
    let mut sink = Kept::default();
    let facts =
        simulate(workload, &mut engine(config, step), options, &mut sink, &Silent, &|| false).unwrap();
    (facts, sink.0)
}

#[test]
fn one_request_by_hand() {
    let overhead = Overhead {
        request_s: 2e-3,
        prompt_token_s: 1e-4,
        step_s: 3e-3,
        step_token_s: 1e-3,
        delivery_s: 5e-4,
        ..Overhead::NONE
    };
    let load = fixed(1, Arrivals::Constant { rate_rps: 1.0 }, 30, 3);
    let options = Options { overhead, ..Options::new(patient()) };
    let (facts, records) = run(&load, &vllm(4, 100), 10 * MS, options);
    // At the scheduler after 2 + 30 x 0.1 ms; steps end at 15, 29, 43 ms (10 ms, then 3 + 1 between); 0.5 ms to the client.
    let at: Vec<u64> = records[0].events.iter().map(|event| event.at_ns).collect();
    assert_eq!(at, [15_500_000, 29_500_000, 43_500_000]);
    assert_eq!(records[0].done_ns, Some(43_500_000));
    assert_eq!((records[0].outcome, records[0].output_tokens), (Outcome::Ok, 3));
    assert_eq!(facts.elapsed, Duration::from_micros(43_500));
    assert_eq!((facts.issued, facts.steps, facts.ended), (1, 3, Ended::Complete));
}

#[test]
fn every_request_ends_once_and_times_are_in_order() {
    for arrivals in [
        Arrivals::Poisson { rate_rps: 40.0 },
        Arrivals::Gamma { rate_rps: 20.0, cv: 3.0 },
        Arrivals::Closed { users: 7, think_time: 5 * MS },
    ] {
        let load = workload(200, arrivals.clone());
        let mut steps: Vec<StepRow> = Vec::new();
        let options = Options { steps: Some(&mut steps), ..Options::new(patient()) };
        // Few blocks, so that preemption happens too.
        let (facts, records) = run(&load, &vllm(16, 60), 10 * MS, options);
        assert_eq!((facts.issued, facts.ended), (200, Ended::Complete), "{arrivals:?}");
        let mut indices: Vec<u64> = records.iter().map(|record| record.index).collect();
        indices.sort();
        assert_eq!(indices, (0..200).collect::<Vec<_>>());
        for record in &records {
            assert_eq!(record.outcome, Outcome::Ok, "{record:?}");
            let stages: Vec<u64> = [Some(record.scheduled_ns), record.sent_ns, record.headers_ns]
                .into_iter()
                .flatten()
                .chain(record.events.iter().map(|event| event.at_ns))
                .chain(record.done_ns)
                .collect();
            assert!(stages.is_sorted(), "{record:?}");
        }
        assert_eq!(steps.len() as u64, facts.steps);
        assert!(steps.is_sorted_by_key(|row| row.start_monotonic_ns));
        let tokens: u64 = records.iter().map(|record| u64::from(record.output_tokens)).sum();
        assert_eq!(tokens, load.output_tokens_total());
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let record = || {
        let load = workload(150, Arrivals::Poisson { rate_rps: 30.0 });
        let mut steps: Vec<StepRow> = Vec::new();
        let options = Options { steps: Some(&mut steps), ..Options::new(patient()) };
        let (_, records) = run(&load, &vllm(8, 80), 7 * MS, options);
        (serde_json::to_vec(&records).unwrap(), serde_json::to_vec(&steps).unwrap())
    };
    assert_eq!(record(), record());
}

/// One slot that takes D for each request, Poisson arrivals at rate r: the mean wait is r D^2 / (2 (1 - r D))
/// (Pollaczek and Khinchine). A request of one token takes one step.
#[test]
fn one_slot_waits_as_long_as_queueing_theory_says() {
    let (service_s, rate_rps) = (0.1, 7.0);
    let requests = 60_000;
    let load = fixed(requests, Arrivals::Poisson { rate_rps }, 20, 1);
    let mut config = vllm(1, 100);
    config.policy = llmlab_core::config::PolicyConfig::Vllm(llmlab_core::config::VllmConfig {
        max_num_seqs: 1,
        enable_prefix_caching: false,
        ..Default::default()
    });
    let (_, records) = run(&load, &config, 100 * MS, Options::new(patient()));
    let waits =
        records.iter().map(|record| (record.done_ns.unwrap() - record.scheduled_ns) as f64 / 1e9 - service_s);
    let mean = waits.sum::<f64>() / requests as f64;
    let theory = rate_rps * service_s * service_s / (2.0 * (1.0 - rate_rps * service_s));
    // At this load the mean of 60,000 waits has a standard error of about 2 %: waits are correlated over hundreds.
    assert!((mean / theory - 1.0).abs() < 0.06, "mean wait {mean} s, theory {theory} s");
}

/// Users who do not pause keep one request in flight each: with one slot the throughput is one in D, and a request takes
/// as long as all users' steps together.
#[test]
fn a_closed_loop_without_pauses_keeps_the_slot_busy() {
    let users = 5;
    let load = fixed(1000, Arrivals::Closed { users, think_time: Duration::ZERO }, 20, 1);
    let mut config = vllm(1, 100);
    config.max_model_len = 400;
    let (facts, records) = run(&load, &config, 100 * MS, Options::new(patient()));
    assert_eq!(facts.elapsed, Duration::from_secs(100));
    let last = records.last().unwrap();
    assert_eq!(last.done_ns.unwrap() - last.scheduled_ns, 500_000_000);
}

#[test]
fn clients_lose_patience_as_live_ones_do() {
    // 1 s for each step and one slot: the second request's first token is due after its deadline.
    let load = fixed(3, Arrivals::Constant { rate_rps: 1000.0 }, 20, 4);
    let timeouts = Timeouts { first_token: Duration::from_millis(2500), ..patient() };
    let (facts, records) = run(&load, &vllm(1, 100), Duration::from_secs(1), Options::new(timeouts));
    assert_eq!(facts.ended, Ended::Complete);
    let of = |index: u64| records.iter().find(|record| record.index == index).unwrap();
    assert_eq!(of(0).outcome, Outcome::Ok);
    for index in [1, 2] {
        assert_eq!(of(index).outcome, Outcome::Timeout);
        assert!(of(index).error.as_ref().unwrap().starts_with("first-token timeout"));
        assert!(of(index).events.is_empty());
    }
    // Those who left make room: nothing runs after the first request is done.
    assert_eq!(facts.steps, 4);

    let slow = Timeouts { total: Duration::from_millis(2500), ..patient() };
    let (_, records) = run(&load, &vllm(4, 100), Duration::from_secs(1), Options::new(slow));
    assert_eq!(records[0].outcome, Outcome::Timeout);
    assert_eq!(records[0].events.len(), 2);
    assert!(records[0].error.as_ref().unwrap().starts_with("total timeout"));
}

#[test]
fn a_full_queue_refuses_and_an_impossible_request_is_told_so() {
    let load = fixed(10, Arrivals::Constant { rate_rps: 1e6 }, 20, 4);
    let options = Options { max_queue: 3, ..Options::new(patient()) };
    let (_, records) = run(&load, &vllm(1, 100), 10 * MS, options);
    let refused = records.iter().filter(|record| record.http_status == Some(429)).count();
    assert!(refused >= 5, "{refused} of 10");
    assert_eq!(records.iter().filter(|record| record.outcome == Outcome::Ok).count(), 10 - refused);

    let long = fixed(2, Arrivals::Constant { rate_rps: 1.0 }, 390, 4);
    let mut config = vllm(1, 100);
    config.max_model_len = 300;
    let (facts, records) = run(&long, &config, 10 * MS, Options::new(patient()));
    assert_eq!((records[0].http_status, records[0].outcome), (Some(400), Outcome::Http));
    assert_eq!((facts.steps, facts.ended), (0, Ended::Complete));
}

#[test]
fn a_time_limit_cuts_off_what_is_in_flight() {
    let load = workload(500, Arrivals::Closed { users: 4, think_time: Duration::ZERO });
    let options = Options { time_limit: Some(Duration::from_secs(2)), ..Options::new(patient()) };
    let (facts, records) = run(&load, &vllm(4, 100), 10 * MS, options);
    assert_eq!((facts.ended, facts.elapsed), (Ended::TimeLimit, Duration::from_secs(2)));
    assert_eq!(records.len() as u64, facts.issued);
    assert_eq!(records.iter().filter(|record| record.outcome == Outcome::Cancelled).count(), 4);
    assert!(records.iter().flat_map(|record| &record.events).all(|event| event.at_ns <= 2_000_000_000));
}

#[test]
fn a_stop_ends_with_a_record_for_everything_sent() {
    let load = workload(500, Arrivals::Poisson { rate_rps: 100.0 });
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 50
    };
    let mut sink = Kept::default();
    let config = vllm(4, 100);
    let mut engine = engine(&config, 10 * MS);
    let facts = simulate(&load, &mut engine, Options::new(patient()), &mut sink, &Silent, &stop).unwrap();
    assert_eq!(facts.ended, Ended::Cancelled);
    assert_eq!(sink.0.len() as u64, facts.issued);
}

/// A disk that is full stops the simulation instead of losing records.
#[test]
fn a_sink_that_fails_is_an_error() {
    struct Full;
    impl llmlab_results::record::RecordSink for Full {
        fn record(&mut self, _: &RequestRecord) -> std::io::Result<()> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
    }
    let load = workload(5, Arrivals::Poisson { rate_rps: 100.0 });
    let config = vllm(4, 100);
    let error =
        simulate(&load, &mut engine(&config, MS), Options::new(patient()), &mut Full, &Silent, &|| false);
    assert!(error.unwrap_err().to_string().contains("cannot save results"));
}
