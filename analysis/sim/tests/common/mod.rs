//! A small engine in virtual time, and sinks.
#![allow(dead_code, reason = "each test file compiles this module for itself")]

pub mod cluster;

use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::scheduler::Scheduler;
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Timeouts, Workload, WorkloadConfig,
};
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_sim::{CostModel, SeqShape};

pub fn vllm(max_num_seqs: u32, num_blocks: u32) -> EngineConfig {
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig { max_num_seqs, ..VllmConfig::default() }),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks,
        max_model_len: 1024,
    }
}

pub fn scheduler(config: &EngineConfig) -> Scheduler {
    Scheduler::new(config.clone()).unwrap()
}

pub fn workload(requests: u64, arrivals: Arrivals) -> Workload {
    let lengths = Lengths::Independent {
        input: LengthDist::Lognormal { median: 60.0, p95: 200.0 },
        output: LengthDist::Lognormal { median: 20.0, p95: 60.0 },
    };
    config(requests, arrivals, lengths)
}

pub fn fixed(requests: u64, arrivals: Arrivals, input: u32, output: u32) -> Workload {
    let lengths = Lengths::Independent {
        input: LengthDist::Fixed { tokens: input },
        output: LengthDist::Fixed { tokens: output },
    };
    config(requests, arrivals, lengths)
}

fn config(requests: u64, arrivals: Arrivals, lengths: Lengths) -> Workload {
    llmlab_loadgen::generate(&WorkloadConfig {
        seed: 11,
        requests,
        lengths,
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 8000),
        output_range: (1, 2000),
        arrivals,
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::one(16),
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .unwrap()
}

/// Patient enough never to matter.
pub fn patient() -> Timeouts {
    let long = Duration::from_secs(100_000);
    Timeouts { connect: long, first_token: long, inter_token: long, total: long }
}

/// Keeps everything.
#[derive(Debug, Default)]
pub struct Kept(pub Vec<RequestRecord>);

impl RecordSink for Kept {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()> {
        self.0.push(record.clone());
        Ok(())
    }
}

/// The same time for every step.
pub struct Fixed(pub Duration);

impl CostModel for Fixed {
    fn step_time(&self, _: &[SeqShape]) -> Duration {
        self.0
    }
}
