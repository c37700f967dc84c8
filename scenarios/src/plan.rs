//! A plan file: what shall be served, to how many, how fast, for how much. `llmlab plan` searches the rest.
//!
//! Workload and limits are written as in a scenario, so that what was measured can be planned for and the other way round.
//! Names of models, devices, formats and APIs are the planner's business; here they are text.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::autoscale::{AutoscaleSpec, AutoscaleTable};
use crate::error::{ScenarioError, Source};
use crate::resolve;
use crate::scenario::WorkloadTable;
use crate::schema;
use crate::spec::{SloSpec, WorkloadSpec};

/// A question to `llmlab plan`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Name of the plan; part of the report's file name.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Seed of lengths and arrival times. Default 42.
    pub seed: Option<u64>,
    pub model: PlanModelTable,
    /// Requests as in a scenario. `requests` is how many are simulated for each configuration, default 1000; `arrivals` has a rate, or
    /// leaves it to `[demand]`.
    #[schemars(with = "WorkloadTable")]
    pub workload: Spanned<WorkloadTable>,
    /// How much is asked in a day, in place of a rate in `arrivals`.
    #[schemars(with = "Option<DemandTable>")]
    pub demand: Option<Spanned<DemandTable>>,
    /// Limits to meet: `<metric>_p<percentile>`, metric one of ttft, tpot, itl, e2e.
    #[serde(default)]
    #[schemars(schema_with = "schema::slo")]
    pub slo: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    pub budget: Option<BudgetTable>,
    /// What is tried. Whatever is left out is tried in all its forms.
    #[serde(default)]
    pub search: SpaceTable,
    /// Policies that scale the answer over a day, for `llmlab autoscale`.
    pub autoscale: Option<AutoscaleTable>,
    /// Prices to hold the answer against.
    #[serde(default)]
    pub api: ApiTable,
    /// What a machine of one's own costs besides buying it.
    #[serde(default)]
    pub own: OwnTable,
}

/// The model to serve.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanModelTable {
    /// A name of the catalogue (`llmlab models list`) or a Hugging Face folder relative to this file, with a / in it: "./my-model".
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Longest prompt plus output in tokens. Default: what the model was made for, at most 32768.
    #[schemars(with = "Option<u32>")]
    pub max_model_len: Option<Spanned<u32>>,
}

/// A day of traffic: exactly one of requests_per_day and users_per_day, and at most one of peak_to_mean and hourly.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DemandTable {
    #[schemars(with = "Option<f64>")]
    pub requests_per_day: Option<Spanned<f64>>,
    #[schemars(with = "Option<f64>")]
    pub users_per_day: Option<Spanned<f64>>,
    /// With users_per_day.
    #[schemars(with = "Option<f64>")]
    pub requests_per_user: Option<Spanned<f64>>,
    /// How many times the mean the busiest hour is. Default 2.
    #[schemars(with = "Option<f64>")]
    pub peak_to_mean: Option<Spanned<f64>>,
    /// The hours of the day, in any unit.
    #[schemars(with = "Option<Vec<f64>>", length(min = 24, max = 24))]
    pub hourly: Option<Spanned<Vec<f64>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetTable {
    #[schemars(with = "f64")]
    pub usd_per_month: Spanned<f64>,
}

/// Lists of what to try.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpaceTable {
    /// Devices of the catalogue (`llmlab hardware list`). Default: every GPU with a price.
    #[schemars(with = "Option<Vec<String>>")]
    pub hardware: Option<Spanned<Vec<Spanned<String>>>>,
    /// Formats of the weights. Default: bf16, fp8 and int4, where the device has the arithmetic.
    #[schemars(with = "Option<Vec<String>>")]
    pub weights: Option<Spanned<Vec<Spanned<String>>>>,
    /// Formats of the KV cache. Default: bf16.
    #[schemars(with = "Option<Vec<String>>")]
    pub kv: Option<Spanned<Vec<Spanned<String>>>>,
    /// Default 1, 2, 4, 8.
    #[schemars(with = "Option<Vec<u32>>")]
    pub tensor_parallel: Option<Spanned<Vec<Spanned<u32>>>>,
    /// Default 1.
    #[schemars(with = "Option<Vec<u32>>")]
    pub pipeline_parallel: Option<Spanned<Vec<Spanned<u32>>>>,
    /// Try prefill and decode in replicas of their own, too. Default false.
    #[serde(default)]
    pub disaggregated: bool,
    /// The network between nodes: 10^9 bytes a second in one direction, of one device. Default: the catalogue's figure.
    #[schemars(with = "Option<f64>")]
    pub network_gb_per_s: Option<Spanned<f64>>,
    /// on-demand, spot, reserved, own. Default on-demand.
    #[serde(default)]
    #[schemars(schema_with = "schema::pricings")]
    pub pricing: Option<Spanned<Vec<Spanned<String>>>>,
    /// Longest queue of decoding sequences a replica may have: vLLM's max_num_seqs. Default 256.
    #[schemars(with = "Option<u32>")]
    pub max_num_seqs: Option<Spanned<u32>>,
    /// vLLM's max_num_batched_tokens. Default 8192.
    #[schemars(with = "Option<u32>")]
    pub max_num_batched_tokens: Option<Spanned<u32>>,
    /// Devices of all replicas together. Default 1024.
    #[schemars(with = "Option<u32>")]
    pub max_devices: Option<Spanned<u32>>,
    /// Replicas that may fail at the busiest time without breaking the SLO. Default 0; the answer with 1 is always shown.
    #[schemars(with = "Option<u32>")]
    pub spare_replicas: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiTable {
    /// Names of the API price list. Default: those that serve this model.
    #[schemars(with = "Option<Vec<String>>")]
    pub models: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnTable {
    /// What a device costs to buy, by its name, in place of the catalogue's figure. Of what is bought whole, as a laptop, the whole.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, f64>")]
    pub device_usd: BTreeMap<String, Spanned<f64>>,
    /// Years until it is written off. Default 4.
    #[schemars(with = "Option<f64>")]
    pub years: Option<Spanned<f64>>,
    /// Default 0.12.
    #[schemars(with = "Option<f64>")]
    pub usd_per_kwh: Option<Spanned<f64>>,
    /// Power of the building over power of the machines. Default 1.3.
    #[schemars(with = "Option<f64>")]
    pub pue: Option<Spanned<f64>>,
    /// Purchase price of a server's rest (CPU, memory, network, rack) over that of its devices. Default 0.35.
    #[schemars(with = "Option<f64>")]
    pub server_overhead: Option<Spanned<f64>>,
    /// Space, people and repairs a year, as a share of the purchase. Default 0.1.
    #[schemars(with = "Option<f64>")]
    pub upkeep_per_year: Option<Spanned<f64>>,
}

/// A plan file with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanSpec {
    pub name: String,
    pub seed: u64,
    /// A name of the catalogue, or the path of a folder.
    pub model: String,
    pub max_model_len: Option<u32>,
    /// At the busiest hour.
    pub workload: WorkloadSpec,
    pub demand: Demand,
    pub slo: SloSpec,
    pub usd_per_month: Option<f64>,
    pub space: Space,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<AutoscaleSpec>,
    /// `None` = those that serve the model.
    pub apis: Option<Vec<String>>,
    pub own: Own,
}

/// Requests a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Over a day.
    pub mean_rps: f64,
    /// In the busiest hour.
    pub peak_rps: f64,
    /// Of each hour, where the day is known.
    pub hourly_rps: Option<Vec<f64>>,
}

/// `None` = all that make sense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Space {
    pub hardware: Option<Vec<String>>,
    pub weights: Option<Vec<String>>,
    pub kv: Option<Vec<String>>,
    pub tensor_parallel: Vec<u32>,
    pub pipeline_parallel: Vec<u32>,
    /// Prefill and decode in replicas of their own are tried too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disaggregated: bool,
    /// Of every device, in place of the catalogue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_gb_per_s: Option<f64>,
    pub pricing: Vec<String>,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub max_devices: u32,
    pub spare_replicas: u32,
}

/// Owned hardware.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// By names of devices; before the catalogue's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_usd: BTreeMap<String, f64>,
    pub years: f64,
    pub usd_per_kwh: f64,
    pub pue: f64,
    /// Of the purchase price of the devices.
    pub server_overhead: f64,
    /// Of the purchase price, a year.
    pub upkeep_per_year: f64,
}

/// Reads a plan file.
pub fn load_plan(path: &Path) -> Result<(String, PlanSpec), ScenarioError> {
    let read_error = |source| ScenarioError::Read { path: path.to_path_buf(), source };
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    let spec = parse_plan(&text, &path.display().to_string())?;
    Ok((text, spec))
}

/// `name` is the file's path: shown in errors, and paths in the file are relative to its folder.
pub fn parse_plan(text: &str, name: &str) -> Result<PlanSpec, ScenarioError> {
    let source = Source { name, text };
    let file: PlanFile = toml::from_str(text).map_err(|e| source.toml_error(&e))?;
    let base = Path::new(name).parent().unwrap_or(Path::new(""));
    resolve::plan(&file, base).map_err(|finding| source.error(finding))
}
