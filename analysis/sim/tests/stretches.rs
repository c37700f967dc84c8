//! Stretches of decode steps change nothing: records, statistics and the order of free blocks are those of a run that plans
//! and commits every step.

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{Kept, scheduler};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, SarathiConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::stats::Stats;
use llmlab_core::step::{BlockId, StepOutcome, StepPlan};
use llmlab_loadgen::{
    Abandonment, Arrivals, LengthDist, Lengths, Patience, Prefixes, PromptStyle, Sessions, Silent, TimeDist,
    Timeouts, TurnCount, Workload, WorkloadConfig,
};
use llmlab_models::{WeightFormat, catalogue};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::{Device, Facts, Options, Overhead, Roofline, RooflineExecutor, simulate};
use proptest::prelude::*;

/// Counts the plans that reach an executor, and may keep its foresight to itself.
struct Watched {
    executor: RooflineExecutor,
    hides: bool,
    plans: u64,
}

impl Executor for Watched {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        self.plans += 1;
        self.executor.execute(plan)
    }

    fn foresight(&self) -> Option<&dyn llmlab_core::executor::Foresight> {
        if self.hides { None } else { self.executor.foresight() }
    }
}

#[derive(Debug, PartialEq)]
struct Run {
    records: Vec<u8>,
    facts: Facts,
    stats: Stats,
    free: Vec<BlockId>,
}

fn run(case: &Case, hides: bool) -> (Run, u64) {
    let spec = llmlab_models::load_spec("spec:llama-3.1-8b").unwrap();
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let format = |vector: bool| if vector { WeightFormat::F32 } else { WeightFormat::Bf16 };
    let Ok(layers) = Layers::new(&spec, spec.kv_bytes_per_token(2.0), |tensor| {
        Ok::<_, Infallible>(format(tensor.role.is_vector()))
    });
    let cost = Roofline::new(layers, device);
    let executor = Watched { executor: RooflineExecutor::new(Box::new(cost), 3, 1000), hides, plans: 0 };
    let mut engine = Engine::new(scheduler(&case.config).without_block_tables(), executor);
    let mut sink = Kept::default();
    let options = Options {
        overhead: case.overhead,
        max_queue: case.max_queue,
        time_limit: case.time_limit,
        drain: Duration::from_millis(300),
        ..Options::new(case.timeouts)
    };
    let facts = simulate(&case.workload(), &mut engine, options, &mut sink, &Silent, &|| false).unwrap();
    let run = Run {
        records: serde_json::to_vec(&sink.0).unwrap(),
        facts,
        stats: engine.scheduler.stats(),
        free: engine.scheduler.free_order(),
    };
    (run, engine.executor.plans)
}

#[derive(Debug, Clone)]
struct Case {
    config: EngineConfig,
    arrivals: Arrivals,
    shared_prefix_tokens: u32,
    seed: u64,
    overhead: Overhead,
    timeouts: Timeouts,
    max_queue: usize,
    time_limit: Option<Duration>,
    sessions: Option<Sessions>,
    abandonment: Option<Abandonment>,
}

impl Case {
    fn workload(&self) -> Workload {
        llmlab_loadgen::generate(&WorkloadConfig {
            seed: self.seed,
            requests: 60,
            lengths: Lengths::Independent {
                input: LengthDist::Lognormal { median: 40.0, p95: 200.0 },
                output: LengthDist::Lognormal { median: 40.0, p95: 150.0 },
            },
            scale_input: 1.0,
            scale_output: 1.0,
            input_range: (1, 400),
            output_range: (1, 300),
            arrivals: self.arrivals.clone(),
            prompts: PromptStyle::TokenIds { first: 0, end: 1000 },
            prefixes: Prefixes::one(self.shared_prefix_tokens),
            adapters: None,
            sessions: self.sessions.clone(),
            abandonment: self.abandonment.clone(),
        })
        .unwrap()
    }
}

fn engine_config() -> impl Strategy<Value = EngineConfig> {
    let kv = prop_oneof![Just(KvStrategy::Paged), Just(KvStrategy::Reserve), Just(KvStrategy::Contiguous)];
    let vllm = (any::<bool>(), any::<bool>(), 1..3u32, 2..40u32, any::<bool>()).prop_map(
        |(enable_prefix_caching, priority, prefill_schedule_interval, max_num_seqs, async_scheduling)| {
            PolicyConfig::Vllm(VllmConfig {
                enable_prefix_caching,
                priority,
                prefill_schedule_interval,
                max_num_seqs,
                async_scheduling,
                max_num_batched_tokens: 512,
                ..VllmConfig::default()
            })
        },
    );
    let policy = prop_oneof![5 => vllm, 1 => Just(PolicyConfig::Sarathi(SarathiConfig::default()))];
    (policy, kv, prop_oneof![60..100u32, 300..400u32], prop_oneof![Just(4u32), Just(16)]).prop_map(
        |(mut policy, kv, num_blocks, block_size)| {
            if let PolicyConfig::Vllm(config) = &mut policy {
                config.enable_prefix_caching &= kv == KvStrategy::Paged;
            }
            EngineConfig {
                policy,
                kv,
                block_size,
                num_blocks: num_blocks * 16 / block_size,
                max_model_len: 480,
            }
        },
    )
}

/// In sessions or not, with clients that hang up or not.
fn people() -> impl Strategy<Value = (Option<Sessions>, Option<Abandonment>)> {
    let sessions = (1.0..6.0f64, 0..80u64).prop_map(|(mean, think_ms)| {
        let think_time = TimeDist::Exponential { mean: Duration::from_millis(think_ms) };
        Sessions { turns: TurnCount::Geometric { mean }, think_time, max_context_tokens: 480 }
    });
    let patience = prop_oneof![
        (1..60u32).prop_map(|max| Patience::Tokens(LengthDist::Uniform { min: 1, max })),
        (1..800u64).prop_map(|ms| Patience::Time(TimeDist::Exponential { mean: Duration::from_millis(ms) })),
    ];
    let abandonment = (0.1..1.0f64, patience).prop_map(|(share, patience)| Abandonment { share, patience });
    (prop::option::of(sessions), prop::option::of(abandonment))
}

fn case() -> impl Strategy<Value = Case> {
    let arrivals = prop_oneof![
        (1.0..200.0f64).prop_map(|rate_rps| Arrivals::Poisson { rate_rps }),
        (1.0..100.0f64).prop_map(|rate_rps| Arrivals::Gamma { rate_rps, cv: 3.0 }),
        (1..30u32, 0..50u64)
            .prop_map(|(users, think)| Arrivals::Closed { users, think_time: Duration::from_millis(think) }),
    ];
    let overhead = prop_oneof![Just(Overhead::NONE), Just(Overhead::served(DEFAULT_RUNTIME))];
    let timeouts = prop_oneof![2 => Just(100_000u64), 1 => 200..1500u64].prop_map(|ms| {
        let wait = Duration::from_millis(ms);
        Timeouts { connect: wait, first_token: wait, inter_token: wait / 10, total: wait }
    });
    let limit =
        prop_oneof![3 => Just(None), 1 => (50..2000u64).prop_map(|ms| Some(Duration::from_millis(ms)))];
    let shared = prop_oneof![Just(0u32), Just(32)];
    (engine_config(), arrivals, shared, any::<u64>(), overhead, timeouts, limit, any::<bool>(), people())
        .prop_map(
            |(
                config,
                arrivals,
                shared_prefix_tokens,
                seed,
                overhead,
                timeouts,
                time_limit,
                short,
                people,
            )| Case {
                sessions: people.0,
                abandonment: people.1,
                config,
                arrivals,
                shared_prefix_tokens,
                seed,
                overhead,
                timeouts,
                max_queue: if short { 3 } else { usize::MAX },
                time_limit,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_stretch_is_its_steps(case in case()) {
        let (long, plans) = run(&case, true);
        let (short, _) = run(&case, false);
        prop_assert_eq!(plans, long.facts.steps);
        prop_assert_eq!(&short.facts, &long.facts);
        prop_assert_eq!(&short.stats, &long.stats);
        prop_assert_eq!(String::from_utf8(short.records), String::from_utf8(long.records));
        prop_assert_eq!(&short.free, &long.free);
    }
}

/// The test above compares something: most steps of a common case are in stretches.
#[test]
fn most_steps_need_no_plan() {
    let long = Duration::from_secs(1000);
    let case = Case {
        config: EngineConfig {
            policy: PolicyConfig::Vllm(VllmConfig::default()),
            kv: KvStrategy::Paged,
            block_size: 16,
            num_blocks: 2000,
            max_model_len: 480,
        },
        arrivals: Arrivals::Poisson { rate_rps: 10.0 },
        shared_prefix_tokens: 0,
        seed: 1,
        overhead: Overhead::served(DEFAULT_RUNTIME),
        timeouts: Timeouts { connect: long, first_token: long, inter_token: long, total: long },
        max_queue: usize::MAX,
        time_limit: None,
        sessions: None,
        abandonment: None,
    };
    let (run, plans) = run(&case, false);
    assert!(plans * 5 < run.facts.steps, "{plans} of {} steps were planned", run.facts.steps);
}
