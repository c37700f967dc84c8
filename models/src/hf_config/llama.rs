//! Llama, Mistral, Phi-3 and Mixtral: one kind of layer throughout.

use crate::error::ModelError;
use crate::hf_config::keys::Keys;
use crate::hf_config::rope::RopeContext;
use crate::hf_config::{MAX_FFN, experts, rope, windows};
use crate::spec::{ModelSpec, MoeSpec};

/// `LlamaConfig`.
pub fn llama(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    spec.qkv_bias = keys.flag("attention_bias", false)?;
    spec.o_bias = spec.qkv_bias;
    spec.mlp_bias = keys.flag("mlp_bias", false)?;
    spec.layers = windows::uniform(keys, spec.num_layers, None)?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    Ok(spec)
}

/// `MistralConfig`. Without the key `sliding_window` the window is 4096 positions; files since version 0.2 say null.
pub fn mistral(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    refuse_biases(keys)?;
    let window = windows::window(keys, Some(4096))?;
    spec.layers = windows::uniform(keys, spec.num_layers, window)?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    Ok(spec)
}

/// `Phi3Config`.
pub fn phi3(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    refuse_biases(keys)?;
    let window = windows::window(keys, None)?;
    spec.layers = windows::uniform(keys, spec.num_layers, window)?;
    let context = RopeContext { partial: true, phi3: true, ..RopeContext::of(&spec) };
    spec.ropes = vec![rope::single(keys, context)?];
    Ok(spec)
}

/// `MixtralConfig`. An expert is as wide as `intermediate_size`.
pub fn mixtral(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    refuse_biases(keys)?;
    let window = windows::window(keys, None)?;
    spec.layers = windows::uniform(keys, spec.num_layers, window)?;
    spec.ropes = vec![rope::single(keys, RopeContext { default_theta: 1e6, ..RopeContext::of(&spec) })?];
    let (experts, experts_per_token) = experts::counts(keys, &spec, "num_local_experts", 8, 2)?;
    spec.moe = Some(MoeSpec {
        experts,
        experts_per_token,
        expert_intermediate: keys.required("intermediate_size", MAX_FFN)?,
        normalize_top_k: true,
        shared_intermediate: None,
        dense_layers: vec![false; spec.num_layers as usize],
    });
    Ok(spec)
}

/// transformers has no biases in these families, whatever the config says; other servers would add them.
fn refuse_biases(keys: &Keys) -> Result<(), ModelError> {
    keys.refuse_true("attention_bias")?;
    keys.refuse_true("mlp_bias")
}
