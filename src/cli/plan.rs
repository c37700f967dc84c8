//! The command line of `llmlab plan`: a file, or the same words as options.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

/// What is asked of a plan and means nothing for one device.
const NOT_OF_A_DEVICE: [&str; 11] = [
    "rate",
    "traffic",
    "ttft_p95",
    "tpot_p95",
    "max_model_len",
    "hardware",
    "pricing",
    "budget",
    "what_if",
    "exhaustive",
    "out",
];

/// A plan file, a device, or `--model`, a rate and limits.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A plan file, such as scenarios/plan/7b-one-gpu.toml
    #[arg(required_unless_present_any = ["model", "device"], conflicts_with_all = ["model", "device"])]
    pub file: Option<PathBuf>,
    /// A model of the catalogue (llmlab models list)
    #[arg(long)]
    pub model: Option<String>,
    /// What a laptop, a phone or a board runs, and how fast (llmlab hardware list); with --model one model in every format
    #[arg(long, value_name = "NAME", conflicts_with_all = NOT_OF_A_DEVICE)]
    pub device: Option<String>,
    /// Requests a second in the busiest hour
    #[arg(long, value_name = "N", requires = "model", required_unless_present_any = ["file", "device"])]
    pub rate: Option<f64>,
    /// A published traffic shape
    #[arg(long, default_value = "azure-2023-conversation", value_name = "NAME", requires = "model")]
    pub traffic: String,
    /// At most this long until the first token, for 95 of 100 requests
    #[arg(long, value_name = "TIME", requires = "model")]
    pub ttft_p95: Option<String>,
    /// At most this long between tokens, for 95 of 100 requests
    #[arg(long, value_name = "TIME", requires = "model")]
    pub tpot_p95: Option<String>,
    /// Longest prompt plus output in tokens
    #[arg(long, value_name = "N", requires = "model")]
    pub max_model_len: Option<u32>,
    /// Devices to try; default: every GPU with a price
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", requires = "model")]
    pub hardware: Vec<String>,
    /// Formats of the weights to try
    #[arg(long, value_delimiter = ',', value_name = "FORMAT,...", conflicts_with = "file")]
    pub weights: Vec<String>,
    /// on-demand, spot, reserved, own
    #[arg(long, value_delimiter = ',', value_name = "WAY,...", requires = "model")]
    pub pricing: Vec<String>,
    /// Dollars a month
    #[arg(long, value_name = "USD", requires = "model")]
    pub budget: Option<f64>,
    /// The same plan with changes beside it, e.g. traffic=2x,weights=fp8; may be given several times
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub what_if: Vec<String>,
    /// Simulate also what is dearer and slower than another row even at best
    #[arg(long)]
    pub exhaustive: bool,
    /// The answer as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Where plan.html, plan.md and plan.json go; default: results/plans/<name>
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

impl PlanArgs {
    /// The plan file that the options stand for, where no file is named.
    pub fn as_file(&self) -> Option<String> {
        let model = self.model.as_ref()?;
        let text = |value: &str| toml::Value::from(value).to_string();
        let mut file = format!("name = {}\n[model]\nname = {}\n", text("plan"), text(model));
        if let Some(len) = self.max_model_len {
            let _ = writeln!(file, "max_model_len = {len}");
        }
        let rate = toml::Value::from(self.rate.unwrap_or_default());
        let _ = write!(
            file,
            "[workload]\ntraffic = {}\narrivals = {{ process = \"poisson\", rate = {rate} }}\n[slo]\n",
            text(&self.traffic)
        );
        for (key, limit) in [("ttft_p95", &self.ttft_p95), ("tpot_p95", &self.tpot_p95)] {
            if let Some(limit) = limit {
                let _ = writeln!(file, "{key} = {}", text(limit));
            }
        }
        if let Some(budget) = self.budget {
            let _ = writeln!(file, "[budget]\nusd_per_month = {}", toml::Value::from(budget));
        }
        file.push_str("[search]\n");
        for (key, list) in
            [("hardware", &self.hardware), ("weights", &self.weights), ("pricing", &self.pricing)]
        {
            if !list.is_empty() {
                let _ = writeln!(file, "{key} = {}", toml::Value::from(list.clone()));
            }
        }
        Some(file)
    }
}
