//! Quantized checkpoints: what the config may say, and parts that are missing, misshapen or mean nothing.

use std::fs;
use std::path::{Path, PathBuf};

use llmlab_models::synthetic::SyntheticWeights;
use llmlab_models::{Family, HfFormat, ModelSpec, Preset, WeightFormat, load, write_hf};
use llmlab_quant::StoredMatrix;
use serde_json::{Value, json};

const MATRIX: &str = "model.layers.0.self_attn.k_proj";

/// One layer of a Qwen 2, so that there are biases too, with a tokenizer.
fn written(format: &str) -> (tempfile::TempDir, PathBuf) {
    let tiny = Preset::Tiny(Family::Qwen2).spec();
    let spec = ModelSpec { num_layers: 1, vocab_size: 264, layers: tiny.layers[..1].to_vec(), ..tiny };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let source = SyntheticWeights::new(spec.clone(), 1);
    write_hf(&spec, &source, &path, format.parse::<HfFormat>().unwrap()).unwrap();
    let tokenizer = llmlab_models::Tokenizer::byte_level(spec.vocab_size).to_json().unwrap();
    fs::write(path.join("tokenizer.json"), tokenizer).unwrap();
    (folder, path)
}

fn open(path: &Path) -> Result<llmlab_models::LoadedModel, String> {
    load(path.to_str().unwrap(), 0).map_err(|error| {
        let error = error.to_string();
        assert!(error.len() < 600 && !error.contains('\n'), "{} bytes of error: {error:.600}", error.len());
        error
    })
}

/// What opening says, or else what reading the matrix says.
fn refused(path: &Path) -> String {
    match open(path) {
        Err(error) => error,
        Ok(model) => {
            let error =
                model.weights.stored(&format!("{MATRIX}.weight")).expect_err("a broken matrix was accepted");
            assert!(model.weights.tensor(&format!("{MATRIX}.weight")).is_err());
            error.to_string()
        }
    }
}

fn edit_config(path: &Path, edit: impl Fn(&mut Value)) {
    let file = path.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    edit(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

/// Header and data of the weight file.
fn parts(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path.join("model.safetensors")).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
}

fn write_parts(path: &Path, header: &Value, data: &[u8]) {
    let text = header.to_string();
    let bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat();
    fs::write(path.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn each_part_is_needed_with_its_shape_and_dtype() {
    for (format, names) in [
        ("gptq", &["qweight", "qzeros", "scales", "g_idx"][..]),
        ("awq", &["qweight", "qzeros", "scales"]),
        ("awq_gemv", &["qweight", "qzeros", "scales"]),
        ("int8", &["weight", "weight_scale"]),
        ("fp8", &["weight", "weight_scale"]),
        ("fp8_tensor", &["weight", "weight_scale"]),
        ("fp8_block", &["weight", "weight_scale_inv"]),
        ("w4a16_asym", &["weight_packed", "weight_scale", "weight_zero_point"]),
    ] {
        let (_folder, path) = written(format);
        let (header, data) = parts(&path);
        open(&path).unwrap_or_else(|error| panic!("{format}: {error}"));
        for part in names {
            let name = format!("{MATRIX}.{part}");
            let entry = header[&name].clone();
            let shape: Vec<u64> = serde_json::from_value(entry["shape"].clone()).unwrap();

            let mut flat = header.clone();
            flat[&name]["shape"] = json!([1, 1, shape.iter().product::<u64>()]);
            write_parts(&path, &flat, &data);
            let error = open(&path).err().unwrap_or_else(|| panic!("{format} {part} in another shape"));
            assert!(error.contains(&name) && error.contains("the config needs"), "{error}");

            let mut other = header.clone();
            let same_size = match entry["dtype"].as_str().unwrap() {
                "I32" => "F32",
                "F32" => "I32",
                "F16" => "I16",
                _ => "U8",
            };
            other[&name]["dtype"] = json!(same_size);
            write_parts(&path, &other, &data);
            let error = open(&path).err().unwrap_or_else(|| panic!("{format} {part} of another dtype"));
            assert!(error.contains(&name) && error.contains("accepted are"), "{error}");

            let mut renamed = header.clone();
            let removed = renamed.as_object_mut().unwrap().remove(&name).unwrap();
            renamed[format!("{MATRIX}.unused")] = removed;
            write_parts(&path, &renamed, &data);
            match part {
                // Without an index of groups they are the plain ones, which is what this file has.
                &"g_idx" => assert!(open(&path).is_ok()),
                _ => assert!(open(&path).err().unwrap().contains(MATRIX), "{format} without {part}"),
            }
        }
    }
}

#[test]
fn numbers_that_mean_nothing_are_refused_when_read() {
    type Break = fn(&mut [u8]);
    let cases: [(&str, &str, Break, &str); 6] = [
        ("gptq_act_order", "g_idx", |bytes| bytes[..4].copy_from_slice(&2i32.to_le_bytes()), "group"),
        ("gptq_act_order", "g_idx", |bytes| bytes[..4].copy_from_slice(&(-1i32).to_le_bytes()), "group"),
        ("awq", "scales", |bytes| bytes[..2].copy_from_slice(&[0, 0x7e]), "not a finite number"),
        (
            "int8",
            "weight_scale",
            |bytes| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
            "not a finite number",
        ),
        ("fp8", "weight", |bytes| bytes[0] = 0x7f, "not a finite number"),
        ("fp8_block", "weight_scale_inv", |bytes| bytes[3] = 0x7f, "not a finite number"),
    ];
    for (format, part, break_it, expected) in cases {
        let (_folder, path) = written(format);
        let (header, mut data) = parts(&path);
        let offsets = &header[format!("{MATRIX}.{part}")]["data_offsets"];
        let range = offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize;
        if format == "fp8_block" {
            // The exponent of infinity takes two bytes.
            data[range.start + 2] = 0x80;
        }
        break_it(&mut data[range]);
        write_parts(&path, &header, &data);
        let error = refused(&path);
        assert!(error.contains(MATRIX) && error.contains(expected), "{format} {part}: {error}");
    }
}

/// Values of `quantization_config` that would change the arithmetic.
#[test]
fn a_scheme_that_is_not_computed_names_its_key() {
    let weights = "config_groups.group_0.weights";
    let cases = [
        ("gptq", "bits", json!(3)),
        ("gptq", "bits", json!("4")),
        ("gptq", "group_size", json!(0)),
        ("gptq", "group_size", json!(-2)),
        ("gptq", "checkpoint_format", json!("marlin")),
        ("gptq", "dynamic", json!({ "-:.*down": {} })),
        ("gptq", "is_marlin_format", json!(true)),
        ("gptq", "quant_method", json!("aqlm")),
        ("gptq", "quant_method", json!(4)),
        ("awq", "bits", json!(8)),
        ("awq", "version", json!("gemv_fast")),
        ("awq", "zero_point", json!(false)),
        ("fp8_block", "fmt", json!("e5m2")),
        ("fp8_block", "activation_scheme", json!("other")),
        ("fp8_block", "weight_block_size", json!([128])),
        ("fp8_block", "weight_block_size", json!([128, 0])),
        ("int8", "kv_cache_scheme", json!({ "num_bits": 8 })),
        ("int8", "config_groups", json!({})),
        ("int8", "format", json!("marlin-24")),
        ("int8", &format!("{weights}.num_bits"), json!(4)),
        ("int8", &format!("{weights}.symmetric"), json!(false)),
        ("int8", &format!("{weights}.strategy"), json!("group")),
        ("int8", &format!("{weights}.dynamic"), json!(true)),
        ("int8", "config_groups.group_0.input_activations.dynamic", json!(false)),
        ("int8", "config_groups.group_0.input_activations.strategy", json!("tensor")),
        ("int8", "config_groups.group_0.output_activations", json!({ "num_bits": 8 })),
        ("w4a16", &format!("{weights}.num_bits"), json!(2)),
        ("w4a16", &format!("{weights}.group_size"), json!(1.5)),
        ("w4a16", "config_groups.group_0.input_activations", json!({ "num_bits": 8 })),
        ("fp8", &format!("{weights}.strategy"), json!("block")),
    ];
    for (format, key, value) in cases {
        let (_folder, path) = written(format);
        edit_config(&path, |config| {
            let pointer = format!("/quantization_config/{}", key.replace('.', "/"));
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[last] = value.clone();
        });
        let error = open(&path).err().unwrap_or_else(|| panic!("{format}: {key} = {value}"));
        let named = if key.ends_with("strategy") && format == "fp8" { "block_structure" } else { key };
        assert!(
            error.contains("config.json: quantization_config.") && error.contains(named),
            "{key}: {error}"
        );
    }
    let (_folder, path) = written("int8");
    edit_config(&path, |config| {
        let groups = &mut config["quantization_config"]["config_groups"];
        groups["group_1"] = groups["group_0"].clone();
    });
    assert!(open(&path).is_ok(), "two groups of one scheme");
    edit_config(&path, |config| {
        let group = &mut config["quantization_config"]["config_groups"]["group_1"];
        group["input_activations"] = Value::Null;
    });
    assert!(open(&path).err().unwrap().contains("different schemes"));
}

/// Words packed for another scheme, and packed words that no config explains.
#[test]
fn config_and_file_must_agree() {
    let (_folder, path) = written("gptq");
    edit_config(&path, |config| config["quantization_config"]["bits"] = json!(8));
    assert!(open(&path).err().unwrap().contains("qweight: shape"));
    edit_config(&path, |config| {
        (config["quantization_config"]["bits"], config["quantization_config"]["group_size"]) =
            (json!(4), json!(-1));
    });
    assert!(open(&path).err().unwrap().contains("qzeros: shape"));
    edit_config(&path, |config| drop(config.as_object_mut().unwrap().remove("quantization_config")));
    let error = open(&path).err().unwrap();
    assert!(error.contains("is quantized, and config.json has no quantization_config"), "{error}");
    // Tools of before the key put it into a file of its own.
    fs::write(path.join("quantize_config.json"), r#"{"bits": 4, "group_size": 128, "desc_act": false}"#)
        .unwrap();
    let model = open(&path).unwrap();
    assert_eq!(model.weights.format(&format!("{MATRIX}.weight")).unwrap(), WeightFormat::Int4);

    let (_folder, path) = written("int8");
    edit_config(&path, |config| drop(config.as_object_mut().unwrap().remove("quantization_config")));
    assert!(open(&path).err().unwrap().contains("dtype I8; accepted are F32, F16, BF16"));
}

/// Weights alone in eight bits: the same values, but not a format whose product rounds activations.
#[test]
fn without_activations_the_format_is_another_one() {
    let name = format!("{MATRIX}.weight");
    for (format, with, without) in
        [("int8", WeightFormat::Int8, WeightFormat::Int8Group), ("fp8", WeightFormat::Fp8, WeightFormat::F32)]
    {
        let (_folder, path) = written(format);
        let before = open(&path).unwrap();
        edit_config(&path, |config| {
            config["quantization_config"]["config_groups"]["group_0"]["input_activations"] = Value::Null;
        });
        let after = open(&path).unwrap();
        assert_eq!(before.weights.format(&name).unwrap(), with);
        assert_eq!(after.weights.format(&name).unwrap(), without);
        assert_eq!(after.weights.stored(&name).unwrap().format(), without);
        assert_eq!(after.weights.tensor(&name).unwrap(), before.weights.tensor(&name).unwrap(), "{format}");
    }
}

/// A static scale of activations is handed on, and one number a tensor may have any number of dimensions.
#[test]
fn fp8_with_a_static_input_scale() {
    let (_folder, path) = written("fp8_tensor");
    let (mut header, mut data) = parts(&path);
    let at = data.len();
    data.extend(0.125f32.to_le_bytes());
    header[format!("{MATRIX}.input_scale")] =
        json!({ "dtype": "F32", "shape": [], "data_offsets": [at, at + 4] });
    header[format!("{MATRIX}.weight_scale")]["shape"] = json!([1, 1]);
    write_parts(&path, &header, &data);
    let model = open(&path).unwrap();
    let StoredMatrix::Fp8(matrix) = model.weights.stored(&format!("{MATRIX}.weight")).unwrap() else {
        panic!("not FP8");
    };
    assert_eq!((matrix.input_scale, matrix.scales.len()), (Some(0.125), 1));
}

/// As `safetensors.rs` has it for every byte of a smaller header.
#[test]
fn a_quantized_file_cut_in_its_header_is_refused() {
    let (_folder, path) = written("gptq");
    let whole = fs::read(path.join("model.safetensors")).unwrap();
    let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for cut in (0..end).step_by(37) {
        fs::write(path.join("model.safetensors"), &whole[..cut]).unwrap();
        assert!(open(&path).err().unwrap().contains("model.safetensors"), "cut at {cut}");
    }
}
