//! A user's files over the built-in tables: more devices, models and prices, or other figures for those there are.
//!
//! A file has the tables `[[hardware]]`, `[[model]]`, `[[price]]` and `[[api]]`, each with the fields of the built-in files. An
//! entry replaces the one of its name; a price comes before the built-in ones of its device and so is its reference price.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::hardware::Hardware;
use super::prices::{ApiPrice, Price};
use super::specs::{self, PublishedModel};
use super::store::Catalogue;
use super::{is_date, normal};
use crate::error::ModelError;
use crate::files::{read_error, read_text};

const MAX_FILE_BYTES: u64 = 4 << 20;
const MAX_FILES: usize = 1000;
/// A counted number of parameters may differ this much from the stated one: publishers round.
const PARAMETERS_MAY_DIFFER: f64 = 0.05;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    hardware: Vec<Spanned<Hardware>>,
    #[serde(default)]
    model: Vec<Spanned<specs::File>>,
    #[serde(default)]
    price: Vec<Spanned<Price>>,
    #[serde(default)]
    api: Vec<Spanned<ApiPrice>>,
}

/// The `.toml` files that `path` stands for: itself, or those in the folder by name.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if !std::fs::metadata(path).map_err(|error| read_error(path, error))?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| read_error(path, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| read_error(path, error))?.path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
        if files.len() > MAX_FILES {
            let problem = format!("more than {MAX_FILES} files; accepted are at most so many");
            return Err(ModelError::Catalogue { path: path.to_path_buf(), line: 0, problem });
        }
    }
    files.sort();
    Ok(files)
}

/// Puts the entries of one file over what is in the catalogue.
pub(super) fn add(catalogue: &mut Catalogue, path: &Path) -> Result<(), ModelError> {
    let text = read_text(path, MAX_FILE_BYTES)?;
    let source = Source { path, text: &text };
    let file: File = toml::from_str(&text).map_err(|error| {
        source.error(error.span().map_or(0, |span| span.start), error.message().to_string())
    })?;
    for entry in file.hardware {
        source.check(&entry, check_device)?;
        let device = named(entry.into_inner(), |device| (&mut device.name, &mut device.aliases));
        catalogue.hardware.retain(|other| other.name != device.name);
        catalogue.hardware.insert(0, device);
    }
    for entry in file.model {
        let at = entry.span().start;
        let place = PathBuf::from(format!("{}:{}", path.display(), source.line(at)));
        for file in entry.into_inner().with_variants() {
            let file = named(file, |model| (&mut model.name, &mut model.aliases));
            let model = PublishedModel::read(file, place.clone())?;
            check_parameters(&model).map_err(|problem| source.error(at, problem))?;
            catalogue.models.retain(|other| other.architecture.name != model.architecture.name);
            catalogue.models.insert(0, model);
        }
    }
    let mut prices = Vec::new();
    for entry in file.price {
        source.check(&entry, check_price)?;
        let at = entry.span().start;
        let mut price = entry.into_inner();
        price.hardware = catalogue
            .device(&price.hardware)
            .map_err(|error| source.error(at, error.to_string()))?
            .name
            .clone();
        prices.push(price);
    }
    catalogue.prices.splice(0..0, prices);
    let mut api_prices = Vec::new();
    for entry in file.api {
        source.check(&entry, check_api_price)?;
        let at = entry.span().start;
        let mut price = entry.into_inner();
        if !price.model.is_empty() {
            let model = catalogue.model(&price.model).map_err(|error| source.error(at, error.to_string()))?;
            price.model = model.architecture.name.clone();
        }
        api_prices.push(price);
    }
    catalogue.api_prices.splice(0..0, api_prices);
    Ok(())
}

/// A file and what is in it, to say where an error is.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn error(&self, offset: usize, problem: String) -> ModelError {
        ModelError::Catalogue { path: self.path.to_path_buf(), line: self.line(offset), problem }
    }

    fn check<T>(
        &self,
        entry: &Spanned<T>,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<(), ModelError> {
        check(entry.get_ref()).map_err(|problem| self.error(entry.span().start, problem))
    }
}

/// With name and aliases as they are looked up.
fn named<T>(mut entry: T, names: impl Fn(&mut T) -> (&mut String, &mut Vec<String>)) -> T {
    let (name, aliases) = names(&mut entry);
    *name = normal(name);
    aliases.iter_mut().for_each(|alias| *alias = normal(alias));
    entry
}

fn check_device(device: &Hardware) -> Result<(), String> {
    check_name(&device.name)?;
    for (key, figure, plausible) in device.figures() {
        let most = plausible.end() * 10.0;
        if !(figure.value > 0.0 && figure.value <= most) {
            return Err(format!("{key}: {} is not a number above 0 and up to {most}", figure.value));
        }
        check_date(key, &figure.date)?;
    }
    if let (Some(usable), Some(nominal)) = (&device.usable_memory_mib, &device.memory_gb)
        && usable.value > nominal.value * 1024.0
    {
        let most = nominal.value * 1024.0;
        return Err(format!(
            "usable_memory_mib: {}; accepted are at most the {most} of memory_gb",
            usable.value
        ));
    }
    Ok(())
}

fn check_parameters(model: &PublishedModel) -> Result<(), String> {
    check_name(&model.architecture.name)?;
    check_date("date", &model.date)?;
    let counted = model.architecture.parameters();
    let ratio = counted as f64 / model.parameters as f64;
    if (ratio - 1.0).abs() <= PARAMETERS_MAY_DIFFER {
        return Ok(());
    }
    Err(format!(
        "parameters: {} stated, {counted} counted from config; accepted is a difference of at most {} %",
        model.parameters,
        100.0 * PARAMETERS_MAY_DIFFER
    ))
}

fn check_price(price: &Price) -> Result<(), String> {
    check_money("usd_per_hour", price.usd_per_hour)?;
    if price.devices == 0 {
        return Err("devices: 0; accepted are whole numbers from 1".to_string());
    }
    check_date("date", &price.date)
}

fn check_api_price(price: &ApiPrice) -> Result<(), String> {
    check_money("input_usd_per_million", price.input_usd_per_million)?;
    check_money("output_usd_per_million", price.output_usd_per_million)?;
    if let Some(cached) = price.cached_input_usd_per_million {
        check_money("cached_input_usd_per_million", cached)?;
    }
    check_date("date", &price.date)
}

fn check_name(name: &str) -> Result<(), String> {
    match name.trim().is_empty() {
        true => Err("name: empty; accepted is a name".to_string()),
        false => Ok(()),
    }
}

fn check_money(key: &str, usd: f64) -> Result<(), String> {
    match usd > 0.0 && usd.is_finite() {
        true => Ok(()),
        false => Err(format!("{key}: {usd} is not a price; accepted are numbers above 0")),
    }
}

fn check_date(key: &str, date: &str) -> Result<(), String> {
    match is_date(date) {
        true => Ok(()),
        false => Err(format!("{key}: date {date:.40?}; accepted are YYYY, YYYY-MM and YYYY-MM-DD")),
    }
}
