//! The GGUF container: valid files are read as they are, and each way in which a file can be wrong gives one error that says
//! where, and neither a panic nor an allocation.

mod gguf_bytes;

use gguf_bytes::{NAME, Raw, array, open, string, tensor};
use llmlab_models::gguf::{GgufFile, Kind, NewTensor, NewValue, Value, write_container};
use llmlab_quant::WeightFormat;
use proptest::prelude::*;

#[test]
fn a_valid_file_reads_as_it_was_written() {
    for version in [2, 3] {
        let file = open(Raw { version, ..Raw::valid() }.bytes()).unwrap();
        assert_eq!(file.version(), version);
        let expected = [
            ("a.u8", Value::U8(200)),
            ("a.i8", Value::I8(-56)),
            ("a.u16", Value::U16(60_000)),
            ("a.i16", Value::I16(-2)),
            ("a.u32", Value::U32(7)),
            ("a.i32", Value::I32(-7)),
            ("a.f32", Value::F32(1.5)),
            ("a.bool", Value::Bool(true)),
            ("a.u64", Value::U64(1 << 40)),
            ("a.i64", Value::I64(-1 << 40)),
            ("a.f64", Value::F64(0.1)),
            ("general.architecture", Value::Str(b"llama")),
        ];
        for (key, value) in expected {
            assert_eq!(file.value(key), Some(value), "{key}");
        }
        assert_eq!(file.value("a"), None);
        let elements = |key: &str| match file.value(key) {
            Some(Value::Array(array)) => array.iter().collect::<Vec<_>>(),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(elements("a.bools"), [true, false, true].map(Value::Bool));
        assert_eq!(elements("a.texts"), [Value::Str(b"a"), Value::Str("é".as_bytes())]);
        assert_eq!(elements("a.empty"), []);
        let [Value::Array(first), Value::Array(second)] = elements("a.nested")[..] else {
            panic!("not two arrays")
        };
        assert_eq!(first.iter().collect::<Vec<_>>(), [Value::U8(1), Value::U8(2)]);
        assert!(second.is_empty());
        assert_eq!(file.metadata().count(), 16);

        let tensors: Vec<_> = file.tensors().collect();
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
        assert_eq!(names, ["experts", "matrix", "norm"]);
        let experts = file.tensor("experts").unwrap();
        assert_eq!((experts.shape(), experts.format), (&[2, 2, 256][..], WeightFormat::Q4K));
        let expert = file.read_rows(&experts, 2, 2).unwrap();
        let expected: Vec<u8> = (256 + 288..256 + 576).map(|index| (index % 251) as u8).collect();
        assert_eq!(expert, expected);
        assert!(file.tensor("nor").is_none());
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let keys = vec![
        ("general.architecture".to_string(), NewValue::Str("llama".into())),
        ("n".to_string(), NewValue::U32(3)),
        ("x".to_string(), NewValue::F32(-0.5)),
        ("yes".to_string(), NewValue::Bool(true)),
        ("u".to_string(), NewValue::U32s(vec![1, 2])),
        ("i".to_string(), NewValue::I32s(vec![-1, 2])),
        ("f".to_string(), NewValue::F32s(vec![0.25])),
        ("b".to_string(), NewValue::Bools(vec![false, true])),
        ("s".to_string(), NewValue::Strs(vec![String::new(), "ab".into()])),
    ];
    let tensors = [
        NewTensor { name: "odd".into(), shape: vec![3], format: WeightFormat::F32 },
        NewTensor { name: "blocks".into(), shape: vec![2, 32], format: WeightFormat::Q4_0 },
    ];
    write_container(&path, &keys, &tensors, |index, out| {
        out.write_all(&vec![index as u8 + 1; [12, 36][index]]).unwrap();
        Ok(())
    })
    .unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata().count(), keys.len());
    assert_eq!(file.value("x"), Some(Value::F32(-0.5)));
    let Some(Value::Array(texts)) = file.value("s") else { panic!("no array") };
    assert_eq!(texts.iter().collect::<Vec<_>>(), [Value::Str(b""), Value::Str(b"ab")]);
    for (index, (name, rows, bytes)) in [("odd", 1, 12), ("blocks", 2, 36)].into_iter().enumerate() {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.offset % 32, 0);
        assert_eq!(file.read_rows(&tensor, 0, rows).unwrap(), vec![index as u8 + 1; bytes]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the partial file is gone");
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let tensors = [NewTensor { name: "a".into(), shape: vec![3], format: WeightFormat::F32 }];
    let failed = write_container(&path, &[], &tensors, |_, _| {
        Err(llmlab_models::ModelError::NoSuchTensor { tensor: "a".into() })
    });
    assert!(failed.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The error of a file that must not open.
fn error_of(bytes: Vec<u8>) -> String {
    match open(bytes) {
        Ok(_) => panic!("the file was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_with_the_place() {
    let raw = Raw::valid();
    let bytes = raw.bytes();
    for length in 0..bytes.len() {
        let error = error_of(bytes[..length].to_vec());
        assert!(error.starts_with(NAME) && error.contains("byte "), "cut at {length}: {error}");
    }
    assert!(open(bytes).is_ok());
}

type Change = fn(&mut Raw);

#[test]
fn each_broken_field_gives_an_error_that_names_it() {
    let cases: &[(&str, Change, &str)] = &[
        ("magic", |raw| raw.magic = *b"GGML", "accepted is \"GGUF\""),
        ("version 1", |raw| raw.version = 1, "version 1; accepted are 2 and 3"),
        ("version 4", |raw| raw.version = 4, "version 4; accepted are 2 and 3"),
        ("big-endian", |raw| raw.version = 3 << 24, "big-endian"),
        ("tensor count", |raw| raw.tensor_count = Some(1 << 60), "tensors need at least 33 bytes"),
        ("tensor count max", |raw| raw.tensor_count = Some(u64::MAX), "tensors need at least 33 bytes"),
        ("key count", |raw| raw.key_count = Some(1 << 60), "keys need at least 14 bytes"),
        ("key twice", |raw| raw.keys.push(raw.keys[3].clone()), "key \"a.u16\" occurs twice"),
        ("empty key", |raw| raw.keys[1].0.clear(), "a key of 0 bytes"),
        ("long key", |raw| raw.keys[1].0 = vec![b'k'; 65_536], "a key of 65536 bytes"),
        ("key not UTF-8", |raw| raw.keys[1].0 = vec![0xff, 0xfe], "a key that is not UTF-8"),
        ("value type", |raw| raw.keys[1].1 = 13, "key \"a.u8\": value type 13 does not exist"),
        ("boolean", |raw| raw.keys[8].2 = vec![2], "key \"a.bool\": the byte 2 is not a boolean"),
        ("booleans", |raw| raw.keys[12].2 = array(7, 2, &[1, 9]), "the byte 9 is not a boolean"),
        (
            "string length",
            |raw| raw.keys[0].2 = u64::MAX.to_le_bytes().to_vec(),
            "a string needs 18446744073709551615 bytes",
        ),
        (
            "array length",
            |raw| raw.keys[13].2 = array(8, 1 << 61, &[]),
            "array elements need at least 8 bytes",
        ),
        (
            "array of u8",
            |raw| raw.keys[13].2 = array(0, u64::MAX, &[]),
            "array elements need at least 1 bytes",
        ),
        ("array of f64", |raw| raw.keys[13].2 = array(12, u64::MAX / 8 + 1, &[]), "array elements need"),
        ("array type", |raw| raw.keys[13].2 = array(99, 0, &[]), "value type 99 does not exist"),
        (
            "arrays in arrays",
            |raw| {
                let mut value = array(0, 0, &[]);
                for _ in 0..6 {
                    value = array(9, 1, &value);
                }
                raw.keys[14].2 = value;
            },
            "arrays inside arrays, more than 4 deep",
        ),
        ("name twice", |raw| raw.tensors[1].name = b"norm".to_vec(), "two tensors have the name \"norm\""),
        ("empty name", |raw| raw.tensors[1].name.clear(), "a tensor name of 0 bytes"),
        ("long name", |raw| raw.tensors[1].name = vec![b'n'; 65], "a tensor name of 65 bytes"),
        ("name not UTF-8", |raw| raw.tensors[1].name = vec![0xff], "a tensor name that is not UTF-8"),
        ("no dimensions", |raw| raw.tensors[0].dims.clear(), "tensor \"norm\": 0 dimensions"),
        ("five dimensions", |raw| raw.tensors[0].dims = vec![1; 5], "tensor \"norm\": 5 dimensions"),
        ("dimension 0", |raw| raw.tensors[1].dims[1] = 0, "tensor \"matrix\": dimension 1 is 0"),
        ("product", |raw| raw.tensors[1].dims = vec![1 << 32, 1 << 32], "too many values"),
        ("bytes", |raw| raw.tensors[0].dims = vec![1 << 62], "values are too many"),
        ("beyond the end", |raw| raw.tensors[0].dims = vec![1 << 40], "the file ends at"),
        ("part of a block", |raw| raw.tensors[1].dims[0] = 40, "q8_0 needs a multiple of 32"),
        ("part of a super-block", |raw| raw.tensors[2].dims[0] = 128, "q4_k needs a multiple of 256"),
        ("type", |raw| raw.tensors[1].kind = 16, "tensor type 16 (iq2_xxs) is not supported"),
        ("removed type", |raw| raw.tensors[1].kind = 4, "tensor type 4 (unknown) is not supported"),
        ("huge type", |raw| raw.tensors[1].kind = u32::MAX, "is not supported; accepted are f32 (0)"),
        ("offset", |raw| raw.tensors[1].offset = 33, "offset 33 is not a multiple of the alignment 32"),
        ("overlap", |raw| raw.tensors[1].offset = 0, "\"norm\""),
        ("overlap by one block", |raw| raw.tensors[2].offset = 224, "are also those of \"matrix\""),
        ("out of range", |raw| raw.tensors[2].offset = 512, "the file ends at"),
        ("offset huge", |raw| raw.tensors[2].offset = u64::MAX - 31, "the file ends at"),
    ];
    for (name, change, expected) in cases {
        let mut raw = Raw::valid();
        change(&mut raw);
        let error = error_of(raw.bytes());
        assert!(error.starts_with(NAME) && error.contains("byte "), "{name}: {error}");
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn the_alignment_is_a_power_of_two() {
    for alignment in [1u32, 8, 64, 4096] {
        let mut raw = Raw { alignment: alignment as usize, ..Raw::aligned(alignment) };
        let step = u64::from(alignment.max(32));
        raw.tensors[1].offset = step;
        raw.tensors[2].offset = (step + 204).next_multiple_of(step);
        raw.data_bytes = raw.tensors[2].offset as usize + 576;
        let file = open(raw.bytes()).unwrap();
        assert_eq!(file.tensor("matrix").unwrap().offset % u64::from(alignment), 0);
    }
    for alignment in [0u32, 3, 48, 1 << 21, u32::MAX] {
        let error = error_of(Raw::aligned(alignment).bytes());
        assert!(
            error.contains(&format!("\"general.alignment\": {alignment} is not a power of two")),
            "{error}"
        );
    }
    let mut raw = Raw::valid();
    raw.keys.push((b"general.alignment".to_vec(), Kind::Str as u32, string(b"32")));
    let error = error_of(raw.bytes());
    assert!(error.contains("\"32\" is not a power of two"), "{error}");
}

/// Opens `bytes` and, where that works, looks at everything in it.
fn look_at_all(bytes: Vec<u8>) {
    let Ok(file) = open(bytes) else { return };
    for (_, value) in file.metadata() {
        if let Value::Array(array) = value {
            array.iter().for_each(drop);
        }
    }
    for tensor in file.tensors() {
        file.read_rows(&tensor, tensor.rows() - 1, 1).unwrap();
    }
}

#[test]
fn any_field_replaced_by_an_absurd_value_does_no_harm() {
    let raw = Raw::valid();
    let bytes = raw.bytes();
    for at in 0..raw.header().len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = byte;
            look_at_all(changed);
        }
        for word in [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 40, 1 << 32, u64::MAX / 4 + 1] {
            let mut changed = bytes.clone();
            let end = (at + 8).min(changed.len());
            changed[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
            look_at_all(changed);
        }
    }
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let bytes = Raw::valid().bytes();
    std::fs::write(&path, &bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 - 1).unwrap();
    let tensor = file.tensor("experts").unwrap();
    assert!(file.read_rows(&tensor, 0, 3).is_ok());
    let error = file.read_rows(&tensor, 3, 1).unwrap_err().to_string();
    assert!(error.contains("model.gguf"), "{error}");
}

#[test]
fn a_folder_or_a_missing_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(GgufFile::open(folder.path()).is_err());
    let error = GgufFile::open(&folder.path().join("none.gguf")).err().unwrap().to_string();
    assert!(error.contains("none.gguf"), "{error}");
}

proptest! {
    #[test]
    fn noise_does_no_harm(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        look_at_all(noise.clone());
        look_at_all([b"GGUF\x03\0\0\0".to_vec(), noise].concat());
    }

    #[test]
    fn several_changes_do_no_harm(changes in proptest::collection::vec((0usize..900, any::<u8>()), 1..8)) {
        let mut bytes = Raw::valid().bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        look_at_all(bytes);
    }
}

#[test]
fn one_tensor_may_have_the_name_another_starts_with() {
    let mut raw = Raw::valid();
    raw.tensors[1] = tensor("norm.a", &[64, 3], 8, 32);
    let file = open(raw.bytes()).unwrap();
    assert_eq!(file.tensor("norm").unwrap().shape(), [5]);
    assert_eq!(file.tensor("norm.a").unwrap().shape(), [3, 64]);
}
