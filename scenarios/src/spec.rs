//! What a scenario resolves to. `Scenario` (see `scenario.rs`) is what a person typed; `RunSpec` has every default
//! filled in, every unit converted and every name checked, and goes into the manifest as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::client_mix::ClientMix;
pub use crate::journey::{ActionSpec, BodySpec, FlowSpec, JourneySpec, StepSpec};

/// One run of a scenario: the only one, or one of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// `None` where the scenario sweeps nothing.
    pub point: Option<SweepPoint>,
    pub spec: RunSpec,
}

/// Where a run stands in its sweep. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    pub mix: Option<String>,
    /// The swept key and its value, e.g. ("rate", 4.0).
    pub arrivals: Option<(String, f64)>,
}

/// "chat, rate 4"
impl std::fmt::Display for SweepPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.mix, &self.arrivals) {
            (Some(mix), Some((key, value))) => write!(f, "{mix}, {key} {value}"),
            (Some(mix), None) => f.write_str(mix),
            (None, Some((key, value))) => write!(f, "{key} {value}"),
            (None, None) => f.write_str("all"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    pub name: String,
    pub seed: u64,
    pub model: ModelChoice,
    pub workload: WorkloadSpec,
    /// In place of independent requests. The workload then says of the asks how many there are and how long the first is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journey: Option<JourneySpec>,
    /// At least one; names are unique.
    pub targets: Vec<TargetSpec>,
    pub slo: SloSpec,
    /// Interleaved repetitions per target (A B B A ...).
    pub repeats: u32,
    pub cost: Option<CostSpec>,
    /// What the run is to confirm or not; names are unique.
    pub claims: Vec<ClaimSpec>,
    /// The load is searched: `repeats` is then the most trials of a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find: Option<FindSpec>,
}

/// What is raised until the SLO breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Searched {
    Rate,
    Load,
    Users,
}

impl Searched {
    pub const ALL: [Searched; 3] = [Searched::Rate, Searched::Load, Searched::Users];

    pub fn name(self) -> &'static str {
        match self {
            Searched::Rate => "rate",
            Searched::Load => "load",
            Searched::Users => "users",
        }
    }
}

/// The search of the highest load that meets the SLO.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FindSpec {
    pub searched: Searched,
    pub tolerance: f64,
    /// In what is searched; `None` = from the saturation.
    pub lowest: Option<f64>,
    pub highest: Option<f64>,
}

/// In place of a model's source where only servers are driven that have their own.
pub const REMOTE_MODEL: &str = "remote";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelChoice {
    /// `synthetic:<preset>`, a Hugging Face folder, a `.gguf` file, `spec:<name>` for simulations, or [`REMOTE_MODEL`].
    pub source: String,
    pub max_model_len: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    pub lengths: LengthSpec,
    /// Factors applied to drawn lengths (1.0 = as published).
    pub scale_input: f64,
    pub scale_output: f64,
    /// Clamp after scaling: (min, max) tokens. The runner lowers the maximum further to fit the model.
    pub input_range: (u32, u32),
    pub output_range: (u32, u32),
    pub requests: u32,
    pub warmup: WarmupSpec,
    pub arrivals: ArrivalSpec,
    /// Share of the prompt common to all requests, 0..1 (0 = none).
    pub shared_prefix_tokens: u32,
    /// Never together with `shared_prefix_tokens`.
    pub prefixes: Option<PrefixSpec>,
    pub adapters: Option<AdapterSpec>,
    #[serde(default)]
    pub sessions: Option<SessionSpec>,
    #[serde(default)]
    pub abandon: Option<AbandonSpec>,
    pub timeout: TimeoutSpec,
}

/// Conversations. Requests are their turns; arrivals are those of sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSpec {
    pub turns: TurnCount,
    /// From an answer to the next turn.
    pub think_time: TimeDist,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TurnCount {
    Fixed { turns: u32 },
    Uniform { min: u32, max: u32 },
    Geometric { mean: f64 },
}

impl TurnCount {
    pub fn mean(self) -> f64 {
        match self {
            TurnCount::Fixed { turns } => f64::from(turns),
            TurnCount::Uniform { min, max } => (f64::from(min) + f64::from(max)) / 2.0,
            TurnCount::Geometric { mean } => mean,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TimeDist {
    Fixed { time: Duration },
    Exponential { mean: Duration },
    Lognormal { median: Duration, p95: Duration },
}

/// Requests whose clients hang up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AbandonSpec {
    /// 0..=1
    pub share: f64,
    pub patience: PatienceSpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub enum PatienceSpec {
    /// Output tokens.
    Tokens { tokens: LengthDist },
    /// From when the request was due.
    Time { time: TimeDist },
}

/// Several beginnings, of which each prompt has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PrefixSpec {
    Each {
        count: u32,
        tokens: u32,
        popularity: PopularitySpec,
    },
    /// Blocks of a tree, followed from the root on.
    Tree {
        block_tokens: u32,
        depth: u32,
        branching: u32,
        /// Share of the prompt tokens that a prefix cache of any size would find, 0..=1.
        hit_rate: Option<f64>,
        popularity: PopularitySpec,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum PopularitySpec {
    Uniform,
    Zipf { exponent: f64 },
}

/// LoRA adapters, most popular first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSpec {
    pub modules: Vec<AdapterModule>,
    pub popularity: PopularitySpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterModule {
    pub name: String,
    pub source: AdapterSource,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum AdapterSource {
    /// Random values on every matrix of attention and MLP.
    Synthetic { rank: u32 },
    /// PEFT's format.
    Folder { path: String },
}

/// What a claim may be about. `kv_used` is the share of handed-out KV slots that hold a token, the others are metrics of
/// the report.
pub const CLAIM_METRICS: [&str; 12] = [
    "output_tokens_per_s",
    "requests_per_s",
    "goodput",
    "ttft_p50",
    "ttft_p95",
    "tpot_p50",
    "tpot_p99",
    "itl_p50",
    "itl_p99",
    "itl_max",
    "e2e_p50",
    "kv_used",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimSpec {
    pub name: String,
    pub says: String,
    pub source: String,
    /// One of [`CLAIM_METRICS`].
    pub metric: String,
    /// How many times better `target` is said to be than `against`: least, most.
    pub ratio: (f64, f64),
    pub target: String,
    pub against: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LengthSpec {
    /// A published table from `scenarios/traffic/`, joint by a Gaussian copula.
    Quantiles {
        name: String,
        input: QuantileTable,
        output: QuantileTable,
        rank_correlation: f64,
        source: String,
    },
    /// Independent distributions.
    Distributions { input: LengthDist, output: LengthDist },
    /// Rows of a csv or jsonl file, in order; fewer than `requests` only when arrival times come from elsewhere.
    Trace { path: String, rows: Vec<TraceRow> },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TraceRow {
    pub input_tokens: u32,
    pub output_tokens: u32,
    pub arrival_s: Option<f64>,
}

/// Values at probabilities 0, .01, .05, .10, .25, .50, .75, .90, .95, .99, 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantileTable {
    pub values: [f64; 11],
}

impl QuantileTable {
    pub const PROBABILITIES: [f64; 11] = [0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0];
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LengthDist {
    Fixed {
        tokens: u32,
    },
    Uniform {
        min: u32,
        max: u32,
    },
    /// Parameterised by what people know: median and 95th percentile, in tokens.
    Lognormal {
        median: f64,
        p95: f64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum WarmupSpec {
    /// The first n requests.
    Requests { count: u32 },
    /// 10 % of the requests, at least 2, at most 50, stated in the report.
    Auto,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "process")]
pub enum ArrivalSpec {
    Poisson {
        rate: RateSpec,
    },
    /// Gamma renewal process with coefficient of variation `cv`.
    Gamma {
        rate: RateSpec,
        cv: f64,
    },
    Constant {
        rate: RateSpec,
    },
    /// `users` keep one request in flight each, waiting `think_time` between.
    Closed {
        users: u32,
        think_time: Duration,
    },
    /// Arrival times of the trace, divided by `speed`, each up to `jitter` of the trace's time later.
    Trace {
        speed: f64,
        #[serde(default)]
        jitter: Duration,
    },
    /// Poisson, switching between a calm and a burst state.
    Mmpp {
        /// The mean.
        rate: RateSpec,
        /// Rates of the states in multiples of the mean.
        factors: (f64, f64),
        dwell: DwellSpec,
    },
    /// Poisson at a rate that follows a day; `rate` is the mean of a day.
    Diurnal {
        rate: RateSpec,
        curve: DayCurve,
    },
    /// Poisson at the rates of the phases, in multiples of `rate`.
    Phases {
        rate: RateSpec,
        phases: Vec<PhaseSpec>,
    },
    /// Many renewal processes at once.
    Clients {
        /// Of all clients.
        rate: RateSpec,
        mix: ClientMix,
    },
}

/// Mean times in the calm and the burst state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "in")]
pub enum DwellSpec {
    Time {
        calm: Duration,
        burst: Duration,
    },
    /// In mean gaps between requests: another rate is then the same process at another speed.
    MeanGaps {
        calm: f64,
        burst: f64,
    },
}

/// Over the period as it is played, after `speed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "curve")]
pub enum DayCurve {
    Sine {
        amplitude: f64,
        period: Duration,
        peak: Duration,
    },
    /// Rates of equal parts, 1 on average.
    Parts {
        rates: Vec<f64>,
        period: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpec {
    pub name: Option<String>,
    pub from: f64,
    pub to: f64,
    pub duration: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum RateSpec {
    PerSecond {
        rps: f64,
    },
    /// Share of the lowest measured saturation among the targets.
    Load {
        share: f64,
    },
    /// Whatever the search tries next ([`FindSpec`]).
    Sought,
}

impl ArrivalSpec {
    /// How often requests are sent, where the process has a rate of its own.
    pub fn rate(&self) -> Option<&RateSpec> {
        match self {
            ArrivalSpec::Poisson { rate }
            | ArrivalSpec::Gamma { rate, .. }
            | ArrivalSpec::Constant { rate }
            | ArrivalSpec::Mmpp { rate, .. }
            | ArrivalSpec::Diurnal { rate, .. }
            | ArrivalSpec::Phases { rate, .. }
            | ArrivalSpec::Clients { rate, .. } => Some(rate),
            ArrivalSpec::Closed { .. } | ArrivalSpec::Trace { .. } => None,
        }
    }

    pub fn rate_mut(&mut self) -> Option<&mut RateSpec> {
        match self {
            ArrivalSpec::Poisson { rate }
            | ArrivalSpec::Gamma { rate, .. }
            | ArrivalSpec::Constant { rate }
            | ArrivalSpec::Mmpp { rate, .. }
            | ArrivalSpec::Diurnal { rate, .. }
            | ArrivalSpec::Phases { rate, .. }
            | ArrivalSpec::Clients { rate, .. } => Some(rate),
            ArrivalSpec::Closed { .. } | ArrivalSpec::Trace { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimeoutSpec {
    pub connect: Duration,
    pub first_token: Duration,
    pub inter_token: Duration,
    pub total: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetSpec {
    pub name: String,
    pub kind: TargetChoice,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TargetChoice {
    Engine(EngineSpec),
    Endpoint(EndpointSpec),
    Command(CommandSpec),
    Simulate(SimulateSpec),
}

/// A server that llmlab starts, drives and stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments, not empty.
    pub run: Vec<String>,
    /// The name of the template that `run` comes from.
    pub template: Option<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: String,
    /// Path on the server that answers 200 once it is ready.
    pub health_path: String,
    pub ready_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
    /// How it is driven.
    pub endpoint: EndpointSpec,
}

/// Our own engine in virtual time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulateSpec {
    /// A name of the hardware catalogue, or "this-host".
    pub hardware: String,
    /// Share of the device's memory that weights, activations and the KV pool may take; `None` = vLLM's default.
    pub gpu_memory_utilization: Option<f64>,
    /// For each draft of a step, the probability that it is accepted when all before it are; the last counts for those
    /// behind it. Empty when nothing is guessed.
    pub speculative_acceptance_rate: Vec<f64>,
    pub engine: EngineSpec,
}

impl EngineSpec {
    /// How tokens are guessed ahead, if they are.
    pub fn speculation(&self) -> Option<&SpeculationSpec> {
        match &self.policy {
            PolicySpec::Vllm { speculation, .. } => speculation.as_ref(),
            _ => None,
        }
    }
}

/// Our own engine as a child process. Every field is resolved except the sizes that depend on the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineSpec {
    pub policy: PolicySpec,
    /// "cpu" or "candle".
    pub executor: String,
    /// One of [`crate::knobs::WEIGHTS`]; `None` = what suits the checkpoint: as stored where it is quantized, else bf16.
    pub weights: Option<String>,
    /// One of [`crate::knobs::KV`].
    pub kv: String,
    /// "paged", "reserve", "contiguous".
    pub kv_strategy: String,
    pub block_size: u32,
    /// KV pool size; `None` = 256 MiB worth, or what the policy's own total-token knob says.
    pub kv_memory_bytes: Option<u64>,
    pub num_blocks: Option<u32>,
    pub threads: Option<u32>,
    pub max_queue: u32,
    /// Whether requests reach the workload's adapters; if not, all of them ask for the model itself.
    #[serde(default = "yes")]
    pub enable_lora: bool,
}

fn yes() -> bool {
    true
}

/// Guessing tokens ahead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeculationSpec {
    pub num_speculative_tokens: u32,
    #[serde(flatten)]
    pub method: SpeculationMethod,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "method")]
pub enum SpeculationMethod {
    Ngram {
        prompt_lookup_min: u32,
        prompt_lookup_max: u32,
    },
    /// `source` is a model source as in `[model]`.
    DraftModel {
        source: String,
        /// One of [`crate::knobs::WEIGHTS`]; `None` = the target's.
        #[serde(default)]
        weights: Option<String>,
    },
}

/// Knobs that the user did not set have the named system's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "policy")]
pub enum PolicySpec {
    Vllm {
        max_num_seqs: u32,
        max_num_batched_tokens: u32,
        enable_chunked_prefill: bool,
        enable_prefix_caching: bool,
        long_prefill_token_threshold: u32,
        prefill_schedule_interval: u32,
        scheduler_reserve_full_isl: bool,
        watermark: f64,
        priority: bool,
        async_scheduling: bool,
        max_loras: u32,
        speculation: Option<SpeculationSpec>,
        upstream_defects: bool,
    },
    Tgi {
        max_batch_prefill_tokens: u32,
        max_batch_total_tokens: u32,
        waiting_served_ratio: f64,
        max_waiting_tokens: u32,
        max_batch_size: Option<u32>,
        max_input_tokens: Option<u32>,
        prefill_chunking: bool,
        use_prefix_caching: bool,
        requires_padding: bool,
        /// `tgi-3.3.6`, the exact twin of the product.
        upstream_defects: bool,
    },
    /// Every other policy of the table of knobs.
    #[serde(untagged)]
    Other(KnobValues),
}

/// A policy whose knobs need no more than the table says about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnobValues {
    pub policy: String,
    /// By name. Those that are unset and have no default are absent.
    #[serde(flatten)]
    pub knobs: BTreeMap<String, KnobValue>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KnobValue {
    Switch(bool),
    Count(u32),
    Number(f64),
    Choice(String),
    /// Before `Time`, which would read a list of two as seconds and nanoseconds.
    Counts(Vec<u32>),
    Time(Duration),
}

/// In place of a protocol: whoever runs the scenario asks the server.
pub const AUTO: &str = "auto";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointSpec {
    pub url: String,
    /// A name that the load generator knows, or [`AUTO`].
    pub protocol: String,
    pub model: Option<String>,
    /// Name of the environment variable that holds the key; the key itself is never stored.
    pub api_key_env: Option<String>,
    /// Never together with `api_key_env`.
    #[serde(default)]
    pub api_key_file: Option<String>,
    /// Certificates trusted in place of the public authorities.
    #[serde(default)]
    pub ca_file: Option<String>,
    /// The Prometheus page, if it has one: a path on the same server, or the address of a page elsewhere.
    pub metrics_path: Option<String>,
}

/// `(percentile, limit)` pairs per metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SloSpec {
    pub ttft: Vec<(f64, Duration)>,
    pub tpot: Vec<(f64, Duration)>,
    pub itl: Vec<(f64, Duration)>,
    pub e2e: Vec<(f64, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostSpec {
    /// A name in the price table (`models/prices/`).
    pub hardware: Option<String>,
    pub usd_per_hour: Option<f64>,
}
