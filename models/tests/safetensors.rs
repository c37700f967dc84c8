//! Weight files: every dtype, shards, and files broken in every place.

mod folder;

use std::path::Path;

use folder::{file, folder, values, write};
use llmlab_models::weights::SafetensorsWeights;
use llmlab_models::{ModelError, ModelSpec, WeightSource};
use safetensors::Dtype;
use serde_json::{Value, json};

fn open(folder: &Path, spec: &ModelSpec) -> Result<SafetensorsWeights, ModelError> {
    SafetensorsWeights::open(folder, spec, None)
}

fn refused(folder: &Path, spec: &ModelSpec) -> String {
    let error = open(folder, spec).err().expect("a broken checkpoint was accepted").to_string();
    assert!(error.len() < 2000, "{} bytes of error: {error:.200}", error.len());
    error
}

/// A file of this header and this many zero bytes of data.
fn raw(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

/// Header (parsed) and data of a good f32 file.
fn good_parts(spec: &ModelSpec) -> (Value, usize) {
    let bytes = file(spec, Dtype::F32, |_| true);
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap(), bytes.len() - 8 - header_bytes)
}

#[test]
fn all_dtypes_read_back_as_written() {
    for (dtype, step) in [(Dtype::F32, 0.0), (Dtype::F16, 1.0 / 128.0), (Dtype::BF16, 1.0 / 32.0)] {
        let (folder, spec) = folder();
        write(folder.path(), "model.safetensors", file(&spec, dtype, |_| true));
        let weights = open(folder.path(), &spec).unwrap();
        for (index, tensor) in spec.tensors().into_iter().enumerate() {
            let read = weights.tensor(&tensor.name).unwrap();
            let written = values(index, tensor.elements());
            assert_eq!(read.len(), written.len());
            for (read, written) in read.iter().zip(&written) {
                assert!((read - written).abs() <= step, "{dtype} {}: {read} for {written}", tensor.name);
            }
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (folder, spec) = folder();
    let whole = file(&spec, Dtype::F32, |_| true);
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let in_data = (header_end..whole.len()).step_by(97).chain([whole.len() - 1]);
    for cut in (0..header_end).chain(in_data) {
        write(folder.path(), "model.safetensors", &whole[..cut]);
        let error = refused(folder.path(), &spec);
        assert!(error.contains("model.safetensors"), "cut at {cut}: {error}");
    }
    write(folder.path(), "model.safetensors", [&whole[..], &[0]].concat());
    assert!(refused(folder.path(), &spec).contains("the file holds"), "bytes after the end");
}

#[test]
fn a_header_length_beyond_the_file_is_refused_before_allocating() {
    let (folder, spec) = folder();
    let whole = file(&spec, Dtype::F32, |_| true);
    for length in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 40, 100_000_001, whole.len() as u64 - 7] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        write(folder.path(), "model.safetensors", bytes);
        let error = refused(folder.path(), &spec);
        assert!(error.contains(&format!("claims {length} bytes")), "{error}");
    }
}

/// A sparse file is as large as it says and takes no disk: the format's own limit still holds.
#[test]
fn a_header_over_100_mb_is_refused() {
    let (folder, spec) = folder();
    write(folder.path(), "model.safetensors", 150_000_000u64.to_le_bytes());
    let path = folder.path().join("model.safetensors");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(200_000_000).unwrap();
    assert!(refused(folder.path(), &spec).contains("100000000 are the most accepted"));
}

/// Breaks the header's entry of one tensor.
type Edit = fn(&mut Value);

#[test]
fn inconsistent_offsets_shapes_and_dtypes_are_refused() {
    let (folder, spec) = folder();
    let (good, data_bytes) = good_parts(&spec);
    let embed = "model.embed_tokens.weight";
    let edits: [(&str, Edit); 12] = [
        ("end beyond the file", |t| t["data_offsets"][1] = json!(1u64 << 40)),
        ("end at the last integer", |t| t["data_offsets"][1] = json!(u64::MAX)),
        ("start after end", |t| t["data_offsets"] = json!([192, 0])),
        ("overlap with a neighbour", |t| {
            let start = t["data_offsets"][0].as_u64().unwrap();
            t["data_offsets"][0] = json!(start.saturating_sub(4));
            t["data_offsets"][1] = json!(start + 4);
        }),
        ("negative offset", |t| t["data_offsets"][0] = json!(-1)),
        ("three offsets", |t| t["data_offsets"] = json!([0, 4, 8])),
        ("product of the shape overflows", |t| t["shape"] = json!([1u64 << 33, 1u64 << 33])),
        ("size in bits overflows", |t| t["shape"] = json!([1u64 << 60, 1])),
        ("shape and offsets differ", |t| t["shape"] = json!([6, 9])),
        ("shape is text", |t| t["shape"] = json!("6x8")),
        ("unknown dtype", |t| t["dtype"] = json!("F7")),
        ("no dtype", |t| {
            t.as_object_mut().unwrap().remove("dtype");
        }),
    ];
    for (what, edit) in edits {
        let mut header = good.clone();
        edit(&mut header[embed]);
        assert_ne!(header, good, "{what} changes nothing");
        write(folder.path(), "model.safetensors", raw(&header.to_string(), data_bytes));
        let error = refused(folder.path(), &spec);
        assert!(error.contains("model.safetensors"), "{what}: {error}");
    }
    write(folder.path(), "model.safetensors", raw(&good.to_string(), data_bytes));
    open(folder.path(), &spec).expect("the header the edits start from is good");
}

#[test]
fn headers_that_are_no_tensor_table_are_refused() {
    let (folder, spec) = folder();
    let (good, data_bytes) = good_parts(&spec);
    let twice = good.to_string().replacen(
        '{',
        &format!("{{\"model.norm.weight\": {},", good["model.norm.weight"]),
        1,
    );
    for (header, expected) in [
        (twice.as_str(), "\"model.norm.weight\" occurs twice"),
        ("", "EOF"),
        ("[]", "a JSON object"),
        ("{}", "the header describes 0 bytes"),
        ("\u{0}", "expected value"),
        (r#"{"__metadata__": {"format": 3}}"#, "safetensors header is not valid"),
    ] {
        write(folder.path(), "model.safetensors", raw(header, data_bytes));
        let error = refused(folder.path(), &spec);
        assert!(error.contains(expected), "{header:.40}: {error}");
    }
    let mut bytes = raw(&good.to_string(), data_bytes);
    bytes[20] = 0xff;
    write(folder.path(), "model.safetensors", bytes);
    refused(folder.path(), &spec);
}

#[test]
fn a_missing_or_misshapen_tensor_is_named_with_its_file() {
    let (folder, spec) = folder();
    write(folder.path(), "model.safetensors", file(&spec, Dtype::F32, |index| index != 5));
    let error = refused(folder.path(), &spec);
    let name = &spec.tensors()[5].name;
    assert!(
        error.contains("model.safetensors") && error.contains(name) && error.contains("not in this file"),
        "{error}"
    );

    let wider = ModelSpec { vocab_size: 7, ..spec.clone() };
    write(folder.path(), "model.safetensors", file(&spec, Dtype::F32, |_| true));
    let error = refused(folder.path(), &wider);
    assert!(error.contains("model.embed_tokens.weight: shape [6, 8]; the config needs [7, 8]"), "{error}");

    write(folder.path(), "model.safetensors", file(&spec, Dtype::I8, |_| true));
    assert!(refused(folder.path(), &spec).contains("dtype I8; accepted are F32, F16, BF16"));
}

#[test]
fn values_that_are_not_finite_are_refused_when_read() {
    let (folder, spec) = folder();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bytes = file(&spec, Dtype::F32, |_| true);
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&bad.to_le_bytes());
        write(folder.path(), "model.safetensors", bytes);
        let weights = open(folder.path(), &spec).unwrap();
        let errors: Vec<String> = spec
            .tensors()
            .iter()
            .filter_map(|tensor| weights.tensor(&tensor.name).err())
            .map(|error| error.to_string())
            .collect();
        assert!(matches!(&errors[..], [one] if one.contains("not a finite number")), "{errors:?}");
    }
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error_and_no_crash() {
    let (folder, spec) = folder();
    write(folder.path(), "model.safetensors", file(&spec, Dtype::F32, |_| true));
    let weights = open(folder.path(), &spec).unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap();
    let error = weights.tensor("model.norm.weight").unwrap_err();
    assert!(matches!(error, ModelError::Read { .. }), "{error}");
}

fn write_shards(folder: &Path, spec: &ModelSpec, name_of: impl Fn(usize) -> &'static str) {
    let mut map = serde_json::Map::new();
    for (index, tensor) in spec.tensors().into_iter().enumerate() {
        map.insert(tensor.name, json!(name_of(index)));
    }
    write(folder, "model.safetensors.index.json", json!({ "metadata": {}, "weight_map": map }).to_string());
}

#[test]
fn shards_read_like_one_file() {
    let (folder, spec) = folder();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for (part, name) in names.into_iter().enumerate() {
        write(folder.path(), name, file(&spec, Dtype::F32, |index| index % 2 == part));
    }
    write_shards(folder.path(), &spec, |index| names[index % 2]);
    let weights = open(folder.path(), &spec).unwrap();
    for (index, tensor) in spec.tensors().into_iter().enumerate() {
        assert_eq!(weights.tensor(&tensor.name).unwrap(), values(index, tensor.elements()));
    }
    assert!(matches!(weights.tensor("lm_head.weight"), Err(ModelError::NoSuchTensor { .. })));

    write_shards(folder.path(), &spec, |index| names[(index + 1) % 2]);
    let error = refused(folder.path(), &spec);
    assert!(error.contains("of-00002.safetensors") && error.contains("not in this file"), "{error}");
    std::fs::remove_file(folder.path().join(names[1])).unwrap();
    assert!(refused(folder.path(), &spec).contains(names[1]));
}

#[test]
fn shard_names_stay_inside_the_folder() {
    let (outer, spec) = folder();
    let inner = outer.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    write(outer.path(), "outside.safetensors", file(&spec, Dtype::F32, |_| true));
    for name in [
        "../outside.safetensors",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/../../outside.safetensors",
        "./outside.safetensors",
        "sub/x.safetensors",
        "x.safetensors/",
        "..\\outside.safetensors",
        "x\0.safetensors",
        "weights.bin",
    ] {
        write_shards(&inner, &spec, |_| name);
        let error = refused(&inner, &spec);
        assert!(error.contains("weight_map") && error.contains("in this folder"), "{name:?}: {error}");
    }
}

#[test]
fn a_broken_index_is_refused() {
    let (folder, spec) = folder();
    let index = "model.safetensors.index.json";
    assert!(refused(folder.path(), &spec).contains("accepted weights are safetensors"), "no weights at all");
    for (json, expected) in [
        ("", "EOF"),
        ("{}", "weight_map"),
        (r#"{"weight_map": {}}"#, "is not in weight_map"),
        (r#"{"weight_map": []}"#, "a JSON object"),
        (r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#, "\"a\" occurs twice"),
        (r#"{"weight_map": {"model.embed_tokens.weight": 3}}"#, "expected a string"),
    ] {
        write(folder.path(), index, json);
        let error = refused(folder.path(), &spec);
        assert!(error.contains(expected) && error.contains(index), "{json}: {error}");
    }
}

proptest::proptest! {
    /// Any byte of the file flipped: refused, or the same tensors with other values; never a panic or a huge allocation.
    #[test]
    fn a_flipped_byte_never_panics(position in 0usize..2000, bit in 0u32..8) {
        let (folder, spec) = folder();
        let mut bytes = file(&spec, Dtype::BF16, |_| true);
        let position = position % bytes.len();
        bytes[position] ^= 1 << bit;
        write(folder.path(), "model.safetensors", bytes);
        if let Ok(weights) = open(folder.path(), &spec) {
            for tensor in spec.tensors() {
                if let Ok(values) = weights.tensor(&tensor.name) {
                    proptest::prop_assert_eq!(values.len() as u64, tensor.elements());
                }
            }
        }
    }
}
