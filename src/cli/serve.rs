//! Servers: our engine, the mock, and somebody else's under supervision.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use llmlab_mock::{Fault, Jitter, Stall};
use llmlab_scenarios::units::parse_duration;

use crate::mock_words;

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
    /// Speak TLS, with a certificate made now for localhost and the address; it goes to this new file (PEM), for a client's ca_file
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub tls: Option<PathBuf>,
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
