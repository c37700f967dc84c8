//! A model as a Hugging Face folder, for other programs to load.
//!
//! Reading order: this file, [`format`](HfFormat) (what can be written), `config` (`config.json`), `matrix` (one tensor),
//! `stream` (the weight file).

mod config;
mod format;
mod matrix;
mod stream;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

pub use format::HfFormat;

use crate::error::ModelError;
use crate::files::read_error;
use crate::load::LoadedModel;
use crate::spec::{ModelSpec, TensorRole, TensorSpec};
use crate::weights::WeightSource;

/// Writes `config.json` and `model.safetensors` into `folder`, which is made if it does not exist. One tensor at a time is in
/// memory.
///
/// Fails before anything is written when the family's `config.json` has no words for something in `spec`.
pub fn write_hf(
    spec: &ModelSpec,
    source: &dyn WeightSource,
    folder: &Path,
    format: HfFormat,
) -> Result<(), ModelError> {
    let written = expressible(spec, folder, format)?;
    fs::create_dir_all(folder).map_err(|error| read_error(folder, error))?;
    let mut config = config::config(&written, format.dtype_name());
    if let Some(quantization) = format.quantization_config(&written) {
        config["quantization_config"] = quantization;
    }
    write_json(&folder.join("config.json"), &config)?;
    // Hugging Face's Gemma stores what is added to one; other sources store the sum.
    let shift = written.norm_plus_one && !spec.norm_plus_one;
    let values = |tensor: &TensorSpec| {
        let mut values = source.tensor(&tensor.name)?;
        if shift && matches!(tensor.role, TensorRole::Norm | TensorRole::HeadNorm) {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        Ok(values)
    };
    stream::write(&folder.join("model.safetensors"), &written.tensors(), format, values)
}

/// Writes `model` with its tokenizer and chat template: everything another server needs.
pub fn export_model(model: &LoadedModel, folder: &Path, format: HfFormat) -> Result<(), ModelError> {
    write_hf(&model.spec, model.weights.as_ref(), folder, format)?;
    let path = folder.join("tokenizer.json");
    fs::write(&path, model.tokenizer.to_json()?).map_err(|error| read_error(&path, error))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": model.bos_token,
        "eos_token": model.eos_token,
        "add_bos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": model.spec.max_position_embeddings,
        "chat_template": model.chat_template,
    });
    write_json(&folder.join("tokenizer_config.json"), &config)
}

/// The spec as a folder can say it; an error where reading `config.json` back would give another model.
fn expressible(spec: &ModelSpec, folder: &Path, format: HfFormat) -> Result<ModelSpec, ModelError> {
    let max_positions = spec.max_position_embeddings;
    let written = ModelSpec {
        norm_plus_one: spec.norm_plus_one || config::is_gemma(spec),
        ropes: spec.ropes.iter().map(|rope| config::without_factors(rope, max_positions)).collect(),
        dtype: format.dtype_name().into(),
        ..spec.clone()
    };
    let path = folder.join("config.json");
    let fail = |problem: String| ModelError::Weights { path: path.clone(), problem };
    let json = config::config(&written, format.dtype_name()).to_string();
    let read = ModelSpec::from_hf_config(&json, &path)
        .map_err(|error| fail(format!("this model cannot be written as a Hugging Face folder: {error}")))?;
    let read = ModelSpec { name: written.name.clone(), ..read };
    if read != written {
        let difference = first_difference(&format!("{written:#?}"), &format!("{read:#?}"));
        let family = spec.family;
        return Err(fail(format!("a config.json of the family {family} cannot say {difference}")));
    }
    Ok(written)
}

fn first_difference(wanted: &str, read: &str) -> String {
    let pair = wanted.lines().zip(read.lines()).find(|(wanted, read)| wanted != read);
    pair.map_or("this".into(), |(wanted, _)| wanted.trim().to_string())
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(|error| read_error(path, error))
}
