//! A model source, from its name to everything an engine needs.

use std::path::Path;

use crate::catalogue::{SPEC_PREFIX, published_spec};
use crate::chat::{ChatFiles, ChatTemplate};
use crate::error::ModelError;
use crate::files::{read_text, read_text_if_present};
use crate::gguf::{GgufFile, load_gguf};
use crate::hf_config::{Keys, generation_eos, object};
use crate::spec::ModelSpec;
use crate::synthetic::{Preset, SOURCE_PREFIX};
use crate::tokenizer::Tokenizer;
use crate::weights::{SafetensorsWeights, Scheme, WeightSource};

const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A model ready to be packed and served.
pub struct LoadedModel {
    pub spec: ModelSpec,
    pub weights: Box<dyn WeightSource>,
    pub tokenizer: Tokenizer,
    /// Jinja text; [`Self::chat`] parses it.
    pub chat_template: Option<String>,
    /// Text of the token the template knows as `bos_token`.
    pub bos_token: Option<String>,
    /// Text of the token the template knows as `eos_token`.
    pub eos_token: Option<String>,
    /// The name it was loaded by.
    pub source: String,
}

impl LoadedModel {
    /// The parsed chat template, or `None` where the model ships none.
    pub fn chat(&self) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(template) = &self.chat_template else { return Ok(None) };
        ChatTemplate::new(template, self.bos_token.as_deref(), self.eos_token.as_deref()).map(Some)
    }
}

/// Loads `synthetic:<preset>`, a Hugging Face folder or a `.gguf` file. `seed` picks the values of a synthetic model and means
/// nothing for the others. Weight files are opened and their headers checked; values are read when they are asked for.
pub fn load(source: &str, seed: u64) -> Result<LoadedModel, ModelError> {
    match parse(source)? {
        Source::Synthetic(preset) => Ok(preset.load(seed)),
        Source::Folder(folder) => from_folder(folder, source),
        Source::Gguf(file) => load_gguf(file, source),
        Source::Published(_) => Err(ModelError::Source {
            source_name: source.to_string(),
            problem: "is a shape without weights: simulated targets can use it, an engine cannot".into(),
            accepted: synthetic_sources(),
        }),
    }
}

/// The shape alone; reads no weights. Also takes `spec:<name>`, a shape of the catalogue.
pub fn load_spec(source: &str) -> Result<ModelSpec, ModelError> {
    match parse(source)? {
        Source::Synthetic(preset) => Ok(preset.spec()),
        Source::Folder(folder) => read_spec(folder),
        Source::Gguf(file) => GgufFile::open(file)?.spec(),
        Source::Published(spec) => Ok(spec.clone()),
    }
}

enum Source<'a> {
    Synthetic(Preset),
    Folder(&'a Path),
    Gguf(&'a Path),
    Published(&'static ModelSpec),
}

fn synthetic_sources() -> Vec<String> {
    Preset::ALL.map(|preset| format!("{SOURCE_PREFIX}{}", preset.name())).to_vec()
}

fn parse(source: &str) -> Result<Source<'_>, ModelError> {
    let fail = |problem: String| {
        Err(ModelError::Source { source_name: source.to_string(), problem, accepted: synthetic_sources() })
    };
    if let Some(name) = source.strip_prefix(SPEC_PREFIX) {
        return Ok(Source::Published(published_spec(name)?));
    }
    if let Some(preset) = source.strip_prefix(SOURCE_PREFIX) {
        return match preset.parse() {
            Ok(preset) => Ok(Source::Synthetic(preset)),
            Err(_) => fail("no such synthetic model".into()),
        };
    }
    let path = Path::new(source);
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(Source::Folder(path)),
        Ok(_) if path.extension().is_some_and(|extension| extension == "gguf") => Ok(Source::Gguf(path)),
        Ok(_) => fail("is neither a folder nor a .gguf file".into()),
        Err(error) => fail(error.to_string()),
    }
}

fn from_folder(folder: &Path, source: &str) -> Result<LoadedModel, ModelError> {
    let spec = read_spec(folder)?;
    let scheme = read_scheme(folder)?;
    let chat = ChatFiles::read(folder)?;
    let model = LoadedModel {
        weights: Box::new(SafetensorsWeights::open(folder, &spec, scheme)?),
        tokenizer: Tokenizer::from_file(&folder.join("tokenizer.json"))?,
        chat_template: chat.template,
        bos_token: chat.bos_token,
        eos_token: chat.eos_token,
        source: source.into(),
        spec,
    };
    // A template that does not parse is found now and not by the first chat request.
    model.chat()?;
    Ok(model)
}

/// How the checkpoint is quantized: in `config.json`, or in the files that GPTQ and AWQ tools wrote before it had a place there.
fn read_scheme(folder: &Path) -> Result<Option<Scheme>, ModelError> {
    let config = folder.join("config.json");
    let map = object(&read_text(&config, MAX_CONFIG_BYTES)?, &config)?;
    if let Some(scheme) = Scheme::read(&Keys::new(&map, &config))? {
        return Ok(Some(scheme));
    }
    for (name, method) in [("quantize_config.json", "gptq"), ("quant_config.json", "awq")] {
        let path = folder.join(name);
        if let Some(json) = read_text_if_present(&path, MAX_CONFIG_BYTES)? {
            let mut map = object(&json, &path)?;
            map.entry("quant_method").or_insert_with(|| method.into());
            return Scheme::of(&Keys::new(&map, &path)).map(Some);
        }
    }
    Ok(None)
}

fn read_spec(folder: &Path) -> Result<ModelSpec, ModelError> {
    let config = folder.join("config.json");
    let mut spec = ModelSpec::from_hf_config(&read_text(&config, MAX_CONFIG_BYTES)?, &config)?;
    let generation = folder.join("generation_config.json");
    if let Some(json) = read_text_if_present(&generation, MAX_CONFIG_BYTES)? {
        for token in generation_eos(&json, &generation, spec.vocab_size)? {
            if !spec.eos_token_ids.contains(&token) {
                spec.eos_token_ids.push(token);
            }
        }
    }
    Ok(spec)
}
