//! Planning besides `llmlab plan`: a step taken apart, predictions held against measurements, a day under scaling policies.

use std::path::PathBuf;

use clap::Args;

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

fn network(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.01..=1e4).contains(number));
    number.ok_or_else(|| "accepted are 0.01 to 10000, in 10^9 bytes a second".into())
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
    /// The network between nodes, of one device in one direction; the catalogue's if left out
    #[arg(long, value_name = "GB/S", value_parser = network)]
    pub network: Option<f64>,
    /// published, bf16, fp8, int8, int4, q4_k_m and others, as in llmlab models memory
    #[arg(long, default_value = "published", value_name = "FORMAT")]
    pub weights: String,
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
