//! What publishers call models, devices, formats and software, in the catalogue's terms. A name that is not understood costs a
//! row, so this is generous; what would change the prediction is not guessed.

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{Hardware, architecture, hardware};
use llmlab_quant::WeightFormat;
use llmlab_sim::cost_model::{MXFP4_BITS, Weights};

/// Names of models that publishers shorten, and models of the shape of another: reissues, fine-tuned and distilled ones.
const MODELS: &[(&str, &str)] = &[
    ("llama-70b", "llama-2-70b"),
    ("bloom-176b", "bloom"),
    ("mistral-7b-v0.2", "mistral-7b"),
    ("mistral-7b-instruct-v0.2", "mistral-7b"),
    ("zephyr-7b-beta", "mistral-7b-v0.1"),
    ("vicuna-7b", "llama-2-7b"),
    ("vicuna-7b-v1.5", "llama-2-7b"),
    ("vicuna-13b", "llama-2-13b"),
    ("vicuna-13b-v1.5", "llama-2-13b"),
    ("vicuna-33b", "llama-33b"),
    ("vicuna-33b-v1.3", "llama-33b"),
    ("llama-3.1-nemotron-70b", "llama-3.1-70b"),
    ("hermes-3-llama-3.1-8b", "llama-3.1-8b"),
    ("hermes-3-llama-3.1-70b", "llama-3.1-70b"),
    ("deepseek-r1-distill-llama-8b", "llama-3.1-8b"),
    ("deepseek-r1-distill-llama-70b", "llama-3.3-70b"),
    ("deepseek-r1-distill-qwen-1.5b", "qwen2.5-1.5b"),
    ("deepseek-r1-distill-qwen-7b", "qwen2.5-7b"),
    ("deepseek-r1-distill-qwen-14b", "qwen2.5-14b"),
    ("deepseek-r1-distill-qwen-32b", "qwen2.5-32b"),
    ("qwq-32b", "qwen2.5-32b"),
    ("qwen2-7b", "qwen2.5-7b"),
    ("qwen2-72b", "qwen2.5-72b"),
    ("qwen2.5-coder-7b", "qwen2.5-7b"),
    ("qwen2.5-coder-14b", "qwen2.5-14b"),
    ("qwen2.5-coder-32b", "qwen2.5-32b"),
    ("qwen3-coder-30b-a3b", "qwen3-30b-a3b"),
    ("yi-1.5-34b", "yi-34b"),
];

/// Ends of names that say how the weights are held, which `dtype_weights` says too.
const FORMATS: &[&str] = &[
    "fp8",
    "dynamic",
    "kv",
    "w8a8",
    "w4a16",
    "w8a16",
    "awq",
    "gptq",
    "gguf",
    "int8",
    "int4",
    "4bit",
    "8bit",
    "bf16",
    "fp16",
    "quantized",
    "bnb",
    "g128",
    "marlin",
    "instruct",
    "chat",
    "hf",
    "it",
];

/// A family's own sizes are those of its instruction-tuned and reissued models.
pub fn model(name: &str) -> Option<&'static Architecture> {
    let short: String = name.trim().rsplit('/').next().unwrap_or(name).chars().take(80).collect();
    let short = short.to_lowercase().replace([' ', '_'], "-");
    let short = short.trim_start_matches("mlperf-").trim_start_matches("meta-");
    let mut plain = short;
    // Formats, and the months of reissues ("-2507").
    while let Some((rest, end)) = plain.rsplit_once(['-', '.', ':']) {
        let month = end.len() == 4 && end.bytes().all(|byte| byte.is_ascii_digit());
        if !(FORMATS.contains(&end) || month) {
            break;
        }
        plain = rest;
    }
    let renamed = |name: &str| MODELS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
    [Some(name), Some(short), renamed(short), renamed(plain), Some(plain)]
        .into_iter()
        .flatten()
        .find_map(|name| architecture(name).ok())
}

/// The catalogue's names; of Apple's chips also with their number of cores, of others also with their memory.
pub fn device(name: &str) -> Option<&'static Hardware> {
    let bare = name.split('(').next().unwrap_or(name).trim();
    let short: String = bare.chars().take(80).collect::<String>().to_lowercase().replace([' ', '_'], "-");
    let cores = short.split("-core").next().unwrap_or(&short).trim_end_matches(|c: char| c.is_ascii_digit());
    let of_apple = short.contains("-core").then(|| cores.trim_end_matches('-'));
    [Some(name), Some(bare), of_apple].into_iter().flatten().find_map(|name| hardware(name).ok())
}

/// Bits a weight of GGUF mixes and of their output projections: llama.cpp, quantize's README, Llama 2 7B and Llama 3.1 8B.
const MIXES: &[(&str, f64, f64)] = &[
    ("q2_k", 3.35, 6.56),
    ("q3_k_s", 3.50, 6.56),
    ("q3_k_m", 3.91, 6.56),
    ("q3_k_l", 4.27, 6.56),
    ("q4_0", 4.55, 6.56),
    ("q4_k_s", 4.58, 6.56),
    ("q4_k_m", 4.89, 6.56),
    ("q5_k_s", 5.52, 6.56),
    ("q5_k_m", 5.70, 6.56),
    ("q6_k", 6.56, 6.56),
    ("q8_0", 8.5, 8.5),
];

/// Nothing, or "as the checkpoint is".
pub fn is_as_published(format: &str) -> bool {
    matches!(
        format.trim().to_lowercase().as_str(),
        "" | "auto" | "default" | "none" | "unquantized" | "published" | "native"
    )
}

/// "bf16(unquantized)", "Q4_K_M", "FP8 E4M3", "INT4 AWQ".
pub fn weights(name: &str) -> Option<Weights> {
    let name = name.split('(').next().unwrap_or(name).trim().to_lowercase().replace(['-', ' '], "_");
    if let Some((_, bits, output)) = MIXES.iter().find(|(mix, ..)| *mix == name) {
        return Some(Weights::mixed(*bits, *output));
    }
    let of = Weights::of;
    let words = || name.split(['_', ',', '/', '+']).filter(|word| !word.is_empty());
    let says = |known: &[&str]| words().any(|word| known.contains(&word));
    Some(match () {
        // Four-bit arithmetic is not modelled.
        _ if says(&["nvfp4", "fp4", "w4a4", "w4a8"]) => return None,
        // Published of experts alone.
        _ if says(&["mxfp4"]) => Weights::few_bit_experts(MXFP4_BITS),
        _ if says(&["int4", "awq", "gptq", "w4a16", "4bit", "u4", "nf4", "uint4"])
            && !says(&["int8", "8bit"]) =>
        {
            of(WeightFormat::Int4)
        }
        // Bytes that are made floats before they are multiplied.
        _ if says(&["w8a16", "int8wo"]) => Weights::mixed(8.0, 16.0),
        _ if says(&["fp8", "e4m3", "e5m2", "float8", "f8"]) => of(WeightFormat::Fp8),
        _ if says(&["int8", "w8a8", "8bit", "gptq"]) => of(WeightFormat::Int8),
        _ if says(&["bf16", "bfloat16"]) => of(WeightFormat::Bf16),
        _ if says(&["fp16", "f16", "float16", "half", "16bit"]) => of(WeightFormat::F16),
        _ if says(&["fp32", "f32", "float32", "tf32"]) => of(WeightFormat::F32),
        _ => return None,
    })
}

/// Bytes of a cached value; what is not said is 16 bits.
pub fn kv_value_bytes(name: &str) -> Option<f64> {
    let name = name.split('(').next().unwrap_or(name).trim().to_lowercase().replace(['-', ' '], "_");
    match name.as_str() {
        "" | "auto" | "default" | "none" | "n/a" | "same" => Some(2.0),
        "fp16" | "f16" | "bf16" | "half" | "float16" | "bfloat16" | "16bit" => Some(2.0),
        "fp32" | "f32" | "float32" => Some(4.0),
        "q8_0" => Some(8.5 / 8.0),
        "q4_0" => Some(4.5 / 8.0),
        _ if ["fp8", "e4m3", "e5m2", "int8", "float8", "8bit"].iter().any(|known| name.contains(known)) => {
            Some(1.0)
        }
        _ => None,
    }
}

/// The software in the calibration's terms; others by their own name.
pub fn runtime(framework: &str, version: &str) -> String {
    let name = framework.trim().to_lowercase().replace([' ', '_'], "-");
    let old = |years: &[&str]| years.iter().any(|year| version.contains(year));
    let is = |known: &[&str]| known.iter().any(|known| name.contains(known));
    if is(&["vllm"]) {
        return if old(&["2023"]) || version.starts_with("0.1.") || version.starts_with("0.2.") {
            "vllm-2023"
        } else {
            "vllm"
        }
        .into();
    }
    if is(&["tensorrt-llm", "tensorrtllm", "trtllm", "trt-llm"]) {
        return if version.starts_with("0.") { "tensorrt-llm-0" } else { "tensorrt-llm" }.into();
    }
    if is(&["llama.cpp", "llama-cpp", "llamacpp", "ollama"]) {
        return if old(&["2023", "2024", "b2749"]) { "llama.cpp-2024" } else { "llama.cpp" }.into();
    }
    name.split(['-', ',']).next().unwrap_or("").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reissues_and_formats_in_names_are_the_model_itself() {
        for (name, known) in [
            ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b"),
            ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w8a8", "llama-3.1-70b"),
            ("TheBloke/Llama-2-7B-Chat-GPTQ", "llama-2-7b"),
            ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b"),
            ("Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
            ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
            ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama-3.1-8b"),
            ("MLPerf llama3.1-8b", "llama-3.1-8b"),
            ("LLaMA-70B", "llama-2-70b"),
            ("Llama 3.1 8B", "llama-3.1-8b"),
        ] {
            assert_eq!(model(name).map(|found| found.name.as_str()), Some(known), "{name}");
        }
        for name in ["Llama 3.1 9B", "no-such-model", "fp8", "", "2507"] {
            assert!(model(name).is_none(), "{name}");
        }
    }

    #[test]
    fn formats_as_people_write_them() {
        let bytes = |name: &str| weights(name).map(|weights| weights.bytes);
        for (names, of) in [
            ("fp8|FP8 E4M3|fp8_e4m3|FP8 (dynamic)|fp8-dynamic|float8", WeightFormat::Fp8),
            ("w8a8|INT8|int8 W8A8", WeightFormat::Int8),
            ("awq|GPTQ|INT4 AWQ|gptq-int4|W4A16|4bit", WeightFormat::Int4),
            ("bf16(unquantized)|BFloat16", WeightFormat::Bf16),
        ] {
            for name in names.split('|') {
                assert_eq!(bytes(name), Some(Weights::of(of).bytes), "{name}");
            }
        }
        assert!(bytes("q4_k_m") < bytes("Q5_K_M") && bytes("Q5_K_M") < bytes("fp16"));
        for name in ["weird", "nvfp4", "q9_z"] {
            assert_eq!(bytes(name), None, "{name}");
        }
        assert_eq!(kv_value_bytes("fp8_e4m3"), Some(1.0));
        assert_eq!(kv_value_bytes("FP16"), Some(2.0));
        assert_eq!(kv_value_bytes("odd"), None);
    }

    #[test]
    fn software_in_its_spellings() {
        for (name, version, known) in [
            ("TensorRT LLM", "1.0", "tensorrt-llm"),
            ("NIM (TensorRT-LLM)", "1.8.0", "tensorrt-llm"),
            ("vLLM-based (Splitwise, 2023)", "2023", "vllm-2023"),
            ("llama-cpp", "b5000", "llama.cpp"),
            ("SGLang", "", "sglang"),
            ("NVIDIA Dynamo", "", "nvidia"),
        ] {
            assert_eq!(runtime(name, version), known, "{name}");
        }
    }

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
}
