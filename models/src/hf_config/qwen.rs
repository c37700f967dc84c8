//! Qwen 2, 2.5 and 3, dense and with experts.

use crate::error::ModelError;
use crate::hf_config::keys::Keys;
use crate::hf_config::rope::RopeContext;
use crate::hf_config::{MAX_FFN, MAX_LAYERS, experts, rope, windows};
use crate::spec::{LayerSpec, ModelSpec, MoeSpec};

/// `Qwen2Config`.
pub fn qwen2(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    spec.qkv_bias = true;
    spec.layers = from_layer_on(keys, spec.num_layers)?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    Ok(spec)
}

/// `Qwen3Config`.
pub fn qwen3(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    attention_bias(keys, &mut spec)?;
    spec.qk_norm = true;
    spec.layers = from_layer_on(keys, spec.num_layers)?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    Ok(spec)
}

/// `Qwen2MoeConfig`. Windows slide in every other layer below `max_window_layers`, unlike in the dense model.
pub fn qwen2_moe(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    spec.qkv_bias = keys.flag("qkv_bias", true)?;
    let window = window(keys)?;
    let below = keys.whole("max_window_layers", 0, MAX_LAYERS)?.unwrap_or(28);
    spec.layers = windows::mixed(keys, spec.num_layers, window, |layer| {
        window.is_some() && layer.is_multiple_of(2) && layer < below
    })?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    let shared = keys.optional("shared_expert_intermediate_size", MAX_FFN)?.unwrap_or(5632);
    spec.moe = Some(moe(keys, &spec, (60, 4), 1408, Some(shared))?);
    Ok(spec)
}

/// `Qwen3MoeConfig`.
pub fn qwen3_moe(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    attention_bias(keys, &mut spec)?;
    spec.qk_norm = true;
    spec.layers = windows::uniform(keys, spec.num_layers, window(keys)?)?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    spec.moe = Some(moe(keys, &spec, (128, 8), 768, None)?);
    Ok(spec)
}

fn attention_bias(keys: &Keys, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.qkv_bias = keys.flag("attention_bias", false)?;
    spec.o_bias = spec.qkv_bias;
    Ok(())
}

/// The window, where `use_sliding_window` says that there is one.
fn window(keys: &Keys) -> Result<Option<u32>, ModelError> {
    match keys.flag("use_sliding_window", false)? {
        true => windows::window(keys, Some(4096)),
        false => Ok(None),
    }
}

/// The window slides from layer `max_window_layers` on.
fn from_layer_on(keys: &Keys, layers: u32) -> Result<Vec<LayerSpec>, ModelError> {
    let window = window(keys)?;
    let first = keys.whole("max_window_layers", 0, MAX_LAYERS)?.unwrap_or(28);
    windows::mixed(keys, layers, window, |layer| window.is_some() && layer >= first)
}

/// Experts in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not list.
fn moe(
    keys: &Keys,
    spec: &ModelSpec,
    (experts, chosen): (u32, u32),
    width: u32,
    shared_intermediate: Option<u32>,
) -> Result<MoeSpec, ModelError> {
    // transformers 5 writes Qwen3's count under the name of Mixtral's.
    let key = if keys.value("num_local_experts").is_some() { "num_local_experts" } else { "num_experts" };
    let (experts, experts_per_token) = experts::counts(keys, spec, key, experts, chosen)?;
    let step = keys.optional("decoder_sparse_step", MAX_LAYERS)?.unwrap_or(1);
    let dense = experts::layer_list(keys, "mlp_only_layers")?;
    Ok(MoeSpec {
        experts,
        experts_per_token,
        expert_intermediate: keys.optional("moe_intermediate_size", MAX_FFN)?.unwrap_or(width),
        normalize_top_k: keys.flag("norm_topk_prob", false)?,
        shared_intermediate,
        dense_layers: (0..spec.num_layers)
            .map(|layer| !(layer + 1).is_multiple_of(step) || dense.contains(&u64::from(layer)))
            .collect(),
    })
}
