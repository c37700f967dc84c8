//! Rotary embedding in GGUF: keys for linear scaling and YaRN, tensors of divisors for Llama 3.1 and LongRoPE.
//!
//! llama.cpp multiplies cos and sin by `attn_factor`, and under YaRN also by `1 + 0.1 ln(factor)`. Its own readers and
//! writers of `yarn_attn_factor` disagree (the converter writes the whole factor there, the runtime replaces it), so it is read
//! as the whole factor and never written.

use std::f64::consts::PI;

use crate::error::ModelError;
use crate::gguf::arch::Arch;
use crate::gguf::container::NewValue;
use crate::gguf::file::GgufFile;
use crate::gguf::keys::Keys;
use crate::gguf::spec::MAX_POSITIONS;
use crate::spec::{ModelSpec, RopeScaling, RopeSpec};

const MAX_THETA: f64 = 1e12;
const MAX_FACTOR: f64 = 1e6;
const DEFAULT_THETA: f64 = 10_000.0;
const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;

pub(crate) const FREQS: &str = "rope_freqs.weight";
pub(crate) const LONG: &str = "rope_factors_long.weight";
pub(crate) const SHORT: &str = "rope_factors_short.weight";

/// The rotary embeddings of a file: one, or for a Gemma 3 with windows two, the second for the layers with a window.
pub(crate) fn read(
    keys: &Keys<'_>,
    file: &GgufFile,
    arch: Arch,
    head_dim: u32,
    windows: bool,
) -> Result<Vec<RopeSpec>, ModelError> {
    let rotary_dim = keys.optional(".rope.dimension_count", head_dim)?.unwrap_or(head_dim);
    let partial = arch == Arch::Phi3;
    if !rotary_dim.is_multiple_of(2) || (rotary_dim != head_dim && !partial) {
        let problem = format!("{rotary_dim} of the {head_dim} values of a head are not supported");
        return keys.fail(".rope.dimension_count", problem);
    }
    let theta = keys.number(".rope.freq_base", MAX_THETA)?.unwrap_or(DEFAULT_THETA);
    let scaling = scaling(keys, file, rotary_dim)?;
    let mut ropes = vec![RopeSpec { theta, rotary_dim, scaling }];
    if arch == Arch::Gemma3 && windows {
        let theta = keys.number(".rope.freq_base_swa", MAX_THETA)?.unwrap_or(DEFAULT_THETA);
        ropes.push(RopeSpec::plain(theta, rotary_dim));
    }
    Ok(ropes)
}

fn scaling(keys: &Keys<'_>, file: &GgufFile, rotary_dim: u32) -> Result<RopeScaling, ModelError> {
    const TYPE: &str = ".rope.scaling.type";
    let pairs = rotary_dim as usize / 2;
    let original = match keys.nonzero(".rope.scaling.original_context_length", MAX_POSITIONS)? {
        Some(original) => original,
        None => keys.required(".context_length", MAX_POSITIONS)?,
    };
    let attention_factor = keys.number(".rope.scaling.attn_factor", MAX_FACTOR)?;
    if let (Some(long), Some(short)) = (divisors(file, LONG, pairs)?, divisors(file, SHORT, pairs)?) {
        return Ok(RopeScaling::LongRope {
            short_factor: short.into_iter().map(f64::from).collect(),
            long_factor: long.into_iter().map(f64::from).collect(),
            original_max_position: original,
            attention_factor: attention_factor.unwrap_or(1.0),
        });
    }
    // The older of the two keys is the fallback, and 0 means that there is no factor.
    let factor = |key: &str| match keys.value(key).and_then(|value| value.float()) {
        Some(0.0) => Ok(None),
        _ => keys.number(key, MAX_FACTOR),
    };
    let factor = factor(".rope.scaling.factor")?.or(factor(".rope.scale_linear")?);
    let kind = keys.text(TYPE)?.unwrap_or("linear");
    let scaling = match (kind, factor) {
        ("none", _) | ("linear" | "yarn", None) => RopeScaling::None,
        ("linear", Some(1.0)) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        ("yarn", Some(factor)) => RopeScaling::Yarn {
            factor,
            original_max_position: original,
            beta_fast: keys.number(".rope.scaling.yarn_beta_fast", MAX_FACTOR)?.unwrap_or(BETA_FAST),
            beta_slow: keys.number(".rope.scaling.yarn_beta_slow", MAX_FACTOR)?.unwrap_or(BETA_SLOW),
            attention_factor: attention_factor.unwrap_or(1.0)
                * match keys.number(".rope.scaling.yarn_attn_factor", MAX_FACTOR)? {
                    Some(whole) => whole,
                    None => yarn_attention_factor(factor),
                },
            truncate: true,
        },
        ("longrope", _) => {
            return Err(file.tensor_error(LONG, "is not in this file, and the scaling is longrope".into()));
        }
        (other, _) => {
            let problem = format!("{other:.40?} is not supported; accepted are none, linear, yarn, longrope");
            return keys.fail(TYPE, problem);
        }
    };
    match (divisors(file, FREQS, pairs)?, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => Ok(RopeScaling::Factors { factors }),
        (Some(_), _) => keys.fail(TYPE, format!("stands beside {FREQS}; accepted is one of them")),
    }
}

/// `1 + 0.1 ln(factor)`, YaRN's own.
fn yarn_attention_factor(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

fn divisors(file: &GgufFile, name: &str, pairs: usize) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(tensor) = file.tensor(name) else { return Ok(None) };
    if tensor.shape() != [pairs as u64] {
        let problem = format!("shape {:?}; needed is [{pairs}]", tensor.shape());
        return Err(file.tensor_error(name, problem));
    }
    let values = file.stored_rows(&tensor, 0, 1)?.dequantize(1, pairs);
    match values.iter().find(|value| !(**value > 0.0 && value.is_finite())) {
        None => Ok(Some(values)),
        Some(bad) => Err(file.tensor_error(name, format!("{bad} is not a divisor above 0"))),
    }
}

/// Keys of a model's rotary embeddings, without the architecture's name, and the tensors of divisors. `None` where the
/// format has no words for them.
#[expect(clippy::type_complexity, reason = "two lists that are made together")]
pub(crate) fn write(
    spec: &ModelSpec,
) -> Option<(Vec<(&'static str, NewValue)>, Vec<(&'static str, Vec<f32>)>)> {
    let rope = spec.ropes.first()?;
    let mut keys = vec![
        (".rope.dimension_count", NewValue::U32(rope.rotary_dim)),
        (".rope.freq_base", NewValue::F32(rope.theta as f32)),
    ];
    let mut tensors = Vec::new();
    if let Some(sliding) = spec.ropes.get(1) {
        keys.push((".rope.freq_base_swa", NewValue::F32(sliding.theta as f32)));
    }
    let float = |value: f64| NewValue::F32(value as f32);
    let mut scaled = |kind: &str, factor: f64| {
        keys.push((".rope.scaling.type", NewValue::Str(kind.into())));
        keys.push((".rope.scaling.factor", float(factor)));
    };
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => scaled("linear", *factor),
        RopeScaling::Yarn {
            factor,
            original_max_position,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => {
            if !truncate {
                return None;
            }
            scaled("yarn", *factor);
            keys.push((".rope.scaling.original_context_length", NewValue::U32(*original_max_position)));
            keys.push((".rope.scaling.yarn_beta_fast", float(*beta_fast)));
            keys.push((".rope.scaling.yarn_beta_slow", float(*beta_slow)));
            let more = attention_factor / yarn_attention_factor(*factor);
            if (more - 1.0).abs() > 1e-6 {
                keys.push((".rope.scaling.attn_factor", float(more)));
            }
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max_position, attention_factor } => {
            keys.push((".rope.scaling.type", NewValue::Str("longrope".into())));
            keys.push((".rope.scaling.original_context_length", NewValue::U32(*original_max_position)));
            keys.push((".rope.scaling.attn_factor", float(*attention_factor)));
            let rounded = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect();
            tensors.push((LONG, rounded(long_factor)));
            tensors.push((SHORT, rounded(short_factor)));
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let pairs = 0..rope.rotary_dim / 2;
            let divisor = |pair: u32| {
                let frequency = rope.theta.powf(-2.0 * f64::from(pair) / f64::from(rope.rotary_dim));
                let turns = f64::from(*original_max_position) * frequency / (2.0 * PI);
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - kept) / factor + kept)) as f32
            };
            tensors.push((FREQS, pairs.map(divisor).collect()));
        }
        RopeScaling::Factors { factors } => tensors.push((FREQS, factors.clone())),
    }
    Some((keys, tensors))
}
