//! A small service under autoscaling policies: nobody is lost, the same day comes out twice, and a policy without windows turns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Workload, WorkloadConfig, generate,
};
use llmlab_planner::autoscale::{Day, Facts, Rule, Scaler, Score, Setup, Watch, replay};
use llmlab_planner::plan::limits::{Latency, Limit};
use llmlab_scenarios::autoscale::{ForecastRule, ScalerMetric, ScalerRule, ScalerSpec};
use llmlab_scenarios::plan::Demand;
use llmlab_sim::cluster::{ClusterOutcome, ColdStart, Pool, Scrape};
use llmlab_sim::{CostModel, SeqShape};

const S: Duration = Duration::from_secs(1);
const LIMIT: Limit = Limit { on: Latency::Ttft, percentile: 95.0, seconds: 2.0 };

/// 50 ms a step, whatever is in it: with four sequences of 40 tokens a replica takes two requests a second.
struct Slow;

impl CostModel for Slow {
    fn step_time(&self, _: &[SeqShape]) -> Duration {
        Duration::from_millis(50)
    }

    fn decode_time(&self, _: usize, _: u64) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }
}

fn pool() -> Pool {
    let engine = EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig { max_num_seqs: 4, ..VllmConfig::default() }),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks: 400,
        max_model_len: 1024,
    };
    Pool {
        vocab_size: 500,
        usd_per_replica_hour: 1.0,
        drain: 120 * S,
        cold_start: ColdStart {
            provision: 60 * S,
            image_pull: 20 * S,
            weight_load: 20 * S,
            warm_up: 20 * S,
            spread: 0.0,
        },
        ..Pool::new("slow", engine, Arc::new(Slow), 1)
    }
}

fn requests(count: u64, arrivals: Arrivals) -> WorkloadConfig {
    WorkloadConfig {
        seed: 5,
        requests: count,
        lengths: Lengths::Independent {
            input: LengthDist::Fixed { tokens: 32 },
            output: LengthDist::Fixed { tokens: 40 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 64),
        output_range: (1, 64),
        arrivals,
        prompts: PromptStyle::TokenIds { first: 4, end: 400 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}

fn day(mean_rps: f64) -> Day {
    Day::of(&Demand { mean_rps, peak_rps: mean_rps, hourly_rps: None }, None).unwrap()
}

fn facts(day: &Day) -> Facts<'_> {
    Facts {
        day,
        expected: day,
        replica_rps: 1.6,
        in_flight: 4.0,
        tokens_per_request: 72.0,
        ttft_limit_s: Some(2.0),
        cold_start: 120 * S,
        min_replicas: 1,
        max_replicas: 8,
        factor: 1,
    }
}

fn hpa(scale_down_window: Duration) -> ScalerRule {
    ScalerRule::Hpa {
        metric: ScalerMetric::Waiting,
        target: Some(1.0),
        scale_up_window: Duration::ZERO,
        scale_down_window,
    }
}

fn keda_to_zero() -> ScalerRule {
    ScalerRule::Keda {
        metric: ScalerMetric::InFlight,
        target: Some(3.0),
        min_replicas: 0,
        activation: 0.0,
        polling_interval: 30 * S,
        cooldown_period: 300 * S,
    }
}

fn run(rule: ScalerRule, workload: &Workload, first: u32) -> ClusterOutcome {
    let day = day(3.0);
    let scaler = Scaler::of(&ScalerSpec { name: "tried".into(), rule }, &facts(&day)).unwrap();
    let pool = pool();
    let scrape = Scrape { interval: 15 * S, lag: 5 * S };
    let setup = Setup { pool: &pool, workload, conversations: None, scrape, patience: 600 * S, seed: 3 };
    replay(&setup, &scaler, first, &Watch::default(), &|| {}).unwrap().expect("nobody interrupted")
}

/// Fifty minutes at 4.8 requests a second: what three replicas take at their limit.
fn busy() -> Workload {
    generate(&requests(4 * 3600, Arrivals::Poisson { rate_rps: 4.8 })).unwrap()
}

#[test]
fn without_a_window_a_policy_turns_and_pays_for_it_in_starts() {
    let workload = busy();
    let score = |window| {
        let outcome = run(hpa(window), &workload, 3);
        assert!(outcome.little.relative_gap().abs() < 1e-9, "a request was lost or counted twice");
        Score::of(&outcome, &[LIMIT], 3)
    };
    let (restless, calm) = (score(Duration::ZERO), score(300 * S));
    assert!(restless.reversals > calm.reversals, "{} and {}", restless.reversals, calm.reversals);
    assert!(restless.reversals_per_hour > 2.0, "{}", restless.reversals_per_hour);
    assert!(restless.cold_starts + restless.cancelled_starts > calm.cold_starts + calm.cancelled_starts);
    assert!(restless.violations > calm.violations, "{} and {}", restless.violations, calm.violations);
}

#[test]
fn replicas_that_go_finish_what_they_have() {
    let workload = busy();
    let outcome = run(hpa(Duration::ZERO), &workload, 3);
    assert!(outcome.replicas.iter().any(|replica| replica.ready_at.is_some() && replica.gone_at.is_some()));
    let score = Score::of(&outcome, &[LIMIT], 3);
    assert_eq!((score.requests, score.failed), (workload.requests.len(), 0));
}

#[test]
fn from_zero_the_first_request_waits_for_the_start() {
    // One request at 0, one after an hour.
    let workload = generate(&requests(2, Arrivals::Constant { rate_rps: 1.0 / 3600.0 })).unwrap();
    let outcome = run(keda_to_zero(), &workload, 0);
    let score = Score::of(&outcome, &[LIMIT], 0);
    assert_eq!((score.failed, score.waited_for_a_start, score.cold_starts), (0, 2, 2));
    assert_eq!(score.violations, 1.0, "both waited longer than the limit");
    for request in &outcome.requests {
        let waited = request.ttft().unwrap();
        // The start itself, and before it at most a poll (30 s), a scrape (15 s) and its lag (5 s), each rounded up to a look.
        assert!(waited >= 120 * S && waited <= 200 * S, "{waited:?}");
    }
    // Between the two the service was at zero and cost nothing.
    assert!(score.ready.iter().any(|(hour, replicas)| *hour > 0.05 && *replicas == 0));
    assert!(outcome.cost.replica_hours < 0.4, "{}", outcome.cost.replica_hours);
}

#[test]
fn the_same_day_comes_out_twice() {
    let workload = busy();
    let once = run(hpa(300 * S), &workload, 3);
    assert_eq!(once, run(hpa(300 * S), &workload, 3));
}

#[test]
fn what_was_interrupted_is_no_result() {
    let workload = busy();
    let day = day(3.0);
    let spec = ScalerSpec { name: "tried".into(), rule: ScalerRule::Static { replicas: Some(3) } };
    let scaler = Scaler::of(&spec, &facts(&day)).unwrap();
    let pool = pool();
    let setup = Setup {
        pool: &pool,
        workload: &workload,
        conversations: None,
        scrape: Scrape::default(),
        patience: 60 * S,
        seed: 3,
    };
    let watch = Watch::default();
    // Interrupted from within, ten simulated minutes into it.
    let told = || watch.cancelled.store(true, Ordering::Relaxed);
    assert_eq!(replay(&setup, &scaler, 3, &watch, &told).unwrap(), None);
    assert!(watch.simulated_s() < 1200, "{}", watch.simulated_s());
}

#[test]
fn a_day_follows_its_curve_and_keeps_its_process() {
    let mut hours = vec![0.5; 24];
    hours[10..16].fill(4.0);
    let mean_rps = hours.iter().sum::<f64>() / 24.0;
    let demand = Demand { mean_rps, peak_rps: 4.0, hourly_rps: Some(hours) };
    let day = Day::of(&demand, None).unwrap();
    let workload = day.workload(&|rate_rps, count| requests(count, Arrivals::Poisson { rate_rps })).unwrap();
    let count = |from: u64, to: u64| {
        let within = |at: Duration| (from * 3600 * S.as_secs()..to * 3600).contains(&at.as_secs());
        workload.requests.iter().filter(|request| within(request.at)).count() as f64
    };
    // Within five standard deviations of a Poisson count.
    for (from, to, rate) in [(1, 8, 0.5), (11, 15, 4.0), (17, 23, 0.5)] {
        let hours = (to - from) as f64;
        let expected: f64 = day.bins(24)[from as usize..to as usize].iter().sum::<f64>() * 3600.0;
        assert!((count(from, to) - expected).abs() < 5.0 * expected.sqrt(), "{from} to {to}");
        assert!((expected / (rate * 3600.0 * hours) - 1.0).abs() < 0.1, "{from} to {to}: {expected}");
    }
    assert!(workload.requests.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(workload.requests.iter().all(|request| request.at < 86_400 * S));
}

#[test]
fn targets_come_from_the_capacity_and_the_slo() {
    let day = day(3.0);
    let facts = facts(&day);
    let of = |rule| Scaler::of(&ScalerSpec { name: "p".into(), rule }, &facts);
    let keda = |metric, target| ScalerRule::Keda {
        metric,
        target,
        min_replicas: 1,
        activation: 0.0,
        polling_interval: 30 * S,
        cooldown_period: 300 * S,
    };
    let words = |rule| of(rule).unwrap().words(1);
    assert_eq!(words(keda(ScalerMetric::InFlight, None)), "2.80 in flight a replica; polled every 30.0 s");
    assert_eq!(words(keda(ScalerMetric::Ttft, None)), "TTFT p95 1.00 s; polled every 30.0 s");
    assert_eq!(words(keda(ScalerMetric::Ttft, Some(0.4))), "TTFT p95 400 ms; polled every 30.0 s");
    // Three a second at 1.6 each.
    assert!(matches!(of(ScalerRule::Static { replicas: None }).unwrap().rule, Rule::Static { replicas: 2 }));
    let forecast = ScalerRule::Predictive { forecast: ForecastRule::DayBefore, headroom: 0.2, hold: 60 * S };
    let Rule::Predictive { config, .. } = of(forecast).unwrap().rule else { panic!("another rule") };
    assert_eq!(config.lead, 120 * S);
    let without = Facts { ttft_limit_s: None, ..facts };
    let spec = ScalerSpec { name: "p".into(), rule: keda(ScalerMetric::Ttft, None) };
    assert!(Scaler::of(&spec, &without).unwrap_err().to_string().contains("no limit on it"));
}
