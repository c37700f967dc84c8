//! Small clusters.
#![allow(dead_code, reason = "each test file compiles this module for itself")]

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_sim::cluster::{ClusterConfig, Pool};
use llmlab_sim::{CostModel, SeqShape};

use super::patient;

/// A constant, a price a row and one a key.
#[derive(Clone, Copy)]
pub struct Linear {
    pub step_us: u64,
    pub row_us: u64,
    pub key_ns: u64,
    /// Says the time of plain decodes before they are planned.
    pub foresees: bool,
}

impl Linear {
    fn time(&self, rows: u64, keys: u64) -> Duration {
        Duration::from_nanos(1000 * (self.step_us + self.row_us * rows) + self.key_ns * keys)
    }
}

impl CostModel for Linear {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let rows = seqs.iter().map(SeqShape::rows).sum();
        self.time(rows, seqs.iter().map(|seq| seq.seen(None)).sum())
    }

    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        self.foresees.then(|| self.time(sequences as u64, keys))
    }
}

pub const GPU: Linear = Linear { step_us: 5000, row_us: 50, key_ns: 200, foresees: true };

pub fn pool(engine: EngineConfig, cost: Linear, replicas: u32) -> Pool {
    Pool { vocab_size: 500, ..Pool::new("pool", engine, Arc::new(cost), replicas) }
}

pub fn cluster(replicas: u32) -> ClusterConfig {
    ClusterConfig {
        seed: 1,
        ..ClusterConfig::new(vec![pool(super::vllm(16, 400), GPU, replicas)], patient())
    }
}

/// One request at a time, without a prefix cache.
pub fn one_at_a_time() -> EngineConfig {
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: 1,
            max_num_batched_tokens: 8192,
            enable_prefix_caching: false,
            ..VllmConfig::default()
        }),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks: 600,
        max_model_len: 8192,
    }
}
