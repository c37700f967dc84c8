//! What a person typed, as it stands in the file: optional where the file may be silent, with the position of every
//! value that can be wrong. `resolve` turns it into a [`crate::spec::RunSpec`].
//!
//! The doc comments below become the descriptions in the JSON schema that editors show.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::journey::JourneyTable;
use crate::schema;
use crate::units::DurationText;

/// A measurement: one workload against one or more targets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the run; part of its directory name.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Seed of lengths, prompts and arrival times. Default 42.
    pub seed: Option<u64>,
    /// Searches the highest arrival rate (or load, or number of users) at which every target meets [slo], instead of
    /// measuring one.
    #[serde(default)]
    #[schemars(schema_with = "schema::find")]
    pub find: Option<Spanned<String>>,
    /// How `find` searches.
    #[schemars(with = "Option<SearchTable>")]
    pub search: Option<Spanned<SearchTable>>,
    /// May be left out where every target is a server that has its own.
    pub model: Option<ModelTable>,
    #[schemars(with = "Option<WorkloadTable>")]
    pub workload: Option<Spanned<WorkloadTable>>,
    /// In place of `workload`: users who take steps, such as logging in and asking.
    #[schemars(with = "Option<JourneyTable>")]
    pub journey: Option<Spanned<JourneyTable>>,
    /// What is measured. Every target gets the same prompts at the same times.
    #[serde(default)]
    #[schemars(with = "Vec<TargetTable>", required, length(min = 1))]
    pub target: Vec<Spanned<TargetTable>>,
    /// Limits that the run is judged by: `<metric>_p<percentile>`, metric one of ttft, tpot, itl, e2e.
    #[serde(default)]
    #[schemars(schema_with = "schema::slo")]
    pub slo: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    /// Several workloads instead of one: a run for each combination of how often requests are sent and how long they are.
    #[schemars(with = "Option<SweepTable>")]
    pub sweep: Option<Spanned<SweepTable>>,
    #[serde(default)]
    pub compare: CompareTable,
    #[schemars(with = "Option<CostTable>")]
    pub cost: Option<Spanned<CostTable>>,
    /// What is said of a technique, to be held against what is measured: see `llmlab run scenarios/claims`.
    #[serde(default)]
    #[schemars(with = "Vec<ClaimTable>")]
    pub claim: Vec<Spanned<ClaimTable>>,
}

/// The model under test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// `synthetic:<preset>` (random weights of a real shape), a Hugging Face folder or .gguf file relative to this file, or,
    /// where every target is simulated, `spec:<name>` (a published shape without weights).
    #[schemars(with = "String")]
    pub source: Spanned<String>,
    /// Longest prompt plus output in tokens. Default: what the model was made for.
    #[schemars(with = "Option<u32>")]
    pub max_model_len: Option<Spanned<u32>>,
}

/// The requests: how long, how many, when. Exactly one of traffic, trace and lengths.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadTable {
    /// A published traffic shape: quantiles of prompt and output length.
    #[serde(default)]
    #[schemars(schema_with = "schema::traffic")]
    pub traffic: Option<Spanned<String>>,
    /// A csv or jsonl file with one request per line, relative to this file.
    #[schemars(with = "Option<String>")]
    pub trace: Option<Spanned<String>>,
    /// Distributions of prompt and output length.
    pub lengths: Option<LengthsTable>,
    /// Factors applied to the drawn lengths. Default 1.
    pub scale: Option<ScaleTable>,
    /// [min, max] prompt tokens after scaling. Default [1, 131072]; the model's limit lowers it.
    #[schemars(with = "Option<(u32, u32)>")]
    pub input_range: Option<Spanned<(u32, u32)>>,
    /// [min, max] output tokens after scaling. Default [1, 131072]; the model's limit lowers it.
    #[schemars(with = "Option<(u32, u32)>")]
    pub output_range: Option<Spanned<(u32, u32)>>,
    /// Requests per trial. Default for a trace: one per line.
    #[schemars(with = "Option<u32>", range(min = 1, max = 10_000_000))]
    pub requests: Option<Spanned<u32>>,
    /// Leading requests that do not count. Default: 10 % of the requests, at least 2, at most 50.
    #[schemars(with = "Option<u32>")]
    pub warmup: Option<Spanned<u32>>,
    #[schemars(with = "ArrivalsTable")]
    pub arrivals: Spanned<ArrivalsTable>,
    /// Tokens at the start of every prompt that all requests share. Default 0.
    pub shared_prefix_tokens: Option<u32>,
    /// Several beginnings, such as system prompts, of which each request has one.
    #[schemars(with = "Option<PrefixesTable>")]
    pub prefixes: Option<Spanned<PrefixesTable>>,
    /// LoRA adapters that requests ask for by name, in place of the model. Exactly one of count and folders.
    #[schemars(with = "Option<AdaptersTable>")]
    pub adapters: Option<Spanned<AdaptersTable>>,
    /// Requests are the turns of conversations. Lengths are then those of what is new in a turn and of its answer, `requests`
    /// counts turns, and arrivals are those of sessions.
    #[schemars(with = "Option<SessionsTable>")]
    pub sessions: Option<Spanned<SessionsTable>>,
    /// Clients that hang up before their answer is complete.
    #[schemars(with = "Option<AbandonTable>")]
    pub abandon: Option<Spanned<AbandonTable>>,
    #[serde(default)]
    pub timeouts: TimeoutsTable,
}

/// Conversations: the prompt of a turn is all that was said before it, and something new.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionsTable {
    /// Turns of a session. It ends earlier where the next turn might not fit into the context.
    #[schemars(with = "TurnsTable")]
    pub turns: Spanned<TurnsTable>,
    /// From an answer to the next turn. Default none.
    #[schemars(with = "Option<TimeTable>")]
    pub think_time: Option<Spanned<TimeTable>>,
}

/// fixed (count), uniform (min, max) or geometric (mean).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TurnsTable {
    #[schemars(schema_with = "schema::turn_distribution")]
    pub distribution: Spanned<String>,
    /// Of every session (fixed).
    #[schemars(with = "Option<u32>", range(min = 1, max = 10_000))]
    pub count: Option<Spanned<u32>>,
    /// Fewest (uniform).
    #[schemars(with = "Option<u32>", range(min = 1, max = 10_000))]
    pub min: Option<Spanned<u32>>,
    /// Most (uniform).
    #[schemars(with = "Option<u32>", range(min = 1, max = 10_000))]
    pub max: Option<Spanned<u32>>,
    /// On average (geometric): after each turn the session goes on with the same probability.
    #[schemars(with = "Option<f64>", range(min = 1, max = 10_000))]
    pub mean: Option<Spanned<f64>>,
}

/// fixed (time), exponential (mean) or lognormal (median, p95).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeTable {
    #[schemars(schema_with = "schema::time_distribution")]
    pub distribution: Spanned<String>,
    /// Always the same (fixed).
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub time: Option<Spanned<DurationText>>,
    /// On average (exponential).
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub mean: Option<Spanned<DurationText>>,
    /// Half are shorter (lognormal).
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub median: Option<Spanned<DurationText>>,
    /// 95 % are shorter (lognormal).
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub p95: Option<Spanned<DurationText>>,
}

/// A share of the requests, and exactly one of after_tokens and after.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbandonTable {
    /// Of all requests, 0 to 1.
    #[schemars(with = "f64", range(min = 0, max = 1))]
    pub share: Spanned<f64>,
    /// Output tokens that the client takes; at most all but one of those asked for.
    #[schemars(with = "Option<DistributionTable>")]
    pub after_tokens: Option<Spanned<DistributionTable>>,
    /// From the time at which the request was due. A client whose answer is complete by then stays.
    #[schemars(with = "Option<TimeTable>")]
    pub after: Option<Spanned<TimeTable>>,
}

/// Beginnings that prompts share: `count` of `tokens` each, or a tree of blocks (`block_tokens`, `depth`, `branching`).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixesTable {
    /// Different ones.
    #[schemars(with = "Option<u32>", range(min = 1, max = 100_000))]
    pub count: Option<Spanned<u32>>,
    /// Tokens of each, part of the drawn prompt length; with `sessions` before what is drawn for the first turn. At least the last token of a prompt is the request's own.
    #[schemars(with = "Option<u32>", range(min = 1))]
    pub tokens: Option<Spanned<u32>>,
    /// Tokens of a block of the tree. A multiple of the server's block size, else its cache finds less.
    #[schemars(with = "Option<u32>", range(min = 1))]
    pub block_tokens: Option<Spanned<u32>>,
    /// Blocks from the root of the tree to a leaf; a prompt begins with as many as fit into it.
    #[schemars(with = "Option<u32>", range(min = 1, max = 40))]
    pub depth: Option<Spanned<u32>>,
    /// Different blocks that may follow a block of the tree.
    #[schemars(with = "Option<u32>", range(min = 1, max = 100_000))]
    pub branching: Option<Spanned<u32>>,
    /// Share of all prompt tokens that a prefix cache of any size would find; how far prompts follow the tree is solved for.
    /// Default: as far as it goes.
    #[schemars(with = "Option<f64>", range(min = 0, max = 1))]
    pub hit_rate: Option<Spanned<f64>>,
    /// How often each is chosen: uniform, or zipf (the k-th k^-exponent times as often as the first). Default uniform.
    #[serde(default)]
    #[schemars(schema_with = "schema::popularity")]
    pub popularity: Option<Spanned<String>>,
    /// Of zipf. Default 1.
    #[schemars(with = "Option<f64>")]
    pub exponent: Option<Spanned<f64>>,
}

/// Adapters: synthetic ones, made when the engine starts, or folders.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptersTable {
    /// Synthetic adapters on every matrix of attention and MLP, named lora-1, lora-2, ...
    #[schemars(with = "Option<u32>", range(min = 1, max = 1000))]
    pub count: Option<Spanned<u32>>,
    /// Of the synthetic ones. Default 16.
    #[schemars(with = "Option<u32>", range(min = 1, max = 512))]
    pub rank: Option<Spanned<u32>>,
    /// Adapters in PEFT's format by the name that requests use; folders are relative to this file.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub folders: Option<Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    /// How often each is chosen: uniform, or zipf (the k-th k^-exponent times as often as the first). Default uniform.
    #[serde(default)]
    #[schemars(schema_with = "schema::popularity")]
    pub popularity: Option<Spanned<String>>,
    /// Of zipf. Default 1.
    #[schemars(with = "Option<f64>")]
    pub exponent: Option<Spanned<f64>>,
}

/// Somebody's claim about a technique.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimTable {
    /// Joins the live and the simulated scenario of one claim.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// The claim in a few words.
    #[schemars(with = "String")]
    pub says: Spanned<String>,
    /// Who says so, where and when.
    #[schemars(with = "String")]
    pub source: Spanned<String>,
    #[schemars(schema_with = "schema::claim_metric")]
    pub metric: Spanned<String>,
    /// [least, most]: how many times better `target` is said to be than `against`, whichever way better is.
    #[schemars(with = "(f64, f64)")]
    pub ratio: Spanned<(f64, f64)>,
    /// The target with the technique.
    #[schemars(with = "String")]
    pub target: Spanned<String>,
    /// The target without.
    #[schemars(with = "String")]
    pub against: Spanned<String>,
}

/// Distributions of prompt and output length, independent unless both are quantiles.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LengthsTable {
    #[schemars(with = "DistributionTable")]
    pub input: Spanned<DistributionTable>,
    #[schemars(with = "DistributionTable")]
    pub output: Spanned<DistributionTable>,
    /// Spearman's, between prompt and output length, where both are quantiles. Default 0.
    #[schemars(with = "Option<f64>")]
    pub rank_correlation: Option<Spanned<f64>>,
}

/// fixed (tokens), uniform (min, max), lognormal (median, p95) or quantiles (values), in tokens.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistributionTable {
    #[schemars(schema_with = "schema::distribution")]
    pub distribution: Spanned<String>,
    /// Length of every request (fixed).
    #[schemars(with = "Option<u32>")]
    pub tokens: Option<Spanned<u32>>,
    /// Shortest length (uniform).
    #[schemars(with = "Option<u32>")]
    pub min: Option<Spanned<u32>>,
    /// Longest length (uniform).
    #[schemars(with = "Option<u32>")]
    pub max: Option<Spanned<u32>>,
    /// Half of the requests are shorter (lognormal).
    #[schemars(with = "Option<f64>")]
    pub median: Option<Spanned<f64>>,
    /// 95 % of the requests are shorter (lognormal).
    #[schemars(with = "Option<f64>")]
    pub p95: Option<Spanned<f64>>,
    /// Lengths at probabilities 0, .01, .05, .10, .25, .50, .75, .90, .95, .99, 1 (quantiles).
    #[schemars(with = "Option<Vec<f64>>", length(min = 11, max = 11))]
    pub values: Option<Spanned<Vec<f64>>>,
}

/// Factors applied to the drawn lengths.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleTable {
    #[schemars(with = "Option<f64>")]
    pub input: Option<Spanned<f64>>,
    #[schemars(with = "Option<f64>")]
    pub output: Option<Spanned<f64>>,
}

/// When requests are sent: an open process with `rate` or `load`, or `users` that wait for their answers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArrivalsTable {
    /// Default: closed when `users` is given, else poisson. `native` is what the traffic's publisher measured.
    #[serde(default)]
    #[schemars(schema_with = "schema::process")]
    pub process: Option<Spanned<String>>,
    /// Requests per second, or sessions per second where the workload has them.
    #[schemars(with = "Option<f64>")]
    pub rate: Option<Spanned<f64>>,
    /// Share of the lowest saturation measured among the targets, e.g. 0.7.
    #[schemars(with = "Option<f64>")]
    pub load: Option<Spanned<f64>>,
    /// Coefficient of variation of the gaps (gamma); 1 is Poisson, more is burstier. Of clients, their median one.
    #[schemars(with = "Option<f64>")]
    pub cv: Option<Spanned<f64>>,
    /// [calm, burst] requests per second (mmpp), in place of rate and burst_ratio.
    #[schemars(with = "Option<(f64, f64)>")]
    pub rates: Option<Spanned<(f64, f64)>>,
    /// How many times the calm rate a burst has (mmpp); `rate` or `load` is then the mean.
    #[schemars(with = "Option<f64>")]
    pub burst_ratio: Option<Spanned<f64>>,
    /// [calm, burst]: mean times that the two rates last, each exponentially distributed (mmpp).
    #[serde(default)]
    #[schemars(schema_with = "schema::two_durations")]
    pub dwell: Option<Spanned<(DurationText, DurationText)>>,
    /// How far the rate swings around its mean, 0 to 1 (diurnal).
    #[schemars(with = "Option<f64>")]
    pub amplitude: Option<Spanned<f64>>,
    /// Rates of equal parts of the period, in any unit, in place of amplitude and peak (diurnal); the mean is `rate`.
    #[schemars(with = "Option<Vec<f64>>", length(min = 2, max = 1000))]
    pub hourly: Option<Spanned<Vec<f64>>>,
    /// Length of a day (diurnal). Default "24h".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub period: Option<Spanned<DurationText>>,
    /// When the rate is highest, from the start (diurnal). Default: in the middle of the period.
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub peak: Option<Spanned<DurationText>>,
    /// One after the other, and over again (phases).
    #[schemars(with = "Option<Vec<PhaseTable>>", length(min = 1, max = 1000))]
    pub phases: Option<Spanned<Vec<Spanned<PhaseTable>>>>,
    /// How many clients there are (clients).
    #[schemars(with = "Option<u32>", range(min = 1, max = 100_000))]
    pub clients: Option<Spanned<u32>>,
    /// A published mix of clients, in place of clients, exponent, offset, cv, cv_mean and weibull_share (clients).
    #[serde(default)]
    #[schemars(schema_with = "schema::client_mix")]
    pub like: Option<Spanned<String>>,
    /// The k-th client sends (k + offset)^-exponent times as often as others (clients). Default 1.
    #[schemars(with = "Option<f64>")]
    pub exponent: Option<Spanned<f64>>,
    /// See exponent (clients). Default 0.
    #[schemars(with = "Option<f64>")]
    pub offset: Option<Spanned<f64>>,
    /// Mean of the clients' coefficients of variation, which are lognormal (clients). Default: cv, so all the same.
    #[schemars(with = "Option<f64>")]
    pub cv_mean: Option<Spanned<f64>>,
    /// Share of the clients with Weibull gaps, the others have gamma ones (clients). Default 0.
    #[schemars(with = "Option<f64>")]
    pub weibull_share: Option<Spanned<f64>>,
    /// Users with one request in flight each (closed).
    #[schemars(with = "Option<u32>")]
    pub users: Option<Spanned<u32>>,
    /// Pause between an answer and the user's next request, or between sessions (closed). Default "0s".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub think_time: Option<Spanned<DurationText>>,
    /// Trace times, or the period of a day, are divided by this (trace, diurnal). Default 1.
    #[schemars(with = "Option<f64>")]
    pub speed: Option<Spanned<f64>>,
    /// Each request comes up to this much of the trace's time later, to spread what a coarse clock put together (trace).
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub jitter: Option<Spanned<DurationText>>,
}

/// A stretch of time at one rate, or with a rate that rises or falls evenly.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseTable {
    /// For people, e.g. "ramp", "burst" or "soak".
    pub name: Option<String>,
    /// Requests per second, or [from, to]; with `rate` or `load` in arrivals, multiples of that.
    #[schemars(schema_with = "schema::rate_or_ramp")]
    pub rate: Spanned<toml::Value>,
    #[serde(rename = "for")]
    #[schemars(schema_with = "schema::duration")]
    pub time: Spanned<DurationText>,
}

/// At most one of rate, load and users, and any number of mixes; every combination of the two is a run of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepTable {
    /// Requests per second, one value after the other; `[workload] arrivals` then has none.
    #[schemars(with = "Option<Vec<f64>>")]
    pub rate: Option<Spanned<Vec<Spanned<f64>>>>,
    /// Shares of the saturation, which is measured for each mix.
    #[schemars(with = "Option<Vec<f64>>")]
    pub load: Option<Spanned<Vec<Spanned<f64>>>>,
    /// Users with one request in flight each.
    #[schemars(with = "Option<Vec<u32>>")]
    pub users: Option<Spanned<Vec<Spanned<u32>>>>,
    /// Lengths, one mix after the other.
    #[serde(default)]
    #[schemars(with = "Vec<MixTable>")]
    pub mix: Vec<Spanned<MixTable>>,
}

/// Lengths under a name. What is written here replaces its namesake in `[workload]`; traffic, trace and lengths replace
/// each other.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixTable {
    /// Unique; letters, digits, '.', '_' and '-'.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,39}$"))]
    pub name: Spanned<String>,
    /// A published traffic shape.
    #[serde(default)]
    #[schemars(schema_with = "schema::traffic")]
    pub traffic: Option<Spanned<String>>,
    /// A csv or jsonl file, relative to this file.
    #[schemars(with = "Option<String>")]
    pub trace: Option<Spanned<String>>,
    /// Distributions of prompt and output length.
    pub lengths: Option<LengthsTable>,
    /// Factors applied to the drawn lengths.
    pub scale: Option<ScaleTable>,
    /// [min, max] prompt tokens after scaling.
    #[schemars(with = "Option<(u32, u32)>")]
    pub input_range: Option<Spanned<(u32, u32)>>,
    /// [min, max] output tokens after scaling.
    #[schemars(with = "Option<(u32, u32)>")]
    pub output_range: Option<Spanned<(u32, u32)>>,
}

/// When a request is given up.
#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeoutsTable {
    /// Default "5s".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub connect: Option<Spanned<DurationText>>,
    /// From sending to the first token. Default "120s".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub first_token: Option<Spanned<DurationText>>,
    /// Between two events with tokens. Default "60s".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub inter_token: Option<Spanned<DurationText>>,
    /// For the whole request. Default "600s".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub total: Option<Spanned<DurationText>>,
}

/// A name and exactly one of `engine`, `endpoint`, `command` and `simulate`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetTable {
    /// Unique; letters, digits, '.', '_' and '-'.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,39}$"))]
    pub name: Spanned<String>,
    /// Our own engine as a child process: a policy, its knobs, and engine settings.
    #[serde(default)]
    #[schemars(schema_with = "schema::engine")]
    pub engine: Option<Spanned<EngineTable>>,
    /// A server that is already running.
    #[schemars(with = "Option<EndpointTable>")]
    pub endpoint: Option<Spanned<EndpointTable>>,
    /// A server that llmlab starts for each trial, waits for, drives and stops.
    #[schemars(with = "Option<CommandTable>")]
    pub command: Option<Spanned<CommandTable>>,
    /// Our engine in virtual time on other hardware: `hardware`, and the keys of `engine`.
    #[serde(default)]
    #[schemars(schema_with = "schema::simulate")]
    pub simulate: Option<Spanned<EngineTable>>,
}

/// Flat keys; which ones are accepted depends on `policy` (see [`crate::knobs`]).
pub type EngineTable = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

/// A live server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointTable {
    /// Base address, e.g. "http://127.0.0.1:8000" or "https://api.example.com".
    #[schemars(with = "String")]
    pub url: Spanned<String>,
    /// Default "openai-completions"; "auto" asks the server what it is. What each sends and counts: docs/protocols.md.
    #[serde(default)]
    #[schemars(schema_with = "schema::protocol")]
    pub protocol: Option<Spanned<String>>,
    /// Model name to ask for. Default: the first one the server lists.
    pub model: Option<String>,
    /// Environment variable that holds the API key. The key itself never belongs in a file.
    #[schemars(with = "Option<String>")]
    pub api_key_env: Option<Spanned<String>>,
    /// File that holds nothing but the API key, relative to this file, in place of api_key_env.
    #[schemars(with = "Option<String>")]
    pub api_key_file: Option<Spanned<String>>,
    /// For https: certificates (PEM), relative to this file, trusted in place of the public authorities.
    #[schemars(with = "Option<String>")]
    pub ca_file: Option<Spanned<String>>,
    /// The Prometheus metrics: a path on the same server, e.g. "/metrics", or the address of a page elsewhere.
    #[schemars(with = "Option<String>")]
    pub metrics: Option<Spanned<String>>,
}

/// A server to start: `run` with `url`, or a `template` with `model`. `llmlab run --explain` shows what a template runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandTable {
    /// Program and arguments. A program with a '/' is relative to this file, others are looked up in PATH.
    #[schemars(with = "Option<Vec<String>>")]
    pub run: Option<Spanned<Vec<String>>>,
    /// A known server in place of `run`.
    #[serde(default)]
    #[schemars(schema_with = "schema::command_template")]
    pub template: Option<Spanned<String>>,
    /// With `run`: name to ask for, default the first one the server lists. With `template`: what the server loads.
    #[schemars(with = "Option<String>")]
    pub model: Option<Spanned<String>>,
    /// With `template`: port on 127.0.0.1. Default: the server's own.
    #[schemars(with = "Option<u16>", range(min = 1))]
    pub port: Option<Spanned<u16>>,
    /// With `template`: more arguments, at the end.
    #[schemars(with = "Option<Vec<String>>")]
    pub args: Option<Spanned<Vec<String>>>,
    /// With `run`: base address, e.g. "http://127.0.0.1:8000".
    #[schemars(with = "Option<String>")]
    pub url: Option<Spanned<String>>,
    /// Path that answers 200 once the server is ready. Default "/health", or the template's.
    #[schemars(with = "Option<String>")]
    pub health: Option<Spanned<String>>,
    /// How long the start may take. Default "10m".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub ready_timeout: Option<Spanned<DurationText>>,
    /// From SIGTERM to SIGKILL. Default "20s".
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub stop_timeout: Option<Spanned<DurationText>>,
    /// Variables added to llmlab's own environment, which the server inherits. No secrets: they are stored with the run.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub env: BTreeMap<Spanned<String>, String>,
    /// Relative to this file. Default: this file's folder.
    #[schemars(with = "Option<String>")]
    pub working_dir: Option<Spanned<String>>,
    /// Default "openai-completions", or the template's.
    #[serde(default)]
    #[schemars(schema_with = "schema::protocol")]
    pub protocol: Option<Spanned<String>>,
    /// Environment variable that holds the API key to send.
    #[schemars(with = "Option<String>")]
    pub api_key_env: Option<Spanned<String>>,
    /// File that holds nothing but the API key, relative to this file, in place of api_key_env.
    #[schemars(with = "Option<String>")]
    pub api_key_file: Option<Spanned<String>>,
    /// For https: certificates (PEM), relative to this file, trusted in place of the public authorities.
    #[schemars(with = "Option<String>")]
    pub ca_file: Option<Spanned<String>>,
    /// The Prometheus metrics: a path on the server, e.g. "/metrics", or the address of a page elsewhere. Default: the template's.
    #[schemars(with = "Option<String>")]
    pub metrics: Option<Spanned<String>>,
}

/// The search of `find`. Values are in what is searched: requests per second, shares of saturation, or users.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchTable {
    /// The search ends when a value that missed the SLO is within this share of one that met it. Default 0.05.
    #[schemars(with = "Option<f64>")]
    pub tolerance: Option<Spanned<f64>>,
    /// Default: 1/64 of the saturation that is measured first, or 1 user.
    #[schemars(with = "Option<f64>")]
    pub lowest: Option<Spanned<f64>>,
    /// Default: 4 times the saturation, or 8 times the users that reached it.
    #[schemars(with = "Option<f64>")]
    pub highest: Option<Spanned<f64>>,
}

/// How targets are compared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareTable {
    /// Trials per target, interleaved A B B A. Default 3 with several targets, else 1. With `find`: trials of a value at
    /// most, default 3.
    #[schemars(with = "Option<u32>", range(min = 1, max = 100))]
    pub repeats: Option<Spanned<u32>>,
}

/// What the hardware costs: exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// A name in the price table.
    #[schemars(with = "Option<String>")]
    pub hardware: Option<Spanned<String>>,
    #[schemars(with = "Option<f64>")]
    pub usd_per_hour: Option<Spanned<f64>>,
}
