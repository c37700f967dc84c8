//! Folders written in every format, and read back: the config says the same model, the weights are the rounded ones.

use std::path::Path;

use llmlab_models::synthetic::SyntheticWeights;
use llmlab_models::{
    Family, HfFormat, ModelSpec, Preset, RopeScaling, RopeSpec, WeightFormat, WeightSource, load, write_hf,
    write_synthetic_hf,
};
use llmlab_quant::{Range, StoredMatrix, quantize_grouped, quantize_matrix};
use serde_json::Value;

const SEED: u64 = 5;

fn exported(preset: Preset, format: HfFormat) -> (tempfile::TempDir, llmlab_models::LoadedModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(preset.name());
    write_synthetic_hf(preset, SEED, &path, format).unwrap();
    let model = load(path.to_str().unwrap(), 0).unwrap();
    (folder, model)
}

/// Every family in floats and in one format of each kind of packing: nothing of the spec is lost, every tensor is there.
#[test]
fn every_family_survives_the_way_through_a_folder() {
    let formats = ["f32", "gptq_act_order", "fp8_block"];
    for family in Family::ALL {
        let preset = Preset::Tiny(family);
        let source = SyntheticWeights::new(preset.spec(), SEED);
        for format in formats.map(|name| name.parse::<HfFormat>().unwrap()) {
            let (_folder, model) = exported(preset, format);
            let spec = ModelSpec { dtype: preset.spec().dtype, ..model.spec.clone() };
            assert_eq!(spec, preset.spec(), "{family} {format}");
            let name = spec.names(1).o.weight;
            let (read, original) = (model.weights.tensor(&name).unwrap(), source.tensor(&name).unwrap());
            let largest = original.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let error = read.iter().zip(&original).fold(0.0f32, |error, (a, b)| error.max((a - b).abs()));
            let limit = if format == HfFormat::F32 { 0.0 } else { 0.08 };
            assert!(error <= limit * largest, "{family} {format}: {error} of {largest}");
        }
    }
}

/// What transformers made of published configs, written by us and read again, is the same model.
#[test]
fn every_config_can_be_written() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/configs.json")).unwrap();
    let mut written = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let spec =
            ModelSpec::from_hf_config(&case["config"].to_string(), Path::new("case/config.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case");
        let source = SyntheticWeights::new(spec.clone(), SEED);
        write_hf(&spec, &source, &path, HfFormat::F32)
            .unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        let json = std::fs::read_to_string(path.join("config.json")).unwrap();
        let read = ModelSpec::from_hf_config(&json, &path.join("config.json")).unwrap();
        assert_eq!(read, spec, "{}", case["name"]);
        written += 1;
    }
    assert!(written >= 30);
}

/// What a reader of the folder gets is, bit for bit, what the quantizer made.
#[test]
fn stored_matrices_are_those_that_were_written() {
    let preset = Preset::Tiny(Family::Qwen2);
    let source = SyntheticWeights::new(preset.spec(), SEED);
    let names = preset.spec().names(0);
    let linear = &names.qkv[1];
    let (rows, cols) = (linear.rows as usize, linear.cols as usize);
    let values = source.tensor(&linear.weight).unwrap();
    for (name, format) in HfFormat::ALL.into_iter().filter(|(_, format)| format.is_quantized()) {
        let (_folder, model) = exported(preset, format);
        let stored = model.weights.stored(&linear.weight).unwrap();
        stored.validate(rows, cols).unwrap();
        assert_eq!(stored.format(), model.weights.format(&linear.weight).unwrap(), "{name}");
        assert_eq!(stored.dequantize(rows, cols), model.weights.tensor(&linear.weight).unwrap(), "{name}");
        let expected = match name {
            "gptq" | "w4a16" => grouped(4, Range::Symmetric, rows, cols, &values),
            "gptq_v2" | "awq" | "awq_gemv" | "w4a16_asym" => {
                grouped(4, Range::Asymmetric, rows, cols, &values)
            }
            "gptq_8bit" => grouped(8, Range::Symmetric, rows, cols, &values),
            "gptq_v2_8bit" => grouped(8, Range::Asymmetric, rows, cols, &values),
            "int8" => quantize_matrix(WeightFormat::Int8, rows, cols, &values).unwrap(),
            "fp8" => quantize_matrix(WeightFormat::Fp8, rows, cols, &values).unwrap(),
            _ => continue,
        };
        assert_eq!(stored.dequantize(rows, cols), expected.dequantize(rows, cols), "{name}");
        // Biases and what is outside the layers stay floats.
        let bias = linear.bias.as_ref().unwrap();
        assert!(model.weights.format(bias).unwrap().bits_per_weight() == 16.0, "{name}");
        assert!(model.weights.format("model.embed_tokens.weight").unwrap().bits_per_weight() == 16.0);
    }
}

fn grouped(bits: u32, range: Range, rows: usize, cols: usize, values: &[f32]) -> StoredMatrix<'static> {
    StoredMatrix::Grouped(quantize_grouped(bits, 128, range, rows, cols, values).unwrap())
}

#[test]
fn act_order_gives_columns_of_a_group_that_do_not_lie_together() {
    let (_folder, model) = exported(Preset::Tiny(Family::Llama), "gptq_act_order".parse().unwrap());
    let StoredMatrix::Grouped(grouped) = model.weights.stored("model.layers.0.mlp.down_proj.weight").unwrap()
    else {
        panic!("not grouped");
    };
    let group_of = grouped.group_of.expect("act-order");
    for group in 0..4 {
        assert_eq!(group_of.iter().filter(|&&of| of == group).count(), 128);
    }
    assert!(group_of.windows(2).filter(|pair| pair[0] != pair[1]).count() > 100);
}

/// Routers choose; a rounded one would choose other experts.
#[test]
fn routers_stay_floats() {
    let (_folder, model) = exported(Preset::Tiny(Family::Qwen2Moe), HfFormat::Int8);
    for part in ["mlp.gate", "mlp.shared_expert_gate"] {
        let name = format!("model.layers.2.{part}.weight");
        assert_eq!(model.weights.format(&name).unwrap(), WeightFormat::Bf16);
    }
    let expert = "model.layers.2.mlp.experts.3.up_proj.weight";
    assert_eq!(model.weights.format(expert).unwrap(), WeightFormat::Int8);
}

/// Divisors as GGUF stores them are written as LongRoPE; what a config has no key for is an error that says what.
#[test]
fn what_a_config_cannot_say_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let write = |spec: &ModelSpec| {
        let path = folder.path().join("out");
        write_hf(spec, &SyntheticWeights::new(spec.clone(), 0), &path, HfFormat::Bf16)
    };
    let tiny = Preset::Tiny(Family::Qwen2).spec();
    for (spec, what) in [
        (ModelSpec { o_bias: true, ..tiny.clone() }, "o_bias: true"),
        (ModelSpec { qk_norm: true, ..tiny.clone() }, "qk_norm: true"),
        (ModelSpec { attention_scale: 0.5, ..tiny.clone() }, "attention_scale: 0.5"),
        (ModelSpec { logit_softcap: Some(3.0), ..tiny.clone() }, "logit_softcap: Some("),
    ] {
        let error = write(&spec).unwrap_err().to_string();
        assert!(error.contains("qwen2 cannot say") && error.contains(what), "{error}");
        assert!(!folder.path().join("out").exists(), "nothing is written");
    }
    let factors: Vec<f32> = (0..32).map(|pair| 1.0 + pair as f32 / 3.0).collect();
    let scaling = RopeScaling::Factors { factors };
    let spec = ModelSpec { ropes: vec![RopeSpec { scaling, ..tiny.ropes[0].clone() }], ..tiny };
    write(&spec).unwrap();
    let json = std::fs::read_to_string(folder.path().join("out/config.json")).unwrap();
    let read = ModelSpec::from_hf_config(&json, Path::new("config.json")).unwrap();
    assert_eq!(read.ropes[0].inv_freq(512), spec.ropes[0].inv_freq(512));
    assert_eq!(read.ropes[0].magnitude(), 1.0);
}

#[test]
fn format_names_round_trip() {
    for (name, format) in HfFormat::ALL {
        assert_eq!(name.parse(), Ok(format));
        assert_eq!(format.to_string(), name);
    }
    let error = "q4_k".parse::<HfFormat>().unwrap_err();
    assert!(error.contains("q4_k") && error.contains("gptq_v2_act_order"), "{error}");
}
