//! `config.json` of a Hugging Face folder, read into a [`ModelSpec`].
//!
//! A key that changes the arithmetic and is not implemented is an error, never ignored: a model that runs with the wrong
//! formula looks like a slow or a bad model, not like a bug. Defaults are those of the config classes of transformers 5.
//!
//! Reading order: this file (what all families share), [`llama`], [`qwen`], [`gemma`] (what each adds), [`rope`], [`windows`]
//! and [`experts`] (keys that several use), [`keys`] (typed reading).

mod experts;
mod gemma;
mod keys;
mod llama;
mod qwen;
mod rope;
mod windows;

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::files::{UniqueMap, parse_json};
use crate::hf_config::rope::RopeContext;
use crate::spec::{Activation, Family, ModelSpec};

pub(crate) use keys::{Keys, shown};

/// `architectures` entries with a forward pass here.
pub const ACCEPTED_ARCHITECTURES: [(&str, Family); 10] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
    ("Phi3ForCausalLM", Family::Phi3),
    ("MixtralForCausalLM", Family::Mixtral),
    ("Qwen2MoeForCausalLM", Family::Qwen2Moe),
    ("Qwen3MoeForCausalLM", Family::Qwen3Moe),
];

// Upper bounds, each some times the largest published model, so that a damaged file is caught here and not by the allocator.
pub(crate) const MAX_VOCAB: u32 = 1 << 22;
pub(crate) const MAX_WIDTH: u32 = 1 << 17;
pub(crate) const MAX_FFN: u32 = 1 << 20;
pub(crate) const MAX_LAYERS: u32 = 1024;
pub(crate) const MAX_HEADS: u32 = 1024;
pub(crate) const MAX_HEAD_DIM: u32 = 1024;
pub(crate) const MAX_POSITIONS: u32 = 1 << 24;

impl ModelSpec {
    /// Reads `json`, the text of `file` (used in errors, and for the model's name).
    pub fn from_hf_config(json: &str, file: &Path) -> Result<Self, ModelError> {
        let map = object(json, file)?;
        let keys = Keys::new(&map, file);
        let family = family(&keys)?;
        let spec = common(&keys, family)?;
        match family {
            Family::Llama => llama::llama(&keys, spec),
            Family::Mistral => llama::mistral(&keys, spec),
            Family::Phi3 => llama::phi3(&keys, spec),
            Family::Mixtral => llama::mixtral(&keys, spec),
            Family::Qwen2 => qwen::qwen2(&keys, spec),
            Family::Qwen3 => qwen::qwen3(&keys, spec),
            Family::Qwen2Moe => qwen::qwen2_moe(&keys, spec),
            Family::Qwen3Moe => qwen::qwen3_moe(&keys, spec),
            Family::Gemma2 => gemma::gemma2(&keys, spec),
            Family::Gemma3 => gemma::gemma3(&keys, spec),
        }
    }
}

/// End-of-generation tokens named by `generation_config.json`, which wins over `config.json` for generation; both sets
/// end a generation in vLLM and in transformers.
pub fn generation_eos(json: &str, file: &Path, vocab_size: u32) -> Result<Vec<u32>, ModelError> {
    Keys::new(&object(json, file)?, file).token_ids("eos_token_id", vocab_size)
}

/// The object that `json` is, without a key that occurs twice.
pub(crate) fn object(json: &str, file: &Path) -> Result<Map<String, Value>, ModelError> {
    let map: UniqueMap<Value> = parse_json(json.as_bytes(), file)?;
    Ok(map.0.into_iter().collect())
}

/// What a config class of transformers assumes where the file is silent.
struct Defaults {
    /// `num_key_value_heads`; none: as many as query heads.
    kv_heads: Option<u32>,
    /// `head_dim`; none: `hidden_size / num_attention_heads`.
    head_dim: Option<u32>,
    max_positions: u32,
    rms_norm_eps: f64,
    tied: bool,
}

impl Defaults {
    fn of(family: Family) -> Self {
        let base = Defaults {
            kv_heads: None,
            head_dim: None,
            max_positions: 32_768,
            rms_norm_eps: 1e-6,
            tied: false,
        };
        match family {
            Family::Llama => Defaults { max_positions: 2048, ..base },
            Family::Mistral => Defaults { kv_heads: Some(8), max_positions: 131_072, ..base },
            Family::Phi3 => Defaults { max_positions: 4096, rms_norm_eps: 1e-5, ..base },
            Family::Mixtral => {
                Defaults { kv_heads: Some(8), max_positions: 131_072, rms_norm_eps: 1e-5, ..base }
            }
            Family::Qwen2 => Defaults { kv_heads: Some(32), ..base },
            Family::Qwen3 => Defaults { kv_heads: Some(32), head_dim: Some(128), ..base },
            Family::Qwen2Moe => Defaults { kv_heads: Some(16), ..base },
            Family::Qwen3Moe => Defaults { kv_heads: Some(4), ..base },
            Family::Gemma2 => {
                Defaults { kv_heads: Some(4), head_dim: Some(256), max_positions: 8192, tied: true, ..base }
            }
            Family::Gemma3 => Defaults {
                kv_heads: Some(4),
                head_dim: Some(256),
                max_positions: 131_072,
                tied: true,
                ..base
            },
        }
    }
}

/// Sizes, and the choices of Llama for everything else; the family's own function changes those.
fn common(keys: &Keys, family: Family) -> Result<ModelSpec, ModelError> {
    let defaults = Defaults::of(family);
    let hidden_size = keys.required("hidden_size", MAX_WIDTH)?;
    let num_heads = keys.required("num_attention_heads", MAX_HEADS)?;
    let kv_default = if keys.present("num_key_value_heads") { None } else { defaults.kv_heads };
    let num_kv_heads = keys.optional("num_key_value_heads", MAX_HEADS)?.or(kv_default).unwrap_or(num_heads);
    if num_heads % num_kv_heads != 0 {
        let problem = format!("{num_kv_heads} does not divide the {num_heads} heads");
        return keys.fail("num_key_value_heads", problem);
    }
    let head_dim = match keys.optional("head_dim", MAX_HEAD_DIM)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size % num_heads == 0 => hidden_size / num_heads,
        None => {
            let problem = format!(
                "{num_heads} heads do not divide hidden_size {hidden_size}, and there is no head_dim"
            );
            return keys.fail("num_attention_heads", problem);
        }
    };
    if head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
        let problem =
            format!("{head_dim} is not an even number up to {MAX_HEAD_DIM}, as rotary embedding needs");
        return keys.fail("head_dim", problem);
    }
    let vocab_size = keys.required("vocab_size", MAX_VOCAB)?;
    let max_positions = keys.optional("max_position_embeddings", MAX_POSITIONS)?;
    let spec = ModelSpec {
        name: folder_name(keys.file),
        family,
        vocab_size,
        hidden_size,
        intermediate_size: keys.required("intermediate_size", MAX_FFN)?,
        num_layers: keys.required("num_hidden_layers", MAX_LAYERS)?,
        num_heads,
        num_kv_heads,
        head_dim,
        max_position_embeddings: max_positions.unwrap_or(defaults.max_positions),
        rms_norm_eps: keys.number("rms_norm_eps", defaults.rms_norm_eps, 0.1)? as f32,
        tie_word_embeddings: keys.flag("tie_word_embeddings", defaults.tied)?,
        bos_token_id: keys.token_ids("bos_token_id", vocab_size)?.first().copied(),
        eos_token_ids: keys.token_ids("eos_token_id", vocab_size)?,
        dtype: dtype(keys)?,
        activation: activation(keys, family)?,
        ..ModelSpec::neutral()
    };
    Ok(spec.with_plain_attention(RopeContext::DEFAULT_THETA))
}

fn family(keys: &Keys) -> Result<Family, ModelError> {
    let found = match keys.value("architectures") {
        Some(Value::Array(list)) => list.first().and_then(Value::as_str),
        _ => None,
    };
    if let Some((_, family)) = ACCEPTED_ARCHITECTURES.into_iter().find(|(name, _)| Some(*name) == found) {
        return Ok(family);
    }
    let found = match (found, keys.value("architectures")) {
        (Some(name), _) => format!("{name:.80}"),
        (None, Some(other)) => shown(other),
        (None, None) => "(missing)".into(),
    };
    let accepted = ACCEPTED_ARCHITECTURES.map(|(name, _)| name.to_string()).to_vec();
    Err(ModelError::Architecture { path: keys.file.to_path_buf(), found, accepted })
}

/// `hidden_act`; Gemma has it as `hidden_activation`, and the other name beside it means nothing there.
fn activation(keys: &Keys, family: Family) -> Result<Activation, ModelError> {
    let (key, default) = match family {
        Family::Gemma2 | Family::Gemma3 => ("hidden_activation", Activation::GeluTanh),
        _ => ("hidden_act", Activation::Silu),
    };
    match keys.value(key).map(|value| (value, value.as_str())) {
        None => Ok(default),
        Some((_, Some("silu" | "swish"))) => Ok(Activation::Silu),
        Some((_, Some("gelu_pytorch_tanh" | "gelu_new"))) => Ok(Activation::GeluTanh),
        Some((other, _)) => keys.fail(
            key,
            format!("{} is not supported; accepted are \"silu\", \"gelu_pytorch_tanh\"", shown(other)),
        ),
    }
}

/// transformers 5 writes `dtype`, older versions `torch_dtype`.
fn dtype(keys: &Keys) -> Result<String, ModelError> {
    match keys.value("dtype").or_else(|| keys.value("torch_dtype")) {
        None => Ok("float32".into()),
        Some(Value::String(dtype)) if dtype.len() <= 32 => Ok(dtype.clone()),
        Some(other) => keys.fail("torch_dtype", format!("{} is not the name of a dtype", shown(other))),
    }
}

pub(crate) fn folder_name(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name).or_else(|| file.file_stem());
    folder.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
