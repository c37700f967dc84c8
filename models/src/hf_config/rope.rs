//! The rotary embedding of a config: `rope_scaling` beside `rope_theta`, or transformers 5's `rope_parameters`.
//!
//! Keys, defaults and their precedence are those of transformers' `modeling_rope_utils.py`, with one difference: there an
//! unknown key is a warning, here it is an error.

use serde_json::Value;

use crate::error::ModelError;
use crate::hf_config::MAX_POSITIONS;
use crate::hf_config::keys::{Keys, shown};
use crate::spec::{ModelSpec, RopeScaling, RopeSpec};

pub const MAX_ROPE_THETA: f64 = 1e12;
const MAX_FACTOR: f64 = 1e6;

/// What the rest of the config says about rotary embedding.
#[derive(Clone, Copy)]
pub struct RopeContext {
    pub head_dim: u32,
    pub max_positions: u32,
    pub default_theta: f64,
    /// Whether part of a head may stay unturned.
    pub partial: bool,
    /// Phi-3: only LongRoPE, which older files call "su" or "yarn", and an original length of 4096 where none is named.
    pub phi3: bool,
}

impl RopeContext {
    pub const DEFAULT_THETA: f64 = 10_000.0;

    /// The context of a family without peculiarities.
    pub fn of(spec: &ModelSpec) -> Self {
        RopeContext {
            head_dim: spec.head_dim,
            max_positions: spec.max_position_embeddings,
            default_theta: RopeContext::DEFAULT_THETA,
            partial: false,
            phi3: false,
        }
    }
}

/// The one rotary embedding of a model that has one.
pub fn single(keys: &Keys, context: RopeContext) -> Result<RopeSpec, ModelError> {
    // An empty object says nothing, and `rope_scaling` wins over the newer name.
    let table = match keys.object("rope_scaling")?.filter(|table| !table.map.is_empty()) {
        Some(table) => Some(table),
        None => keys.object("rope_parameters")?,
    };
    read(keys, table.as_ref(), "rope_theta", context)
}

/// The rotary embedding described by `table`; what it leaves out stands beside it in `outer`, theta under `theta_key`.
pub fn read(
    outer: &Keys,
    table: Option<&Keys>,
    theta_key: &str,
    context: RopeContext,
) -> Result<RopeSpec, ModelError> {
    let inner_theta = match table {
        Some(table) => table.optional_number("rope_theta", MAX_ROPE_THETA)?,
        None => None,
    };
    let theta = match inner_theta {
        Some(theta) => theta,
        None => outer.number(theta_key, context.default_theta, MAX_ROPE_THETA)?,
    };
    let rotary_dim = rotary_dim(outer, table, context)?;
    let scaling = match table {
        Some(table) => scaling(outer, table, theta, rotary_dim, context)?,
        None => RopeScaling::None,
    };
    Ok(RopeSpec { theta, rotary_dim, scaling })
}

fn rotary_dim(outer: &Keys, table: Option<&Keys>, context: RopeContext) -> Result<u32, ModelError> {
    let key = "partial_rotary_factor";
    let place = table.filter(|table| table.value(key).is_some()).unwrap_or(outer);
    let factor = match place.value(key) {
        None => 1.0,
        Some(value) => match value.as_f64() {
            Some(1.0) => 1.0,
            Some(factor) if context.partial && factor > 0.0 && factor < 1.0 => factor,
            _ => {
                let accepted = if context.partial { "a number above 0 and up to 1" } else { "1.0" };
                return place
                    .fail(key, format!("{} is not supported yet; accepted is {accepted}", shown(value)));
            }
        },
    };
    let rotary_dim = (f64::from(context.head_dim) * factor) as u32;
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
        let problem = format!(
            "{factor} of head_dim {} are {rotary_dim} values; an even number is needed",
            context.head_dim
        );
        return place.fail(key, problem);
    }
    Ok(rotary_dim)
}

fn scaling(
    outer: &Keys,
    table: &Keys,
    theta: f64,
    rotary_dim: u32,
    context: RopeContext,
) -> Result<RopeScaling, ModelError> {
    let kind = kind(table, context)?;
    let factor = |table: &Keys| match table.optional_number("factor", MAX_FACTOR)? {
        Some(factor) => Ok(factor),
        None => table.fail("factor", "missing; needed is a number above 0".into()),
    };
    let scaling = match kind {
        Kind::Plain => {
            known(table, &[], "rope_type \"default\" and rope_theta")?;
            RopeScaling::None
        }
        Kind::Linear => {
            known(table, &["factor"], "factor")?;
            RopeScaling::Linear { factor: factor(table)? }
        }
        Kind::Llama3 => {
            let keys = ["factor", "low_freq_factor", "high_freq_factor", ORIGINAL];
            known(table, &keys, &keys.join(", "))?;
            let needed = |key: &str| match table.optional_number(key, MAX_FACTOR)? {
                Some(number) => Ok(number),
                None => table.fail(key, "missing; needed is a number above 0".into()),
            };
            let (low_freq_factor, high_freq_factor) =
                (needed("low_freq_factor")?, needed("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                let problem = format!("{high_freq_factor} is not above low_freq_factor {low_freq_factor}");
                return table.fail("high_freq_factor", problem);
            }
            RopeScaling::Llama3 {
                factor: factor(table)?,
                low_freq_factor,
                high_freq_factor,
                original_max_position: original(outer, table, context)?,
            }
        }
        Kind::Yarn => yarn(outer, table, theta, context)?,
        Kind::LongRope => long_rope(outer, table, rotary_dim, context)?,
    };
    Ok(scaling)
}

enum Kind {
    Plain,
    Linear,
    Llama3,
    Yarn,
    LongRope,
}

/// Both names of the key are looked at: a `rope_type` does not take back what the older `type` says.
fn kind(table: &Keys, context: RopeContext) -> Result<Kind, ModelError> {
    let (newer, older) = (table.value("rope_type"), table.value("type"));
    if let (Some(newer), Some(older)) = (newer, older)
        && newer != older
    {
        return table.fail("type", format!("{} differs from rope_type {}", shown(older), shown(newer)));
    }
    let Some(value) = newer.or(older) else { return Ok(Kind::Plain) };
    match value.as_str() {
        Some("default") => Ok(Kind::Plain),
        Some("longrope") => Ok(Kind::LongRope),
        Some("su" | "yarn") if context.phi3 => Ok(Kind::LongRope),
        Some("linear") if !context.phi3 => Ok(Kind::Linear),
        Some("llama3") if !context.phi3 => Ok(Kind::Llama3),
        Some("yarn") => Ok(Kind::Yarn),
        _ => {
            let key = if newer.is_some() { "rope_type" } else { "type" };
            let accepted = match context.phi3 {
                true => "\"default\", \"longrope\"",
                false => "\"default\", \"linear\", \"llama3\", \"yarn\", \"longrope\"",
            };
            table.fail(key, format!("{} is not supported yet; accepted are {accepted}", shown(value)))
        }
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

/// The length the model was trained for before it was stretched. Beside the table it wins over inside.
fn original(outer: &Keys, table: &Keys, context: RopeContext) -> Result<u32, ModelError> {
    if let Some(beside) = outer.optional(ORIGINAL, MAX_POSITIONS)? {
        return Ok(beside);
    }
    match table.optional(ORIGINAL, MAX_POSITIONS)? {
        _ if context.phi3 => Ok(4096),
        Some(inside) => Ok(inside),
        None => Ok(context.max_positions),
    }
}

fn yarn(outer: &Keys, table: &Keys, theta: f64, context: RopeContext) -> Result<RopeScaling, ModelError> {
    let keys = [
        "factor",
        ORIGINAL,
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ];
    known(table, &keys, &keys.join(", "))?;
    if theta <= 1.0 {
        return outer.fail("rope_theta", format!("{theta} is not above 1, as YaRN needs"));
    }
    let original_max_position = original(outer, table, context)?;
    let factor = match table.optional_number("factor", MAX_FACTOR)? {
        Some(factor) => factor,
        None => f64::from(context.max_positions) / f64::from(original_max_position),
    };
    let mscale = table.optional_number("mscale", MAX_FACTOR)?;
    let mscale_all_dim = table.optional_number("mscale_all_dim", MAX_FACTOR)?;
    let attention_factor = match table.optional_number("attention_factor", MAX_FACTOR)? {
        Some(given) => given,
        None => match (mscale, mscale_all_dim) {
            (Some(one), Some(all)) => yarn_magnitude(factor, one) / yarn_magnitude(factor, all),
            _ => yarn_magnitude(factor, 1.0),
        },
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_max_position,
        beta_fast: table.number("beta_fast", 32.0, MAX_FACTOR)?,
        beta_slow: table.number("beta_slow", 1.0, MAX_FACTOR)?,
        attention_factor,
        truncate: table.flag("truncate", true)?,
    })
}

/// `0.1 m ln(factor) + 1`, or 1 where nothing is stretched.
fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

fn long_rope(
    outer: &Keys,
    table: &Keys,
    rotary_dim: u32,
    context: RopeContext,
) -> Result<RopeScaling, ModelError> {
    let keys = ["short_factor", "long_factor", "factor", "attention_factor", ORIGINAL];
    known(table, &keys, &keys.join(", "))?;
    let original_max_position = original(outer, table, context)?;
    let stretch = match table.optional_number("factor", MAX_FACTOR)? {
        Some(factor) => factor,
        None => f64::from(context.max_positions) / f64::from(original_max_position),
    };
    let attention_factor = match table.optional_number("attention_factor", MAX_FACTOR)? {
        Some(given) => given,
        None if stretch <= 1.0 => 1.0,
        None if original_max_position == 1 => {
            return table.fail(ORIGINAL, "1 is too short to stretch".into());
        }
        None => (1.0 + stretch.ln() / f64::from(original_max_position).ln()).sqrt(),
    };
    let pairs = rotary_dim as usize / 2;
    Ok(RopeScaling::LongRope {
        short_factor: table.numbers("short_factor", pairs, MAX_FACTOR)?,
        long_factor: table.numbers("long_factor", pairs, MAX_FACTOR)?,
        original_max_position,
        attention_factor,
    })
}

/// Refuses a key that is neither common to all kinds nor in `special`: whatever it means, it is not computed.
fn known(table: &Keys, special: &[&str], accepted: &str) -> Result<(), ModelError> {
    let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    for (name, value) in table.map {
        if value.is_null() || common.contains(&name.as_str()) || special.contains(&name.as_str()) {
            continue;
        }
        let table_name = table.prefix.trim_end_matches('.');
        let problem = format!(
            "the key {} is not supported yet; accepted are {accepted}",
            shown(&Value::String(name.clone()))
        );
        let key = table_name.to_string();
        return Err(ModelError::Key { path: table.file.to_path_buf(), key, problem });
    }
    Ok(())
}
