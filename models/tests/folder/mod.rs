//! A Hugging Face folder small enough to break in every way.

use std::fs;
use std::path::Path;

use llmlab_models::ModelSpec;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;
use tempfile::TempDir;

pub fn config() -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 6, "tie_word_embeddings": true,
    })
}

/// Tensor values: the index of the tensor and of the value, so that a mix-up shows.
pub fn values(tensor: usize, elements: u64) -> Vec<f32> {
    (0..elements).map(|index| tensor as f32 + index as f32 / 256.0).collect()
}

/// A folder with `config.json` and no weights.
pub fn folder() -> (TempDir, ModelSpec) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, config().to_string()).unwrap();
    let spec = ModelSpec::from_hf_config(&config().to_string(), &path).unwrap();
    (folder, spec)
}

/// The tensors of `spec` that `wanted` accepts, as the bytes of a safetensors file.
pub fn file(spec: &ModelSpec, dtype: Dtype, wanted: impl Fn(usize) -> bool) -> Vec<u8> {
    let tensors: Vec<_> = spec
        .tensors()
        .into_iter()
        .enumerate()
        .filter(|(index, _)| wanted(*index))
        .map(|(index, tensor)| {
            let values = values(index, tensor.elements());
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                Dtype::F16 => {
                    values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()
                }
                Dtype::BF16 => {
                    values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
                }
                _ => vec![0; values.len() * dtype.bitsize() / 8],
            };
            let shape: Vec<usize> = tensor.shape.iter().map(|&size| size as usize).collect();
            (tensor.name, shape, bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

pub fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(folder.join(name), bytes).unwrap();
}
