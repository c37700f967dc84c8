//! What publishers call models, devices, formats and software, in the catalogue's terms.

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{Hardware, architecture, hardware};
use llmlab_models::memory;
use llmlab_quant::WeightFormat;
use llmlab_sim::cost_model::Weights;

/// A family's own sizes are those of its instruction-tuned and reissued models.
pub fn model(name: &str) -> Option<&'static Architecture> {
    let short = name.rsplit('/').next().unwrap_or(name).to_lowercase().replace([' ', '_'], "-");
    let plain = ["-instruct", "-chat", "-hf", "-fp8-dynamic", "-fp8", "-it"]
        .iter()
        .fold(short.clone(), |name, end| name.trim_end_matches(end).to_string());
    [name, &short, &plain].into_iter().find_map(|name| architecture(name).ok())
}

pub fn device(name: &str) -> Option<&'static Hardware> {
    let bare = name.split('(').next().unwrap_or(name).trim();
    let short = bare.to_lowercase().replace([' ', '_'], "-");
    let short = short.trim_start_matches("nvidia-").trim_start_matches("apple-");
    let without_size =
        short.trim_end_matches("b").trim_end_matches("g").trim_end_matches(|c: char| c.is_ascii_digit());
    let apple = format!("apple-{short}");
    let cores = apple.split("-core").next().unwrap_or(&apple).trim_end_matches(|c: char| c.is_ascii_digit());
    [bare, short, &apple, cores.trim_end_matches('-'), without_size.trim_end_matches('-')]
        .into_iter()
        .find_map(|name| hardware(name).ok())
}

/// "bf16(unquantized)", "Q4_K_M", "FP8".
pub fn weights(name: &str) -> Option<Weights> {
    let name = name.split('(').next().unwrap_or(name).trim().to_lowercase();
    let plain = match name.as_str() {
        "fp16" | "float16" | "half" => "f16",
        "bfloat16" => "bf16",
        "fp32" => "f32",
        "fp8-dynamic" => "fp8",
        "w8a8" => "int8",
        "w4a16" => "int4",
        plain => plain,
    };
    published(plain.parse().ok()?)
}

/// A format as whole files of it are published, whatever the model.
fn published(format: memory::Weights) -> Option<Weights> {
    let few_bits = |bits: f64| Weights { bytes: bits / 8.0, ..Weights::of(WeightFormat::Int4) };
    Some(match format {
        memory::Weights::F32 => Weights::of(WeightFormat::F32),
        memory::Weights::F16 => Weights::of(WeightFormat::F16),
        memory::Weights::Bf16 => Weights::of(WeightFormat::Bf16),
        memory::Weights::Fp8 => Weights::of(WeightFormat::Fp8),
        memory::Weights::Int8 => Weights::of(WeightFormat::Int8),
        memory::Weights::Int4 { .. } => Weights::of(WeightFormat::Int4),
        memory::Weights::Mxfp4 => few_bits(4.25),
        memory::Weights::Nvfp4 => few_bits(4.5),
        // Bits of whole files and of their output projections: llama.cpp's quantize, README.
        memory::Weights::Gguf(recipe) => match recipe.to_string().as_str() {
            "q4_0" => Weights::mixed(4.55, 6.56),
            "q4_k_m" => Weights::mixed(4.89, 6.56),
            "q5_k_m" => Weights::mixed(5.70, 6.56),
            "q6_k" => Weights::mixed(6.56, 6.56),
            "q8_0" => Weights::mixed(8.5, 8.5),
            _ => return None,
        },
        memory::Weights::Published => return None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_publishers_are_those_of_the_catalogue() {
        for (name, expected) in [
            ("LLaMA-70B", "llama-2-70b"),
            ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
            ("bloom-176b", "bloom-176b"),
            ("RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic", "llama-4-scout"),
            ("Qwen3-8B-FP8", "qwen3-8b-fp8"),
        ] {
            assert_eq!(model(name).map(|model| model.name.as_str()), Some(expected), "{name}");
        }
        for (name, expected) in [
            ("A100 SXM", "a100-sxm-80gb"),
            ("H100 (79.18 GiB)", "h100-sxm"),
            ("M2 Ultra 76-core", "apple-m2-ultra-76"),
            ("RTX 3060 12GB", "rtx-3060"),
        ] {
            assert_eq!(device(name).map(|device| device.name.as_str()), Some(expected), "{name}");
        }
    }

    #[test]
    fn formats_are_those_that_plans_parse() {
        assert_eq!(weights("bf16(unquantized)"), Some(Weights::of(WeightFormat::Bf16)));
        assert_eq!(weights("W8A8"), weights("int8"));
        assert_eq!(weights("Q4_K_M"), Some(Weights::mixed(4.89, 6.56)));
        assert_eq!((weights(""), weights("published"), weights("q3_k_m")), (None, None, None));
    }
}
