//! Runs, and what is done with them: simulations, reports, shards, traffic from a log.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use llmlab_loadgen::Shard;
use llmlab_loadgen::shard::MOST_SHARDS;
use llmlab_metrics::compat::Tool;
use llmlab_scenarios::units::parse_duration;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

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
    /// Do not check the client itself against llmlab mock after the trials (2 to 5 seconds, more on a busy machine)
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
