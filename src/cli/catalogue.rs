//! What a person types about the catalogue: models, hardware, memory, files of their own.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use llmlab_models::memory::VLLM_GPU_MEMORY_UTILIZATION;

#[derive(Debug, Subcommand)]
pub enum HardwareCommand {
    /// All devices of the catalogue with their main figures
    List(ListArgs),
    /// Every figure of a device with source, date and confidence, and its prices
    #[command(after_help = "Example:\n  llmlab hardware show h100")]
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A name or another name of it, in any spelling
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Names as in vLLM where it has one.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// A model of the catalogue, or a Hugging Face config.json
    pub model: String,
    /// A device of the catalogue
    #[arg(long, value_name = "NAME")]
    pub hardware: String,
    /// Usable bytes of the device's memory in GiB, in place of what the catalogue has
    #[arg(long, value_name = "GIB")]
    pub memory_gib: Option<f64>,
    /// What counts around weights and cache: vllm (its share of the memory), tgi, tensorrt-llm, or llama.cpp, also called bare
    /// (weights, cache, a forward pass)
    #[arg(long, default_value = "vllm", value_name = "NAME")]
    pub framework: String,
    /// published, f32, f16, bf16, fp8, int8, awq, gptq, int4 (or int4:GROUP), mxfp4, nvfp4, or a GGUF mix as q4_k_m
    #[arg(long, default_value = "published", value_name = "FORMAT")]
    pub weights: String,
    /// auto (16 bits) or fp8
    #[arg(long, default_value = "auto", value_name = "FORMAT")]
    pub kv: String,
    /// Devices that share each layer
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub tp: u32,
    /// Groups of devices that share the layers out
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub pp: u32,
    /// Tokens of the longest request; default: what the model was trained for
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<u32>,
    /// Default: vLLM's, 8192 on a device of 70 GiB and above but an A100, else 2048
    #[arg(long, value_name = "N")]
    pub max_num_batched_tokens: Option<u32>,
    /// Default: vLLM's, 1024 on a device of 70 GiB and above but an A100, else 256
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<u32>,
    #[arg(long, default_value_t = VLLM_GPU_MEMORY_UTILIZATION, value_name = "SHARE")]
    pub gpu_memory_utilization: f64,
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub block_size: u32,
    /// Adapters resident at a time; 0: none
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub max_loras: u32,
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub max_lora_rank: u32,
    /// Also say how many sequences of these lengths fit at a time
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    pub lengths: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Files over the built-in catalogue.
#[derive(Debug, Args)]
pub struct CatalogueArgs {
    /// Models, devices and prices of your own: a .toml file or a folder of them, over those of ./llmlab-catalogue and
    /// ~/.config/llmlab/catalogue (docs/catalogue.md)
    #[arg(long = "catalogue", global = true, value_name = "FILE|DIR")]
    pub files: Vec<PathBuf>,
}
