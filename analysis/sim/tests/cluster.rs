//! Clusters: the same records as of one server, the same results whatever is skipped, and nobody lost.

mod common;

use std::time::Duration;

use common::cluster::{GPU, Linear, cluster, pool};
use common::{Kept, fixed, patient, scheduler, vllm, workload};
use llmlab_core::engine::Engine;
use llmlab_loadgen::prefix_tree::PrefixTree;
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Popularity, Prefixes, PromptStyle, Sessions, Silent, TimeDist, Timeouts,
    TurnCount, Workload, WorkloadConfig,
};
use llmlab_results::record::Outcome;
use llmlab_sim::cluster::autoscale::{
    Forecast, Hpa, HpaConfig, Keda, KedaConfig, Metric, Predictive, PredictiveConfig, Rules, Signal, Target,
};
use llmlab_sim::cluster::{
    Admission, ClusterConfig, ClusterOutcome, ColdStart, Controller, Failures, Limited, PrefixAware,
    RateLimit, Repeats, ResponseCache, Retry, Routing, Scrape, Scraped, ServedBy, SpillOver, Spot, simulate,
    simulate_with,
};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::{Options, Overhead, RooflineExecutor, SimulationError};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

const ROUTINGS: [Routing; 8] = [
    Routing::RoundRobin,
    Routing::Random,
    Routing::LeastOutstanding,
    Routing::LeastTokens,
    Routing::LeastKv,
    Routing::PowerOfTwoChoices,
    Routing::PrefixAware(PrefixAware {
        cache_threshold: 0.3,
        balance_abs_threshold: 8,
        balance_rel_threshold: 1.5,
        block_tokens: 16,
        most_blocks: 1000,
    }),
    Routing::SessionAffinity,
];

fn conversations(sessions: u64) -> Workload {
    llmlab_loadgen::generate(&WorkloadConfig {
        seed: 3,
        requests: sessions,
        lengths: Lengths::Independent {
            input: LengthDist::Lognormal { median: 30.0, p95: 80.0 },
            output: LengthDist::Lognormal { median: 20.0, p95: 60.0 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 200),
        output_range: (1, 100),
        arrivals: Arrivals::Poisson { rate_rps: 6.0 },
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: Some(Sessions {
            turns: TurnCount::Geometric { mean: 4.0 },
            think_time: TimeDist::Exponential { mean: 200 * MS },
            max_context_tokens: 900,
        }),
        abandonment: None,
    })
    .unwrap()
}

fn loads() -> Vec<Workload> {
    vec![
        workload(150, Arrivals::Poisson { rate_rps: 60.0 }),
        workload(150, Arrivals::Gamma { rate_rps: 40.0, cv: 3.0 }),
        workload(150, Arrivals::Closed { users: 9, think_time: 5 * MS }),
        conversations(150),
    ]
}

/// Every request has one result, times are in order, and what was counted on the way agrees with the results.
fn check(outcome: &ClusterOutcome, load: &Workload) {
    let indices: Vec<u64> = outcome.requests.iter().map(|request| request.index).collect();
    let mut all: Vec<u64> = load.requests.iter().map(|request| request.index).collect();
    all.sort_unstable();
    assert_eq!(indices, all);
    assert!(outcome.little.relative_gap().abs() < 1e-6, "{:?}", outcome.little);
    for request in &outcome.requests {
        assert!(request.arrival <= request.end, "{request:?}");
        assert!(request.first_token.is_none_or(|at| request.arrival <= at && at <= request.end));
        assert_eq!(request.first_token.is_some(), request.output_tokens > 0);
        let planned = load.requests.iter().find(|planned| planned.index == request.index).unwrap();
        if request.outcome == Outcome::Ok {
            assert_eq!(request.output_tokens, planned.max_tokens);
        }
    }
    let sent: u64 = outcome.replicas.iter().map(|replica| replica.requests).sum();
    assert_eq!(sent, outcome.requests.iter().map(|request| u64::from(request.sent)).sum::<u64>());
}

fn run(config: &ClusterConfig, load: &Workload) -> ClusterOutcome {
    let outcome = simulate(config, load).unwrap();
    check(&outcome, load);
    outcome
}

fn one_server(
    load: &Workload,
    timeouts: Timeouts,
    overhead: Overhead,
) -> Result<Vec<String>, SimulationError> {
    let executor = RooflineExecutor::new(Box::new(GPU), 1, 500);
    let mut engine = Engine::new(scheduler(&vllm(16, 400)), executor);
    let mut sink = Kept::default();
    let options = Options { overhead, max_queue: 20, ..Options::new(timeouts) };
    llmlab_sim::simulate(load, &mut engine, options, &mut sink, &Silent, &|| false)?;
    Ok(by_index(sink))
}

fn by_index(mut sink: Kept) -> Vec<String> {
    sink.0.sort_by_key(|record| record.index);
    sink.0.iter().map(|record| serde_json::to_string(record).unwrap()).collect()
}

#[test]
fn a_cluster_of_one_writes_the_records_of_one_server() {
    let short = Timeouts { connect: S, first_token: 300 * MS, inter_token: S, total: S };
    let overheads = [Overhead::NONE, Overhead::served(DEFAULT_RUNTIME)];
    for load in loads() {
        for (timeouts, overhead) in [patient(), short].into_iter().flat_map(|t| overheads.map(|o| (t, o))) {
            let expected = one_server(&load, timeouts, overhead).unwrap();
            let mut config = ClusterConfig { timeouts, ..cluster(1) };
            config.pools[0].overhead = overhead;
            config.pools[0].max_queue = 20;
            for routing in [Routing::RoundRobin, Routing::LeastKv] {
                config.routing = routing;
                let mut sink = Kept::default();
                let outcome = simulate_with(&config, &load, None, Some(&mut sink)).unwrap();
                check(&outcome, &load);
                assert_eq!(by_index(sink), expected, "{routing:?} {overhead:?}");
            }
        }
    }
}

/// Replicas that decode are left alone until a request of theirs can end; one whose steps nobody can foresee never is.
#[test]
fn what_is_skipped_changes_nothing() {
    for load in loads() {
        for routing in ROUTINGS {
            let with = |foresees| {
                let mut config = ClusterConfig { routing, ..cluster(3) };
                // Some wait in the replicas and some at the router.
                config.pools = vec![pool(vllm(6, 400), Linear { foresees, ..GPU }, 3)];
                config.sample_interval = Some(70 * MS);
                config.admission.most_in_flight_per_replica = Some(9);
                run(&config, &load)
            };
            let (skipping, looking) = (with(true), with(false));
            for (one, other) in skipping.requests.iter().zip(&looking.requests) {
                assert_eq!(one, other, "{routing:?}");
            }
            assert_eq!(skipping.replicas, looking.replicas, "{routing:?}");
            for (one, other) in skipping.samples.iter().zip(&looking.samples) {
                assert_eq!(one, other, "{routing:?}");
            }
            assert_eq!(skipping.stability, looking.stability, "{routing:?}");
            assert_eq!(skipping, looking, "{routing:?}");
        }
    }
}

#[test]
fn requests_are_spread_over_replicas() {
    let load = workload(300, Arrivals::Poisson { rate_rps: 60.0 });
    for routing in ROUTINGS {
        let scrape = Scrape { interval: 20 * MS, lag: 10 * MS };
        let outcome = run(&ClusterConfig { routing, scrape, ..cluster(3) }, &load);
        let sent: Vec<u64> = outcome.replicas.iter().map(|replica| replica.requests).collect();
        assert!(sent.iter().all(|sent| *sent > 30), "{routing:?}: {sent:?}");
    }
    let mut uneven = cluster(2);
    uneven.pools.push(llmlab_sim::cluster::Pool { weight: 4.0, ..uneven.pools[0].clone() });
    uneven.pools[1].replicas = 1;
    let sent: Vec<u64> = run(&uneven, &load).replicas.iter().map(|replica| replica.requests).collect();
    assert_eq!(sent, [50, 50, 200]);
}

#[test]
fn turns_of_a_session_stay_on_their_replica() {
    let load = conversations(300);
    let outcome = run(&ClusterConfig { routing: Routing::SessionAffinity, ..cluster(4) }, &load);
    let mut homes = std::collections::HashMap::new();
    for (planned, result) in load.requests.iter().zip(&outcome.requests) {
        assert_eq!(planned.index, result.index);
        let home = homes.entry(planned.turn.as_ref().unwrap().session).or_insert(result.served_by);
        assert_eq!(*home, result.served_by);
    }
    let spread = run(&ClusterConfig { routing: Routing::RoundRobin, ..cluster(4) }, &load);
    let (together, apart) = (outcome.prefix_hit_rate(), spread.prefix_hit_rate());
    assert!(together > 1.5 * apart, "{together} and {apart}");
}

fn tree() -> Workload {
    llmlab_loadgen::generate(&WorkloadConfig {
        seed: 8,
        requests: 600,
        lengths: Lengths::Independent {
            input: LengthDist::Fixed { tokens: 200 },
            output: LengthDist::Fixed { tokens: 10 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 400),
        output_range: (1, 100),
        arrivals: Arrivals::Poisson { rate_rps: 40.0 },
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::Tree(PrefixTree {
            block_tokens: 48,
            depth: 3,
            branching: 6,
            popularity: Popularity::Uniform,
            hit_rate: None,
            or_nearest: false,
        }),
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .unwrap()
}

#[test]
fn routing_by_prefix_finds_more_of_a_tree_than_taking_turns() {
    let load = tree();
    let hits = |routing, replicas| {
        let pools = vec![pool(vllm(16, 1200), GPU, replicas)];
        run(&ClusterConfig { pools, routing, ..cluster(1) }, &load).prefix_hit_rate()
    };
    let aware = Routing::PrefixAware(PrefixAware::default());
    let (one, turns, prefix) = (hits(Routing::RoundRobin, 1), hits(Routing::RoundRobin, 6), hits(aware, 6));
    assert!(turns < 0.8 * one, "caches are diluted: {turns} of {one}");
    assert!(prefix > 1.2 * turns, "{prefix} and {turns}");
}

/// A little of everything that goes wrong.
fn troubled(seed: u64, retry: Retry) -> ClusterConfig {
    let mut config = ClusterConfig { seed, retry, routing: Routing::LeastOutstanding, ..cluster(3) };
    let pool = &mut config.pools[0];
    pool.failures = Some(Failures { mtbf: 2 * S, mttr: 300 * MS });
    pool.spot = Some(Spot { preemptions_per_hour: 1800.0, notice: 100 * MS });
    pool.cold_start =
        ColdStart { provision: 100 * MS, weight_load: 200 * MS, spread: 0.5, ..ColdStart::default() };
    config
}

#[test]
fn nobody_is_lost_when_replicas_die() {
    for load in loads() {
        let mut deaths = 0;
        for seed in 0..6 {
            let attempts = (seed % 3) as u32;
            let mut config = troubled(seed, Retry { attempts, migrate: seed % 2 == 0, delay: 20 * MS });
            config.routing = ROUTINGS[seed as usize];
            config.timeouts = Timeouts { connect: S, first_token: S, inter_token: S, total: 3 * S };
            config.admission = Admission {
                most_in_flight_per_replica: Some(10),
                max_queue: 30,
                longest_wait: Some(500 * MS),
                rate_limit: Some(RateLimit { of: Limited::Requests, per_s: 50.0, burst: 20.0 }),
            };
            config.sample_interval = Some(100 * MS);
            let outcome = run(&config, &load);
            deaths += outcome.replicas.iter().filter(|replica| replica.gone_at.is_some()).count();
            assert_eq!(outcome, run(&config, &load), "not the same twice");
        }
        assert!(deaths > 6, "{deaths}");
    }
}

#[test]
fn what_a_dead_replica_had_fails_is_sent_again_or_goes_on() {
    let load = workload(300, Arrivals::Poisson { rate_rps: 30.0 });
    let count = |attempts, migrate| {
        let outcome = run(&troubled(4, Retry { attempts, migrate, delay: 10 * MS }), &load);
        let cut = outcome.count(|request| request.outcome == Outcome::StreamCut);
        let unanswered = outcome.count(|request| request.outcome == Outcome::NoResponse);
        assert_eq!(outcome.count(|request| request.outcome == Outcome::Ok) + cut + unanswered, 300);
        (cut, unanswered, outcome.count(|request| request.sent > 1))
    };
    let (cut, unanswered, again) = count(0, false);
    assert!(cut + unanswered > 0 && again == 0, "{cut} {unanswered} {again}");
    let (cut_still, _, again) = count(1000, false);
    assert!(cut_still > 0 && again > 0, "streams that began cannot begin again");
    assert_eq!((count(1000, true).0, count(1000, true).1), (0, 0));
}

#[test]
fn a_full_queue_and_an_empty_bucket_answer_429_and_a_long_wait_503() {
    let load = fixed(100, Arrivals::Constant { rate_rps: 1000.0 }, 50, 20);
    let statuses = |admission: Admission| {
        let outcome = run(&ClusterConfig { admission, ..cluster(1) }, &load);
        let with = |status| outcome.count(|request| request.status == Some(status));
        (with(200), with(429), with(503))
    };
    let open = Admission::default();
    assert_eq!(statuses(open.clone()), (100, 0, 0));
    // 100 requests in 99 ms: ten at once and the tenth of a second's nine.
    let limit = RateLimit { of: Limited::Requests, per_s: 100.0, burst: 10.0 };
    assert_eq!(statuses(Admission { rate_limit: Some(limit), ..open.clone() }), (19, 81, 0));
    // The first request takes over a hundred milliseconds.
    let one = Admission { most_in_flight_per_replica: Some(1), ..open.clone() };
    assert_eq!(statuses(Admission { max_queue: 5, ..one.clone() }), (6, 94, 0));
    assert_eq!(statuses(Admission { longest_wait: Some(MS), ..one }), (1, 0, 99));
}

#[test]
fn an_api_takes_what_the_cluster_cannot() {
    let load = fixed(200, Arrivals::Constant { rate_rps: 200.0 }, 50, 20);
    let api = SpillOver {
        waiting_per_replica: Some(4.0),
        predicted_wait: None,
        ttft: (400 * MS, 400 * MS),
        tpot: (10 * MS, 10 * MS),
        usd_per_million_input_tokens: 1.0,
        usd_per_million_output_tokens: 10.0,
    };
    let outcome = run(&ClusterConfig { spill_over: Some(api), ..cluster(1) }, &load);
    let spilled: Vec<_> =
        outcome.requests.iter().filter(|request| request.served_by == ServedBy::Api).collect();
    assert!((20..195).contains(&spilled.len()), "{}", spilled.len());
    for request in &spilled {
        assert_eq!((request.ttft(), request.tpot()), (Some(400 * MS), Some(10 * MS)));
    }
    // 50 tokens in, 20 out.
    let usd = spilled.len() as f64 * (50.0 + 200.0) / 1e6;
    assert!((outcome.cost.api_usd / usd - 1.0).abs() < 1e-9);
}

#[test]
fn repeated_questions_are_answered_from_the_cache() {
    let load = workload(400, Arrivals::Poisson { rate_rps: 20.0 });
    let cache = ResponseCache {
        repeats: Repeats::Zipf { questions: 50, exponent: 1.0 },
        capacity: 50,
        ttl: 1000 * S,
        latency: 2 * MS,
    };
    let outcome = run(&ClusterConfig { response_cache: Some(cache), ..cluster(2) }, &load);
    let hits = outcome.count(|request| request.served_by == ServedBy::ResponseCache);
    // All but the first of each question and those that come before its answer.
    assert!((250..400).contains(&hits), "{hits}");
    assert!(
        outcome
            .requests
            .iter()
            .all(|request| { request.served_by != ServedBy::ResponseCache || request.e2e() == 2 * MS })
    );
}

/// Says what to have from when on.
struct Script(Vec<(Duration, u32)>);

impl Controller for Script {
    fn interval(&self) -> Duration {
        S
    }

    fn wanted(&mut self, now: Duration, _: &Scraped, wanted: &[u32]) -> Vec<u32> {
        let latest = self.0.iter().rev().find(|(from, _)| *from <= now);
        latest.map_or_else(|| wanted.to_vec(), |(_, count)| vec![*count])
    }
}

#[test]
fn replicas_come_after_their_cold_start_and_go_after_their_drain() {
    let load = fixed(600, Arrivals::Constant { rate_rps: 10.0 }, 50, 20);
    let mut config = cluster(1);
    config.pools[0].cold_start =
        ColdStart { provision: 4 * S, image_pull: 3 * S, weight_load: 2 * S, warm_up: S, spread: 0.0 };
    config.pools[0].usd_per_replica_hour = 3600.0;
    let mut script = Script(vec![(5 * S, 3), (30 * S, 0), (40 * S, 1)]);
    let outcome = simulate_with(&config, &load, Some(&mut script), None).unwrap();
    check(&outcome, &load);
    let ready: Vec<_> = outcome.replicas.iter().map(|replica| replica.ready_at).collect();
    assert_eq!(ready, [Some(Duration::ZERO), Some(15 * S), Some(15 * S), Some(50 * S)]);
    assert_eq!(outcome.count(|request| request.outcome == Outcome::Ok), 600);
    // Whoever comes while there is no replica waits for the next one.
    let first = outcome.requests.iter().find(|request| request.arrival > 30 * S).unwrap();
    assert!(first.first_token.unwrap() > 50 * S, "{first:?}");
    for replica in &outcome.replicas[..3] {
        let gone = replica.gone_at.unwrap();
        assert!((30 * S..31 * S).contains(&gone), "{gone:?}");
    }
    // Paid from the machine's arrival: 30 s, twice 21 s, and what is left after 44 s.
    let seconds = outcome.cost.replica_hours * 3600.0;
    let last = outcome.elapsed.as_secs_f64() - 44.0;
    assert!((seconds - (30.0 + 42.0 + last)).abs() < 2.0, "{seconds}");
    assert!((outcome.cost.usd() - seconds).abs() < 1e-6);
    let steps: Vec<(u32, u32)> = outcome.scalings.iter().map(|scaling| (scaling.from, scaling.to)).collect();
    assert_eq!(steps, [(1, 3), (3, 0), (0, 1)]);
}

/// A minute of calm, a minute of rush, and calm again.
fn rush() -> Workload {
    let mut load = fixed(1320, Arrivals::Constant { rate_rps: 1.0 }, 50, 20);
    for (request, number) in load.requests.iter_mut().zip(0u32..) {
        request.at = match number {
            0..60 => S * number,
            60..1260 => 60 * S + 50 * MS * (number - 60),
            _ => 120 * S + S * (number - 1260),
        };
    }
    load
}

#[test]
fn autoscalers_follow_a_rush_and_keep_what_they_are_told_to() {
    let load = rush();
    let mut config = cluster(1);
    config.pools[0] = pool(vllm(2, 400), GPU, 1);
    config.pools[0].cold_start = ColdStart { weight_load: 5 * S, ..ColdStart::default() };
    config.scrape = Scrape { interval: 5 * S, lag: S };
    let alone = run(&config, &load);
    let in_flight = Metric { signal: Signal::RequestsInFlight, target: Target::AverageValue(1.5) };
    let mut hpa = Hpa::new(HpaConfig {
        scale_down: Rules { stabilization_window: 20 * S, ..HpaConfig::new(1, 6, Vec::new()).scale_down },
        ..HpaConfig::new(1, 6, vec![in_flight])
    });
    let mut keda = Keda::new(KedaConfig { max_replica_count: 6, ..KedaConfig::new(vec![(in_flight, 0.0)]) });
    let mut predictive = Predictive::new(PredictiveConfig {
        pool: 0,
        min_replicas: 1,
        max_replicas: 6,
        forecast: Forecast::PeriodBefore { bin: 60 * S, rates_rps: vec![1.0, 20.0, 1.0] },
        requests_per_s_per_replica: 8.0,
        headroom: 0.0,
        lead: 6 * S,
        hold: 10 * S,
        interval: 5 * S,
    });
    let ttft = |outcome: &ClusterOutcome| {
        outcome.mean(|request| request.ttft().map(|ttft| ttft.as_secs_f64())).unwrap().mean
    };
    let controllers: [&mut dyn Controller; 3] = [&mut hpa, &mut keda, &mut predictive];
    let mut waits = Vec::new();
    for controller in controllers {
        let outcome = simulate_with(&config, &load, Some(controller), None).unwrap();
        check(&outcome, &load);
        assert_eq!(outcome.count(|request| request.outcome == Outcome::Ok), 1320);
        assert!(outcome.scalings.iter().any(|scaling| scaling.to > scaling.from), "{:?}", outcome.scalings);
        assert!(outcome.scalings.iter().all(|scaling| scaling.to <= 6), "{:?}", outcome.scalings);
        waits.push(ttft(&outcome));
    }
    assert!(waits.iter().all(|wait| *wait < 0.5 * ttft(&alone)), "{waits:?} and {}", ttft(&alone));
    // It knows of the rush before it comes.
    assert!(waits[2] < 0.5 * waits[0], "{waits:?}");
}

#[test]
fn what_cannot_be_a_cluster_is_refused_by_name() {
    let load = workload(1, Arrivals::Constant { rate_rps: 1.0 });
    let wrong = |change: &dyn Fn(&mut ClusterConfig)| {
        let mut config = cluster(1);
        change(&mut config);
        simulate(&config, &load).unwrap_err().to_string()
    };
    assert_eq!(wrong(&|config| config.pools.clear()), "a cluster needs at least one pool");
    for (change, key) in [
        (
            &(|c: &mut ClusterConfig| c.pools[0].replicas = u32::MAX) as &dyn Fn(&mut ClusterConfig),
            "replicas",
        ),
        (&|c| c.pools[0].weight = f64::NAN, "weight"),
        (&|c| c.pools[0].cold_start.spread = 2.0, "cold_start.spread"),
        (&|c| c.pools[0].failures = Some(Failures { mtbf: Duration::ZERO, mttr: S }), "failures.mtbf"),
        (&|c| c.scrape.interval = Duration::ZERO, "scrape.interval"),
        (&|c| c.admission.most_in_flight_per_replica = Some(0), "most_in_flight_per_replica"),
    ] {
        let words = wrong(change);
        assert!(words.contains(key) && words.contains("accepted are"), "{words}");
    }
}
