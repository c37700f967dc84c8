//! Packing moves numbers and never changes them; what cannot be packed is refused with a reason.

mod common;

use common::{cols_of, random, stored};
use llmlab_kernels::{Isa, KernelError, PackedMatrix, StoredMatrix, ThreadPool, WeightFormat};

#[test]
fn rows_come_back_bit_for_bit_whatever_the_checkpoint_held() {
    let pool = ThreadPool::new(3);
    for format in WeightFormat::ALL {
        for (rows, cols) in [(17, 96), (40, 512), (39, 768), (38, 1152)] {
            let cols = cols_of(format, cols);
            let stored = stored(format, rows, cols, 5);
            let packed = PackedMatrix::from_stored(&pool, rows, cols, &stored, Isa::Portable).unwrap();
            assert_eq!((packed.format(), packed.rows(), packed.cols()), (format, rows, cols));
            let (mut got, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..rows {
                packed.dequantize_row(row, &mut got);
                stored.dequantize_row(row, cols, &mut expected);
                let same = got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{format} {rows}x{cols} row {row}");
            }
        }
    }
}

#[test]
fn rounding_on_load_is_that_of_the_quantizers_on_any_number_of_threads() {
    let (rows, cols) = (53, 256);
    let weights = random(11, rows * cols);
    for format in WeightFormat::ALL {
        let stored = llmlab_quant::quantize_matrix(format, rows, cols, &weights).unwrap();
        let one = PackedMatrix::pack(format, rows, cols, &weights, Isa::Portable).unwrap();
        let pool = ThreadPool::new(3);
        let many = PackedMatrix::pack_parallel(&pool, format, rows, cols, &weights, Isa::Portable).unwrap();
        let (mut a, mut b, mut expected) = (vec![0.0; cols], vec![0.0; cols], vec![0.0; cols]);
        for row in 0..rows {
            one.dequantize_row(row, &mut a);
            many.dequantize_row(row, &mut b);
            stored.dequantize_row(row, cols, &mut expected);
            assert_eq!(a, b);
            assert_eq!(a, expected, "{format} row {row}");
        }
    }
}

#[test]
fn packed_sizes_are_the_format_plus_little() {
    for format in WeightFormat::ALL {
        let (rows, cols) = (64, 2048);
        let w = PackedMatrix::pack(format, rows, cols, &vec![0.5; rows * cols], Isa::Portable).unwrap();
        let exact = rows * format.row_bytes(cols);
        let share = w.bytes() as f64 / exact as f64;
        assert!((0.99..1.031).contains(&share), "{format}: {} for {exact}", w.bytes());
    }
}

#[test]
fn bad_matrices_are_refused_with_the_reason() {
    let pack = |format, rows, cols, weights: &[f32]| {
        PackedMatrix::pack(format, rows, cols, weights, Isa::Portable).err().unwrap()
    };
    let not_blocks = KernelError::NotBlockMultiple { format: WeightFormat::Q8_0, block: 32, cols: 48 };
    assert_eq!(pack(WeightFormat::Q8_0, 2, 48, &[0.0; 96]), not_blocks);
    assert!(matches!(pack(WeightFormat::Q4K, 2, 128, &[0.0; 256]), KernelError::NotBlockMultiple { .. }));
    assert!(matches!(pack(WeightFormat::F32, 0, 4, &[]), KernelError::EmptyShape { .. }));
    assert!(matches!(pack(WeightFormat::F32, 2, 4, &[0.0; 7]), KernelError::LengthMismatch { got: 7, .. }));
    let mut weights = [0.0; 96];
    weights[67] = f32::INFINITY;
    assert_eq!(pack(WeightFormat::Bf16, 3, 32, &weights), KernelError::NonFinite { row: 2, col: 3 });
    // Finite as f32, infinite as bf16; the largest weight that rounds down to the largest bf16 is packed.
    weights[67] = -f32::MAX;
    assert_eq!(pack(WeightFormat::Bf16, 3, 32, &weights), KernelError::NonFinite { row: 2, col: 3 });
    assert!(PackedMatrix::pack(WeightFormat::F32, 3, 32, &weights, Isa::Portable).is_ok());
    weights[67] = f32::from_bits(0x7f7f_7fff);
    assert!(PackedMatrix::pack(WeightFormat::Bf16, 3, 32, &weights, Isa::Portable).is_ok());
    weights[67] = 1e9;
    let overflow = KernelError::ScaleOverflow { format: WeightFormat::Q4_0, row: 2 };
    assert_eq!(pack(WeightFormat::Q4_0, 3, 32, &weights), overflow);
}

#[test]
fn stored_matrices_that_do_not_fit_their_shape_or_the_tiles_are_refused() {
    let pool = ThreadPool::new(1);
    let from = |rows, cols, stored: &StoredMatrix<'_>| {
        PackedMatrix::from_stored(&pool, rows, cols, stored, Isa::Portable).err().unwrap()
    };
    let short = StoredMatrix::Blocks { format: WeightFormat::Q4K, bytes: vec![0; 143].into() };
    assert!(matches!(from(1, 256, &short), KernelError::BadWeights(_)));
    let mut nan = vec![0u8; 18];
    nan[1] = 0x7e;
    let nan = StoredMatrix::Blocks { format: WeightFormat::Q4_0, bytes: nan.into() };
    assert!(matches!(from(1, 32, &nan), KernelError::BadWeights(_)));
    let StoredMatrix::Grouped(mut grouped) = stored(WeightFormat::Int4, 3, 64, 1) else { unreachable!() };
    (grouped.group, grouped.scales, grouped.zeros) = (48, vec![1.0; 6], vec![8; 6]);
    grouped.group_of = None;
    let message = from(3, 64, &StoredMatrix::Grouped(grouped)).to_string();
    assert!(message.contains("group 48"), "{message}");
}
