//! Published models, one a file in `models/specs/`: what a simulation or a plan needs of a model, without its weights.
//!
//! The table `config` of a file holds the keys of the model's `config.json` and is read by the same code.

use std::path::PathBuf;

use serde::Deserialize;

use super::store::catalogue;
use crate::architecture::Architecture;
use crate::error::ModelError;
use crate::hf_config::ACCEPTED_ARCHITECTURES;
use crate::spec::ModelSpec;

/// The prefix of a source that is a shape from the catalogue, as in `spec:llama-3.1-8b`.
pub const SPEC_PREFIX: &str = "spec:";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: String,
    description: String,
    pub aliases: Vec<String>,
    source: String,
    date: String,
    parameters: u64,
    /// Keys that are null in the `config.json`, where that is not the same as absent: TOML has no null.
    #[serde(default)]
    null_keys: Vec<String>,
    config: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    variant: Vec<Variant>,
    #[serde(skip)]
    base: Option<String>,
}

/// A checkpoint of the same shape but for some keys: another format, vocabulary or number of positions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    description: String,
    aliases: Vec<String>,
    source: String,
    date: String,
    /// Where they are not those of the base.
    parameters: Option<u64>,
    /// Keys over those of the base.
    config: serde_json::Map<String, serde_json::Value>,
}

impl File {
    /// The entry, and its variants as entries of their own.
    pub(super) fn with_variants(mut self) -> Vec<File> {
        let variants = std::mem::take(&mut self.variant);
        let of = |variant: Variant| {
            let mut config = self.config.clone();
            config.extend(variant.config);
            File {
                name: variant.name,
                description: variant.description,
                aliases: variant.aliases,
                source: variant.source,
                date: variant.date,
                parameters: variant.parameters.unwrap_or(self.parameters),
                null_keys: self.null_keys.clone(),
                config,
                variant: Vec::new(),
                base: Some(super::normal(&self.name)),
            }
        };
        let variants: Vec<File> = variants.into_iter().map(of).collect();
        std::iter::once(self).chain(variants).collect()
    }
}

/// A model of the catalogue and where it is from.
#[derive(Debug, Clone)]
pub struct PublishedModel {
    pub architecture: Architecture,
    /// What our engine needs of it, for the families it runs; none of a quantized checkpoint, whose shape alone would be taken as
    /// 16 bits.
    pub spec: Option<ModelSpec>,
    /// What its publisher calls it.
    pub description: String,
    /// Other names it is found by.
    pub aliases: Vec<String>,
    /// Where it was read.
    pub source: String,
    pub date: String,
    /// As its publisher counts them; a test compares it with the shape's.
    pub parameters: u64,
    /// The entry whose variant it is.
    pub base: Option<String>,
}

impl PublishedModel {
    /// The name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.architecture.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    pub(super) fn read(mut file: File, path: PathBuf) -> Result<PublishedModel, ModelError> {
        for key in file.null_keys {
            file.config.insert(key, serde_json::Value::Null);
        }
        let architectures = file.config.get("architectures").and_then(|list| list.get(0)?.as_str());
        let runs = ACCEPTED_ARCHITECTURES.iter().any(|(name, _)| Some(*name) == architectures)
            && !file.config.contains_key("quantization_config");
        let json = serde_json::Value::Object(file.config).to_string();
        let name = file.name;
        let spec = match runs {
            true => Some(ModelSpec { name: name.clone(), ..ModelSpec::from_hf_config(&json, &path)? }),
            false => None,
        };
        Ok(PublishedModel {
            architecture: Architecture { name, ..Architecture::from_hf_config(&json, &path)? },
            spec,
            description: file.description,
            aliases: file.aliases,
            source: file.source,
            date: file.date,
            parameters: file.parameters,
            base: file.base,
        })
    }
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../specs/", $name, ".toml")))),*]
    };
}

/// The files built into the binary. They cannot be wrong at run time: a test parses each of them.
pub(super) fn embedded() -> Vec<PublishedModel> {
    files![
        "bloom-176b",
        "codellama-34b",
        "command-r",
        "deepseek-r1",
        "deepseek-v2",
        "deepseek-v2-lite",
        "deepseek-v3",
        "falcon-180b",
        "falcon-40b",
        "falcon-7b",
        "gemma-2-27b",
        "gemma-2-2b",
        "gemma-2-9b",
        "gemma-3-12b",
        "gemma-3-1b",
        "gemma-3-27b",
        "gemma-3-4b",
        "gemma-7b",
        "gpt-2",
        "gpt-2-large",
        "gpt-2-medium",
        "gpt-2-xl",
        "gpt-3-175b",
        "gpt-j-6b",
        "gpt-neox-20b",
        "gpt-oss-120b",
        "gpt-oss-20b",
        "kimi-k2",
        "llama-13b",
        "llama-2-13b",
        "llama-2-70b",
        "llama-2-7b",
        "llama-3-70b",
        "llama-3-8b",
        "llama-3.1-405b",
        "llama-3.1-70b",
        "llama-3.1-8b",
        "llama-3.2-1b",
        "llama-3.2-3b",
        "llama-3.3-70b",
        "llama-33b",
        "llama-4-maverick",
        "llama-4-scout",
        "llama-65b",
        "llama-7b",
        "mistral-7b",
        "mistral-7b-v0.1",
        "mistral-large-123b",
        "mistral-nemo-12b",
        "mistral-small-24b",
        "mistral-small-3.2-24b",
        "mixtral-8x22b",
        "mixtral-8x7b",
        "opt-13b",
        "opt-30b",
        "opt-6.7b",
        "opt-66b",
        "phi-3-medium-4k",
        "phi-3-mini-4k",
        "phi-4-14b",
        "qwen1.5-moe-a2.7b",
        "qwen2.5-0.5b",
        "qwen2.5-1.5b",
        "qwen2.5-14b",
        "qwen2.5-32b",
        "qwen2.5-3b",
        "qwen2.5-72b",
        "qwen2.5-7b",
        "qwen3-0.6b",
        "qwen3-1.7b",
        "qwen3-14b",
        "qwen3-235b-a22b",
        "qwen3-30b-a3b",
        "qwen3-32b",
        "qwen3-4b",
        "qwen3-8b",
        "qwen3-coder-480b-a35b",
        "smollm2-1.7b",
        "tinyllama-1.1b",
        "yi-34b",
        "yi-6b",
    ]
    .into_iter()
    .flat_map(|(name, text)| {
        let wrong = |error: String| -> ! { panic!("specs/{name}.toml: {error}") };
        let file: File = toml::from_str(text).unwrap_or_else(|error| wrong(error.to_string()));
        let path = PathBuf::from(format!("specs/{name}.toml"));
        let read =
            |file| PublishedModel::read(file, path.clone()).unwrap_or_else(|error| wrong(error.to_string()));
        file.with_variants().into_iter().map(read).collect::<Vec<_>>()
    })
    .collect()
}

/// All models, in the order of the catalogue.
pub fn published_models() -> &'static [PublishedModel] {
    &catalogue().models
}

/// The model called `name`, by its name or an alias; case, spaces and underscores do not matter.
pub fn published_model(name: &str) -> Result<&'static PublishedModel, ModelError> {
    catalogue().model(name)
}

/// The sizes of the model called `name`.
pub fn architecture(name: &str) -> Result<&'static Architecture, ModelError> {
    published_model(name).map(|model| &model.architecture)
}

/// What our engine needs of the model called `name`; an error when it does not run its family.
pub fn published_spec(name: &str) -> Result<&'static ModelSpec, ModelError> {
    let model = published_model(name)?;
    model.spec.as_ref().ok_or_else(|| ModelError::NotRunnable {
        name: model.architecture.name.clone(),
        accepted: published_models()
            .iter()
            .filter_map(|model| model.spec.as_ref())
            .map(|spec| spec.name.clone())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::StoredFormat;

    #[test]
    fn every_shape_has_the_published_number_of_parameters() {
        let mut wrong = Vec::new();
        for entry in published_models() {
            let name = &entry.architecture.name;
            let counted = entry.architecture.parameters();
            if counted != entry.parameters {
                wrong.push(format!("{name}: {counted} counted, {} published", entry.parameters));
            }
            assert!(!entry.source.is_empty() && super::super::is_date(&entry.date), "{name}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(published_models().len() >= 60, "{} models", published_models().len());
    }

    /// Two readers of one file, one of which knows every tensor.
    #[test]
    fn the_sizes_of_a_model_that_runs_are_those_of_its_tensors() {
        for entry in published_models() {
            let Some(spec) = &entry.spec else { continue };
            let of_tensors = Architecture { stored: entry.architecture.stored, ..Architecture::of(spec) };
            assert_eq!(entry.architecture, of_tensors);
            assert_eq!(spec.parameters(), entry.parameters, "{}", spec.name);
        }
    }

    #[test]
    fn names_are_unique_and_can_be_looked_up() {
        let mut names = std::collections::HashSet::new();
        for name in published_models().iter().flat_map(PublishedModel::names) {
            assert!(names.insert(name), "{name} names two models");
            assert_eq!(super::super::normal(name), name, "{name} cannot be looked up");
        }
    }

    #[test]
    fn every_file_in_the_folder_is_built_in_under_its_own_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/specs");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let bases = published_models().iter().filter(|entry| entry.base.is_none());
        let mut names: Vec<String> = bases.map(|entry| entry.architecture.name.clone()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }

    /// What a repository's name says of its checkpoint is what the entry has: its format, positions and vocabulary.
    #[test]
    fn a_checkpoint_that_differs_from_its_base_is_an_entry_of_its_own() {
        let of = |name: &str| published_model(name).unwrap();
        for entry in published_models() {
            for name in entry.names().filter(|name| name.contains("fp8")) {
                assert_eq!(entry.architecture.stored, StoredFormat::Fp8, "{name}");
            }
        }
        let fp8 = of("Qwen/Qwen3-32B-FP8");
        assert_eq!((fp8.base.as_deref(), &fp8.spec), (Some("qwen3-32b"), &None));
        let [base, instruct] =
            ["Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"].map(|name| &of(name).architecture);
        assert_eq!((base.max_positions, instruct.max_positions), (131_072, 32_768));
        assert_eq!(of("Qwen/Qwen2.5-7B-Instruct").spec.as_ref().unwrap().max_position_embeddings, 32_768);
        let [base, instruct] = ["mistralai/Mixtral-8x22B-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1"]
            .map(|name| &of(name).architecture);
        assert_eq!((base.vocab_size, instruct.vocab_size), (32_000, 32_768));
        let prices = |name| super::super::api_prices_of(name).unwrap().count();
        assert_eq!(prices("llama-3.3-70b-fp8"), prices("llama-3.3-70b"));
    }

    #[test]
    fn names_are_found_by_alias_and_an_unknown_one_lists_the_known() {
        assert_eq!(published_spec("Meta-Llama/Llama-3.1-8B").unwrap().name, "llama-3.1-8b");
        let error = published_spec("llama-3.1-8").unwrap_err().to_string();
        assert!(error.contains("did you mean llama-3.1-8b"), "{error}");
        let error = published_spec("no such thing").unwrap_err().to_string();
        assert!(error.contains("qwen2.5-7b"), "{error}");
    }
}
