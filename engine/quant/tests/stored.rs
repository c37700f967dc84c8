//! Stored matrices: what they mean, which are refused, and rows taken from them.

use llmlab_quant::{
    Fp8Matrix, Grouped, Int8Channel, QuantError, StoredMatrix, WeightFormat, e4m3_to_f32, quantize_matrix,
};
use proptest::prelude::*;

fn matrix(format: WeightFormat, rows: usize, cols: usize) -> StoredMatrix<'static> {
    let x: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 0.3).collect();
    quantize_matrix(format, rows, cols, &x).unwrap()
}

fn fp8(block_rows: usize, block_cols: usize, scales: Vec<f32>) -> Fp8Matrix {
    Fp8Matrix { q: (0..24).map(|i| i * 5).collect(), scales, block_rows, block_cols, input_scale: None }
}

#[test]
fn scales_of_fp8_blocks_belong_to_their_block() {
    // 4 rows of 6 in blocks of 3 x 4: two rows and two columns of blocks, the last ones smaller.
    let stored = fp8(3, 4, vec![1.0, 10.0, 100.0, 1000.0]);
    let q = stored.q.clone();
    let matrix = StoredMatrix::Fp8(stored);
    matrix.validate(4, 6).unwrap();
    for (i, weight) in matrix.dequantize(4, 6).into_iter().enumerate() {
        let (row, col) = (i / 6, i % 6);
        let scale = 10f32.powi(2 * (row / 3) as i32 + (col / 4) as i32);
        assert_eq!(weight, scale * e4m3_to_f32(q[i]), "{row} {col}");
    }
}

#[test]
fn every_format_is_known_by_its_matrix() {
    for format in WeightFormat::ALL {
        let stored = matrix(format, 3, 256);
        assert_eq!(stored.format(), format);
        stored.validate(3, 256).unwrap();
        assert_eq!(stored.clone().into_owned().dequantize(3, 256), stored.dequantize(3, 256));
        for (rows, cols) in [(2, 256), (4, 256), (3, 512), (usize::MAX, 256), (256, usize::MAX), (0, 0)] {
            assert!(stored.validate(rows, cols).is_err(), "{format} as {rows} x {cols}");
        }
    }
}

#[test]
fn taking_rows_moves_whole_rows_exactly() {
    let source = [3, 1, 1, 0, 4];
    for format in WeightFormat::ALL {
        let stored = matrix(format, 5, 256);
        let taken = stored.permute_rows(5, 256, &source).unwrap();
        assert_eq!(taken.format(), format);
        taken.validate(5, 256).unwrap();
        let (all, taken) = (stored.dequantize(5, 256), taken.dequantize(5, 256));
        for (to, from) in source.iter().enumerate() {
            assert_eq!(taken[to * 256..(to + 1) * 256], all[from * 256..(from + 1) * 256], "{format}");
        }
        let error = stored.permute_rows(5, 256, &[0, 5]).unwrap_err();
        assert!(matches!(error, QuantError::OutOfRange { value: 5, limit: 4, .. }), "{error}");
        assert!(stored.permute_rows(6, 256, &source).is_err());
        stored.permute_rows(5, 256, &source[..2]).unwrap().validate(2, 256).unwrap();
    }
}

#[test]
fn fp8_scales_of_a_whole_matrix_allow_any_rows_and_those_of_some_rows_none() {
    let whole = StoredMatrix::Fp8(fp8(4, 6, vec![0.5]));
    let taken = whole.permute_rows(4, 6, &[2, 0]).unwrap();
    taken.validate(2, 6).unwrap();
    assert_eq!(taken.dequantize(2, 6)[..6], whole.dequantize(4, 6)[12..18]);
    let error = StoredMatrix::Fp8(fp8(2, 6, vec![0.5, 0.25])).permute_rows(4, 6, &[0, 1]).unwrap_err();
    assert_eq!(error, QuantError::RowsShareScales { block_rows: 2 });
}

#[test]
fn what_cannot_be_weights_is_refused() {
    let grouped = || Grouped {
        bits: 4,
        group: 16,
        q: vec![15; 64],
        scales: vec![0.1; 4],
        zeros: vec![16; 4],
        group_of: Some((0..32).map(|c| c % 2).collect()),
    };
    StoredMatrix::Grouped(grouped()).validate(2, 32).unwrap();
    let int8 = |scale| StoredMatrix::Int8(Int8Channel { q: vec![1; 64], scales: vec![1.0, scale] });
    int8(1.0).validate(2, 32).unwrap();
    let nan = half::f16::NAN.to_le_bytes();
    let blocks = |format, bytes: Vec<u8>| StoredMatrix::Blocks { format, bytes: bytes.into() };
    let mut bad_q = grouped();
    bad_q.q[40] = 16;
    let wrong: Vec<(StoredMatrix<'_>, &str)> = vec![
        (StoredMatrix::Floats(vec![0.0; 63].into()), "weights: 63"),
        (StoredMatrix::Floats([vec![0.0; 63], vec![f32::NAN]].concat().into()), "row 1 is NaN"),
        (StoredMatrix::Grouped(Grouped { bits: 5, ..grouped() }), "bits per weight is 5"),
        (StoredMatrix::Grouped(Grouped { group: 0, ..grouped() }), "group size"),
        (StoredMatrix::Grouped(Grouped { group: 8, ..grouped() }), "group scales"),
        (StoredMatrix::Grouped(Grouped { q: vec![0; 63], ..grouped() }), "grouped weights"),
        (StoredMatrix::Grouped(Grouped { zeros: vec![17; 4], ..grouped() }), "zero point 17"),
        (StoredMatrix::Grouped(Grouped { zeros: vec![0; 3], ..grouped() }), "zero points"),
        (StoredMatrix::Grouped(Grouped { scales: vec![f32::INFINITY; 4], ..grouped() }), "group scale"),
        (StoredMatrix::Grouped(Grouped { group_of: Some(vec![0; 31]), ..grouped() }), "group indices"),
        (
            StoredMatrix::Grouped(Grouped { group_of: Some(vec![2; 32]), ..grouped() }),
            "group of column 0 is 2",
        ),
        (StoredMatrix::Grouped(bad_q), "weight 16 in row 1"),
        (int8(f32::NAN), "row scale in row 1"),
        (StoredMatrix::Int8(Int8Channel { q: vec![1; 64], scales: vec![1.0] }), "row scales"),
        (blocks(WeightFormat::Q8_0, vec![0; 67]), "bytes of blocks"),
        (blocks(WeightFormat::Int8, vec![0; 64]), "int8 is not a block format"),
        (blocks(WeightFormat::Q4K, vec![0; 144]), "q4_k stores blocks of 256"),
        (
            blocks(WeightFormat::Q8_0, [vec![0; 34], nan.to_vec(), vec![0; 32]].concat()),
            "block scale in row 1",
        ),
        (blocks(WeightFormat::F16, nan.repeat(64)), "weight in row 0"),
    ];
    for (stored, what) in wrong {
        let error = stored.validate(2, 32).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    for (stored, what) in [
        (fp8(0, 6, vec![1.0]), "FP8 block side"),
        (fp8(4, 0, vec![1.0]), "FP8 block side"),
        (fp8(3, 6, vec![1.0]), "FP8 scales"),
        (fp8(1, 6, vec![1.0, 1.0, f32::NAN, 1.0]), "FP8 scale in row 2"),
        (Fp8Matrix { q: vec![0x7f; 24], ..fp8(4, 6, vec![1.0]) }, "FP8 weight in row 0"),
        (Fp8Matrix { input_scale: Some(f32::INFINITY), ..fp8(4, 6, vec![1.0]) }, "FP8 input scale"),
    ] {
        let error = StoredMatrix::Fp8(stored).validate(4, 6).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes of a file either are refused or are finite weights; two rows read alone are those of the whole.
    #[test]
    fn bytes_that_pass_validation_dequantize(bytes in prop::collection::vec(any::<u8>(), 2 * 1024)) {
        for format in WeightFormat::ALL.into_iter().filter(|format| format.is_gguf()) {
            let bytes = &bytes[..2 * format.row_bytes(256)];
            let stored = StoredMatrix::Blocks { format, bytes: bytes.into() };
            if stored.validate(2, 256).is_ok() {
                let all = stored.dequantize(2, 256);
                prop_assert!(all.iter().all(|weight| weight.is_finite()), "{}", format);
                let mut row = vec![0.0; 256];
                stored.dequantize_row(1, 256, &mut row);
                prop_assert_eq!(&row[..], &all[256..]);
            }
        }
    }
}
