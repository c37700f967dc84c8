//! Which layers see only the last positions.

use crate::error::ModelError;
use crate::hf_config::MAX_POSITIONS;
use crate::hf_config::keys::Keys;
use crate::spec::LayerSpec;

pub const SLIDING: &str = "sliding_attention";
pub const FULL: &str = "full_attention";

/// `sliding_window`, where an absent key means `default` and null means none.
pub fn window(keys: &Keys, default: Option<u32>) -> Result<Option<u32>, ModelError> {
    match keys.present("sliding_window") {
        true => keys.optional("sliding_window", MAX_POSITIONS),
        false => Ok(default),
    }
}

/// All layers alike. transformers ignores `layer_types` for these families; a list that says something else is refused,
/// because other servers read it.
pub fn uniform(keys: &Keys, layers: u32, window: Option<u32>) -> Result<Vec<LayerSpec>, ModelError> {
    let all = vec![LayerSpec { window, rope: 0 }; layers as usize];
    match listed(keys, layers, window)? {
        Some(listed) if listed != all => {
            let what = if window.is_some() { SLIDING } else { FULL };
            keys.fail("layer_types", format!("every layer of this family is {what:?} here"))
        }
        _ => Ok(all),
    }
}

/// `layer_types` where the config has it, else the layers for which `slides` holds, with `window`.
pub fn mixed(
    keys: &Keys,
    layers: u32,
    window: Option<u32>,
    slides: impl Fn(u32) -> bool,
) -> Result<Vec<LayerSpec>, ModelError> {
    if let Some(listed) = listed(keys, layers, window)? {
        return Ok(listed);
    }
    (0..layers).map(|layer| layer_spec(keys, slides(layer), window)).collect()
}

fn listed(keys: &Keys, layers: u32, window: Option<u32>) -> Result<Option<Vec<LayerSpec>>, ModelError> {
    let Some(types) = keys.texts("layer_types")? else { return Ok(None) };
    if types.len() != layers as usize {
        return keys.fail("layer_types", format!("{} layers; num_hidden_layers is {layers}", types.len()));
    }
    let specs = types.into_iter().map(|kind| match kind {
        SLIDING => layer_spec(keys, true, window),
        FULL => layer_spec(keys, false, window),
        other => {
            let problem = format!("{other:.40?} is not supported yet; accepted are {SLIDING:?}, {FULL:?}");
            keys.fail("layer_types", problem)
        }
    });
    specs.collect::<Result<_, _>>().map(Some)
}

fn layer_spec(keys: &Keys, slides: bool, window: Option<u32>) -> Result<LayerSpec, ModelError> {
    match (slides, window) {
        (false, _) => Ok(LayerSpec { window: None, rope: 0 }),
        (true, Some(_)) => Ok(LayerSpec { window, rope: 0 }),
        (true, None) => {
            keys.fail("sliding_window", "missing; layers with sliding attention need a whole number".into())
        }
    }
}
