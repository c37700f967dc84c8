//! Conversations and clients that hang up in virtual time.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{Fixed, Kept, patient, scheduler, vllm};
use llmlab_core::config::{EngineConfig, PolicyConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::stats::Stats;
use llmlab_loadgen::{
    Abandonment, Arrivals, LengthDist, Lengths, Patience, Popularity, PrefixTree, Prefixes, PromptStyle,
    Sessions, Silent, TimeDist, TurnCount, WorkloadConfig, generate,
};
use llmlab_results::record::{Outcome, RequestRecord};
use llmlab_results::step::StepRow;
use llmlab_sim::{Options, RooflineExecutor, simulate};

const STEP: Duration = Duration::from_millis(10);

fn config(prompts: PromptStyle) -> WorkloadConfig {
    WorkloadConfig {
        seed: 4,
        requests: 80,
        lengths: Lengths::Independent {
            input: LengthDist::Uniform { min: 20, max: 60 },
            output: LengthDist::Uniform { min: 10, max: 40 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 1000),
        output_range: (1, 1000),
        arrivals: Arrivals::Poisson { rate_rps: 1.0 },
        prompts,
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}

fn sessions() -> Option<Sessions> {
    let think_time = TimeDist::Exponential { mean: Duration::from_millis(200) };
    Some(Sessions { turns: TurnCount::Uniform { min: 2, max: 6 }, think_time, max_context_tokens: 1000 })
}

fn run(config: &WorkloadConfig, engine: &EngineConfig) -> (Vec<RequestRecord>, Vec<StepRow>, Stats) {
    let workload = generate(config).unwrap();
    let mut engine = Engine::new(scheduler(engine), RooflineExecutor::new(Box::new(Fixed(STEP)), 3, 500));
    let (mut sink, mut steps) = (Kept::default(), Vec::new());
    let options = Options { steps: Some(&mut steps), ..Options::new(patient()) };
    simulate(&workload, &mut engine, options, &mut sink, &Silent, &|| false).unwrap();
    let mut records = sink.0;
    records.sort_by_key(|record| record.index);
    (records, steps, engine.scheduler.stats())
}

/// Tokens that were there when a request was first scheduled.
fn found(steps: &[StepRow]) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    for seq in steps.iter().flat_map(|row| &row.seqs) {
        found.entry(seq.id).or_insert(seq.context);
    }
    found
}

/// With memory for all, a turn finds every full block of what was said before it: prompts and answers. The last generated
/// token is never computed, so its block cannot be full.
#[test]
fn a_turn_finds_the_turns_before_it_in_the_prefix_cache() {
    for prompts in [
        PromptStyle::TokenIds { first: 4, end: 500 },
        // Words have only lengths here, and still a turn begins with the turns before it.
        PromptStyle::Words { tokens_per_word: 1.0 },
    ] {
        let config = WorkloadConfig { sessions: sessions(), ..config(prompts) };
        let (records, steps, stats) = run(&config, &vllm(64, 5000));
        let found = found(&steps);
        let mut later = 0;
        for record in &records {
            assert_eq!(record.outcome, Outcome::Ok, "{record:?}");
            let turn = record.turn.unwrap();
            assert_eq!(turn.stand_ins, 0);
            let computed_before = turn.context_tokens.saturating_sub(1);
            assert_eq!(found[&record.index], computed_before / 16 * 16, "{turn:?}");
            later += u32::from(turn.turn > 0);
        }
        assert!(later > 30, "{later}");
        let hits: u64 = found.values().map(|tokens| u64::from(*tokens)).sum();
        assert_eq!(stats.prefix_hit_tokens_total, hits);
    }
}

#[test]
fn turns_come_after_the_answers_and_think_times() {
    let config = WorkloadConfig {
        sessions: sessions(),
        arrivals: Arrivals::Closed { users: 3, think_time: Duration::from_millis(50) },
        ..config(PromptStyle::TokenIds { first: 4, end: 500 })
    };
    let planned = generate(&config).unwrap();
    let (records, ..) = run(&config, &vllm(64, 5000));
    assert_eq!(records.len(), 80);
    for (pair, plan) in records.windows(2).zip(&planned.requests[1..]) {
        let turn = plan.turn.as_ref().unwrap();
        if turn.turn > 0 {
            let due = pair[0].done_ns.unwrap() + turn.think_time.as_nanos() as u64;
            assert_eq!(pair[1].scheduled_ns, due, "{turn:?}");
        }
    }
}

#[test]
fn who_hangs_up_is_aborted_and_recorded() {
    let without_cache = |max_num_seqs| EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs,
            enable_prefix_caching: false,
            ..VllmConfig::default()
        }),
        ..vllm(max_num_seqs, 500)
    };
    let config = |patience| WorkloadConfig {
        abandonment: Some(Abandonment { share: 0.5, patience }),
        ..config(PromptStyle::TokenIds { first: 4, end: 500 })
    };
    let tokens = config(Patience::Tokens(LengthDist::Fixed { tokens: 5 }));
    let (records, _, stats) = run(&tokens, &without_cache(64));
    let left: Vec<_> = records.iter().filter(|r| r.outcome == Outcome::Abandoned).collect();
    assert!((20..60).contains(&left.len()), "{}", left.len());
    assert!(left.iter().all(|r| r.output_tokens == 5 && r.done_ns.is_none()));
    assert_eq!((stats.aborted_total, stats.running), (left.len() as u64, 0));
    assert_eq!(stats.free_blocks, stats.total_blocks, "their memory is free again");
    // One at a time: those behind it leave while they still wait.
    let time = config(Patience::Time(TimeDist::Fixed { time: Duration::from_millis(150) }));
    let (records, _, stats) = run(&time, &without_cache(1));
    let left = |r: &&RequestRecord| r.outcome == Outcome::Abandoned;
    let (with, without): (Vec<_>, Vec<_>) =
        records.iter().filter(left).partition(|r| r.first_token_ns().is_some());
    assert!(!with.is_empty() && !without.is_empty(), "{} and {}", with.len(), without.len());
    // Who leaves during the step that would have brought the last token is not aborted: the scheduler is done with it.
    assert_eq!((stats.aborted_total + stats.finished_total, stats.waiting), (80, 0));
    assert!(stats.aborted_total >= without.len() as u64);
}

/// What is said after an answer that was cut short goes on from what was read of it.
#[test]
fn a_session_goes_on_after_its_user_hung_up() {
    let config = WorkloadConfig {
        sessions: sessions(),
        abandonment: Some(Abandonment {
            share: 1.0,
            patience: Patience::Tokens(LengthDist::Fixed { tokens: 3 }),
        }),
        ..config(PromptStyle::TokenIds { first: 4, end: 500 })
    };
    let (records, ..) = run(&config, &vllm(64, 5000));
    for pair in records.windows(2) {
        let (before, after) = (pair[0].turn.unwrap(), pair[1].turn.unwrap());
        if after.turn > 0 {
            assert_eq!(after.context_tokens, pair[0].prompt_tokens + 3, "{before:?}");
            assert_eq!(after.stand_ins, 0);
        }
    }
}

/// The rate that a workload was made for is the one that the engine's own cache counts, where it has memory for all and no two
/// requests compute the same block at once.
#[test]
fn the_engine_finds_what_a_tree_of_prefixes_was_solved_for() {
    let tree = PrefixTree {
        block_tokens: 64,
        depth: 3,
        branching: 2,
        popularity: Popularity::Uniform,
        hit_rate: Some(0.37),
        or_nearest: false,
    };
    let config = WorkloadConfig {
        requests: 200,
        lengths: Lengths::Independent {
            input: LengthDist::Uniform { min: 40, max: 400 },
            output: LengthDist::Fixed { tokens: 4 },
        },
        prefixes: Prefixes::Tree(tree),
        arrivals: Arrivals::Closed { users: 1, think_time: Duration::ZERO },
        ..config(PromptStyle::TokenIds { first: 4, end: 30_000 })
    };
    let solved = generate(&config).unwrap().prefix_hit_rate.unwrap();
    assert!((solved - 0.37).abs() < 0.005, "{solved}");
    let (.., stats) = run(&config, &vllm(4, 10_000));
    let counted = stats.prefix_hit_tokens_total as f64 / stats.prefix_query_tokens_total as f64;
    assert!((counted - solved).abs() < 1e-9, "the engine counted {counted}, the workload says {solved}");
}
