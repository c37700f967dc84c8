//! The command line as a person types it.

mod catalogue;
mod machine;
mod models;
mod plan;
mod planning;
mod run;
mod serve;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use catalogue::{CatalogueArgs, HardwareCommand, ListArgs, MemoryArgs, ShowArgs};
pub use machine::{BenchEngineArgs, CalibrateArgs, DoctorArgs};
pub use models::{ConvertArgs, InspectArgs, Layout, ModelsCommand, OutputFormat, PerplexityArgs, SynthArgs};
pub use plan::PlanArgs;
pub use planning::{AutoscaleArgs, RooflineArgs, ValidateArgs};
pub use run::{
    DeployCommand, DeployLoadgenArgs, FitArgs, MergeArgs, ReplayArgs, ReportArgs, RunArgs, SimulateArgs,
};
pub use serve::{MockArgs, ServeArgs, SuperviseArgs};

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

#[derive(Debug, Args)]
pub struct InitArgs {
    #[arg(default_value = "scenario.toml")]
    pub path: PathBuf,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
}

/// Kinds of files that editors can check.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum SchemaOf {
    Scenario,
    Plan,
}
