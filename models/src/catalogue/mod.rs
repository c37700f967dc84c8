//! Devices, what they cost, and published model shapes, from the tables in `models/hardware/`, `models/prices/` and
//! `models/specs/`, built into the binary.
//!
//! Every number carries where it was read and when. A figure nobody could be found to vouch for is left out rather than
//! guessed, so the peaks are optional.

mod hardware;
mod kernels;
mod overlay;
mod prices;
mod specs;
mod spelling;
mod store;

use serde::{Deserialize, Serialize};

pub use hardware::{DeviceKind, Figure, Hardware, MemoryKind};
pub use kernels::NoKernel;
pub use prices::{ApiPrice, Price, Pricing};
pub use specs::{
    PublishedModel, SPEC_PREFIX, architecture, published_model, published_models, published_spec,
};
pub use store::add_files;

use crate::error::ModelError;
use store::catalogue;

/// How far a number can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// A data sheet, or a maintained public table.
    Published,
    /// A blog, a reseller, or the seller's own advertisement.
    Secondary,
    /// Sources disagree; the note says how.
    Conflicting,
    /// As it is commonly quoted; the document was not at hand.
    Unverified,
}

impl Confidence {
    /// As the tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Confidence::Published => "published",
            Confidence::Secondary => "secondary",
            Confidence::Conflicting => "conflicting",
            Confidence::Unverified => "unverified",
        }
    }
}

/// Characters of a name that count.
const MAX_NAME: usize = 80;

/// All devices, in the order of the table.
pub fn hardwares() -> &'static [Hardware] {
    &catalogue().hardware
}

/// The device called `name`, by its name, an alias, or as people write it ("NVIDIA H100 80GB HBM3"). The error for an unknown
/// one lists names that are close, or else all of them.
pub fn hardware(name: &str) -> Result<&'static Hardware, ModelError> {
    catalogue().device(name)
}

/// All prices, in the order of the table.
pub fn prices() -> &'static [Price] {
    &catalogue().prices
}

/// The reference price of a device on demand, or `None` when it is not in the catalogue or has no price there.
pub fn price(hardware: &str) -> Option<Price> {
    find_price(hardware).ok().flatten()
}

/// Like [`price`], but an unknown device is an error that lists names that are close.
pub fn find_price(name: &str) -> Result<Option<Price>, ModelError> {
    find_pricing(name, Pricing::OnDemand)
}

/// The reference price of a device rented in this way.
pub fn find_pricing(name: &str, pricing: Pricing) -> Result<Option<Price>, ModelError> {
    Ok(prices_of(name)?.find(|price| price.pricing == pricing).cloned())
}

/// What hosts charge for tokens, in the order of the table.
pub fn api_prices() -> &'static [ApiPrice] {
    &catalogue().api_prices
}

/// What hosts charge for tokens of the model called `name`, or of the one whose variant it is.
pub fn api_prices_of(name: &str) -> Result<impl Iterator<Item = &'static ApiPrice>, ModelError> {
    let model = published_model(name)?;
    let names = [Some(&model.architecture.name), model.base.as_ref()];
    Ok(api_prices().iter().filter(move |price| names.contains(&Some(&price.model))))
}

/// All prices of a device; of each way to rent it the reference price first.
pub fn prices_of(name: &str) -> Result<impl Iterator<Item = &'static Price>, ModelError> {
    let device = hardware(name)?;
    Ok(prices().iter().filter(move |price| price.hardware == device.name))
}

/// As the tables write names. Cut short: a name from a file can be of any length, and no device's is that long.
fn normal(name: &str) -> String {
    shortened(name.trim()).to_lowercase().replace([' ', '_'], "-")
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

/// Of entries with all their names, those that `wanted` may have meant, the likeliest first.
fn close_names<'a, N: Iterator<Item = &'a str>>(
    wanted: &str,
    entries: impl Iterator<Item = (&'a str, N)>,
) -> Vec<String> {
    // Above 0.8 Jaro-Winkler are typing errors and other spellings ("h100-smx", "mi-30x"), not other devices.
    let mut close: Vec<(f64, &str)> = entries
        .map(|(name, names)| {
            (names.map(|known| strsim::jaro_winkler(known, wanted)).fold(0.0, f64::max), name)
        })
        .filter(|(score, _)| *score > 0.8)
        .collect();
    close.sort_by(|left, right| right.0.total_cmp(&left.0));
    close.into_iter().take(3).map(|(_, name)| name.to_string()).collect()
}

/// Whether `date` is a year, year-month or year-month-day, or names a commit of the source.
fn is_date(date: &str) -> bool {
    if let Some(commit) = date.strip_prefix("snapshot ") {
        return commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    let parts: Vec<&str> = date.split('-').collect();
    let widths = [4, 2, 2];
    parts.len() <= 3
        && parts.iter().zip(widths).all(|(part, width)| part.len() == width && part.parse::<u32>().is_ok())
        && parts[0].starts_with("20")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_device_has_plausible_sourced_figures_and_a_name_of_its_own() {
        let mut names = HashSet::new();
        for device in hardwares() {
            for name in device.names() {
                assert!(names.insert(name.to_string()), "{name} names two devices");
                assert_eq!(normal(name), name, "{name} cannot be looked up");
            }
            for (key, figure, range) in device.figures() {
                let at = format!("{} {key}", device.name);
                assert!(range.contains(&figure.value), "{at}: {} is not plausible", figure.value);
                assert!(!figure.source.is_empty() && is_date(&figure.date), "{at}: source or date");
            }
            if let (Some(bf16), Some(int8)) = (&device.bf16_tflops, &device.int8_tops) {
                // Blackwell Ultra gave most of its int8 units up.
                let cut = int8.note.contains("below bf16");
                assert_eq!(int8.value < bf16.value, cut, "{}: int8 against bf16", device.name);
            }
        }
        assert!(hardwares().len() >= 60, "{} devices", hardwares().len());
    }

    #[test]
    fn every_price_is_for_a_known_device_and_dated() {
        for price in prices() {
            assert!(hardwares().iter().any(|device| device.name == price.hardware), "{}", price.hardware);
            assert!((0.05..50.0).contains(&price.usd_per_hour), "{price:?}");
            assert!(price.devices >= 1 && !price.source.is_empty() && is_date(&price.date), "{price:?}");
        }
    }

    #[test]
    fn every_token_price_is_for_a_known_model_or_none_and_dated() {
        let mut known = 0;
        for price in api_prices() {
            assert!(price.model.is_empty() || architecture(&price.model).unwrap().name == price.model);
            known += u32::from(!price.model.is_empty());
            assert!(price.input_usd_per_million > 0.0 && price.output_usd_per_million > 0.0, "{price:?}");
            assert!(price.cached_input_usd_per_million.is_none_or(|cached| cached > 0.0), "{price:?}");
            assert!(!price.source.is_empty() && is_date(&price.date), "{price:?}");
        }
        assert!(known > 50, "{known}");
        assert!(api_prices_of("gpt-oss-120b").unwrap().count() > 3);
    }

    #[test]
    fn every_way_to_rent_has_its_own_reference_price() {
        let of = |pricing| find_pricing("h100", pricing).unwrap().unwrap();
        assert_eq!(of(Pricing::Spot).usd_per_hour, 1.25);
        assert_eq!(of(Pricing::Reserved).term, "capacity-block");
        assert!(of(Pricing::OnDemand).usd_per_hour > of(Pricing::Spot).usd_per_hour);
    }

    #[test]
    fn the_reference_price_is_the_best_supported_row() {
        for device in hardwares() {
            let rows: Vec<&Price> =
                prices_of(&device.name).unwrap().filter(|price| price.pricing == Pricing::OnDemand).collect();
            let published = rows.iter().any(|price| price.confidence == Confidence::Published);
            if published {
                assert_eq!(rows[0].confidence, Confidence::Published, "{}", device.name);
            }
        }
        let h100 = price("H100").unwrap();
        assert_eq!((h100.usd_per_hour, h100.provider.as_str()), (2.95, "Nebius"));
        assert_eq!(price("epyc-genoa"), None);
        assert_eq!(price("no such device"), None);
    }

    #[test]
    fn names_are_found_by_alias_and_in_any_spelling() {
        assert_eq!(hardware("A100 SXM 80GB").unwrap().name, "a100-sxm-80gb");
        assert_eq!(hardware("rtx_4090").unwrap().name, "rtx-4090");
        assert_eq!(hardware("h100").unwrap().memory_bandwidth_gb_per_s.value, 3350.0);
    }

    #[test]
    fn an_unknown_name_lists_the_close_ones_or_all() {
        let close = hardware("h100-smx").unwrap_err().to_string();
        assert!(close.contains("did you mean h100-sxm"), "{close}");
        let all = hardware("cerebras wse").unwrap_err().to_string();
        assert!(all.contains("known are") && all.contains("mi300x"), "{all}");
        let long = hardware(&"x".repeat(1 << 20)).unwrap_err().to_string();
        assert!(long.len() < 1000);
    }
}
