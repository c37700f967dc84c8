//! How a checkpoint is quantized, as `config.json` says it: GPTQ, AWQ, compressed-tensors, FP8.
//!
//! Keys and their meaning: AutoGPTQ and GPTQModel (`quantize_config.json`), AutoAWQ, compressed-tensors
//! (`quant_config.py`, `quant_args.py`), and transformers' `FineGrainedFP8Config`. What changes the values or the arithmetic
//! and is not implemented is an error. Lists of modules left alone (`ignore`, `modules_to_not_convert`) need no reading: the
//! file shows which matrices are packed.

use llmlab_quant::packed::awq::AwqVersion;
use llmlab_quant::packed::gptq::GptqVersion;
use serde_json::Value;

use crate::error::ModelError;
use crate::hf_config::{Keys, shown};

const MAX_GROUP: u32 = 1 << 20;

/// What the packed matrices of a checkpoint are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Gptq {
        bits: u32,
        group: Option<usize>,
        version: GptqVersion,
    },
    Awq {
        group: Option<usize>,
        version: AwqVersion,
    },
    /// `pack-quantized` of compressed-tensors.
    Packed {
        bits: u32,
        group: Option<usize>,
        symmetric: bool,
    },
    /// Signed bytes, a scale per row or one for all.
    Int8 {
        activations: bool,
    },
    /// E4M3 with a scale per tensor, per row, or per block of these sides.
    Fp8 {
        block: Option<(usize, usize)>,
        activations: bool,
    },
}

impl Scheme {
    /// Of the keys of `config.json`; none for a checkpoint in floats. `compression_config` is an older name.
    pub fn read(config: &Keys) -> Result<Option<Scheme>, ModelError> {
        let mut found = None;
        for key in ["quantization_config", "compression_config"] {
            if let Some(keys) = config.object(key)? {
                found = Some(keys);
                break;
            }
        }
        found.map(|keys| Scheme::of(&keys)).transpose()
    }

    /// Of the keys of one quantization object.
    pub fn of(keys: &Keys) -> Result<Scheme, ModelError> {
        match keys.text("quant_method")? {
            Some("gptq") => gptq(keys),
            Some("awq") => awq(keys),
            Some("compressed-tensors") => compressed(keys),
            Some("fp8") => fine_grained_fp8(keys),
            // Files of before the key existed.
            None if keys.present("desc_act") => gptq(keys),
            None if keys.value("config_groups").is_some() => compressed(keys),
            _ => {
                let found = keys.value("quant_method").map_or("(missing)".into(), shown);
                let accepted = "\"gptq\", \"awq\", \"compressed-tensors\", \"fp8\"";
                keys.fail("quant_method", format!("{found} is not supported yet; accepted are {accepted}"))
            }
        }
    }
}

fn gptq(keys: &Keys) -> Result<Scheme, ModelError> {
    refuse_unless_empty(keys, "dynamic")?;
    keys.refuse_true("is_marlin_format")?;
    let format = keys.text("checkpoint_format")?.or(keys.text("format")?);
    let version = match format {
        None | Some("gptq") => GptqVersion::V1,
        Some("gptq_v2") => GptqVersion::V2,
        Some(other) => return unsupported(keys, "checkpoint_format", other, "\"gptq\", \"gptq_v2\""),
    };
    Ok(Scheme::Gptq { bits: bits(keys, &[4, 8])?, group: group(keys, "group_size")?, version })
}

fn awq(keys: &Keys) -> Result<Scheme, ModelError> {
    bits(keys, &[4])?;
    if !keys.flag("zero_point", true)? {
        return keys.fail("zero_point", "false is not supported yet; accepted is true".into());
    }
    let version = match keys.text("version")?.or(keys.text("format")?) {
        None => AwqVersion::Gemm,
        Some(name) if name.eq_ignore_ascii_case("gemm") => AwqVersion::Gemm,
        Some(name) if name.eq_ignore_ascii_case("gemv") => AwqVersion::Gemv,
        Some(other) => return unsupported(keys, "version", other, "\"gemm\", \"gemv\""),
    };
    let key = if keys.present("q_group_size") { "q_group_size" } else { "group_size" };
    Ok(Scheme::Awq { group: group(keys, key)?, version })
}

/// transformers' own FP8, as DeepSeek and Qwen publish it, and that of AutoFP8.
fn fine_grained_fp8(keys: &Keys) -> Result<Scheme, ModelError> {
    match keys.text("activation_scheme")? {
        None | Some("dynamic" | "static") => {}
        Some(other) => return unsupported(keys, "activation_scheme", other, "\"dynamic\", \"static\""),
    }
    match keys.text("fmt")? {
        None | Some("e4m3") => {}
        Some(other) => return unsupported(keys, "fmt", other, "\"e4m3\""),
    }
    Ok(Scheme::Fp8 { block: block(keys, "weight_block_size")?, activations: true })
}

fn compressed(keys: &Keys) -> Result<Scheme, ModelError> {
    for key in ["kv_cache_scheme", "transform_config"] {
        refuse_unless_empty(keys, key)?;
    }
    if let Some(sparsity) = keys.object("sparsity_config")?
        && let Some(format) = sparsity.text("format")?.filter(|format| *format != "dense")
    {
        return unsupported(&sparsity, "format", format, "\"dense\"");
    }
    let Some(groups) = keys.object("config_groups")? else {
        return keys.fail("config_groups", "missing; needed is an object with one group".into());
    };
    let mut found = None;
    for name in groups.map.keys() {
        let Some(group) = groups.object(name)? else { continue };
        let scheme = compressed_group(keys, &group)?;
        if found.is_some_and(|found| found != scheme) {
            let problem = "groups of different schemes are not supported yet; accepted is one scheme".into();
            return keys.fail("config_groups", problem);
        }
        found = Some(scheme);
    }
    match found {
        Some(scheme) => Ok(scheme),
        None => keys.fail("config_groups", "no group; needed is one".into()),
    }
}

fn compressed_group(keys: &Keys, group: &Keys) -> Result<Scheme, ModelError> {
    refuse_unless_empty(group, "output_activations")?;
    let Some(weights) = group.object("weights")? else {
        return group.fail("weights", "missing; needed is an object".into());
    };
    if weights.value("dynamic").is_some_and(|value| *value != Value::Bool(false)) {
        return weights.fail("dynamic", "is not supported yet; accepted is false".into());
    }
    let activations = group.object("input_activations")?;
    let kind = weights.text("type")?.unwrap_or("int");
    let format = group.text("format")?.or(keys.text("format")?).unwrap_or("int-quantized");
    let symmetric = weights.flag("symmetric", true)?;
    let strategy = weights.text("strategy")?.unwrap_or(match weights.present("group_size") {
        true => "group",
        false => "tensor",
    });
    match (format, kind) {
        ("pack-quantized", "int") => {
            if activations.is_some() {
                return group.fail("input_activations", "is not supported yet; accepted is null".into());
            }
            let columns = match strategy {
                "group" => self::group(&weights, "group_size")?,
                "channel" => None,
                other => return unsupported(&weights, "strategy", other, "\"group\", \"channel\""),
            };
            // Groups that cover the same columns for all rows by their index are told by `weight_g_idx`.
            Ok(Scheme::Packed { bits: num_bits(&weights, &[4, 8])?, group: columns, symmetric })
        }
        ("int-quantized" | "naive-quantized", "int") => {
            num_bits(&weights, &[8])?;
            if !symmetric {
                return weights.fail("symmetric", "false is not supported yet; accepted is true".into());
            }
            if !matches!(strategy, "tensor" | "channel") {
                return unsupported(&weights, "strategy", strategy, "\"tensor\", \"channel\"");
            }
            if let Some(activations) = &activations {
                int8_activations(activations)?;
            }
            Ok(Scheme::Int8 { activations: activations.is_some() })
        }
        ("float-quantized" | "naive-quantized", "float") => {
            num_bits(&weights, &[8])?;
            let block = match strategy {
                "tensor" | "channel" => None,
                "block" => match block(&weights, "block_structure")? {
                    Some(block) => Some(block),
                    None => return weights.fail("block_structure", "missing; needed are two sides".into()),
                },
                other => {
                    return unsupported(&weights, "strategy", other, "\"tensor\", \"channel\", \"block\"");
                }
            };
            if let Some(activations) = &activations {
                num_bits(activations, &[8])?;
            }
            Ok(Scheme::Fp8 { block, activations: activations.is_some() })
        }
        (format, kind) => {
            let accepted = "pack-quantized or int-quantized of int, float-quantized of float";
            let problem =
                format!("{format:.40?} of {kind:.40?} is not supported yet; accepted are {accepted}");
            keys.fail("format", problem)
        }
    }
}

/// One scale per token, computed when the token is there: another choice would be other arithmetic.
fn int8_activations(keys: &Keys) -> Result<(), ModelError> {
    num_bits(keys, &[8])?;
    match keys.text("strategy")? {
        Some("token") => {}
        other => return unsupported(keys, "strategy", other.unwrap_or("(missing)"), "\"token\""),
    }
    if !keys.flag("dynamic", false)? {
        return keys.fail("dynamic", "false is not supported yet; accepted is true".into());
    }
    if !keys.flag("symmetric", true)? {
        return keys.fail("symmetric", "false is not supported yet; accepted is true".into());
    }
    Ok(())
}

fn bits(keys: &Keys, accepted: &[u32]) -> Result<u32, ModelError> {
    let key = if keys.present("w_bit") { "w_bit" } else { "bits" };
    one_of(keys, key, accepted)
}

fn num_bits(keys: &Keys, accepted: &[u32]) -> Result<u32, ModelError> {
    one_of(keys, "num_bits", accepted)
}

fn one_of(keys: &Keys, key: &str, accepted: &[u32]) -> Result<u32, ModelError> {
    match keys.required(key, 64)? {
        bits if accepted.contains(&bits) => Ok(bits),
        bits => keys.fail(key, format!("{bits} is not supported yet; accepted: {accepted:?}")),
    }
}

/// Columns of a group; -1 means the whole row.
fn group(keys: &Keys, key: &str) -> Result<Option<usize>, ModelError> {
    if keys.value(key).and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    Ok(Some(keys.required(key, MAX_GROUP)? as usize))
}

/// Two sides of a block, where the key is there.
fn block(keys: &Keys, key: &str) -> Result<Option<(usize, usize)>, ModelError> {
    let Some(value) = keys.value(key) else { return Ok(None) };
    let side = |value: &Value| match value.as_u64() {
        Some(side) if (1..=u64::from(MAX_GROUP)).contains(&side) => Some(side as usize),
        _ => None,
    };
    let sides: Option<Vec<usize>> = value.as_array().and_then(|sides| sides.iter().map(side).collect());
    match sides.as_deref() {
        Some([rows, cols]) => Ok(Some((*rows, *cols))),
        _ => keys.fail(key, format!("{} is not a list of two sides", shown(value))),
    }
}

fn refuse_unless_empty(keys: &Keys, key: &str) -> Result<(), ModelError> {
    match keys.value(key) {
        None => Ok(()),
        Some(Value::Object(map)) if map.is_empty() => Ok(()),
        Some(value) => keys.fail(key, format!("{} is not supported yet; accepted is null", shown(value))),
    }
}

fn unsupported<T>(keys: &Keys, key: &str, found: &str, accepted: &str) -> Result<T, ModelError> {
    keys.fail(key, format!("{found:.40?} is not supported yet; accepted are {accepted}"))
}
