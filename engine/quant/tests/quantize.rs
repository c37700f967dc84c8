//! What rounding may and may not do, for every format.

use llmlab_quant::{
    QuantError, Range, StoredMatrix, WeightFormat, e4m3_to_f32, f32_to_e4m3, quantize_grouped,
    quantize_matrix, quantize_row,
};
use proptest::prelude::*;

/// Values of a bell shape from a seed: sums of three uniform numbers, between -3 and 3.
fn weights(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| uniform() + uniform() + uniform()).collect()
}

fn back(format: WeightFormat, rows: usize, cols: usize, x: &[f32]) -> Vec<f32> {
    quantize_matrix(format, rows, cols, x).unwrap().dequantize(rows, cols)
}

/// Root mean square error relative to the root mean square of the values.
fn relative_error(x: &[f32], y: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (square(&mut x.iter().zip(y).map(|(x, y)| x - y)) / square(&mut x.iter().copied())).sqrt()
}

/// Formats and the relative error that bell-shaped weights may have in them: a tenth above the largest seen.
const ERRORS: [(WeightFormat, f64); 18] = [
    (WeightFormat::F32, 0.0),
    (WeightFormat::F16, 0.00025),
    (WeightFormat::Bf16, 0.002),
    (WeightFormat::Q8_0, 0.0058),
    (WeightFormat::Q4_0, 0.093),
    (WeightFormat::Q4_1, 0.085),
    (WeightFormat::Q5_0, 0.046),
    (WeightFormat::Q5_1, 0.0425),
    (WeightFormat::Iq4Nl, 0.084),
    (WeightFormat::Q2K, 0.34),
    (WeightFormat::Q3K, 0.166),
    (WeightFormat::Q4K, 0.078),
    (WeightFormat::Q5K, 0.04),
    (WeightFormat::Q6K, 0.023),
    (WeightFormat::Int8, 0.0072),
    (WeightFormat::Fp8, 0.031),
    (WeightFormat::Int4, 0.105),
    (WeightFormat::Int8Group, 0.0063),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn errors_stay_within_the_bound_of_the_format(seed in 1u64.., exponent in -3f32..3.0) {
        let (rows, cols) = (2, 512);
        let x: Vec<f32> = weights(seed, rows * cols).iter().map(|v| v * 10f32.powf(exponent)).collect();
        for (format, bound) in ERRORS {
            let error = relative_error(&x, &back(format, rows, cols, &x));
            prop_assert!(error <= bound, "{format}: {error}");
        }
    }

    /// In formats that store the extreme value of a block exactly, what came out once comes out again.
    #[test]
    fn rounding_twice_changes_nothing(seed in 1u64.., exponent in -3f32..3.0) {
        let x: Vec<f32> = weights(seed, 512).iter().map(|v| v * 10f32.powf(exponent)).collect();
        for format in [
            WeightFormat::F32,
            WeightFormat::F16,
            WeightFormat::Bf16,
            WeightFormat::Q8_0,
            WeightFormat::Q4_0,
            WeightFormat::Q5_0,
        ] {
            let once = back(format, 1, 512, &x);
            prop_assert_eq!(&back(format, 1, 512, &once), &once, "{}", format);
        }
    }

    /// Any bits as weights: a result that can be dequantized to finite numbers, or an error.
    #[test]
    fn no_input_panics(bits in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let tame: Vec<f32> = x.iter().map(|v| if v.is_finite() { *v } else { 0.0 }).collect();
        for format in WeightFormat::ALL {
            let _ = quantize_row(format, &x);
            prop_assert!(quantize_matrix(format, 1, 256, &x).is_err() || x == tame, "{}", format);
            if let Ok(matrix) = quantize_matrix(format, 1, 256, &tame) {
                prop_assert!(matrix.dequantize(1, 256).iter().all(|v| v.is_finite()), "{}", format);
            }
        }
    }
}

#[test]
fn better_formats_have_smaller_errors() {
    let (rows, cols) = (8, 2048);
    let x = weights(5, rows * cols);
    let error = |format| relative_error(&x, &back(format, rows, cols, &x));
    use WeightFormat::*;
    for order in [
        &[Bf16, Q8_0, Q6K, Q5K, Q4K, Q3K, Q2K][..],
        &[Q8_0, Q5_1, Q4_1],
        &[Q8_0, Q5_0, Q4_0],
        &[Q5_0, Iq4Nl, Q4_0],
        &[Int8Group, Int8, Fp8, Int4],
    ] {
        for pair in order.windows(2) {
            assert!(error(pair[0]) < error(pair[1]), "{} {}", pair[0], pair[1]);
        }
    }
}

#[test]
fn zeros_stay_zero_and_constants_keep_half_precision() {
    for format in WeightFormat::ALL {
        assert_eq!(back(format, 2, 256, &[0.0; 512]), [0.0; 512], "{format}");
        // One block of zeros between others must not disturb them.
        let mut x = weights(9, 768);
        x[256..512].fill(0.0);
        assert_eq!(back(format, 3, 256, &x)[256..512], [0.0; 256], "{format}");
        // Smaller ones have denormal scales in the K formats.
        for constant in [0.731f32, -0.731, 12.7, -300.0] {
            for value in back(format, 1, 256, &[constant; 256]) {
                let bound = if format == WeightFormat::Bf16 { 1.0 / 256.0 } else { 1.0 / 1024.0 };
                assert!((value - constant).abs() <= constant.abs() * bound, "{format}: {constant} {value}");
            }
        }
    }
}

#[test]
fn extreme_magnitudes_give_weights_near_them_or_an_error() {
    for magnitude in [1e-45, 1e-40, 1e-30, 1e-16, 1e-12, 1e-8, 1e4, 1e6, 1e12, 1e20, 1e30, f32::MAX] {
        let x: Vec<f32> = weights(3, 256).iter().map(|v| v / 3.0 * magnitude).collect();
        for format in WeightFormat::ALL {
            match quantize_matrix(format, 1, 256, &x) {
                Ok(matrix) => {
                    for (x, y) in x.iter().zip(matrix.dequantize(1, 256)) {
                        // Half precision ends at 2^-24; what is far below may become 0 or one of its steps.
                        assert!((x - y).abs() <= magnitude * 0.5 + 1e-5, "{format}: {magnitude} {x} {y}");
                    }
                }
                Err(error) => {
                    let wide = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Fp8];
                    assert!(magnitude > 6e4 && !wide.contains(&format), "{format}: {magnitude} {error}");
                    assert!(matches!(error, QuantError::ScaleOverflow { row: 0, .. }), "{format}: {error}");
                }
            }
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_refused_with_their_row() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = weights(1, 3 * 256);
        x[256 + 77] = bad;
        for format in WeightFormat::ALL {
            let error = quantize_matrix(format, 3, 256, &x).unwrap_err();
            assert!(matches!(error, QuantError::NotFinite { row: 1, .. }), "{format}: {error}");
        }
        let error = quantize_grouped(4, 32, Range::Symmetric, 3, 256, &x).unwrap_err();
        assert!(matches!(error, QuantError::NotFinite { row: 1, .. }), "{error}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let x = weights(1, 100);
    for format in WeightFormat::ALL {
        let error = quantize_matrix(format, 2, 51, &x).unwrap_err();
        assert!(matches!(error, QuantError::Length { expected: 102, got: 100, .. }), "{format}: {error}");
        assert!(matches!(quantize_matrix(format, usize::MAX, 2, &x), Err(QuantError::TooLarge { .. })));
        let whole_blocks = !format.is_gguf() || format.block() == 1;
        match quantize_matrix(format, 1, 100, &x) {
            Ok(matrix) => assert!(whole_blocks && matrix.validate(1, 100).is_ok()),
            Err(error) => {
                assert!(!whole_blocks && matches!(error, QuantError::PartialBlock { cols: 100, .. }))
            }
        }
        quantize_matrix(format, 0, 256, &[]).unwrap().validate(0, 256).unwrap();
        let row = quantize_row(format, &x[..0]);
        assert_eq!(row.is_ok(), format.is_gguf());
    }
    assert!(matches!(
        quantize_grouped(3, 32, Range::Symmetric, 1, 100, &x),
        Err(QuantError::Unsupported { .. })
    ));
    assert!(matches!(
        quantize_grouped(4, 0, Range::Symmetric, 1, 100, &x),
        Err(QuantError::Unsupported { .. })
    ));
}

#[test]
fn rows_of_int8_and_fp8_use_the_whole_range() {
    let x = weights(4, 2 * 300);
    let StoredMatrix::Int8(int8) = quantize_matrix(WeightFormat::Int8, 2, 300, &x).unwrap() else { panic!() };
    let StoredMatrix::Fp8(fp8) = quantize_matrix(WeightFormat::Fp8, 2, 300, &x).unwrap() else { panic!() };
    for row in 0..2 {
        let span = row * 300..(row + 1) * 300;
        assert_eq!(int8.q[span.clone()].iter().map(|q| q.unsigned_abs()).max(), Some(127));
        assert_eq!(fp8.q[span.clone()].iter().map(|q| q & 0x7f).max(), Some(0x7e));
        let step = int8.scales[row];
        for i in span {
            assert!((f32::from(int8.q[i]) * step - x[i]).abs() <= step * 0.5001);
        }
    }
}

#[test]
fn a_symmetric_range_has_its_zero_in_the_middle_and_groups_may_end_early() {
    let x = weights(6, 3 * 40);
    for bits in [4, 8] {
        let grouped = quantize_grouped(bits, 16, Range::Symmetric, 3, 40, &x).unwrap();
        assert_eq!((grouped.scales.len(), grouped.zeros.len()), (9, 9));
        assert!(grouped.zeros.iter().all(|zero| *zero == 1 << (bits - 1)));
        let matrix = StoredMatrix::Grouped(grouped);
        matrix.validate(3, 40).unwrap();
        assert!(relative_error(&x, &matrix.dequantize(3, 40)) < if bits == 4 { 0.105 } else { 0.0063 });
    }
}

/// Codes and values of `fixtures/make_fixtures.py fp8`.
#[test]
fn e4m3_is_that_of_pytorch() {
    let file = include_bytes!("fixtures/e4m3.bin");
    let (values, rest) = file.split_at(2048 * 4);
    let (codes, every) = rest.split_at(2048);
    for (value, code) in values.as_chunks::<4>().0.iter().zip(codes) {
        assert_eq!(f32_to_e4m3(f32::from_le_bytes(*value)), *code);
    }
    assert_eq!(every.len(), 256 * 4);
    for (code, value) in (0..=255u8).zip(every.as_chunks::<4>().0) {
        let (got, expected) = (e4m3_to_f32(code), f32::from_le_bytes(*value));
        assert!(got == expected || got.is_nan() && expected.is_nan(), "{code:#x}: {got} {expected}");
    }
}
