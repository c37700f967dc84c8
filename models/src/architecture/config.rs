//! The keys of a `config.json`, whatever the family calls them.
//!
//! Unlike [`ModelSpec::from_hf_config`](crate::ModelSpec::from_hf_config), which refuses what it cannot compute exactly, this
//! needs only what decides sizes. What decides sizes and is not understood is refused here too.

use std::path::Path;

use serde_json::Value;

use super::families::{Family, Positions, Windows};
use super::{Architecture, Attention, Block, FeedForward, StoredFormat, Window, grouped, unsupported};
use crate::error::ModelError;
use crate::files::read_text;
use crate::hf_config::{
    Keys, MAX_FFN, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, folder_name,
    object, shown,
};

const MAX_EXPERTS: u32 = 1024;

const HIDDEN: &[&str] = &["hidden_size", "n_embd", "n_embed", "d_model"];
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const KV_HEADS: &[&str] = &["num_key_value_heads", "num_kv_heads", "n_head_kv"];
const WIDTH: &[&str] = &["intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim"];
const POSITIONS: &[&str] = &["max_position_embeddings", "n_positions", "seq_length", "n_ctx"];
const EXPERTS: &[&str] = &["num_local_experts", "n_routed_experts", "num_experts"];
const PER_TOKEN: &[&str] = &["num_experts_per_tok", "experts_per_token", "moe_top_k"];

const MAX_CONFIG_BYTES: u64 = 4 << 20;

impl Architecture {
    /// Reads a `config.json`; the name is that of its folder.
    pub fn read(file: &Path) -> Result<Architecture, ModelError> {
        Architecture::from_hf_config(&read_text(file, MAX_CONFIG_BYTES)?, file)
    }

    /// Reads `json`, the text of `file` (used in errors). A model of several kinds of input is read as its text model.
    pub fn from_hf_config(json: &str, file: &Path) -> Result<Architecture, ModelError> {
        let map = object(json, file)?;
        let outer = Keys::new(&map, file);
        let inner = outer.object("text_config")?;
        let keys = inner.as_ref().unwrap_or(&outer);
        let model_type = keys.text("model_type")?.or(outer.text("model_type")?).unwrap_or("");
        unsupported::refuse(keys)?;
        let family = Family::of(model_type);
        let sizes = Sizes::read(keys, model_type, family)?;
        let windows = windows(keys, &sizes)?;
        let experts = Experts::read(keys, model_type)?;
        let mut layers = Vec::new();
        for (layer, window) in windows.into_iter().enumerate() {
            let feed_forward = match &experts {
                Some(experts) if experts.of_layer(keys, layer as u32)? => experts.feed_forward,
                _ => FeedForward::Dense { width: sizes.width, gated: family.gated },
            };
            layers.push(sizes.block(keys, window, feed_forward)?);
        }
        let (blocks, order) = grouped(layers.into_iter());
        let hidden = sizes.hidden;
        let norm = if family.norm_bias { 2 * hidden } else { hidden };
        let head_bias = if family.head_bias { sizes.vocab } else { 0 };
        Ok(Architecture {
            name: folder_name(file),
            vocab_size: sizes.vocab,
            hidden_size: hidden,
            blocks,
            order,
            tied_embeddings: keys
                .flag("tie_word_embeddings", outer.flag("tie_word_embeddings", family.tied)?)?,
            position_rows: match family.positions {
                Positions::Computed => 0,
                Positions::Learned { extra } => sizes.max_positions + extra,
            },
            outer_norm_values: norm * if family.embedding_norm { 2 } else { 1 } + head_bias,
            max_positions: sizes.max_positions,
            stored: match (StoredFormat::read(keys)?, StoredFormat::read(&outer)?) {
                (StoredFormat::F32, outer) => outer,
                (inner, _) => inner,
            },
        })
    }
}

/// The value under the first of `names` that is there.
fn first(keys: &Keys, names: &[&str], max: u32) -> Result<Option<u32>, ModelError> {
    match names.iter().find(|name| keys.value(name).is_some()) {
        Some(name) => keys.optional(name, max),
        None => Ok(None),
    }
}

fn needed(keys: &Keys, names: &[&str], max: u32) -> Result<u32, ModelError> {
    match first(keys, names, max)? {
        Some(value) => Ok(value),
        None => keys.fail(names[0], format!("missing; accepted are whole numbers from 1 to {max}")),
    }
}

struct Sizes {
    family: Family,
    hidden: u32,
    vocab: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    /// Of the MLP of a dense layer.
    width: u32,
    max_positions: u32,
    norms: u32,
}

impl Sizes {
    fn read(keys: &Keys, model_type: &str, family: Family) -> Result<Sizes, ModelError> {
        let hidden = needed(keys, HIDDEN, MAX_WIDTH)?;
        let heads = needed(keys, HEADS, MAX_HEADS)?;
        let falcon = model_type == "falcon";
        let grouped_falcon = falcon && keys.flag("new_decoder_architecture", false)?;
        let kv_heads = match first(keys, KV_HEADS, MAX_HEADS)? {
            // The first Falcons have the key and ignore it.
            Some(kv_heads) if !falcon || grouped_falcon => kv_heads,
            _ if falcon && keys.flag("multi_query", true)? => 1,
            _ => heads,
        };
        if heads % kv_heads != 0 {
            return keys.fail("num_key_value_heads", format!("{kv_heads} does not divide the {heads} heads"));
        }
        let latent = keys.value("kv_lora_rank").is_some();
        let head_dim = match keys.optional("head_dim", MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 && hidden / heads <= MAX_WIDTH => hidden / heads,
            // Its heads have sizes of their own.
            None if latent => 1,
            None => {
                let problem = format!("missing, and {heads} heads do not divide hidden_size {hidden}");
                return keys.fail("head_dim", problem);
            }
        };
        let width_key = if model_type == "llama4_text" { &["intermediate_size_mlp"] } else { WIDTH };
        let width = match first(keys, width_key, MAX_FFN)? {
            Some(width) => width,
            None if !family.gated => 4 * hidden,
            None => needed(keys, width_key, MAX_FFN)?,
        };
        let parallel_falcon = falcon && !grouped_falcon && keys.flag("parallel_attn", true)?;
        Ok(Sizes {
            family,
            hidden,
            vocab: needed(keys, &["vocab_size"], MAX_VOCAB)?,
            layers: needed(keys, LAYERS, MAX_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            width,
            max_positions: first(keys, POSITIONS, MAX_POSITIONS)?.unwrap_or(2048),
            norms: if parallel_falcon { 1 } else { family.norms },
        })
    }

    fn block(
        &self,
        keys: &Keys,
        window: Option<Window>,
        feed_forward: FeedForward,
    ) -> Result<Block, ModelError> {
        let attention = self.attention(keys, window)?;
        let bias = |key: &str, default: bool| keys.flag(key, default);
        let attention_bias = bias("attention_bias", false)? || bias("bias", false)?;
        let [heads, kv_heads, head_dim] = [self.heads, self.kv_heads, self.head_dim];
        let mut values = self.norms * self.hidden * if self.family.norm_bias { 2 } else { 1 };
        match attention {
            Attention::Grouped { .. } => {
                if self.family.head_norms {
                    values += 2 * head_dim;
                }
                if self.family.qkv_bias || attention_bias {
                    values += (heads + 2 * kv_heads) * head_dim;
                }
                if self.family.output_bias || attention_bias {
                    values += self.hidden;
                }
                if self.family.attention_sinks {
                    values += heads;
                }
            }
            Attention::Latent { q_rank, kv_rank, .. } => values += kv_rank + q_rank.unwrap_or(0),
        }
        values += match feed_forward {
            FeedForward::Dense { width, gated } => {
                let biased = self.family.mlp_bias || bias("mlp_bias", false)? || bias("bias", false)?;
                if biased { width * if gated { 2 } else { 1 } + self.hidden } else { 0 }
            }
            FeedForward::Experts { experts, width, .. } => match keys.text("model_type")?.unwrap_or("") {
                // Biases of the router and of every expert.
                "gpt_oss" => experts * (1 + 2 * width + self.hidden),
                // What balances the load is added to the router's scores.
                "deepseek_v3" | "kimi_k2" => experts,
                // The gate of the shared expert.
                "qwen2_moe" => self.hidden,
                _ => 0,
            },
        };
        Ok(Block { attention, feed_forward, norm_values: values })
    }

    fn attention(&self, keys: &Keys, window: Option<Window>) -> Result<Attention, ModelError> {
        let Some(kv_rank) = keys.optional("kv_lora_rank", MAX_WIDTH)? else {
            let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
            return Ok(Attention::Grouped { heads, kv_heads, head_dim, window });
        };
        Ok(Attention::Latent {
            heads: self.heads,
            q_rank: keys.optional("q_lora_rank", MAX_WIDTH)?,
            kv_rank,
            rope_dim: keys.required("qk_rope_head_dim", MAX_HEAD_DIM)?,
            nope_dim: keys.required("qk_nope_head_dim", MAX_HEAD_DIM)?,
            v_dim: keys.required("v_head_dim", MAX_HEAD_DIM)?,
        })
    }
}

/// The window of each layer.
fn windows(keys: &Keys, sizes: &Sizes) -> Result<Vec<Option<Window>>, ModelError> {
    let (layers, family) = (sizes.layers, sizes.family);
    let key = ["interleaved_sliding_window", "sliding_window", "attention_chunk_size"]
        .into_iter()
        .find(|key| keys.value(key).is_some());
    let Some(key) = key else { return without_window(keys, layers) };
    let kind = if key == "attention_chunk_size" { Window::Chunk } else { Window::Sliding };
    if let Some(Value::Array(pattern)) = keys.value(key) {
        let windows = repeated(keys, key, pattern, layers)?;
        return Ok(windows.into_iter().map(|tokens| tokens.map(kind)).collect());
    }
    let window = keys.optional(key, MAX_POSITIONS)?.map(kind);
    if let Some(kinds) = listed(keys, layers)? {
        return Ok(kinds.into_iter().map(|slides| window.filter(|_| slides)).collect());
    }
    let gated_by_flag = matches!(family.windows, Windows::FromLayer | Windows::EvenBelowLayer);
    if !keys.flag("use_sliding_window", !gated_by_flag)? || family.windows == Windows::Never {
        return Ok(vec![None; layers as usize]);
    }
    let whole = |layer: u32| -> Result<bool, ModelError> {
        if keys.value("sliding_window_pattern").is_some() {
            let pattern = keys.required("sliding_window_pattern", MAX_LAYERS)?;
            return Ok((layer + 1).is_multiple_of(pattern));
        }
        let below = keys.whole("max_window_layers", 0, MAX_LAYERS)?.unwrap_or(28);
        Ok(match family.windows {
            Windows::Every => false,
            Windows::Even => !layer.is_multiple_of(2),
            Windows::AllButEach(pattern) => (layer + 1).is_multiple_of(pattern),
            Windows::FromLayer => layer < below,
            Windows::EvenBelowLayer => !layer.is_multiple_of(2) || layer >= below,
            Windows::Never => true,
        })
    };
    (0..layers).map(|layer| Ok(if whole(layer)? { None } else { window })).collect()
}

fn without_window(keys: &Keys, layers: u32) -> Result<Vec<Option<Window>>, ModelError> {
    match listed(keys, layers)? {
        Some(kinds) if kinds.contains(&true) => {
            keys.fail("sliding_window", "missing; layer_types has layers with a window".into())
        }
        _ => Ok(vec![None; layers as usize]),
    }
}

/// `layer_types`: for each layer, whether it sees a part of the context only.
fn listed(keys: &Keys, layers: u32) -> Result<Option<Vec<bool>>, ModelError> {
    let Some(kinds) = keys.texts("layer_types")? else { return Ok(None) };
    if kinds.len() != layers as usize {
        return keys.fail("layer_types", format!("{} layers; num_hidden_layers is {layers}", kinds.len()));
    }
    let slides = kinds.into_iter().map(|kind| match kind {
        "sliding_attention" | "chunked_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => keys.fail(
            "layer_types",
            format!(
                "{other:.40?} is not supported yet; accepted are \"full_attention\", \"sliding_attention\", \"chunked_attention\""
            ),
        ),
    });
    slides.collect::<Result<_, _>>().map(Some)
}

/// A list of windows, null where there is none, that the layers go through again and again.
fn repeated(keys: &Keys, key: &str, pattern: &[Value], layers: u32) -> Result<Vec<Option<u32>>, ModelError> {
    let mut windows = Vec::new();
    for value in pattern.iter().take(MAX_LAYERS as usize) {
        windows.push(match value.as_u64() {
            Some(window) if (1..=u64::from(MAX_POSITIONS)).contains(&window) => Some(window as u32),
            None if value.is_null() => None,
            _ => return keys.fail(key, format!("{} is not a window or null", shown(value))),
        });
    }
    let mut sizes: Vec<u32> = windows.iter().flatten().copied().collect();
    sizes.dedup();
    if windows.is_empty() || sizes.len() > 1 {
        return keys.fail(key, "accepted is a list of one size of window and of null".into());
    }
    Ok(windows.iter().copied().cycle().take(layers as usize).collect())
}

struct Experts {
    feed_forward: FeedForward,
    /// `moe_layers`, where the configuration lists them.
    listed: Option<Vec<u64>>,
}

impl Experts {
    fn read(keys: &Keys, model_type: &str) -> Result<Option<Experts>, ModelError> {
        let Some(experts) = first(keys, EXPERTS, MAX_EXPERTS)? else { return Ok(None) };
        let per_token = needed(keys, PER_TOKEN, MAX_EXPERTS)?;
        if per_token > experts {
            return keys.fail(PER_TOKEN[0], format!("{per_token} of {experts} experts"));
        }
        let width = needed(keys, &["moe_intermediate_size", "intermediate_size"], MAX_FFN)?;
        let shared_width = match keys.whole("n_shared_experts", 0, MAX_EXPERTS)? {
            Some(shared) => match shared.checked_mul(width) {
                Some(width) if width <= MAX_FFN => width,
                _ => return keys.fail("n_shared_experts", format!("{shared} of width {width}")),
            },
            None if model_type == "llama4_text" => width,
            None => keys.whole("shared_expert_intermediate_size", 0, MAX_FFN)?.unwrap_or(0),
        };
        let feed_forward = FeedForward::Experts { experts, per_token, width, shared_width, gated: true };
        let listed = match keys.value("moe_layers") {
            None => None,
            Some(value) => match value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect()) {
                Some(layers) => Some(layers),
                None => return keys.fail("moe_layers", format!("{} is not a list of layers", shown(value))),
            },
        };
        Ok(Some(Experts { feed_forward, listed }))
    }

    /// Whether `layer` has experts.
    fn of_layer(&self, keys: &Keys, layer: u32) -> Result<bool, ModelError> {
        if let Some(listed) = &self.listed {
            return Ok(listed.contains(&u64::from(layer)));
        }
        let step = |key: &str| Ok(keys.optional(key, MAX_LAYERS)?.unwrap_or(1));
        let dense = keys.value("mlp_only_layers").and_then(Value::as_array);
        let dense = dense.is_some_and(|list| list.iter().any(|dense| dense.as_u64() == Some(layer.into())));
        Ok(layer >= keys.whole("first_k_dense_replace", 0, MAX_LAYERS)?.unwrap_or(0)
            && layer.is_multiple_of(step("moe_layer_freq")?)
            && (layer + 1).is_multiple_of(step("decoder_sparse_step")?)
            && (layer + 1).is_multiple_of(step("interleave_moe_layer_step")?)
            && !dense)
    }
}
