//! This machine: what it can do, and what the engine makes of it.

use clap::Args;

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
