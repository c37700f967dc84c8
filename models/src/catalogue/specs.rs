//! Published model shapes, one a file in `models/specs/`: what a simulation needs of a model, without its weights.
//!
//! The table `config` of a file holds the keys of the model's `config.json` and is read by the same code.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde::Deserialize;

use super::{close_names, normal, shortened};
use crate::error::ModelError;
use crate::spec::ModelSpec;

/// The prefix of a source that is a shape from the catalogue, as in `spec:llama-3.1-8b`.
pub const SPEC_PREFIX: &str = "spec:";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[allow(dead_code, reason = "for the reader of the file")]
    description: String,
    aliases: Vec<String>,
    source: String,
    date: String,
    /// What the publisher counts; a test compares it with the shape's.
    parameters: u64,
    config: serde_json::Map<String, serde_json::Value>,
}

/// A shape of the catalogue and where it is from.
#[derive(Debug, Clone)]
pub struct PublishedSpec {
    pub spec: ModelSpec,
    /// Other names it is found by.
    pub aliases: Vec<String>,
    /// Where it was read.
    pub source: String,
    pub date: String,
    /// As its publisher counts them.
    pub parameters: u64,
}

impl PublishedSpec {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.spec.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../specs/", $name, ".toml")))),*]
    };
}

static SPECS: LazyLock<Vec<PublishedSpec>> = LazyLock::new(embedded);

/// The files built into the binary. They cannot be wrong at run time: a test parses each of them.
fn embedded() -> Vec<PublishedSpec> {
    files!["llama-3.1-8b", "llama-3.1-70b", "llama-3.2-1b", "qwen2.5-7b", "mistral-7b"]
        .into_iter()
        .map(|(name, text)| {
            let wrong = |error: String| -> ! { panic!("specs/{name}.toml: {error}") };
            let file: File = toml::from_str(text).unwrap_or_else(|error| wrong(error.to_string()));
            let json = serde_json::Value::Object(file.config).to_string();
            let path = PathBuf::from(format!("specs/{name}.toml"));
            let spec =
                ModelSpec::from_hf_config(&json, &path).unwrap_or_else(|error| wrong(error.to_string()));
            PublishedSpec {
                spec: ModelSpec { name: file.name, ..spec },
                aliases: file.aliases,
                source: file.source,
                date: file.date,
                parameters: file.parameters,
            }
        })
        .collect()
}

/// All shapes, in the order of the catalogue.
pub fn published_specs() -> &'static [PublishedSpec] {
    &SPECS
}

/// The shape called `name`, by its name or an alias; case, spaces and underscores do not matter.
pub fn published_spec(name: &str) -> Result<&'static PublishedSpec, ModelError> {
    let wanted = normal(name);
    SPECS.iter().find(|entry| entry.names().any(|known| known == wanted)).ok_or_else(|| {
        let close = SPECS.iter().map(|entry| (entry.spec.name.as_str(), entry.names()));
        ModelError::NotInCatalogue {
            kind: "model shape",
            name: shortened(name),
            close: close_names(&wanted, close),
            known: SPECS.iter().map(|entry| entry.spec.name.clone()).collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_the_published_number_of_parameters() {
        for entry in published_specs() {
            assert_eq!(entry.spec.parameters(), entry.parameters, "{}", entry.spec.name);
            assert!(!entry.source.is_empty() && super::super::is_date(&entry.date), "{}", entry.spec.name);
        }
    }

    #[test]
    fn every_file_in_the_folder_is_built_in_under_its_own_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/specs");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut names: Vec<String> = published_specs().iter().map(|entry| entry.spec.name.clone()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }

    #[test]
    fn names_are_found_by_alias_and_an_unknown_one_lists_the_known() {
        assert_eq!(published_spec("Meta-Llama/Llama-3.1-8B").unwrap().spec.name, "llama-3.1-8b");
        let error = published_spec("llama-3.1-8").unwrap_err().to_string();
        assert!(error.contains("did you mean llama-3.1-8b"), "{error}");
        let error = published_spec("opt").unwrap_err().to_string();
        assert!(error.contains("qwen2.5-7b"), "{error}");
    }
}
