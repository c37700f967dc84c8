//! Model files.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::catalogue::{ListArgs, MemoryArgs, ShowArgs};

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
