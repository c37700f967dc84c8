//! `config.json` of a Hugging Face folder, read into a [`ModelSpec`].
//!
//! A key that changes the arithmetic and is not implemented is an error, never ignored: a model that runs with the wrong
//! formula looks like a slow or a bad model, not like a bug.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::files::{UniqueMap, parse_json};
use crate::spec::{Activation, Family, ModelSpec};

/// `architectures` entries with a forward pass here.
pub const ACCEPTED_ARCHITECTURES: [&str; 1] = ["LlamaForCausalLM"];

// Upper bounds, each some times the largest published model, so that a damaged file is caught here and not by the allocator.
const MAX_VOCAB: u32 = 1 << 22;
const MAX_WIDTH: u32 = 1 << 17;
const MAX_FFN: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1024;
const MAX_HEADS: u32 = 1024;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_POSITIONS: u32 = 1 << 24;
const MAX_EOS_TOKENS: usize = 256;
const MAX_ROPE_THETA: f64 = 1e12;

impl ModelSpec {
    /// Reads `json`, the text of `file` (used in errors, and for the model's name).
    ///
    /// Defaults are those of `LlamaConfig`: a missing `head_dim` is `hidden_size / num_attention_heads`, a missing
    /// `num_key_value_heads` is `num_attention_heads`, `rope_theta` 10000, `rms_norm_eps` 1e-6, untied embeddings.
    pub fn from_hf_config(json: &str, file: &Path) -> Result<Self, ModelError> {
        let map: UniqueMap<Value> = parse_json(json.as_bytes(), file)?;
        let keys = Keys { map: &map.0.into_iter().collect(), file };
        keys.check_architecture()?;
        keys.refuse_unsupported()?;

        let hidden_size = keys.required("hidden_size", MAX_WIDTH)?;
        let num_heads = keys.required("num_attention_heads", MAX_HEADS)?;
        let num_kv_heads = keys.optional("num_key_value_heads", MAX_HEADS)?.unwrap_or(num_heads);
        if num_heads % num_kv_heads != 0 {
            return keys.fail(
                "num_key_value_heads",
                format!("{num_kv_heads} does not divide the {num_heads} heads"),
            );
        }
        let head_dim = match keys.optional("head_dim", MAX_HEAD_DIM)? {
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
        let bos_token_id = keys.token_ids("bos_token_id", vocab_size)?.first().copied();
        Ok(ModelSpec {
            name: folder_name(file),
            family: Family::Llama,
            vocab_size,
            hidden_size,
            intermediate_size: keys.required("intermediate_size", MAX_FFN)?,
            num_layers: keys.required("num_hidden_layers", MAX_LAYERS)?,
            num_heads,
            num_kv_heads,
            head_dim,
            max_position_embeddings: keys.optional("max_position_embeddings", MAX_POSITIONS)?.unwrap_or(2048),
            rms_norm_eps: keys.number("rms_norm_eps", 1e-6, 0.1)? as f32,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            bos_token_id,
            eos_token_ids: keys.token_ids("eos_token_id", vocab_size)?,
            dtype: keys.dtype()?,
            activation: Activation::Silu,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            norm_plus_one: false,
            sandwich_norms: false,
            embedding_scale: 1.0,
            attention_scale: 1.0,
            attention_softcap: None,
            logit_softcap: None,
            layers: Vec::new(),
            ropes: Vec::new(),
            moe: None,
        }
        .with_plain_attention(keys.rope_theta()?))
    }
}

/// End-of-generation tokens named by `generation_config.json`, which wins over `config.json` for generation; both sets
/// end a generation in vLLM and in transformers.
pub fn generation_eos(json: &str, file: &Path, vocab_size: u32) -> Result<Vec<u32>, ModelError> {
    let map: UniqueMap<Value> = parse_json(json.as_bytes(), file)?;
    Keys { map: &map.0.into_iter().collect(), file }.token_ids("eos_token_id", vocab_size)
}

struct Keys<'a> {
    map: &'a Map<String, Value>,
    file: &'a Path,
}

impl Keys<'_> {
    fn fail<T>(&self, key: &str, problem: String) -> Result<T, ModelError> {
        Err(ModelError::Key { path: self.file.to_path_buf(), key: key.to_string(), problem })
    }

    /// The value, where `null` means the same as absent.
    fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn required(&self, key: &str, max: u32) -> Result<u32, ModelError> {
        match self.optional(key, max)? {
            Some(value) => Ok(value),
            None => self.fail(key, format!("missing; accepted are whole numbers from 1 to {max}")),
        }
    }

    fn optional(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => self.fail(key, format!("{} is not a whole number from 1 to {max}", shown(value))),
        }
    }

    fn number(&self, key: &str, default: f64, max: f64) -> Result<f64, ModelError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        self.checked_number(key, value, max)
    }

    fn checked_number(&self, key: &str, value: &Value, max: f64) -> Result<f64, ModelError> {
        match value.as_f64() {
            // A NaN fails every comparison; the cast is what is compared, since 1e-60 is 0 as an f32.
            Some(number) if number as f32 > 0.0 && number <= max => Ok(number),
            _ => self.fail(key, format!("{} is not a number above 0 and up to {max:e}", shown(value))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, ModelError> {
        match self.value(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.fail(key, format!("{} is not true or false", shown(other))),
        }
    }

    /// One id, a list of ids, or nothing.
    fn token_ids(&self, key: &str, vocab_size: u32) -> Result<Vec<u32>, ModelError> {
        let values = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() > MAX_EOS_TOKENS => {
                return self
                    .fail(key, format!("{} ids; accepted are at most {MAX_EOS_TOKENS}", values.len()));
            }
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let mut ids = Vec::with_capacity(values.len());
        for value in values {
            match value.as_u64() {
                Some(id) if id < u64::from(vocab_size) => ids.push(id as u32),
                _ => return self.fail(key, format!("{} is not a token id below {vocab_size}", shown(value))),
            }
        }
        Ok(ids)
    }

    fn dtype(&self) -> Result<String, ModelError> {
        // transformers 5 writes `dtype`, older versions `torch_dtype`.
        match self.value("dtype").or_else(|| self.value("torch_dtype")) {
            None => Ok("float32".into()),
            Some(Value::String(dtype)) if dtype.len() <= 32 => Ok(dtype.clone()),
            Some(other) => self.fail("torch_dtype", format!("{} is not the name of a dtype", shown(other))),
        }
    }

    fn check_architecture(&self) -> Result<(), ModelError> {
        let found = match self.value("architectures") {
            Some(Value::Array(list)) => list.first().and_then(Value::as_str),
            _ => None,
        };
        if found.is_some_and(|name| ACCEPTED_ARCHITECTURES.contains(&name)) {
            return Ok(());
        }
        let found = match (found, self.value("architectures")) {
            (Some(name), _) => format!("{:.80}", name),
            (None, Some(other)) => shown(other),
            (None, None) => "(missing)".into(),
        };
        let accepted = ACCEPTED_ARCHITECTURES.map(String::from).to_vec();
        Err(ModelError::Architecture { path: self.file.to_path_buf(), found, accepted })
    }

    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key)? {
                return self.fail(key, "bias terms are not supported yet; accepted is false".into());
            }
        }
        if let Some(value) = self.value("quantization_config") {
            let problem = format!(
                "{}: quantised checkpoints are not supported yet; accepted are f32, f16 and bf16",
                shown(value)
            );
            return self.fail("quantization_config", problem);
        }
        match self.value("hidden_act") {
            None => {}
            Some(Value::String(name)) if name == "silu" => {}
            Some(other) => {
                return self
                    .fail("hidden_act", format!("{} is not supported; accepted is \"silu\"", shown(other)));
            }
        }
        match self.value("partial_rotary_factor").map(Value::as_f64) {
            None | Some(Some(1.0)) => Ok(()),
            Some(_) => self.fail("partial_rotary_factor", "is not supported yet; accepted is 1.0".into()),
        }
    }

    /// `rope_theta` at the top, or inside transformers 5's `rope_parameters`, of which `rope_scaling` is the older name
    /// and wins.
    fn rope_theta(&self) -> Result<f64, ModelError> {
        let parameters = self.plain_rope("rope_parameters")?;
        let theta = match self.plain_rope("rope_scaling")?.or(parameters) {
            Some(theta) => theta,
            None => self.number("rope_theta", 10_000.0, MAX_ROPE_THETA)?,
        };
        Ok(theta)
    }

    /// The theta of one of the tables, which may say nothing else than that the rotary embedding is the plain one.
    fn plain_rope(&self, table: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(table) else { return Ok(None) };
        let Value::Object(entries) = value else {
            let problem = format!("{} is not supported yet; accepted is null or an object", shown(value));
            return self.fail(table, problem);
        };
        let mut theta = None;
        for (name, value) in entries {
            let key = format!("{table}.{name}");
            let accepted = match name.as_str() {
                "rope_theta" => {
                    theta = Some(self.checked_number(&key, value, MAX_ROPE_THETA)?);
                    continue;
                }
                // Both are looked at: a null `rope_type` does not take back what the older `type` says.
                "rope_type" | "type" if value.is_null() || value == "default" => continue,
                "rope_type" | "type" => "\"default\"",
                "partial_rotary_factor" if value.as_f64() == Some(1.0) => continue,
                "partial_rotary_factor" => "1.0",
                _ => {
                    let name = shown(&Value::String(name.clone()));
                    let problem = format!(
                        "the key {name} is not supported yet; accepted are rope_type \"default\" and rope_theta"
                    );
                    return self.fail(table, problem);
                }
            };
            let problem = format!("{} is not supported yet; accepted is {accepted}", shown(value));
            return self.fail(&key, problem);
        }
        Ok(theta)
    }
}

/// A value as it stands in the file, cut short so that an error stays one line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

fn folder_name(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name).or_else(|| file.file_stem());
    folder.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
