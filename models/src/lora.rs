//! Low-rank adapters (Hu et al., 2021) as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter adds `scale * b * a` to some matrices of a model, where `a` is [rank, cols] and `b` is [rows, rank].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::ModelError;
use crate::files::{parse_json, read_text};
use crate::spec::{FeedForward, Linear, ModelSpec};
use crate::weights::SafetensorsFile;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Above it an adapter is no longer small against the matrix; vLLM accepts up to 512 too.
pub const MAX_RANK: u32 = 512;

/// One adapter, in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    pub rank: u32,
    /// By the name of the matrix it changes, as in `model.layers.0.self_attn.q_proj.weight`.
    pub deltas: BTreeMap<String, LoraDelta>,
}

/// What is added to one matrix [rows, cols]: `scale * b * a`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraDelta {
    /// [rank, cols].
    pub a: Vec<f32>,
    /// [rows, rank].
    pub b: Vec<f32>,
    pub scale: f32,
}

#[derive(Deserialize)]
struct Config {
    peft_type: String,
    r: u32,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    /// Everything else; what would change the arithmetic is refused.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl LoraAdapter {
    /// Reads a PEFT folder and checks it against the model.
    pub fn open(folder: &Path, spec: &ModelSpec) -> Result<Self, ModelError> {
        let (rank, scale) = config(&folder.join(CONFIG))?;
        let path = folder.join(WEIGHTS);
        let file = SafetensorsFile::open(&path)?;
        let matrices = matrices(spec);
        let mut halves: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        for name in file.names() {
            let (matrix, half) = matrix_of(&name).ok_or_else(|| {
                file.tensor_error(&name, "is neither ....lora_A.weight nor ....lora_B.weight".into())
            })?;
            if !matrices.contains_key(&matrix) {
                let problem = format!("{matrix} is no matrix that an adapter of this model can change");
                return Err(file.tensor_error(&name, problem));
            }
            halves.entry(matrix).or_default()[half] = Some(name);
        }
        if halves.is_empty() {
            return Err(ModelError::Weights { path, problem: "the adapter has no tensors".into() });
        }
        let mut deltas = BTreeMap::new();
        for (matrix, halves) in halves {
            let [Some(a), Some(b)] = halves else {
                let problem = format!("{matrix} has only one of lora_A and lora_B");
                return Err(ModelError::Weights { path, problem });
            };
            let (rows, cols) = matrices[&matrix];
            let delta = LoraDelta {
                a: floats(&file, &a, [u64::from(rank), cols])?,
                b: floats(&file, &b, [rows, u64::from(rank)])?,
                scale,
            };
            deltas.insert(matrix, delta);
        }
        Ok(LoraAdapter { rank, deltas })
    }
}

impl LoraDelta {
    /// Adds it to the matrix [rows, cols] that it belongs to.
    pub fn merge_into(&self, matrix: &mut [f32], cols: usize) {
        let rank = self.a.len() / cols;
        for (row, b) in matrix.chunks_exact_mut(cols).zip(self.b.chunks_exact(rank)) {
            for (a, b) in self.a.chunks_exact(cols).zip(b) {
                row.iter_mut().zip(a).for_each(|(w, a)| *w += self.scale * b * a);
            }
        }
    }
}

/// Rank and scale.
fn config(path: &Path) -> Result<(u32, f32), ModelError> {
    let config: Config = parse_json(read_text(path, MAX_CONFIG_BYTES)?.as_bytes(), path)?;
    let wrong = |key: &str, problem: String| {
        Err(ModelError::Key { path: PathBuf::from(path), key: key.into(), problem })
    };
    if config.peft_type != "LORA" {
        return wrong("peft_type", format!("{:?}; accepted is \"LORA\"", config.peft_type));
    }
    if !(1..=MAX_RANK).contains(&config.r) {
        return wrong("r", format!("{} is not in 1..={MAX_RANK}", config.r));
    }
    if !config.lora_alpha.is_finite() {
        return wrong("lora_alpha", "must be a finite number".into());
    }
    for key in ["use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias"]
    {
        if config.rest.get(key).is_some_and(|value| !is_off(value)) {
            return wrong(key, "is not supported".into());
        }
    }
    if config.rest.get("bias").is_some_and(|bias| bias != "none") {
        return wrong("bias", "accepted is \"none\"".into());
    }
    let rank = config.r as f32;
    // Kalajdzievski (2023): with the square root the sum keeps its size as the rank grows.
    Ok((config.r, config.lora_alpha / if config.use_rslora { rank.sqrt() } else { rank }))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// The matrix a tensor belongs to, and whether it is `a` (0) or `b` (1).
fn matrix_of(tensor: &str) -> Option<(String, usize)> {
    let name = tensor.strip_prefix("base_model.model.").unwrap_or(tensor);
    let halves = [".lora_A.weight", ".lora_B.weight"];
    let half = halves.iter().position(|suffix| name.ends_with(suffix))?;
    Some((format!("{}.weight", name.strip_suffix(halves[half])?), half))
}

/// Rows and columns of the matrices an adapter may change: those of attention and of dense MLPs.
pub(crate) fn matrices(spec: &ModelSpec) -> BTreeMap<String, (u64, u64)> {
    let mut matrices = BTreeMap::new();
    let mut add = |linear: &Linear| matrices.insert(linear.weight.clone(), (linear.rows, linear.cols));
    for layer in 0..spec.num_layers {
        let names = spec.names(layer);
        names.qkv.iter().chain([&names.o]).for_each(|linear| {
            add(linear);
        });
        if let FeedForward::Dense(mlp) = &names.feed_forward {
            mlp.gate_up.iter().chain([&mlp.down]).for_each(|linear| {
                add(linear);
            });
        }
    }
    matrices
}

fn floats(file: &SafetensorsFile, name: &str, shape: [u64; 2]) -> Result<Vec<f32>, ModelError> {
    let found = &file.info(name)?.shape;
    if found.iter().map(|n| *n as u64).ne(shape) {
        return Err(file.tensor_error(name, format!("has the shape {found:?}; the model needs {shape:?}")));
    }
    file.floats(name)
}
