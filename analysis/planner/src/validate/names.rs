//! What publishers call models, devices, formats and software, in the catalogue's terms.

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{Hardware, architecture, hardware};
use llmlab_quant::WeightFormat;
use llmlab_sim::cost_model::Weights;

/// Names of models that publishers shorten.
const MODELS: &[(&str, &str)] = &[
    ("llama-7b", "llama-2-7b"),
    ("llama-13b", "llama-2-13b"),
    ("llama-70b", "llama-2-70b"),
    ("llama2-7b", "llama-2-7b"),
    ("llama2-13b", "llama-2-13b"),
    ("llama2-70b", "llama-2-70b"),
    ("meta-llama-3-8b", "llama-3-8b"),
    ("meta-llama-3-70b", "llama-3-70b"),
    ("bloom-176b", "bloom"),
];

/// Names of devices that publishers shorten or lengthen.
const DEVICES: &[(&str, &str)] = &[
    ("a100-sxm", "a100-sxm-80gb"),
    ("a100-80gb", "a100-sxm-80gb"),
    ("a100-pcie", "a100-pcie-80gb"),
    ("h100-sxm-80gb", "h100-sxm"),
    ("h100-80gb", "h100-sxm"),
    ("h100-pcie-80gb", "h100-pcie"),
];

/// A family's own sizes are those of its instruction-tuned and reissued models.
pub fn model(name: &str) -> Option<&'static Architecture> {
    let short = name.rsplit('/').next().unwrap_or(name).to_lowercase().replace([' ', '_'], "-");
    let plain = ["-instruct", "-chat", "-hf", "-fp8-dynamic", "-fp8", "-it"]
        .iter()
        .fold(short.clone(), |name, end| name.trim_end_matches(end).to_string());
    let renamed = MODELS.iter().find(|(from, _)| *from == plain).map(|(_, to)| *to);
    [Some(name), Some(&short), renamed, Some(&plain)]
        .into_iter()
        .flatten()
        .find_map(|name| architecture(name).ok())
}

pub fn device(name: &str) -> Option<&'static Hardware> {
    let bare = name.split('(').next().unwrap_or(name).trim();
    let short = bare.to_lowercase().replace([' ', '_'], "-");
    let short = short.trim_start_matches("nvidia-").trim_start_matches("apple-");
    let without_size =
        short.trim_end_matches("b").trim_end_matches("g").trim_end_matches(|c: char| c.is_ascii_digit());
    let renamed = DEVICES.iter().find(|(from, _)| *from == short).map(|(_, to)| *to);
    let apple = format!("apple-{short}");
    let cores = apple.split("-core").next().unwrap_or(&apple).trim_end_matches(|c: char| c.is_ascii_digit());
    [
        Some(bare),
        Some(short),
        renamed,
        Some(&apple),
        Some(cores.trim_end_matches('-')),
        Some(without_size.trim_end_matches('-')),
    ]
    .into_iter()
    .flatten()
    .find_map(|name| hardware(name).ok())
}

/// "bf16(unquantized)", "Q4_K_M", "FP8".
pub fn weights(name: &str) -> Option<Weights> {
    let name = name.split('(').next().unwrap_or(name).trim().to_lowercase();
    // Bits of whole files and of their output projections: llama.cpp's quantize, README.
    Some(match name.as_str() {
        "fp16" | "f16" | "float16" | "half" => Weights::of(WeightFormat::F16),
        "bf16" | "bfloat16" => Weights::of(WeightFormat::Bf16),
        "fp32" | "f32" => Weights::of(WeightFormat::F32),
        "fp8" | "fp8-dynamic" => Weights::of(WeightFormat::Fp8),
        "int8" | "w8a8" => Weights::of(WeightFormat::Int8),
        "int4" | "awq" | "gptq" | "w4a16" => Weights::of(WeightFormat::Int4),
        "mxfp4" => Weights { bytes: 4.25 / 8.0, ..Weights::of(WeightFormat::Int4) },
        "q4_0" => Weights::mixed(4.55, 6.56),
        "q4_k_m" => Weights::mixed(4.89, 6.56),
        "q5_k_m" => Weights::mixed(5.70, 6.56),
        "q6_k" => Weights::mixed(6.56, 6.56),
        "q8_0" => Weights::mixed(8.5, 8.5),
        _ => return None,
    })
}

/// Bytes of a cached value; what is not said is 16 bits.
pub fn kv_value_bytes(name: &str) -> Option<f64> {
    let name = name.split('(').next().unwrap_or(name).trim().to_lowercase();
    match name.as_str() {
        "" | "auto" | "fp16" | "f16" | "bf16" => Some(2.0),
        "fp8" | "fp8_e4m3" | "int8" => Some(1.0),
        _ => None,
    }
}

/// The software in the calibration's terms; others by their own name.
pub fn runtime(framework: &str, version: &str) -> String {
    let name = framework.to_lowercase();
    let old = |years: &[&str]| years.iter().any(|year| version.contains(year));
    if name.contains("vllm") {
        return if old(&["2023"]) || version.starts_with("0.1.") || version.starts_with("0.2.") {
            "vllm-2023"
        } else {
            "vllm"
        }
        .into();
    }
    if ["tensorrt-llm", "trtllm", "trt-llm"].iter().any(|known| name.contains(known)) {
        return if version.starts_with("0.") { "tensorrt-llm-0" } else { "tensorrt-llm" }.into();
    }
    if name.contains("llama.cpp") {
        return if old(&["2023", "2024", "b2749"]) { "llama.cpp-2024" } else { "llama.cpp" }.into();
    }
    name.split([' ', ',']).next().unwrap_or("").to_string()
}
