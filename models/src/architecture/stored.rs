//! The format a checkpoint is published in, from the `quantization_config` of its `config.json`.
//!
//! Keys and their meaning: what transformers, compressed-tensors and ModelOpt write into the checkpoints on Hugging Face. What
//! leaves some matrices of layers in 16 bits, or has a format whose bytes are not known here, is refused.

use std::fmt;

use serde_json::Value;

use crate::error::ModelError;
use crate::hf_config::{Keys, shown};

/// Weights that share a scale where a configuration leaves it unsaid, as AWQ and GPTQ take it.
const DEFAULT_GROUP: u32 = 128;
const GROUPS: std::ops::RangeInclusive<u64> = 8..=1024;

/// What the matrices of a checkpoint are stored in. Tables, norms and routers are 16 bits in all the quantized ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredFormat {
    F32,
    F16,
    Bf16,
    /// Matrices of layers in 8-bit floats with a scale for each block of 128 x 128, or for each row.
    Fp8,
    /// Matrices of layers in bytes with a scale for each row. GPTQ's scales of groups are 2 % more at 128, which is not counted.
    Int8,
    /// GPTQ, AWQ and other 4-bit integers.
    Int4 {
        /// Weights that share a scale.
        group: u32,
    },
    /// Experts in blocks of 32 4-bit floats with one 8-bit exponent; all else in bf16.
    Mxfp4,
    /// Matrices of layers in blocks of 16 4-bit floats with one 8-bit scale.
    Nvfp4,
}

impl StoredFormat {
    /// Of the `dtype` of a configuration; f32 where it is unknown, as transformers takes it.
    pub fn of_dtype(dtype: &str) -> StoredFormat {
        match dtype {
            "bfloat16" => StoredFormat::Bf16,
            "float16" | "half" => StoredFormat::F16,
            _ => StoredFormat::F32,
        }
    }

    pub(super) fn read(keys: &Keys) -> Result<StoredFormat, ModelError> {
        let Some(quantization) = keys.object("quantization_config")? else {
            let dtype = keys.text("torch_dtype")?.or(keys.text("dtype")?);
            return Ok(Self::of_dtype(dtype.unwrap_or("float32")));
        };
        let stored = match quantization.text("quant_method")? {
            // Only experts are quantized, which is what its list of other modules says.
            Some("mxfp4") => return Ok(StoredFormat::Mxfp4),
            Some("fp8" | "fbgemm_fp8") => StoredFormat::Fp8,
            Some("gptq") => integers(&quantization, "bits", "group_size")?,
            Some("awq") => match quantization.value("w_bit") {
                Some(_) => integers(&quantization, "w_bit", "q_group_size")?,
                None => integers(&quantization, "bits", "group_size")?,
            },
            Some("bitsandbytes") => bitsandbytes(&quantization)?,
            Some("modelopt" | "modelopt_fp4") => model_optimizer(&quantization)?,
            Some("compressed-tensors") => compressed_tensors(&quantization)?,
            other => {
                let found = other.map_or_else(|| "missing".into(), |name| shown(&name.into()));
                let accepted = "accepted are \"fp8\", \"fbgemm_fp8\", \"mxfp4\", \"gptq\", \"awq\", \"compressed-tensors\", \"modelopt\", \"bitsandbytes\"";
                return quantization.fail("quant_method", format!("{found}; {accepted}"));
            }
        };
        all_are_quantized(&quantization)?;
        Ok(stored)
    }
}

/// GPTQ and AWQ; both have 4 bits where nothing is said.
fn integers(keys: &Keys, bits: &str, group: &str) -> Result<StoredFormat, ModelError> {
    match keys.value(bits).map_or(Some(4), Value::as_u64) {
        Some(8) => Ok(StoredFormat::Int8),
        Some(4) => Ok(StoredFormat::Int4 { group: group_size(keys, group)? }),
        _ => keys.fail(bits, format!("{}; accepted are 4 and 8", found(keys, bits))),
    }
}

fn group_size(keys: &Keys, key: &str) -> Result<u32, ModelError> {
    match keys.value(key).map(Value::as_u64) {
        None => Ok(DEFAULT_GROUP),
        Some(Some(group)) if GROUPS.contains(&group) => Ok(group as u32),
        Some(_) => {
            let (least, most) = (GROUPS.start(), GROUPS.end());
            keys.fail(key, format!("{}; accepted are whole numbers from {least} to {most}", found(keys, key)))
        }
    }
}

fn bitsandbytes(keys: &Keys) -> Result<StoredFormat, ModelError> {
    if keys.flag("load_in_8bit", false)? {
        return Ok(StoredFormat::Int8);
    }
    keys.fail("load_in_8bit", "not true; accepted of bitsandbytes are 8 bits, not its blocks of 4".into())
}

fn model_optimizer(keys: &Keys) -> Result<StoredFormat, ModelError> {
    match keys.text("quant_algo")? {
        Some("FP8") => Ok(StoredFormat::Fp8),
        Some("NVFP4") => Ok(StoredFormat::Nvfp4),
        _ => {
            keys.fail("quant_algo", format!("{}; accepted are \"FP8\", \"NVFP4\"", found(keys, "quant_algo")))
        }
    }
}

fn compressed_tensors(keys: &Keys) -> Result<StoredFormat, ModelError> {
    let Some(groups) = keys.object("config_groups")? else {
        return keys.fail("config_groups", "missing; accepted is an object with groups of weights".into());
    };
    let mut stored = None;
    for name in groups.map.keys() {
        let Some(group) = groups.object(name)? else { continue };
        let Some(weights) = group.object("weights")? else {
            return group.fail("weights", "missing; accepted are num_bits, type and group_size".into());
        };
        let of_group = weights_of_group(&weights)?;
        if stored.is_some_and(|stored| stored != of_group) {
            return keys.fail("config_groups", "groups of several formats; accepted is one".into());
        }
        stored = Some(of_group);
    }
    match stored {
        Some(stored) => Ok(stored),
        None => keys.fail("config_groups", "empty; accepted is a group of weights".into()),
    }
}

fn weights_of_group(weights: &Keys) -> Result<StoredFormat, ModelError> {
    let kind = weights.text("type")?.unwrap_or("int");
    let bits = weights.value("num_bits").map_or(Some(8), Value::as_u64);
    let grouped = weights.value("group_size").and_then(Value::as_u64);
    match (kind, bits, grouped) {
        ("float", Some(8), _) => Ok(StoredFormat::Fp8),
        ("float", Some(4), Some(16)) => Ok(StoredFormat::Nvfp4),
        ("int", Some(8), None) => Ok(StoredFormat::Int8),
        ("int", Some(4), Some(_)) => Ok(StoredFormat::Int4 { group: group_size(weights, "group_size")? }),
        _ => {
            let accepted = "accepted are 8-bit floats, 8-bit integers by row, 4-bit integers in groups and 4-bit floats in groups of 16";
            let bits = found(weights, "num_bits");
            weights.fail("num_bits", format!("{bits} of type {kind:.20?}; {accepted}"))
        }
    }
}

/// Modules left as they were are listed under one of four names, by name or by pattern. Heads, tables, norms and routers are
/// not quantized in any case, and what sees images is no part of a shape.
fn all_are_quantized(keys: &Keys) -> Result<(), ModelError> {
    const NOT_COUNTED: [&str; 11] = [
        "lm_head",
        "embed",
        "norm",
        "router",
        "mlp.gate",
        "shared_expert_gate",
        "block_sparse_moe.gate",
        "vision",
        "visual",
        "multi_modal",
        "mm_projector",
    ];
    for key in ["modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules"] {
        for module in keys.texts(key)?.unwrap_or_default() {
            let plain = module.replace('\\', "");
            let known = NOT_COUNTED.iter().any(|part| plain.contains(part)) && !plain.contains("gate_");
            if !known {
                let problem = format!(
                    "{module:.60?} stays in 16 bits; accepted are heads, tables, norms, routers and vision alone"
                );
                return keys.fail(key, problem);
            }
        }
    }
    Ok(())
}

fn found(keys: &Keys, key: &str) -> String {
    keys.value(key).map_or_else(|| "missing".to_string(), shown)
}

impl fmt::Display for StoredFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            StoredFormat::F32 => "f32",
            StoredFormat::F16 => "f16",
            StoredFormat::Bf16 => "bf16",
            StoredFormat::Fp8 => "fp8",
            StoredFormat::Int8 => "int8",
            StoredFormat::Int4 { group: DEFAULT_GROUP } => "int4",
            StoredFormat::Int4 { group } => return write!(formatter, "int4:{group}"),
            StoredFormat::Mxfp4 => "mxfp4",
            StoredFormat::Nvfp4 => "nvfp4",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(quantization: &str) -> Result<StoredFormat, String> {
        let json = format!(r#"{{"torch_dtype": "bfloat16", "quantization_config": {quantization}}}"#);
        let map = crate::hf_config::object(&json, Path::new("config.json")).unwrap();
        StoredFormat::read(&Keys::new(&map, Path::new("config.json"))).map_err(|error| error.to_string())
    }

    #[test]
    fn bits_and_groups_are_those_of_the_configuration() {
        use StoredFormat::{Fp8, Int4, Int8, Mxfp4, Nvfp4};
        for (quantization, expected) in [
            (
                r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}"#,
                Int4 { group: 128 },
            ),
            (r#"{"quant_method": "gptq", "bits": 4, "group_size": 32}"#, Int4 { group: 32 }),
            (r#"{"quant_method": "gptq", "bits": 8, "group_size": -1}"#, Int8),
            (
                r#"{"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": null}"#,
                Int4 { group: 64 },
            ),
            (r#"{"quant_method": "awq", "w_bit": 4, "q_group_size": 128}"#, Int4 { group: 128 }),
            (
                r#"{"quant_method": "fp8", "weight_block_size": [128, 128],
                "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm", "model.layers.0.mlp.gate"]}"#,
                Fp8,
            ),
            (r#"{"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}"#, Mxfp4),
            (
                r#"{"quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_skip_modules": ["lm_head"]}"#,
                Int8,
            ),
            (r#"{"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]}"#, Fp8),
            (
                r#"{"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "model.layers.*.mlp.gate"]}"#,
                Nvfp4,
            ),
            (
                r#"{"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*vision_model.*"],
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}"#,
                Fp8,
            ),
            (
                r#"{"quant_method": "compressed-tensors", "ignore": ["lm_head"],
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel", "group_size": null}}}}"#,
                Int8,
            ),
            (
                r#"{"quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}}}"#,
                Int4 { group: 128 },
            ),
            (
                r#"{"quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}}}"#,
                Nvfp4,
            ),
        ] {
            assert_eq!(read(quantization), Ok(expected), "{quantization}");
        }
    }

    #[test]
    fn what_cannot_be_sized_is_one_error_that_names_the_key() {
        for (quantization, expected) in [
            (r#"{"quant_method": "gptq", "bits": 3}"#, "quantization_config.bits: 3; accepted are 4 and 8"),
            (
                r#"{"quant_method": "gptq", "bits": 2, "group_size": 64}"#,
                "quantization_config.bits: 2; accepted are 4 and 8",
            ),
            (
                r#"{"quant_method": "gptq", "bits": 4, "group_size": -1}"#,
                "quantization_config.group_size: -1; accepted are whole numbers from 8 to 1024",
            ),
            (
                r#"{"quant_method": "bitsandbytes", "load_in_4bit": true}"#,
                "load_in_8bit: not true; accepted of bitsandbytes are 8 bits",
            ),
            (
                r#"{"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}"#,
                "quant_algo: \"W4A8_AWQ\"; accepted are \"FP8\", \"NVFP4\"",
            ),
            (r#"{"quant_method": "compressed-tensors"}"#, "config_groups: missing"),
            (
                r#"{"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 2, "type": "int"}}}}"#,
                "config_groups.g.weights.num_bits: 2 of type \"int\"; accepted are 8-bit floats",
            ),
            // Llama 4 Scout in FP8 by its quantizer, and Meta's Llama 3.1 405B in FP8.
            (
                r#"{"quant_method": "compressed-tensors", "ignore": ["re:.*lm_head", "re:.*self_attn"],
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}"#,
                "ignore: \"re:.*self_attn\" stays in 16 bits; accepted are heads",
            ),
            (
                r#"{"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["model.layers.0.mlp.gate_proj"]}"#,
                "modules_to_not_convert: \"model.layers.0.mlp.gate_proj\" stays in 16 bits",
            ),
            (r#"{"quant_method": "hqq"}"#, "quant_method: \"hqq\"; accepted are \"fp8\""),
        ] {
            let error = read(quantization).unwrap_err();
            assert!(error.contains(expected), "{quantization}: {error}");
        }
    }
}
