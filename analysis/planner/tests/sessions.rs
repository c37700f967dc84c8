//! Plans for conversations: what a replica takes of them, with and without a cache of what was said.

use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Sessions, TimeDist, TurnCount, WorkloadConfig,
};
use llmlab_planner::plan::capacity::{Replica, Start, capacity};
use llmlab_planner::plan::conversations::Conversations;
use llmlab_planner::plan::limits::{Latency, Limit};
use llmlab_sim::{CostModel, Overhead, SeqShape};

/// 2 ms a step and 100 us a row: prompts are what it spends its time on.
#[derive(Clone)]
struct Rows;

impl CostModel for Rows {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let rows: u64 = seqs.iter().map(SeqShape::rows).sum();
        Duration::from_micros(2000 + 100 * rows)
    }
}

fn engine(enable_prefix_caching: bool) -> EngineConfig {
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: 64,
            enable_prefix_caching,
            ..VllmConfig::default()
        }),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks: 20_000,
        max_model_len: 4096,
    }
}

/// Sessions of four turns at a rate of sessions.
fn arriving(rate: f64, requests: u64) -> WorkloadConfig {
    WorkloadConfig {
        seed: 3,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Uniform { min: 100, max: 200 },
            output: LengthDist::Fixed { tokens: 20 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 1000),
        output_range: (1, 1000),
        arrivals: Arrivals::Poisson { rate_rps: rate },
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: Some(Sessions {
            turns: TurnCount::Fixed { turns: 4 },
            think_time: TimeDist::Exponential { mean: Duration::from_secs(1) },
            max_context_tokens: 4096,
        }),
        abandonment: None,
    }
}

#[test]
fn a_cache_of_what_was_said_takes_more_sessions() {
    let conversations = Conversations::of(&arriving, 4000).unwrap().unwrap();
    assert!((conversations.turns - 4.0).abs() < 1e-9 && (conversations.think_s - 1.0).abs() < 0.1);
    let traffic = |rps: f64, requests| arriving(rps / conversations.turns, requests);
    let limits = [Limit { on: Latency::Ttft, percentile: 95.0, seconds: 0.5 }];
    let capacity_of = |cached| {
        let engine = engine(cached);
        let replica = Replica {
            apart: None,
            engine: &engine,
            cost: &Rows,
            overhead: Overhead::default(),
            vocab_size: 500,
            request_s: 0.5,
            conversations: Some(conversations),
        };
        let found = capacity(&replica, Start::anywhere(20.0), 200, 3, &traffic, &limits, &|| false).unwrap();
        let best = found.best.unwrap();
        assert!(best.verdict.met && best.observed.failed == 0);
        // Those of the warm-up and those behind the last session do not count.
        assert!(best.observed.requests > 100, "{:?}", best.observed);
        best.rate_rps
    };
    let (with, without) = (capacity_of(true), capacity_of(false));
    // A turn has 170 new tokens; without a cache it computes 150, 320, 490 and 660, 405 on average. Steps cost the same.
    assert!(with > 1.5 * without, "{with} and {without} requests/s");
    // 16 ms of prompt and 2 ms of decodes for each request, steps apart, bound the rate.
    assert!(with < 60.0, "{with}");
}
