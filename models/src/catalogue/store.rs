//! The one catalogue of a process: the built-in tables, and what a user's files put over them.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::hardware::{self, Hardware};
use super::overlay;
use super::prices::{self, ApiPrice, Price};
use super::specs::{self, PublishedModel};
use super::spelling;
use super::{close_names, normal, shortened};
use crate::error::ModelError;

pub(super) struct Catalogue {
    pub hardware: Vec<Hardware>,
    pub prices: Vec<Price>,
    pub api_prices: Vec<ApiPrice>,
    pub models: Vec<PublishedModel>,
}

static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();

pub(super) fn catalogue() -> &'static Catalogue {
    CATALOGUE.get_or_init(Catalogue::embedded)
}

/// Puts the entries of `paths`, files or folders of `.toml` files, over the built-in ones, the later over the earlier. A
/// program does it once and before anything is looked up, since what was looked up stays.
///
/// # Panics
///
/// When something was looked up before.
pub fn add_files(paths: &[PathBuf]) -> Result<(), ModelError> {
    let mut with_files = Catalogue::embedded();
    for path in paths {
        for file in overlay::files(path)? {
            overlay::add(&mut with_files, &file)?;
        }
    }
    assert!(CATALOGUE.set(with_files).is_ok(), "files are added before the catalogue is used");
    Ok(())
}

impl Catalogue {
    pub fn embedded() -> Catalogue {
        let (prices, api_prices) = prices::embedded();
        Catalogue { hardware: hardware::embedded(), prices, api_prices, models: specs::embedded() }
    }

    pub fn device(&self, name: &str) -> Result<&Hardware, ModelError> {
        let entries = self.hardware.iter().map(|device| (device.name.as_str(), device));
        let found = found("hardware", name, entries, Hardware::names);
        found.or_else(|error| spelling::device(&shortened(name), &self.hardware).ok_or(error))
    }

    pub fn model(&self, name: &str) -> Result<&PublishedModel, ModelError> {
        let entries = self.models.iter().map(|model| (model.architecture.name.as_str(), model));
        let found = found("model", name, entries, PublishedModel::names);
        found.or_else(|error| {
            let meant = spelling::model(&shortened(name));
            let called = |model: &&PublishedModel| model.names().any(|known| spelling::model(known) == meant);
            self.models.iter().find(called).filter(|_| !meant.is_empty()).ok_or(error)
        })
    }
}

/// The entry with `name` among its names; the error for an unknown one lists names that are close, or else all of them.
fn found<'a, T, N: Iterator<Item = &'a str>>(
    kind: &'static str,
    name: &str,
    entries: impl Iterator<Item = (&'a str, &'a T)> + Clone,
    names: impl Fn(&'a T) -> N,
) -> Result<&'a T, ModelError> {
    let wanted = normal(name);
    let mut by_name = entries.clone().filter(|(_, entry)| names(entry).any(|known| known == wanted));
    if let Some((_, entry)) = by_name.next() {
        return Ok(entry);
    }
    Err(ModelError::NotInCatalogue {
        kind,
        name: shortened(name),
        close: close_names(&wanted, entries.clone().map(|(name, entry)| (name, names(entry)))),
        known: entries.map(|(name, _)| name.to_string()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEVICE: &str = r#"
[[hardware]]
name = "My Board"
description = "a board"
kind = "board"
memory = "lpddr"
aliases = ["mb"]
memory_gb = { value = 12, source = "its box", date = "2026-11-22", confidence = "published" }
memory_bandwidth_gb_per_s = { value = 50, source = "its box", date = "2026-11", confidence = "published" }

[[price]]
hardware = "MB"
usd_per_hour = 0.2
provider = "own"
devices = 1
source = "our books"
date = "2026"
confidence = "published"
"#;

    fn with(text: &str) -> Result<Catalogue, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine.toml"), text).unwrap();
        let mut catalogue = Catalogue::embedded();
        for file in overlay::files(folder.path())? {
            overlay::add(&mut catalogue, &file)?;
        }
        Ok(catalogue)
    }

    #[test]
    fn entries_are_added_and_replace_those_of_their_name() {
        let catalogue = with(DEVICE).ok().unwrap();
        assert_eq!(catalogue.device("my_board").unwrap().memory_gb.as_ref().unwrap().value, 12.0);
        assert_eq!(catalogue.prices[0].hardware, "my-board");
        let count = catalogue.hardware.len();
        let again =
            with(&DEVICE.replace("My Board", "h100-sxm").replace("value = 12", "value = 13")).ok().unwrap();
        assert_eq!(again.hardware.len(), count - 1, "a known name replaces");
        assert_eq!(again.device("h100-sxm").unwrap().memory_gb.as_ref().unwrap().value, 13.0);
    }

    #[test]
    fn a_model_is_its_config() {
        let text = r#"
[[model]]
name = "mine"
description = "a small one"
aliases = []
source = "we made it"
date = "2026-11"
parameters = 1100048384
config = { model_type = "llama", hidden_size = 2048, intermediate_size = 5632, num_hidden_layers = 22, num_attention_heads = 32, num_key_value_heads = 4, vocab_size = 32000 }
"#;
        assert_eq!(with(text).ok().unwrap().model("Mine").unwrap().architecture.parameters(), 1_100_048_384);
        let wrong = with(&text.replace("1100048384", "7")).err().unwrap().to_string();
        assert!(wrong.contains("mine.toml:2: parameters: 7 stated, 1100048384 counted"), "{wrong}");
        let awq = format!(
            "{text}\n[[model.variant]]\nname = \"Mine AWQ\"\ndescription = \"in four bits\"\naliases = []\nsource = \"we made it\"\ndate = \"2026-11\"\nconfig = {{ quantization_config = {{ quant_method = \"awq\", bits = 4, group_size = 64 }} }}\n"
        );
        let catalogue = with(&awq).ok().unwrap();
        let variant = catalogue.model("mine-awq").unwrap();
        assert_eq!((variant.base.as_deref(), variant.parameters), (Some("mine"), 1_100_048_384));
        assert_eq!(variant.architecture.stored.to_string(), "int4:64");
        let near = with(&text.replace("1100048384", "1050000000"));
        assert!(near.is_ok() && wrong.contains("accepted is a difference of at most 5 %"), "{wrong}");
        let wrong = with(&text.replace("hidden_size = 2048, ", "")).err().unwrap().to_string();
        assert!(wrong.contains("mine.toml:2: hidden_size: missing"), "{wrong}");
    }

    #[test]
    fn what_cannot_be_is_one_error_with_file_line_key_and_what_is_accepted() {
        for (from, to, expected) in [
            ("value = 12", "value = 0", "mine.toml:2: memory_gb: 0 is not a number above 0"),
            ("value = 50", "value = -1", "mine.toml:2: memory_bandwidth_gb_per_s: -1 is not"),
            (
                "memory_bandwidth",
                "usable_memory_mib = { value = 12289, source = \"x\", date = \"2026\", confidence = \"secondary\" }\nmemory_bandwidth",
                "mine.toml:2: usable_memory_mib: 12289; accepted are at most the 12288 of memory_gb",
            ),
            ("memory = \"lpddr\"\n", "", "mine.toml:2: missing field `memory`"),
            ("\"lpddr\"", "\"flash\"", "mine.toml:6: unknown variant `flash`, expected one of"),
            ("= 0.2", "= 0.0", "mine.toml:11: usd_per_hour: 0 is not a price; accepted are numbers above 0"),
            ("= 0.2", "= -3.0", "mine.toml:11: usd_per_hour: -3 is not"),
            ("= 0.2", "= nan", "mine.toml:11: usd_per_hour: NaN is not"),
            ("\"MB\"", "\"H10O\"", "mine.toml:11: no hardware named \"H10O\"; did you mean"),
            ("devices = 1", "devices = 0", "mine.toml:11: devices: 0; accepted are"),
            ("devices = 1", "gpus = 1", "mine.toml:15: unknown field `gpus`, expected one of"),
            ("\"board\"", "\"toaster\"", "mine.toml:5: unknown variant `toaster`, expected one of"),
            ("\"2026\"", "\"long ago\"", "mine.toml:11: date: date \"long ago\"; accepted are YYYY"),
            ("[[price]]", "[[price", "mine.toml:11: "),
        ] {
            let error = with(&DEVICE.replace(from, to)).err().unwrap().to_string();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
    }
}
