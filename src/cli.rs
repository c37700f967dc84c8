//! The command line as a person types it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use llmlab_loadgen::Shard;
use llmlab_loadgen::shard::MOST_SHARDS;
use llmlab_metrics::compat::Tool;
use llmlab_mock::{Fault, Jitter, Stall};
use llmlab_scenarios::units::parse_duration;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::catalogue_cli::{CatalogueArgs, HardwareCommand, ListArgs, MemoryArgs, ShowArgs};
pub use crate::commands::plan_args::PlanArgs;
use crate::mock_words;

const EXIT_CODES: &str = "\
Exit codes:
  0 pass · 1 internal error · 2 usage or configuration · 3 target or preflight · 4 run invalid or untrusted
  10 SLO failed · 130 interrupted, partial results saved
  Of a folder: that of the first scenario that did not pass.";

#[derive(Debug, Parser)]
#[command(name = "llmlab", version, about = "Benchmark LLM servers and plan their capacity.", after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub catalogue: CatalogueArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario: start its targets, drive them, record, compare, report
    #[command(after_help = "\
Examples:
  llmlab run scenarios/quickstart.toml              20 seconds, one target
  llmlab run scenarios/vllm-vs-tgi.toml --tui       two scheduling policies side by side, live
  llmlab run scenarios/vllm-vs-tgi.toml --explain   what would be run, without running it
  llmlab run scenarios/claims                       every scenario of a folder, and its claims against what was measured
  llmlab run http://127.0.0.1:8000                  a server that is already up; asked which protocol it speaks")]
    Run(RunArgs),
    /// Run a scenario's engines in virtual time: on other hardware, or on this one as it was calibrated
    #[command(after_help = "\
Examples:
  llmlab simulate scenarios/vllm-vs-tgi.toml --hardware h100-sxm
  llmlab simulate scenarios/vllm-vs-tgi.toml                       this host, after llmlab calibrate --engine
  llmlab simulate scenarios/h100.toml --explain                    where the device's memory goes

What is modelled, and what is not: docs/simulation.md")]
    Simulate(SimulateArgs),
    /// From a model, its traffic and an SLO to devices, latency and money
    #[command(after_help = "\
Examples:
  llmlab plan scenarios/plan/7b-one-gpu.toml
  llmlab plan scenarios/plan/7b-one-gpu.toml --what-if traffic=2x,weights=fp8
  llmlab plan --model llama-3.1-70b --rate 4 --ttft-p95 1s --tpot-p95 40ms --hardware h100-sxm,a100-sxm-80gb

  llmlab plan --device apple-m3-max-40
  llmlab plan --device apple-m1 --model mistral-7b

How it is computed, and how far it is off: docs/planning.md")]
    Plan(Box<PlanArgs>),
    /// Replay a day of a plan's traffic under autoscaling policies, and write the winner as Kubernetes YAML
    #[command(after_help = "\
Examples:
  llmlab autoscale scenarios/plan/rag-autoscale.toml
  llmlab autoscale scenarios/plan/rag-autoscale.toml --policy 'keda tokens' --out ./autoscaling

Policies, what is simulated and what is not: docs/autoscaling.md")]
    Autoscale(AutoscaleArgs),
    /// Serve a model with the reference engine over HTTP (OpenAI protocol)
    #[command(after_help = "\
Examples:
  llmlab serve --model synthetic:llama-15m
  llmlab serve --model ./TinyLlama-1.1B --weights q8_0 --policy vllm --set max_num_seqs=32 --threads 2")]
    Serve(ServeArgs),
    /// Run a server until standard input closes, then end it with all it started; `llmlab run` does so for command targets
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// Make the users' journeys of a plan on standard input and tell of them on standard output; `llmlab run` does so
    #[command(hide = true)]
    JourneyClient,
    /// Serve tokens at known times, with faults on request, to check a client; or check a run against what was served
    #[command(after_help = "\
Examples:
  llmlab mock --ttft 50ms --itl 10ms --log truth.jsonl
  llmlab mock --itl-jitter exponential:2ms --stall \"2s every 10s\" --fault 429:0.05 --fault cut-mid-event:0.01
  llmlab mock --check results/runs/20261121-101500-quickstart --log truth.jsonl

Faults: refuse, reset-before-headers, close-reused, cut-mid-event, no-done, 429, 500, malformed-json, slow-drip, huge-event.
What is in the log, and what a client should reach: docs/measuring.md. In one command: llmlab doctor --client")]
    Mock(MockArgs),
    /// Lead a fresh scheduler through what a server recorded and check that it plans the same steps
    #[command(after_help = "\
Examples:
  llmlab serve --model synthetic:llama-15m --record calls.jsonl     then some traffic, and an end by Ctrl-C or a kill
  llmlab replay calls.jsonl

A plan that differs ends it with code 4: the file is sound, but it is not a run of this scheduler. What a recording
holds: docs/replay.md")]
    Replay(ReplayArgs),
    /// The devices of the catalogue: figures with their sources, and prices
    #[command(subcommand)]
    Hardware(HardwareCommand),
    /// Look into models, convert them, make synthetic ones, measure perplexity; published ones and the memory they take
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Time the engine's forward pass alone: the tests and columns of llama-bench and llama-batched-bench
    #[command(after_help = "\
Examples:
  llmlab bench-engine --model synthetic:llama-1.1b --weights q8_0,q4_k_m
  llmlab bench-engine --model model.gguf --batch 0                 prompt and single-stream decode only
  llmlab bench-engine --model model.gguf --threads 2 --json > rows.jsonl

Beside every row stands what this machine could do at that moment. Columns and keys: docs/engine.md")]
    BenchEngine(BenchEngineArgs),
    /// Build the report of a stored run again, also of one that was killed
    #[command(after_help = "\
Examples:
  llmlab report                                     the newest run
  llmlab report results/runs/20261121-101500-quickstart --json")]
    Report(ReportArgs),
    /// Join the runs of all shards of a schedule (llmlab run --shard) into one run, and report it
    #[command(after_help = "\
Example:
  llmlab merge results/runs/20261121-101500-*

The verdict of the joined run is that of its worst part. How to run shards: docs/distributed.md")]
    Merge(MergeArgs),
    /// Print what runs llmlab elsewhere
    #[command(subcommand)]
    Deploy(DeployCommand),
    /// Measure this machine's bandwidth and compute (its roofline), or the engine on it, and keep the figures
    #[command(after_help = "\
Examples:
  llmlab calibrate
  llmlab calibrate --engine --model synthetic:llama-15m --weights q8_0     for llmlab simulate on this-host")]
    Calibrate(CalibrateArgs),
    /// Check this machine: cores, SIMD, memory bandwidth, clock, limits, loopback, and what to do about each finding
    #[command(after_help = "\
Examples:
  llmlab doctor
  llmlab doctor --client      how exactly the load generator measures here, against a server with known timing")]
    Doctor(DoctorArgs),
    /// Write a commented scenario to start from
    #[command(
        after_help = "Example:\n  llmlab init my-scenario.toml && llmlab run my-scenario.toml --explain"
    )]
    Init(InitArgs),
    /// Write a scenario whose traffic reproduces a request log, and say how well
    #[command(after_help = "\
Examples:
  llmlab fit my_log.csv                                     columns as in the public traces, or input, output, arrival
  llmlab fit log.jsonl --columns input=prompt_size,output=reply_size,arrival=at -o mine.toml

What is kept and what is not: docs/measuring.md")]
    Fit(FitArgs),
    /// Lay the planner's predictions beside other people's measurements, and say how far they are off
    #[command(after_help = "\
Examples:
  llmlab validate                        the shipped table: with the shipped figures, and with whole devices and models left out
  llmlab validate --quick                the first of these alone
  llmlab validate --data mine.csv --json rows of your own, with the columns of analysis/validation/measured.csv

What the figures mean, and where they are bad: docs/validation.md")]
    Validate(ValidateArgs),
    /// Take a step of a model on a device apart: FLOPs, bytes, time and what each operation waits for
    #[command(after_help = "\
Examples:
  llmlab roofline llama-3.1-8b --hardware h100-sxm --batch 64 --context 2000
  llmlab roofline llama-3.1-70b --hardware h100-sxm --tp 4 --weights fp8 --prefill 4096 --svg roofline.svg
  llmlab roofline llama-2-7b --hardware a100-sxm-80gb --ideal      datasheet peaks, nothing lost

How a time is put together: docs/simulation.md")]
    Roofline(RooflineArgs),
    /// Print the JSON schema of scenario files, for editor completion
    Schema {
        /// Of which kind of file
        #[arg(value_enum, default_value_t = SchemaOf::Scenario)]
        of: SchemaOf,
    },
    /// Print shell completions
    #[command(
        after_help = "Example:\n  llmlab completions bash > ~/.local/share/bash-completion/completions/llmlab"
    )]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Scenario file, the URL of a running server, or a folder whose *.toml are run one after the other
    pub scenario: String,
    /// Print the resolved plan and run nothing
    #[arg(long)]
    pub explain: bool,
    /// Live terminal view; leaving it with q does not stop the run
    #[arg(long, conflicts_with = "json")]
    pub tui: bool,
    /// Print the analysis as JSON on standard output (progress goes to standard error)
    #[arg(long)]
    pub json: bool,
    /// Where runs are stored
    #[arg(long, default_value = "results/runs", value_name = "DIR")]
    pub results: PathBuf,
    /// Override the scenario's number of requests per trial
    #[arg(long, value_name = "N")]
    pub requests: Option<u32>,
    /// Override the scenario's repeats
    #[arg(long, value_name = "N")]
    pub repeats: Option<u32>,
    /// Override the scenario's seed
    #[arg(long)]
    pub seed: Option<u64>,
    /// Let engine targets write calls.jsonl into each trial's folder, for llmlab replay
    #[arg(long)]
    pub record: bool,
    /// Score the same records as another tool defines its metrics, beside ours: vllm, sglang, guidellm, aiperf, mlperf
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    pub compat: Vec<Tool>,
    /// Do not check the client itself against llmlab mock after the trials (2 to 5 seconds)
    #[arg(long)]
    pub no_client_calibration: bool,
    /// Send one machine's part of the schedule: I of 0 to N-1; llmlab merge joins the parts
    #[arg(long, value_name = "I/N", requires = "start_at")]
    pub shard: Option<Shard>,
    /// When all shards begin: RFC 3339 (2026-01-31T12:00:00Z) or seconds since 1970
    #[arg(long, value_name = "TIME", requires = "shard", value_parser = start_time)]
    pub start_at: Option<OffsetDateTime>,
}

fn start_time(typed: &str) -> Result<OffsetDateTime, String> {
    let epoch = || {
        let seconds = time::Duration::checked_seconds_f64(typed.parse().ok()?)?;
        OffsetDateTime::UNIX_EPOCH.checked_add(seconds)
    };
    OffsetDateTime::parse(typed, &Rfc3339)
        .ok()
        .or_else(epoch)
        .map(|at| at.to_offset(UtcOffset::UTC))
        .ok_or_else(|| "accepted are RFC 3339, such as 2026-01-31T12:00:00Z, and seconds since 1970".into())
}

#[derive(Debug, Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// A device of the catalogue, or this-host; default: what a simulate target names, else this-host
    #[arg(long, value_name = "NAME")]
    pub hardware: Option<String>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// synthetic:<preset> (e.g. llama-15m, llama-1.1b, qwen3-tiny), a Hugging Face folder or a .gguf file
    #[arg(long)]
    pub model: String,
    /// Address to listen on; loopback unless you say otherwise
    #[arg(long, default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,
    /// 0 picks a free port
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Name clients use in `model`; default: the model source
    #[arg(long)]
    pub served_model_name: Option<String>,
    /// An adapter in PEFT's format, or NAME=synthetic:RANK; requests ask for it by NAME in `model`. May be given several times
    #[arg(long, value_name = "NAME=FOLDER")]
    pub lora_modules: Vec<String>,
    /// static, dynamic, vllm, tgi, tgi-3.3.6
    #[arg(long, default_value = "vllm")]
    pub policy: String,
    /// A knob of the policy or engine, as in a scenario: --set max_num_seqs=32 --set kv_strategy=reserve
    #[arg(long = "set", value_name = "KNOB=VALUE")]
    pub knobs: Vec<String>,
    /// f32, bf16, q8_0, q4_k_m, int8, as_stored, ...; default: as stored where the checkpoint is quantized, else bf16
    #[arg(long)]
    pub weights: Option<String>,
    /// f32, f16, bf16, int8, fp8; default: bf16
    #[arg(long)]
    pub kv: Option<String>,
    /// Compute threads; default: all cores but one
    #[arg(long)]
    pub threads: Option<u32>,
    /// Longest prompt plus output; default: what the model was made for
    #[arg(long)]
    pub max_model_len: Option<u32>,
    /// Environment variable that holds the API key clients must send
    #[arg(long, value_name = "VARIABLE")]
    pub api_key_env: Option<String>,
    /// The key itself; prefer --api-key-env, which does not show in the process list
    #[arg(long, conflicts_with = "api_key_env")]
    pub api_key: Option<String>,
    /// Write one JSON line per engine step
    #[arg(long, value_name = "FILE")]
    pub step_log: Option<PathBuf>,
    /// Write every call to the scheduler and its plans to a new file, for llmlab replay; it holds the prompts
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Seed of synthetic weights
    #[arg(long, default_value_t = 0)]
    pub model_seed: u64,
    /// Whole engine configuration as JSON, as `llmlab run` passes it to its children
    #[arg(long, hide = true)]
    pub engine_json: Option<String>,
    /// Exit when standard input closes, so that a killed parent leaves no server behind
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub struct MockArgs {
    /// Address to listen on; loopback unless you say otherwise
    #[arg(long, default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,
    /// 0 picks a free port
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// The model that /v1/models names; requests may name any
    #[arg(long, default_value = "mock")]
    pub model: String,
    /// From reading a request to its first token
    #[arg(long, default_value = "50ms", value_name = "TIME", value_parser = parse_duration)]
    pub ttft: Duration,
    /// From one event to the next
    #[arg(long, default_value = "10ms", value_name = "TIME", value_parser = parse_duration)]
    pub itl: Duration,
    /// Added to each TTFT: uniform:5ms (0 to 5 ms), exponential:5ms (the mean), normal:2ms (the deviation)
    #[arg(long, value_name = "KIND:TIME", value_parser = mock_words::jitter)]
    pub ttft_jitter: Option<Jitter>,
    /// Added to each gap between events, likewise
    #[arg(long, value_name = "KIND:TIME", value_parser = mock_words::jitter)]
    pub itl_jitter: Option<Jitter>,
    /// Stand still for a time at the end of every period, e.g. "2s every 10s"
    #[arg(long, value_name = "\"TIME every TIME\"", value_parser = mock_words::stall)]
    pub stall: Option<Stall>,
    /// Tokens in each event
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub tokens_per_event: u32,
    /// A fault and the share of requests that meet it (1 when left out). May be given several times
    #[arg(long = "fault", value_name = "NAME[:RATE]", value_parser = mock_words::fault)]
    pub faults: Vec<(Fault, f64)>,
    /// Of jitter and faults
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Poll the clock for this long before an event instead of sleeping to its time
    #[arg(long, default_value = "50us", value_name = "TIME", value_parser = parse_duration)]
    pub spin: Duration,
    /// Stay on this core
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// Write what was served and when, one JSON line per request, to a new file; with --check, read it
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Serve nothing: compare the records of a run with the log of the mock it ran against
    #[arg(long, value_name = "RUN", requires = "log")]
    pub check: Option<PathBuf>,
    /// Exit when standard input closes, so that a killed parent leaves no server behind
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// From SIGTERM to SIGKILL, in milliseconds
    #[arg(long)]
    pub stop_timeout_ms: u64,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub run: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What `llmlab serve --record` wrote
    pub file: PathBuf,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run directory; default: the newest under --results
    pub run: Option<PathBuf>,
    #[arg(long, default_value = "results/runs", value_name = "DIR")]
    pub results: PathBuf,
    /// Print the analysis as JSON
    #[arg(long)]
    pub json: bool,
    /// Score the same records as another tool defines its metrics, beside ours: vllm, sglang, guidellm, aiperf, mlperf
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    pub compat: Vec<Tool>,
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Run directories, one of each shard, in any order
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Where the joined run is stored
    #[arg(long, default_value = "results/runs", value_name = "DIR")]
    pub results: PathBuf,
    /// Print the analysis as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum DeployCommand {
    /// A Kubernetes Indexed Job whose pods are the shards of a scenario, as YAML
    #[command(after_help = "\
Example:
  llmlab deploy loadgen scenario.toml --shards 8 --image registry.example.com/llmlab:0.1 --results-claim runs | kubectl apply -f -

How to collect the runs, and the same for Slurm and ssh: docs/distributed.md")]
    Loadgen(DeployLoadgenArgs),
}

#[derive(Debug, Args)]
pub struct AutoscaleArgs {
    /// A plan file, with an [autoscale] table or without
    pub file: PathBuf,
    /// Only the policies of these names
    #[arg(long, value_name = "NAME")]
    pub policy: Vec<String>,
    /// The answer as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Where autoscale.html, autoscale.json and autoscale.yaml go; default: results/autoscale/<name>
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Container image of the server, for the YAML
    #[arg(long, default_value = "vllm/vllm-openai:latest")]
    pub image: String,
    /// Prometheus as KEDA reaches it, for the YAML
    #[arg(long, value_name = "URL", default_value = "http://prometheus-operated.monitoring.svc:9090")]
    pub prometheus: String,
}

#[derive(Debug, Args)]
pub struct DeployLoadgenArgs {
    /// Scenario file with one endpoint target; goes into a ConfigMap
    pub scenario: String,
    /// Pods, each one shard
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SHARDS)))]
    pub shards: u32,
    /// Container image with llmlab on its path
    #[arg(long)]
    pub image: String,
    /// PersistentVolumeClaim that all pods mount and write their runs to
    #[arg(long, value_name = "CLAIM")]
    pub results_claim: String,
    /// Of the job and the ConfigMap; default: llmlab- and the scenario's name
    #[arg(long)]
    pub name: Option<String>,
    /// Default: that of whoever applies the YAML
    #[arg(long)]
    pub namespace: Option<String>,
    /// From now to the start: time to apply the YAML and to pull the image everywhere
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = parse_duration, conflicts_with = "start_at")]
    pub start_in: Duration,
    /// The start itself: RFC 3339 or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = start_time)]
    pub start_at: Option<OffsetDateTime>,
    /// Of each pod, guaranteed
    #[arg(long, default_value = "2", value_name = "QUANTITY")]
    pub cpu: String,
    /// Of each pod, guaranteed
    #[arg(long, default_value = "1Gi", value_name = "QUANTITY")]
    pub memory: String,
    /// Secret whose entry fills the scenario's api_key_env, under the same name
    #[arg(long, value_name = "SECRET")]
    pub api_key_secret: Option<String>,
}

#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Threads to measure with; default: what the engine would use
    #[arg(long)]
    pub threads: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Time the engine's steps and its server with a model, for simulations on this-host
    #[arg(long, requires = "model")]
    pub engine: bool,
    /// With --engine: synthetic:<preset>, a Hugging Face folder or a .gguf file
    #[arg(long, requires = "engine")]
    pub model: Option<String>,
    /// With --engine: weight format; default: as stored where the checkpoint is quantized, else bf16
    #[arg(long, requires = "engine", value_name = "FORMAT")]
    pub weights: Option<String>,
    /// With --engine: KV cache format
    #[arg(long, requires = "engine", value_name = "FORMAT", default_value = "bf16")]
    pub kv: String,
    /// With --engine: rounds over all shaped steps
    #[arg(long, requires = "engine", value_name = "N", default_value_t = 7)]
    pub rounds: u32,
    /// With --engine: seed of synthetic weights
    #[arg(long, requires = "engine", value_name = "N", default_value_t = 0)]
    pub model_seed: u64,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Check the load generator instead: drive a mock server on a core of its own and compare with what it served
    #[arg(long)]
    pub client: bool,
    /// With --client: streams at the same time, one row each
    #[arg(long, requires = "client", value_delimiter = ',', value_name = "N", default_value = "8,100,500,2000",
          value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub streams: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[arg(default_value = "scenario.toml")]
    pub path: PathBuf,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct RooflineArgs {
    /// A model of the catalogue
    pub model: String,
    /// A device of the catalogue
    #[arg(long, value_name = "DEVICE")]
    pub hardware: String,
    /// Devices that share each product
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub tp: u32,
    /// Pipeline stages
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub pp: u32,
    /// Devices that divide the experts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub ep: u32,
    /// bf16, fp8, int8, int4, q4_k_m and others; as published if left out
    #[arg(long, value_name = "FORMAT")]
    pub weights: Option<String>,
    /// Format of keys and values: bf16 or fp8
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub kv: String,
    /// Whose overheads count: vllm, tensorrt-llm, llama.cpp
    #[arg(long, value_name = "NAME", default_value = "vllm")]
    pub runtime: String,
    /// Sequences that decode one token each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: u32,
    /// Tokens before it, of each sequence
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub context: u32,
    /// A prompt of so many tokens instead of a decode
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub prefill: Option<u32>,
    /// Datasheet peaks, nothing lost and no overhead
    #[arg(long)]
    pub ideal: bool,
    /// Draw the roofline with the operations as points
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// A table of measurements, CSV; the shipped one if left out
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Tables, every row and every reason as JSON
    #[arg(long)]
    pub json: bool,
    /// Only with the shipped figures, without fits that leave devices and models out
    #[arg(long)]
    pub quick: bool,
    /// Fit the cost model to the table and write its figures to FILE
    #[arg(long, value_name = "FILE", hide = true)]
    pub write_fit: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct FitArgs {
    /// csv with a header, or jsonl: prompt tokens, output tokens and, where known, arrival time of each request
    pub log: PathBuf,
    /// The scenario to write
    #[arg(long, short, default_value = "fitted.toml", value_name = "FILE")]
    pub output: PathBuf,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
    /// Names of columns: input=NAME,output=NAME,arrival=NAME, any of them
    #[arg(long, value_name = "WHAT=NAME,...")]
    pub columns: Option<String>,
    /// Requests of the scenario; default: as many as the log has, at most 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=10_000_000))]
    pub requests: Option<u32>,
    /// Seed of the scenario
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct BenchEngineArgs {
    /// synthetic:<preset> (e.g. llama-15m, llama-1.1b, qwen3-tiny), a Hugging Face folder or a .gguf file
    #[arg(long)]
    pub model: String,
    /// Weight formats, measured one after the other; default: as stored where the checkpoint is quantized, else bf16
    #[arg(long, value_delimiter = ',', value_name = "FORMAT")]
    pub weights: Vec<String>,
    /// KV cache formats: f32, f16, bf16, int8, fp8
    #[arg(long, value_delimiter = ',', value_name = "FORMAT", default_value = "bf16")]
    pub kv: Vec<String>,
    /// Compute threads; default: all cores, because nothing else runs here
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Prompt length of the ppN test at batch 1; 0 leaves it out
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub pp: u32,
    /// Tokens of the tgN test at batch 1, from an empty context; 0 leaves it out
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub tg: u32,
    /// Batch sizes of the batched test; 0 leaves it out (llama-batched-bench -npl)
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32", value_name = "N")]
    pub batch: Vec<u32>,
    /// Prompt tokens of each sequence of a batch (-npp)
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub prompt_tokens: u32,
    /// Generated tokens of each sequence of a batch (-ntg)
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub generate_tokens: u32,
    /// Prompt tokens computed in one step at most (llama.cpp's -ub)
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub step_tokens: u32,
    /// Measured repetitions of each test, after a warm-up
    #[arg(long, short, default_value_t = 3, value_name = "N")]
    pub repetitions: u32,
    /// One JSON object per row instead of tables
    #[arg(long)]
    pub json: bool,
    /// Seed of synthetic weights
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub model_seed: u64,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// All models of the catalogue with their main sizes
    List(ListArgs),
    /// The shape of a model of the catalogue, what it takes in each format, and what hosts charge for it
    #[command(after_help = "Example:\n  llmlab models show deepseek-v3")]
    Show(ShowArgs),
    /// What a model takes on a device, line by line, and how many sequences fit
    #[command(after_help = "\
Examples:
  llmlab models memory llama-3.1-70b --hardware h100 --tp 2 --weights fp8 --lengths 2048,8192
  llmlab models memory gpt-oss-120b --hardware h100
  llmlab models memory ./my-model/config.json --hardware rtx-4090 --weights q4_k_m --framework bare")]
    Memory(MemoryArgs),
    /// Say what a model is: family, shape, formats and sizes, tokenizer, KV cost
    #[command(after_help = "\
Examples:
  llmlab models inspect model-Q4_K_M.gguf
  llmlab models inspect ./TinyLlama-1.1B --tensors")]
    Inspect(InspectArgs),
    /// Rewrite a model in another format: a .gguf file if OUT ends in .gguf, else a Hugging Face folder
    #[command(after_help = "\
Examples:
  llmlab models convert ./TinyLlama-1.1B tiny-q4_k_m.gguf --weights q4_k_m
  llmlab models convert tiny-q4_k_m.gguf ./tiny-bf16 --weights bf16")]
    Convert(ConvertArgs),
    /// Write a model of random weights that other servers can load
    #[command(after_help = "\
Examples:
  llmlab models synth llama-1.1b llama-1.1b-q4_k_m.gguf --weights q4_k_m    for llama.cpp
  llmlab models synth llama-1.1b ./llama-1.1b --weights bf16                for vLLM and transformers
  llmlab models synth qwen3-tiny ./qwen3-gptq --weights int4 --layout gptq")]
    Synth(SynthArgs),
    /// Measure how well a model predicts a text, as llama-perplexity does
    #[command(after_help = "\
The text is cut into windows of --context tokens that do not overlap; what is left at the end is not used. Each window is
computed by itself and starts with the tokenizer's BOS in place of its first token, where the tokenizer adds one. Its second
half is scored: context - 1 - context / 2 tokens a window. The standard error takes the scored tokens as independent.

Examples:
  llmlab models perplexity model-Q4_K_M.gguf --text wiki.test.raw
  llmlab models perplexity ./TinyLlama-1.1B --text wiki.test.raw --weights f32 --kv f32 --save-logits base.kld
  llmlab models perplexity ./TinyLlama-1.1B --kl-base base.kld --weights q4_k_m      what rounding did to the predictions")]
    Perplexity(PerplexityArgs),
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Hugging Face folder, .gguf file or synthetic:<preset>
    pub model: String,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Hugging Face folder, .gguf file or synthetic:<preset>
    pub input: String,
    /// File ending in .gguf, or a folder
    pub output: PathBuf,
    #[command(flatten)]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// llama-15m, llama-110m, llama-1.1b, or <family>-tiny
    pub preset: String,
    /// File ending in .gguf, or a folder
    pub output: PathBuf,
    #[command(flatten)]
    pub format: OutputFormat,
    /// Picks the weights; the same seed gives the same weights as synthetic:<preset> with that seed
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// Hugging Face folder, .gguf file or synthetic:<preset>
    pub model: String,
    /// UTF-8 text; its last line break is left out
    #[arg(long, value_name = "FILE", required_unless_present = "kl_base")]
    pub text: Option<PathBuf>,
    /// Tokens of a window (llama-perplexity -c)
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub context: u32,
    /// Score only the first windows (llama-perplexity --chunks)
    #[arg(long, value_name = "N")]
    pub chunks: Option<u32>,
    /// f32, bf16, q8_0, q4_k_m, int8, as_stored, ...; default: as stored where the checkpoint is quantized, else bf16
    #[arg(long, value_name = "FORMAT")]
    pub weights: Option<String>,
    /// f32, f16, bf16, int8, fp8
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub kv: String,
    /// Compute threads; default: all cores
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Keep all predictions of the scored tokens, in the layout of llama-perplexity --kl-divergence-base
    #[arg(long, value_name = "FILE")]
    pub save_logits: Option<PathBuf>,
    /// Compare with predictions kept before, by llama-perplexity too: same text, same windows, Kullback-Leibler divergence
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "context"])]
    pub kl_base: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Seed of synthetic weights
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub model_seed: u64,
}

#[derive(Debug, Args)]
pub struct OutputFormat {
    /// f32, f16, bf16; in .gguf files also q8_0, q4_0, q4_k_m, ...; in folders also int8, fp8, int4, int8_group
    #[arg(long, value_name = "FORMAT")]
    pub weights: String,
    /// How a folder holds int4 (default compressed-tensors) and int8_group (default gptq)
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,
}

/// The layouts of 4- and 8-bit weights with groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    Gptq,
    #[value(name = "gptq_v2")]
    GptqV2,
    Awq,
    #[value(name = "awq_gemv")]
    AwqGemv,
    CompressedTensors,
}

/// Kinds of files that editors can check.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum SchemaOf {
    Scenario,
    Plan,
}
