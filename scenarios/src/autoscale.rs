//! The `[autoscale]` table of a plan file: which configuration is scaled, how a replica starts, and which policies are tried.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::schema;
use crate::units::DurationText;

/// What `llmlab autoscale` replays.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoscaleTable {
    /// The configuration, as in `[search]`. What is left out is searched, and the cheapest answer taken.
    #[schemars(with = "Option<String>")]
    pub hardware: Option<Spanned<String>>,
    #[schemars(with = "Option<String>")]
    pub weights: Option<Spanned<String>>,
    #[schemars(with = "Option<String>")]
    pub kv: Option<Spanned<String>>,
    #[schemars(with = "Option<u32>")]
    pub tensor_parallel: Option<Spanned<u32>>,
    #[schemars(with = "Option<u32>")]
    pub pipeline_parallel: Option<Spanned<u32>>,
    /// on-demand, spot, reserved, own. Default: the first one of `[search]`.
    #[schemars(with = "Option<String>")]
    pub pricing: Option<Spanned<String>>,
    /// Default 1. KEDA policies may have their own, 0 included.
    #[schemars(with = "Option<u32>")]
    pub min_replicas: Option<Spanned<u32>>,
    /// Default: twice what the busiest hour takes, with the surge.
    #[schemars(with = "Option<u32>")]
    pub max_replicas: Option<Spanned<u32>>,
    /// Between two scrapes of the metrics. Default 15s.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub scrape_interval: Option<Spanned<DurationText>>,
    /// From a scrape until an autoscaler can ask for it. Default 5s.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub scrape_lag: Option<Spanned<DurationText>>,
    #[serde(default)]
    pub cold_start: ColdStartTable,
    /// How long a replica that is to go may still answer. Default 2m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub drain: Option<Spanned<DurationText>>,
    /// How long a client waits for its first token. Default 2m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub patience: Option<Spanned<DurationText>>,
    pub surge: Option<SurgeTable>,
    /// Share of the requests that may miss a limit or fail. Default: what the percentiles of `[slo]` leave, 0.05 for p95.
    #[schemars(with = "Option<f64>")]
    pub max_violations: Option<Spanned<f64>>,
    /// Requests of a day that are simulated at most; of a busier day an equal part of traffic and replicas. Default 300000.
    #[schemars(with = "Option<u32>")]
    pub max_requests: Option<Spanned<u32>>,
    /// Default: one of each kind and signal.
    #[serde(default)]
    #[schemars(with = "Vec<ScalerTable>")]
    pub policy: Vec<Spanned<ScalerTable>>,
}

/// What a replica goes through before it serves.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColdStartTable {
    /// Until there is a machine. Default 2m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub provision: Option<Spanned<DurationText>>,
    /// Pulling the image. Default 1m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub image: Option<Spanned<DurationText>>,
    /// Bytes of the weights that are read a second, disk or network: default 1 (GB).
    #[schemars(with = "Option<f64>")]
    pub weights_gb_per_s: Option<Spanned<f64>>,
    /// Compilation, graph capture, first steps. Default 40s.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub warm_up: Option<Spanned<DurationText>>,
    /// Each part takes up to this share less or more. Default 0.1.
    #[schemars(with = "Option<f64>")]
    pub spread: Option<Spanned<f64>>,
}

/// A flash crowd on top of the day.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SurgeTable {
    /// Time of day, "14:00".
    #[schemars(with = "String")]
    pub at: Spanned<String>,
    /// How many times the traffic of the day.
    #[schemars(with = "f64")]
    pub factor: Spanned<f64>,
    #[serde(rename = "for")]
    #[schemars(schema_with = "schema::duration")]
    pub lasts: Spanned<DurationText>,
}

/// A policy and its parameters; keys that its kind does not have are mistakes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScalerTable {
    /// static, hpa, keda, predictive.
    #[schemars(with = "String")]
    pub kind: Spanned<String>,
    /// Default: made of the rest.
    #[schemars(with = "Option<String>")]
    pub name: Option<Spanned<String>>,
    /// hpa, keda: waiting, in-flight, kv, tokens, ttft. Default waiting.
    #[schemars(with = "Option<String>")]
    pub metric: Option<Spanned<String>>,
    /// hpa, keda: of the metric: requests, tokens/s, or the share of KV blocks (of each replica), or seconds of TTFT. Default: by the
    /// capacity of a replica and the SLO.
    #[schemars(with = "Option<f64>")]
    pub target: Option<Spanned<f64>>,
    /// hpa. Default 0s.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub scale_up_window: Option<Spanned<DurationText>>,
    /// hpa. Default 5m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub scale_down_window: Option<Spanned<DurationText>>,
    /// keda: 0 scales to zero. Default: that of the table.
    #[schemars(with = "Option<u32>")]
    pub min_replicas: Option<Spanned<u32>>,
    /// keda: the metric above this wakes a service that is at zero. Default 0.
    #[schemars(with = "Option<f64>")]
    pub activation: Option<Spanned<f64>>,
    /// keda. Default 30s.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub polling_interval: Option<Spanned<DurationText>>,
    /// keda: from the last activity to zero. Default 5m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub cooldown_period: Option<Spanned<DurationText>>,
    /// static. Default: what the busiest hour takes.
    #[schemars(with = "Option<u32>")]
    pub replicas: Option<Spanned<u32>>,
    /// predictive: day-before, holt, holt-winters. Default day-before.
    #[schemars(with = "Option<String>")]
    pub forecast: Option<Spanned<String>>,
    /// predictive: room on top of the forecast. Default 0.2.
    #[schemars(with = "Option<f64>")]
    pub headroom: Option<Spanned<f64>>,
    /// predictive: nothing is taken away that was wanted in this time. Default 5m.
    #[schemars(schema_with = "schema::duration")]
    #[serde(default)]
    pub hold: Option<Spanned<DurationText>>,
}

/// An `[autoscale]` table with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoscaleSpec {
    pub hardware: Option<String>,
    pub weights: Option<String>,
    pub kv: Option<String>,
    pub tensor_parallel: Option<u32>,
    pub pipeline_parallel: Option<u32>,
    pub pricing: Option<String>,
    pub min_replicas: u32,
    pub max_replicas: Option<u32>,
    pub scrape_interval: Duration,
    pub scrape_lag: Duration,
    pub cold_start: ColdStartSpec,
    pub drain: Duration,
    pub patience: Duration,
    pub surge: Option<SurgeSpec>,
    pub max_violations: Option<f64>,
    pub max_requests: u32,
    pub policies: Vec<ScalerSpec>,
}

impl Default for AutoscaleSpec {
    /// Of a plan file without the table.
    fn default() -> AutoscaleSpec {
        crate::resolve::autoscale_defaults()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ColdStartSpec {
    pub provision: Duration,
    pub image: Duration,
    pub weights_bytes_per_s: f64,
    pub warm_up: Duration,
    pub spread: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SurgeSpec {
    /// Since midnight.
    pub at: Duration,
    pub factor: f64,
    pub lasts: Duration,
}

/// A policy to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScalerSpec {
    pub name: String,
    #[serde(flatten)]
    pub rule: ScalerRule,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ScalerRule {
    Static {
        replicas: Option<u32>,
    },
    Hpa {
        metric: ScalerMetric,
        target: Option<f64>,
        scale_up_window: Duration,
        scale_down_window: Duration,
    },
    Keda {
        metric: ScalerMetric,
        target: Option<f64>,
        min_replicas: u32,
        activation: f64,
        polling_interval: Duration,
        cooldown_period: Duration,
    },
    Predictive {
        forecast: ForecastRule,
        headroom: f64,
        hold: Duration,
    },
}

/// What an autoscaler looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScalerMetric {
    Waiting,
    InFlight,
    Kv,
    Tokens,
    Ttft,
}

impl ScalerMetric {
    pub const ALL: [ScalerMetric; 5] = [
        ScalerMetric::Waiting,
        ScalerMetric::InFlight,
        ScalerMetric::Kv,
        ScalerMetric::Tokens,
        ScalerMetric::Ttft,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ScalerMetric::Waiting => "waiting",
            ScalerMetric::InFlight => "in-flight",
            ScalerMetric::Kv => "kv",
            ScalerMetric::Tokens => "tokens",
            ScalerMetric::Ttft => "ttft",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForecastRule {
    DayBefore,
    Holt,
    HoltWinters,
}

impl ForecastRule {
    pub fn name(self) -> &'static str {
        match self {
            ForecastRule::DayBefore => "day-before",
            ForecastRule::Holt => "holt",
            ForecastRule::HoltWinters => "holt-winters",
        }
    }
}
