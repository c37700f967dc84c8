//! The rows of `models/prices/`.

use serde::{Deserialize, Serialize};

use super::Confidence;

/// How a device is rented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pricing {
    #[default]
    OnDemand,
    /// The provider may take it back at any time.
    Spot,
    /// For a term that is paid in any case.
    Reserved,
}

impl Pricing {
    /// As the tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Pricing::OnDemand => "on-demand",
            Pricing::Spot => "spot",
            Pricing::Reserved => "reserved",
        }
    }
}

/// What one device costs for one hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// A name from the hardware table.
    pub hardware: String,
    /// US dollars for one device for one hour, whatever the size of the instance.
    pub usd_per_hour: f64,
    pub provider: String,
    /// The provider's name for the instance, where it has one.
    #[serde(default)]
    pub sku: String,
    #[serde(default)]
    pub pricing: Pricing,
    /// Of a reservation: `1-year`, or `capacity-block` for days to weeks.
    #[serde(default)]
    pub term: String,
    /// Devices rented together in that instance.
    pub devices: u32,
    /// Where the price was read.
    pub source: String,
    /// When it held: a date, or the commit of the source it was read from.
    pub date: String,
    pub confidence: Confidence,
    #[serde(default)]
    pub note: String,
}

/// What a host charges for tokens of a model it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiPrice {
    pub provider: String,
    /// The provider's name for the model.
    pub sku: String,
    /// A name from the table of models, where the model is in it.
    #[serde(default)]
    pub model: String,
    /// US dollars for a million tokens of prompt.
    pub input_usd_per_million: f64,
    /// US dollars for a million generated tokens.
    pub output_usd_per_million: f64,
    /// US dollars for a million tokens of prompt found in the provider's cache.
    pub cached_input_usd_per_million: Option<f64>,
    /// Where the price was read.
    pub source: String,
    /// When it held.
    pub date: String,
    pub confidence: Confidence,
    #[serde(default)]
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    price: Vec<Price>,
    #[serde(default)]
    api: Vec<ApiPrice>,
}

/// The tables built into the binary. They cannot be wrong at run time: a test parses them.
pub(super) fn embedded() -> (Vec<Price>, Vec<ApiPrice>) {
    let texts = [
        ("on-demand", include_str!("../../prices/on-demand.toml")),
        ("spot", include_str!("../../prices/spot.toml")),
        ("reserved", include_str!("../../prices/reserved.toml")),
        ("api", include_str!("../../prices/api.toml")),
    ];
    let (mut prices, mut api) = (Vec::new(), Vec::new());
    for (name, text) in texts {
        let table: Table = toml::from_str(text).unwrap_or_else(|error| panic!("prices/{name}.toml: {error}"));
        prices.extend(table.price);
        api.extend(table.api);
    }
    (prices, api)
}
