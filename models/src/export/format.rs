//! The formats in which a Hugging Face folder can be written.

use std::fmt;
use std::str::FromStr;

use llmlab_quant::packed::awq::AwqVersion;
use llmlab_quant::packed::gptq::GptqVersion;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::spec::{Family, ModelSpec};

/// Columns that share a scale in the formats with groups.
pub const GROUP: usize = 128;
/// Side of the square blocks of [`HfFormat::Fp8Block`].
pub const FP8_BLOCK: usize = 128;

/// How weights lie in a folder. In the quantized formats the matrices of layers are rounded to the nearest level, without
/// calibration; embedding, output projection, routers and vectors stay floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HfFormat {
    F32,
    Bf16,
    F16,
    /// 4 or 8 bits, version 1 symmetric as AutoGPTQ's default, version 2 with zero points.
    Gptq {
        bits: u32,
        version: GptqVersion,
        act_order: bool,
    },
    /// 4 bits with zero points.
    Awq(AwqVersion),
    /// compressed-tensors W8A8, a scale per row.
    Int8,
    /// compressed-tensors FP8, a scale per row.
    Fp8,
    /// compressed-tensors FP8, a scale per matrix.
    Fp8Tensor,
    /// `quant_method` "fp8", a scale per block of 128 x 128.
    Fp8Block,
    /// compressed-tensors W4A16, symmetric or with zero points.
    W4A16 {
        symmetric: bool,
    },
}

impl HfFormat {
    /// Every format with its name, in the order an error lists them.
    pub const ALL: [(&str, HfFormat); 18] = [
        ("f32", HfFormat::F32),
        ("bf16", HfFormat::Bf16),
        ("f16", HfFormat::F16),
        ("gptq", gptq(4, GptqVersion::V1, false)),
        ("gptq_act_order", gptq(4, GptqVersion::V1, true)),
        ("gptq_v2", gptq(4, GptqVersion::V2, false)),
        ("gptq_v2_act_order", gptq(4, GptqVersion::V2, true)),
        ("gptq_8bit", gptq(8, GptqVersion::V1, false)),
        ("gptq_8bit_act_order", gptq(8, GptqVersion::V1, true)),
        ("gptq_v2_8bit", gptq(8, GptqVersion::V2, false)),
        ("awq", HfFormat::Awq(AwqVersion::Gemm)),
        ("awq_gemv", HfFormat::Awq(AwqVersion::Gemv)),
        ("int8", HfFormat::Int8),
        ("fp8", HfFormat::Fp8),
        ("fp8_tensor", HfFormat::Fp8Tensor),
        ("fp8_block", HfFormat::Fp8Block),
        ("w4a16", HfFormat::W4A16 { symmetric: true }),
        ("w4a16_asym", HfFormat::W4A16 { symmetric: false }),
    ];

    /// Whether matrices of layers are stored in less than floats.
    pub fn is_quantized(self) -> bool {
        !matches!(self, HfFormat::F32 | HfFormat::Bf16 | HfFormat::F16)
    }

    /// The dtype of what stays in floats: what the tools that write these formats use.
    pub(crate) fn float_dtype(self) -> Dtype {
        match self {
            HfFormat::F32 => Dtype::F32,
            HfFormat::F16 | HfFormat::Gptq { .. } | HfFormat::Awq(_) | HfFormat::W4A16 { .. } => Dtype::F16,
            _ => Dtype::BF16,
        }
    }

    /// The name of [`Self::float_dtype`] in `config.json`.
    pub(crate) fn dtype_name(self) -> &'static str {
        match self.float_dtype() {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            _ => "bfloat16",
        }
    }

    /// The `quantization_config` of `config.json`.
    pub(crate) fn quantization_config(self, spec: &ModelSpec) -> Option<Value> {
        let weights = |bits: u32, kind: &str, strategy: &str, symmetric: bool, group: Option<usize>| {
            json!({
                "num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric,
                "group_size": group, "dynamic": false,
            })
        };
        let tokens = |kind: &str| {
            json!({
                "num_bits": 8, "type": kind, "strategy": "token", "symmetric": true, "group_size": null, "dynamic": true,
            })
        };
        Some(match self {
            HfFormat::F32 | HfFormat::Bf16 | HfFormat::F16 => return None,
            HfFormat::Gptq { bits, version, act_order } => json!({
                "quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order,
                "sym": version == GptqVersion::V1, "true_sequential": true, "static_groups": false,
                "lm_head": false, "damp_percent": 0.01,
                "checkpoint_format": if version == GptqVersion::V1 { "gptq" } else { "gptq_v2" },
            }),
            HfFormat::Awq(version) => json!({
                "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": true,
                "version": if version == AwqVersion::Gemm { "gemm" } else { "gemv" },
                "modules_to_not_convert": router_modules(spec),
            }),
            HfFormat::Int8 => {
                let weights = weights(8, "int", "channel", true, None);
                compressed(spec, "int-quantized", weights, tokens("int"))
            }
            HfFormat::Fp8 => {
                let weights = weights(8, "float", "channel", true, None);
                compressed(spec, "float-quantized", weights, tokens("float"))
            }
            HfFormat::Fp8Tensor => {
                let weights = weights(8, "float", "tensor", true, None);
                compressed(spec, "float-quantized", weights, tokens("float"))
            }
            HfFormat::Fp8Block => json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                "weight_block_size": [FP8_BLOCK, FP8_BLOCK], "modules_to_not_convert": left_alone(spec),
            }),
            HfFormat::W4A16 { symmetric } => {
                let weights = weights(4, "int", "group", symmetric, Some(GROUP));
                compressed(spec, "pack-quantized", weights, Value::Null)
            }
        })
    }
}

const fn gptq(bits: u32, version: GptqVersion, act_order: bool) -> HfFormat {
    HfFormat::Gptq { bits, version, act_order }
}

fn compressed(spec: &ModelSpec, format: &str, weights: Value, activations: Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
        "global_compression_ratio": null, "kv_cache_scheme": null, "ignore": left_alone(spec),
        "config_groups": { "group_0": {
            "targets": ["Linear"], "weights": weights, "input_activations": activations,
            "output_activations": null,
        } },
    })
}

/// Modules that stay in floats although they multiply.
fn left_alone(spec: &ModelSpec) -> Vec<String> {
    let tensors = spec.tensors();
    let routers = tensors.iter().filter(|tensor| tensor.role.is_router());
    let mut modules: Vec<String> =
        routers.map(|tensor| tensor.name.trim_end_matches(".weight").to_string()).collect();
    if spec.family == Family::Mixtral {
        // transformers 5 renamed the block, and reads the list under the new names.
        modules.extend((0..spec.num_layers).map(|layer| format!("model.layers.{layer}.mlp.gate")));
    }
    modules.push("lm_head".into());
    modules
}

/// What AWQ tools call the routers: parts of names.
fn router_modules(spec: &ModelSpec) -> Option<Vec<&'static str>> {
    spec.moe.as_ref()?;
    Some(match spec.family {
        Family::Mixtral => vec!["block_sparse_moe.gate", "mlp.gate"],
        _ => vec!["mlp.gate", "mlp.shared_expert_gate"],
    })
}

impl fmt::Display for HfFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) =
            HfFormat::ALL.into_iter().find(|(_, format)| format == self).unwrap_or(("gptq", *self));
        formatter.pad(name)
    }
}

impl FromStr for HfFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = HfFormat::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| format).ok_or_else(|| {
            let accepted = HfFormat::ALL.map(|(name, _)| name).join(", ");
            format!("{text:?} is not a format of Hugging Face folders; accepted are {accepted}")
        })
    }
}
