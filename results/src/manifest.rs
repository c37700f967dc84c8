//! What was run, where, and with what: everything a reader needs to trust or repeat a run.

use serde::{Deserialize, Serialize};

use crate::calibration::ClientCalibration;
use crate::journey::JourneyFacts;
use crate::prompt_fit::PromptFit;

pub use crate::server_sample::{HistogramSample, ServerSample};

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema_version: u32,
    pub llmlab_version: String,
    pub git_commit: Option<String>,
    pub name: String,
    pub seed: u64,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub finished_at: Option<String>,
    pub command_line: Vec<String>,
    pub scenario_path: Option<String>,
    /// The scenario file's text as read.
    pub scenario_text: String,
    /// The resolved `RunSpec`.
    pub resolved: serde_json::Value,
    pub host: HostFacts,
    pub model: ModelFacts,
    pub workload: WorkloadFacts,
    pub slo: Slo,
    pub cost: Option<CostFacts>,
    pub targets: Vec<TargetFacts>,
    /// Trials in the order they ran, probes included.
    pub trials: Vec<TrialFacts>,
    pub status: RunStatus,
    /// Of a run that shares its schedule with others, or was put together from such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharding: Option<Sharding>,
    /// `None` where nothing live was measured to its end, and in runs of before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_calibration: Option<ClientCalibration>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a manifest has one")]
pub enum Sharding {
    Shard(ShardFacts),
    /// By index, all of them.
    Merged(Vec<PartFacts>),
}

/// One machine's share of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardFacts {
    /// From 0.
    pub index: u32,
    pub total: u32,
    /// When time zero of the trial was to be on every machine. RFC 3339, UTC.
    pub start_at: String,
    /// The schedule of all shards together.
    pub whole: WorkloadFacts,
    /// Equal for equal schedules: times, lengths, prompts.
    pub schedule_digest: String,
    /// `None` when the server sends no date.
    pub clock: Option<ClockOffset>,
}

/// How far the server's clock is ahead of this machine's: no less and no more than this. The server is the one clock that
/// all shards see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    pub least_ms: i64,
    pub most_ms: i64,
}

/// What a merged run keeps of each run it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartFacts {
    pub shard: ShardFacts,
    /// Name of its run directory.
    pub run: String,
    pub host: HostFacts,
    pub started_at: String,
    pub finished_at: Option<String>,
    pub command_line: Vec<String>,
    pub requests: u64,
    pub elapsed_ns: u64,
    pub client: ClientFacts,
    /// Its own verdict.
    pub trusted: bool,
    /// Why not, in words.
    pub causes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Also what a killed run says: nothing wrote the end.
    Running,
    Complete,
    Interrupted,
    Failed,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    pub hostname: String,
    pub os: String,
    pub cpu_model: String,
    pub cores: u32,
    pub memory_bytes: u64,
    pub simd: Vec<String>,
    /// Measured by `llmlab calibrate`; absent when it was never run and measuring was switched off.
    pub roofline: Option<HostRoofline>,
}

/// What this host reached in a short microbenchmark, with the number of threads the engine uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRoofline {
    pub threads: u32,
    pub read_bandwidth_bytes_per_s: f64,
    pub f32_flops_per_s: f64,
    /// Zero where the instruction does not exist.
    pub bf16_flops_per_s: f64,
    pub int8_ops_per_s: f64,
    /// RFC 3339, UTC.
    pub measured_at: String,
}

/// The arithmetic of the model under test (see `llmlab-models`), so that reports need no model files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    pub source: String,
    pub architecture: String,
    pub parameters: u64,
    /// Multiply-adds count 2. Linear layers only; attention is `attention_flops_per_token_per_context * context`.
    pub linear_flops_per_token: f64,
    pub attention_flops_per_token_per_context: f64,
    pub layers: u32,
    pub vocab_size: u32,
    pub max_model_len: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkloadFacts {
    pub description: String,
    pub requests: u64,
    pub prompt_tokens_total: u64,
    pub output_tokens_total: u64,
    pub arrivals: String,
    /// Requests with a smaller index are warm-up and excluded from metrics.
    pub warmup_requests: u64,
    pub rate_rps: Option<f64>,
    /// How the rate was found, in words, when it was not given.
    pub rate_source: Option<String>,
    #[serde(default)]
    pub sessions: Option<SessionFacts>,
    /// Share of the prompt tokens that a prefix cache of any size would find, where the workload was made for one; 0..=1.
    #[serde(default)]
    pub prefix_hit_rate: Option<f64>,
}

/// The conversations of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    pub sessions: u64,
    /// Those that end because their next turn would not have fitted into the context.
    pub ended_early: u64,
}

/// Limits in nanoseconds. Percentile limits judge a run; `*_each` limits judge a request and define goodput.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// (percentile, limit), e.g. (95.0, 200_000_000).
    pub ttft: Vec<(f64, u64)>,
    pub tpot: Vec<(f64, u64)>,
    pub itl: Vec<(f64, u64)>,
    pub e2e: Vec<(f64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostFacts {
    pub hardware: String,
    pub usd_per_hour: f64,
    pub source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    Engine,
    Endpoint,
    Command,
    Simulate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetFacts {
    pub name: String,
    pub kind: TargetKind,
    /// For people, e.g. "engine, policy vllm (0.33 rules), q8_0 weights, 1 thread".
    pub description: String,
    /// Saturation found by the probe, requests per second.
    pub saturation_rps: Option<f64>,
    pub weight_format: Option<String>,
    /// Bytes of weights read once per step (0 when unknown).
    pub weight_bytes: u64,
    /// KV bytes per token of context.
    pub kv_bytes_per_token: u64,
    pub threads: Option<u32>,
    pub max_num_seqs: Option<u32>,
    pub kv_blocks: Option<u32>,
    pub block_size: Option<u32>,
}

impl TargetFacts {
    /// A live server, of whose insides nothing is known.
    pub fn endpoint(name: &str, description: String) -> TargetFacts {
        TargetFacts {
            name: name.to_string(),
            kind: TargetKind::Endpoint,
            description,
            saturation_rps: None,
            weight_format: None,
            weight_bytes: 0,
            kv_bytes_per_token: 0,
            threads: None,
            max_num_seqs: None,
            kv_blocks: None,
            block_size: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialKind {
    /// Finds saturation; never enters a comparison.
    Probe,
    Measure,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialFacts {
    /// Directory under the run, e.g. "vllm-r1".
    pub dir: String,
    pub target: String,
    pub repeat: u32,
    pub kind: TrialKind,
    pub start_monotonic_ns: u64,
    pub elapsed_ns: u64,
    pub client: ClientFacts,
    /// `None` where prompts were token ids or nothing was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_fit: Option<PromptFit>,
    pub complete: bool,
    /// Where the trial's requests came from users who take steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journey: Option<JourneyFacts>,
}

/// What the client knows about itself: the evidence for the trust verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientFacts {
    /// CPU time of the client process (without the server child) over the trial.
    pub cpu_ns: u64,
    /// Machine-wide steal time over the trial, from /proc/stat.
    pub steal_ns: u64,
    /// Largest and 99th-percentile lateness of the event loop's own heartbeat.
    pub loop_delay_p99_ns: u64,
    pub loop_delay_max_ns: u64,
    pub peak_rss_bytes: u64,
}
