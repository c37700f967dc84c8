//! The rows of `models/prices/`.

use serde::Deserialize;

use super::Confidence;

/// What one device costs for one hour, on demand.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    price: Vec<Price>,
}

/// The table built into the binary. It cannot be wrong at run time: a test parses it.
pub(super) fn embedded() -> Vec<Price> {
    let table: Table = toml::from_str(include_str!("../../prices/on-demand.toml"))
        .unwrap_or_else(|error| panic!("prices/on-demand.toml: {error}"));
    table.price
}
