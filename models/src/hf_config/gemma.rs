//! Gemma 2 and 3: norms around every block, scaled embeddings, soft caps, windows in most layers.

use crate::error::ModelError;
use crate::hf_config::keys::Keys;
use crate::hf_config::rope::RopeContext;
use crate::hf_config::windows::{FULL, SLIDING};
use crate::hf_config::{MAX_LAYERS, rope, windows};
use crate::spec::{ModelSpec, RopeSpec};

const MAX_CAP: f64 = 1e6;

/// `Gemma2Config`.
pub fn gemma2(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    common(keys, &mut spec)?;
    spec.attention_softcap = cap(keys, "attn_logit_softcapping", Some(50.0))?;
    spec.logit_softcap = cap(keys, "final_logit_softcapping", Some(30.0))?;
    let window = windows::window(keys, Some(4096))?;
    spec.layers = windows::mixed(keys, spec.num_layers, window, |layer| layer.is_multiple_of(2))?;
    spec.ropes = vec![rope::single(keys, RopeContext::of(&spec))?];
    Ok(spec)
}

/// `Gemma3TextConfig`. Layers with a window have a rotary embedding of their own.
pub fn gemma3(keys: &Keys, mut spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    common(keys, &mut spec)?;
    spec.qk_norm = true;
    spec.attention_softcap = cap(keys, "attn_logit_softcapping", None)?;
    spec.logit_softcap = cap(keys, "final_logit_softcapping", None)?;
    let window = windows::window(keys, Some(4096))?;
    let pattern = keys.optional("sliding_window_pattern", MAX_LAYERS)?.unwrap_or(6);
    spec.layers =
        windows::mixed(keys, spec.num_layers, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    for layer in spec.layers.iter_mut().filter(|layer| layer.window.is_some()) {
        layer.rope = 1;
    }
    spec.ropes = gemma3_ropes(keys, &spec)?.to_vec();
    Ok(spec)
}

/// Of layers that see everything, and of layers with a window. `rope_scaling` is that of the first only.
fn gemma3_ropes(keys: &Keys, spec: &ModelSpec) -> Result<[RopeSpec; 2], ModelError> {
    let parameters = keys.object("rope_parameters")?;
    if let Some(table) = &parameters
        && let Some(other) = table.map.keys().find(|key| ![SLIDING, FULL].contains(&key.as_str()))
    {
        let problem =
            format!("the key {other:.40?} is not supported yet; accepted are {SLIDING:?}, {FULL:?}");
        return keys.fail("rope_parameters", problem);
    }
    let nested = |kind: &str| match &parameters {
        Some(table) => table.object(kind),
        None => Ok(None),
    };
    let global = RopeContext { default_theta: 1e6, ..RopeContext::of(spec) };
    let local = RopeContext::of(spec);
    let scaling = keys.object("rope_scaling")?.filter(|table| !table.map.is_empty());
    let full = match (nested(FULL)?, scaling) {
        (Some(_), Some(_)) => {
            return keys
                .fail("rope_scaling", "stands beside rope_parameters; accepted is one of them".into());
        }
        (table, scaling) => rope::read(keys, table.or(scaling).as_ref(), "rope_theta", global)?,
    };
    let sliding = rope::read(keys, nested(SLIDING)?.as_ref(), "rope_local_base_freq", local)?;
    Ok([full, sliding])
}

fn common(keys: &Keys, spec: &mut ModelSpec) -> Result<(), ModelError> {
    keys.refuse_true("use_bidirectional_attention")?;
    spec.qkv_bias = keys.flag("attention_bias", false)?;
    spec.o_bias = spec.qkv_bias;
    spec.norm_plus_one = true;
    spec.sandwich_norms = true;
    spec.embedding_scale = f64::from(spec.hidden_size).sqrt() as f32;
    let scalar = keys.number("query_pre_attn_scalar", 256.0, MAX_CAP)?;
    spec.attention_scale = scalar.powf(-0.5) as f32;
    Ok(())
}

/// A soft cap, where an absent key means `default` and null means none.
fn cap(keys: &Keys, key: &str, default: Option<f32>) -> Result<Option<f32>, ModelError> {
    match keys.present(key) {
        true => Ok(keys.optional_number(key, MAX_CAP)?.map(|cap| cap as f32)),
        false => Ok(default),
    }
}
