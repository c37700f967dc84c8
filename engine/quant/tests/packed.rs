//! GPTQ, AWQ and compressed-tensors: unpacking against what `fixtures/make_fixtures.py` packed, packing against the same
//! words, and every wrong length as an error.

use llmlab_quant::packed::awq::{self, AwqTensors, AwqVersion};
use llmlab_quant::packed::compressed::{self, CompressedTensors};
use llmlab_quant::packed::gptq::{self, GptqTensors, GptqVersion};
use llmlab_quant::{Grouped, QuantError, Range, StoredMatrix, quantize_grouped};

/// The 32-bit values of a fixture, taken in order.
struct Words(Vec<i32>);

impl Words {
    fn open(name: &str) -> Words {
        let path = format!("{}/tests/fixtures/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Words(bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect())
    }

    fn take(&mut self, count: usize) -> Vec<i32> {
        self.0.drain(..count).collect()
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        self.take(count).into_iter().map(|word| f32::from_bits(word as u32)).collect()
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{} values left", self.0.len());
    }
}

fn assert_weights(grouped: &Grouped, rows: usize, cols: usize, expected: &[f32]) {
    let matrix = StoredMatrix::Grouped(grouped.clone());
    matrix.validate(rows, cols).unwrap();
    assert_eq!(matrix.dequantize(rows, cols), expected);
}

#[test]
fn gptq_means_what_it_should_and_packs_to_the_same_words() {
    let (rows, cols) = (16, 96);
    for (name, bits, group, version) in [
        ("4bit_v1", 4, Some(32), GptqVersion::V1),
        ("4bit_v2_act_order", 4, Some(32), GptqVersion::V2),
        ("8bit_v1_act_order", 8, Some(24), GptqVersion::V1),
        ("8bit_v2_one_group", 8, None, GptqVersion::V2),
    ] {
        let mut file = Words::open(&format!("gptq_{name}"));
        let per_word = 32 / bits as usize;
        let groups = cols / group.unwrap_or(cols);
        let qweight = file.take(cols / per_word * rows);
        let qzeros = file.take(rows / per_word * groups);
        let scales = file.floats(groups * rows);
        let g_idx = file.take(cols);
        let expected = file.floats(rows * cols);
        file.end();
        let tensors = GptqTensors {
            bits,
            group,
            version,
            qweight: &qweight,
            qzeros: &qzeros,
            scales: &scales,
            g_idx: Some(&g_idx),
        };
        let grouped = gptq::unpack(&tensors, rows, cols).unwrap();
        assert_weights(&grouped, rows, cols, &expected);
        assert_eq!(grouped.group_of.is_some(), name.ends_with("act_order"), "{name}");
        let packed = gptq::pack(&grouped, rows, cols, version).unwrap();
        assert_eq!((packed.qweight, packed.qzeros), (qweight.clone(), qzeros.clone()), "{name}");
        assert_eq!((packed.scales, packed.g_idx), (scales.clone(), g_idx.clone()), "{name}");

        for (what, wrong) in [
            ("qweight", GptqTensors { qweight: &qweight[1..], ..tensors }),
            ("qzeros", GptqTensors { qzeros: &[], ..tensors }),
            ("scales", GptqTensors { scales: &scales[..groups * rows - 1], ..tensors }),
            ("group indices", GptqTensors { g_idx: Some(&g_idx[1..]), ..tensors }),
            ("input features", GptqTensors { qweight: &[], ..tensors }),
            ("bits", GptqTensors { bits: 3, ..tensors }),
            ("group size", GptqTensors { group: Some(0), ..tensors }),
        ] {
            let cols = if what == "input features" { cols + 1 } else { cols };
            let error = gptq::unpack(&wrong, rows, cols).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        for index in [-1, groups as i32, i32::MAX] {
            let mut g_idx = g_idx.clone();
            g_idx[5] = index;
            let error =
                gptq::unpack(&GptqTensors { g_idx: Some(&g_idx), ..tensors }, rows, cols).unwrap_err();
            assert!(matches!(error, QuantError::ColumnOutOfRange { col: 5, .. }), "{error}");
        }
    }
}

#[test]
fn awq_means_what_it_should_and_packs_to_the_same_words() {
    let (rows, cols) = (16, 320);
    for (version, group) in [
        (AwqVersion::Gemm, 32),
        (AwqVersion::Gemm, 320),
        (AwqVersion::Gemv, 32),
        (AwqVersion::Gemv, 64),
        (AwqVersion::Gemv, 320),
    ] {
        let name = if version == AwqVersion::Gemm { "gemm" } else { "gemv" };
        let mut file = Words::open(&format!("awq_{name}_{group}"));
        let groups = cols / group;
        let width = match (version, group) {
            (AwqVersion::Gemm, _) => groups * rows / 8,
            (_, 32) => 4 * rows,
            (_, 64) => 2 * rows,
            _ => rows,
        };
        let qweight = file.take(cols * rows / 8);
        let qzeros = file.take(width);
        let scales = file.floats(width * 8);
        let expected = file.floats(rows * cols);
        file.end();
        let tensors =
            AwqTensors { group: Some(group), version, qweight: &qweight, qzeros: &qzeros, scales: &scales };
        let grouped = awq::unpack(&tensors, rows, cols).unwrap();
        assert_weights(&grouped, rows, cols, &expected);
        let packed = awq::pack(&grouped, rows, cols, version).unwrap();
        assert_eq!((packed.qweight, packed.qzeros), (qweight.clone(), qzeros.clone()), "{name} {group}");
        assert_eq!(packed.scales, scales, "{name} {group}");

        for (what, wrong) in [
            ("qweight", AwqTensors { qweight: &qweight[1..], ..tensors }),
            ("qzeros", AwqTensors { qzeros: &qzeros[1..], ..tensors }),
            ("qzeros", AwqTensors { qzeros: &[], scales: &[], ..tensors }),
            ("scales", AwqTensors { scales: &scales[1..], ..tensors }),
            ("group size", AwqTensors { group: Some(0), ..tensors }),
        ] {
            let error = awq::unpack(&wrong, rows, cols).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }
}

#[test]
fn compressed_tensors_mean_what_they_should_and_pack_to_the_same_words() {
    let (rows, cols) = (18usize, 44usize);
    for (name, bits, group) in [
        ("4bit_symmetric", 4, Some(16)),
        ("4bit_asymmetric_act_order", 4, Some(16)),
        ("8bit_channel", 8, None),
        ("8bit_asymmetric", 8, Some(16)),
    ] {
        let mut file = Words::open(&format!("compressed_{name}"));
        let per_word = 32 / bits as usize;
        let groups = cols.div_ceil(group.unwrap_or(cols));
        let weight_packed = file.take(rows * cols.div_ceil(per_word));
        let weight_scale = file.floats(rows * groups);
        let zeros = name.contains("asymmetric").then(|| file.take(rows.div_ceil(per_word) * groups));
        let g_idx = name.ends_with("act_order").then(|| file.take(cols));
        let expected = file.floats(rows * cols);
        file.end();
        let tensors = CompressedTensors {
            bits,
            group,
            weight_packed: &weight_packed,
            weight_scale: &weight_scale,
            weight_zero_point: zeros.as_deref(),
            weight_g_idx: g_idx.as_deref(),
        };
        let grouped = compressed::unpack(&tensors, rows, cols).unwrap();
        assert_weights(&grouped, rows, cols, &expected);
        let packed = compressed::pack(&grouped, rows, cols).unwrap();
        assert_eq!(
            (packed.weight_packed, packed.weight_scale),
            (weight_packed.clone(), weight_scale.clone())
        );
        assert_eq!((packed.weight_zero_point, packed.weight_g_idx), (zeros.clone(), g_idx.clone()), "{name}");

        for (what, wrong) in [
            ("weight_packed", CompressedTensors { weight_packed: &weight_packed[1..], ..tensors }),
            ("weight_scale", CompressedTensors { weight_scale: &[], ..tensors }),
            ("weight_zero_point", CompressedTensors { weight_zero_point: Some(&[1]), ..tensors }),
            ("group indices", CompressedTensors { weight_g_idx: Some(&[0]), ..tensors }),
        ] {
            let error = compressed::unpack(&wrong, rows, cols).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        let unset = CompressedTensors { weight_g_idx: Some(&[-1; 44]), ..tensors };
        assert!(compressed::unpack(&unset, rows, cols).unwrap().group_of.is_none());
        let mut infinite = weight_scale.clone();
        infinite[groups] = f32::INFINITY;
        let error = compressed::unpack(&CompressedTensors { weight_scale: &infinite, ..tensors }, rows, cols);
        assert!(matches!(error, Err(QuantError::NotFinite { row: 1, .. })), "{error:?}");
    }
}

/// What a synthetic checkpoint goes through: quantize, pack, unpack.
#[test]
fn quantized_groups_survive_every_packing() {
    let (rows, cols) = (24, 256);
    let x: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 0.1).collect();
    for (bits, group, range) in [
        (4, 128, Range::Asymmetric),
        (4, 32, Range::Symmetric),
        (4, 256, Range::Asymmetric),
        (8, 64, Range::Asymmetric),
        (8, 128, Range::Symmetric),
    ] {
        let grouped = quantize_grouped(bits, group, range, rows, cols, &x).unwrap();
        let weights = StoredMatrix::Grouped(grouped.clone()).dequantize(rows, cols);
        let check = |back: Grouped, what: &str| {
            assert_eq!(StoredMatrix::Grouped(back).dequantize(rows, cols), weights, "{what} {bits} {group}");
        };
        for version in [GptqVersion::V1, GptqVersion::V2] {
            let packed = gptq::pack(&grouped, rows, cols, version).unwrap();
            let (qweight, qzeros) = (&packed.qweight[..], &packed.qzeros[..]);
            let (scales, g_idx) = (&packed.scales[..], None);
            let tensors = GptqTensors { bits, group: Some(group), version, qweight, qzeros, scales, g_idx };
            check(gptq::unpack(&tensors, rows, cols).unwrap(), "gptq");
        }
        let packed = compressed::pack(&grouped, rows, cols).unwrap();
        assert_eq!(packed.weight_zero_point.is_none(), range == Range::Symmetric);
        let tensors = CompressedTensors {
            bits,
            group: Some(group),
            weight_packed: &packed.weight_packed,
            weight_scale: &packed.weight_scale,
            weight_zero_point: packed.weight_zero_point.as_deref(),
            weight_g_idx: None,
        };
        check(compressed::unpack(&tensors, rows, cols).unwrap(), "compressed");
        for version in [AwqVersion::Gemm, AwqVersion::Gemv] {
            let packed = match awq::pack(&grouped, rows, cols, version) {
                Ok(packed) => packed,
                Err(error) => {
                    assert!(bits == 8 && error.to_string().contains("accepted: 4"), "{error}");
                    continue;
                }
            };
            let (qweight, qzeros) = (&packed.qweight[..], &packed.qzeros[..]);
            let tensors = AwqTensors { group: Some(group), version, qweight, qzeros, scales: &packed.scales };
            check(awq::unpack(&tensors, rows, cols).unwrap(), "awq");
        }
    }
}

#[test]
fn what_a_packing_cannot_say_is_an_error() {
    let (rows, cols) = (8, 32);
    let grouped = |zero: u16| Grouped {
        bits: 4,
        group: 16,
        q: vec![3; rows * cols],
        scales: vec![0.5; rows * 2],
        zeros: vec![zero; rows * 2],
        group_of: None,
    };
    let error = gptq::pack(&grouped(0), rows, cols, GptqVersion::V1).unwrap_err();
    assert_eq!(error, QuantError::ZeroPointZero { row: 0 });
    gptq::pack(&grouped(16), rows, cols, GptqVersion::V1).unwrap();
    for error in [
        gptq::pack(&grouped(16), rows, cols, GptqVersion::V2).unwrap_err(),
        awq::pack(&grouped(16), rows, cols, AwqVersion::Gemm).unwrap_err(),
        compressed::pack(&grouped(16), rows, cols).unwrap_err(),
    ] {
        assert!(matches!(error, QuantError::OutOfRange { value: 16, limit: 15, .. }), "{error}");
    }
    let act_order = Grouped { group_of: Some((0..32).map(|c| c % 2).collect()), ..grouped(8) };
    let error = awq::pack(&act_order, rows, cols, AwqVersion::Gemv).unwrap_err();
    assert!(matches!(error, QuantError::ColumnOutOfRange { col: 1, .. }), "{error}");
    gptq::pack(&act_order, rows, cols, GptqVersion::V2).unwrap();
}
