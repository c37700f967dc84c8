//! Numbers of experts, checked before a tensor list is made of them.

use serde_json::Value;

use crate::error::ModelError;
use crate::hf_config::keys::{Keys, shown};
use crate::spec::ModelSpec;

const MAX_EXPERTS: u32 = 1024;
/// Experts of all layers together; the largest published models have some 15,000.
const MAX_EXPERTS_IN_ALL: u32 = 1 << 17;

/// Experts of a layer under `key`, and how many of them each token uses.
pub fn counts(
    keys: &Keys,
    spec: &ModelSpec,
    key: &str,
    experts: u32,
    chosen: u32,
) -> Result<(u32, u32), ModelError> {
    let experts = keys.optional(key, MAX_EXPERTS)?.unwrap_or(experts);
    if experts * spec.num_layers > MAX_EXPERTS_IN_ALL {
        let problem =
            format!("{experts} in {} layers; accepted are {MAX_EXPERTS_IN_ALL} in all", spec.num_layers);
        return keys.fail(key, problem);
    }
    let chosen = keys.optional("num_experts_per_tok", MAX_EXPERTS)?.unwrap_or(chosen);
    if chosen > experts {
        return keys.fail("num_experts_per_tok", format!("{chosen} of {experts} experts"));
    }
    Ok((experts, chosen))
}

/// A list of layer numbers; those the model does not have mean nothing.
pub fn layer_list(keys: &Keys, key: &str) -> Result<Vec<u64>, ModelError> {
    let Some(value) = keys.value(key) else { return Ok(Vec::new()) };
    let layers = value.as_array().and_then(|layers| layers.iter().map(Value::as_u64).collect());
    match layers {
        Some(layers) => Ok(layers),
        None => keys.fail(key, format!("{} is not a list of layers", shown(value))),
    }
}
