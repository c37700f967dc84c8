//! Conversations behind a router: turns come after the answers before them, and where they are sent decides what is cached.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::cluster::{GPU, pool};
use common::{patient, vllm};
use llmlab_core::config::EngineConfig;
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Sessions, TimeDist, TurnCount, Workload,
    WorkloadConfig, generate,
};
use llmlab_results::record::Outcome;
use llmlab_sim::cluster::{ClusterConfig, ClusterOutcome, Routing, simulate};

const THINK_S: f64 = 4.0;

fn sessions(requests: u64, sessions_per_s: f64) -> Workload {
    generate(&WorkloadConfig {
        seed: 21,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Uniform { min: 50, max: 150 },
            output: LengthDist::Uniform { min: 20, max: 60 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 1000),
        output_range: (1, 1000),
        arrivals: Arrivals::Poisson { rate_rps: sessions_per_s },
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: Some(Sessions {
            turns: TurnCount::Uniform { min: 3, max: 7 },
            think_time: TimeDist::Exponential { mean: Duration::from_secs_f64(THINK_S) },
            max_context_tokens: 2000,
        }),
        abandonment: None,
    })
    .unwrap()
}

fn run(workload: &Workload, routing: Routing) -> ClusterOutcome {
    let engine = EngineConfig { max_model_len: 2048, ..vllm(32, 2000) };
    let config =
        ClusterConfig { routing, seed: 1, ..ClusterConfig::new(vec![pool(engine, GPU, 4)], patient()) };
    let outcome = simulate(&config, workload).unwrap();
    assert!(outcome.requests.iter().all(|request| request.outcome == Outcome::Ok));
    assert!(outcome.little.relative_gap().abs() < 1e-9, "a request was lost or counted twice");
    outcome
}

#[test]
fn who_keeps_a_session_together_finds_what_was_said() {
    let workload = sessions(3000, 1.5);
    let aware = run(&workload, Routing::PrefixAware(Default::default()));
    let turns = run(&workload, Routing::RoundRobin);
    let affinity = run(&workload, Routing::SessionAffinity);
    // Of a session of n turns of equal length all but the newest part of each prompt was said before: more than half here.
    let said_before: u64 = workload
        .requests
        .iter()
        .filter_map(|request| {
            Some(u64::from(request.prompt_tokens) - u64::from(request.turn.as_ref()?.new_tokens))
        })
        .sum();
    let most = said_before as f64 / workload.prompt_tokens_total() as f64;
    assert!(most > 0.5, "{most}");
    let rates = [&aware, &affinity, &turns].map(ClusterOutcome::prefix_hit_rate);
    assert!(rates[0] > 0.9 * most && rates[0] <= most, "{rates:?} of {most}");
    assert!(rates[1] > 0.9 * most, "{rates:?} of {most}");
    assert!(rates[2] < 0.5 * rates[0], "{rates:?}");
    // What is not computed again is time that others have.
    let ttft = |outcome: &ClusterOutcome| outcome.mean(|r| r.ttft().map(|t| t.as_secs_f64())).unwrap().mean;
    assert!(ttft(&aware) < ttft(&turns), "{} {}", ttft(&aware), ttft(&turns));
}

/// Little's law for sessions, from the first request to the last answer: the number of them in the system, counted at the
/// times of their beginnings and ends, is their rate times turns of answers and pauses. The pauses are those of the
/// configuration, so turns that came early or late would show.
#[test]
fn sessions_in_the_system_are_their_rate_times_answers_and_pauses() {
    let workload = sessions(6000, 2.0);
    let outcome = run(&workload, Routing::PrefixAware(Default::default()));
    let mut spans: BTreeMap<u64, (f64, f64, u32)> = BTreeMap::new();
    let mut answers_s = 0.0;
    for (request, planned) in outcome.requests.iter().zip(&workload.requests) {
        assert_eq!(request.index, planned.index);
        let (arrival, end) = (request.arrival.as_secs_f64(), request.end.as_secs_f64());
        let session = planned.turn.as_ref().unwrap().session;
        let span = spans.entry(session).or_insert((arrival, end, 0));
        *span = (span.0.min(arrival), span.1.max(end), span.2 + 1);
        answers_s += end - arrival;
    }
    let mut marks: Vec<(f64, i32)> = spans.values().flat_map(|span| [(span.0, 1), (span.1, -1)]).collect();
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut here, mut last, mut area) = (0, 0.0, 0.0);
    for (at, change) in marks {
        area += f64::from(here) * (at - last);
        (here, last) = (here + change, at);
    }
    let in_system = area / last;
    let rate = spans.len() as f64 / last;
    let (sessions, turns) = (spans.len() as f64, workload.requests.len() as f64);
    let session_s = answers_s / sessions + (turns / sessions - 1.0) * THINK_S;
    // Pauses are drawn: their mean is off by a standard error of one in the root of their number.
    let sure = 5.0 / (turns - sessions).sqrt();
    assert!((in_system / (rate * session_s) - 1.0).abs() < sure, "{in_system} {rate} {session_s}");
    assert!(outcome.little.mean_in_system < in_system, "who thinks has no request in the system");
}
