//! The product against the oracle, for every format and instruction set, and its promises about batches and threads.

use llmlab_kernels::{
    Activations, Isa, KernelError, PackedMatrix, ThreadPool, WeightFormat, matmul, reference,
};

const FORMATS: [WeightFormat; 4] =
    [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4_0];

/// Values in -1..1 with a few large ones, as real activations have, so that block scales differ a lot.
fn random(seed: u64, len: usize) -> Vec<f32> {
    // SplitMix64: a generator crate would be built without optimisation here and take most of the test's time.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut values = Vec::with_capacity(len);
    for _ in 0..len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let value = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
        values.push(if bits.is_multiple_of(50) { value * 20.0 } else { value });
    }
    values
}

fn product(pool: &ThreadPool, w: &PackedMatrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; tokens * w.rows()];
    matmul(pool, w, x, tokens, &mut out, &mut Activations::new());
    out
}

/// Bound on |kernel - exact| as a share of the sum of |products|. Every format adds in f32, one rounding of 2^-24 per term of
/// the chain (two where the product is rounded as well), so `terms * 2^-23` is a proven bound.
fn tolerance(format: WeightFormat, cols: usize) -> f64 {
    let terms = match format {
        WeightFormat::F32 | WeightFormat::Bf16 => cols,
        // Per block: the rounding of the scale product and of the sum; integers are exact.
        _ => 2 * cols / 32 + 2,
    };
    (terms + 1) as f64 * f64::from(f32::EPSILON)
}

fn check(format: WeightFormat, isa: Isa, rows: usize, cols: usize, tokens: usize) {
    let pool = ThreadPool::new(2);
    let weights = random(rows as u64, rows * cols);
    let x = random(cols as u64 + 7, tokens * cols);
    let w = PackedMatrix::pack(format, rows, cols, &weights, isa).unwrap();
    let (exact, magnitudes) = reference::matmul(&w, &x, tokens);
    let out = product(&pool, &w, &x, tokens);
    for (i, &value) in out.iter().enumerate() {
        let error = (f64::from(value) - exact[i]).abs();
        let bound = magnitudes[i] * tolerance(format, cols);
        assert!(
            error <= bound,
            "{format} {isa} {rows}x{cols} tokens {tokens}, element {i}: {value} against {}, error {error:e} > {bound:e}",
            exact[i]
        );
    }
}

#[test]
fn every_format_and_instruction_set_agrees_with_the_reference() {
    for isa in Isa::available() {
        for format in FORMATS {
            for (rows, cols) in [(1, 32), (16, 64), (17, 96), (65, 32), (100, 160), (129, 2080), (512, 1056)]
            {
                for tokens in [1, 2, 3, 5, 8, 13, 33] {
                    check(format, isa, rows, cols, tokens);
                }
            }
        }
    }
}

#[test]
fn odd_columns_work_in_the_formats_without_blocks() {
    for isa in Isa::available() {
        for format in [WeightFormat::F32, WeightFormat::Bf16] {
            for cols in [1, 2, 3, 33, 515] {
                for tokens in [1, 4, 15] {
                    check(format, isa, 35, cols, tokens);
                }
            }
        }
    }
}

/// Long prompts and wide inputs walk every cache block loop.
#[test]
fn many_tokens_and_many_cache_blocks_agree_with_the_reference() {
    for format in FORMATS {
        check(format, Isa::best(), 48, 2048, 601);
        check(format, Isa::best(), 33, 11008, 7);
    }
}

#[test]
fn a_token_has_the_same_bits_in_any_batch_and_with_any_number_of_threads() {
    let pools: Vec<ThreadPool> = (1..=3).map(ThreadPool::new).collect();
    let (rows, cols) = (211, 1056);
    let weights = random(1, rows * cols);
    let x = random(2, 40 * cols);
    for isa in Isa::available() {
        for format in FORMATS {
            let w = PackedMatrix::pack(format, rows, cols, &weights, isa).unwrap();
            let alone: Vec<f32> =
                x.chunks_exact(cols).flat_map(|token| product(&pools[0], &w, token, 1)).collect();
            for tokens in 1..=40 {
                // Also at another position: the batch starts at a token that is not the first.
                for first in [0, (40 - tokens) / 2] {
                    let pool = &pools[(tokens + first) % 3];
                    let out = product(pool, &w, &x[first * cols..][..tokens * cols], tokens);
                    let expected = &alone[first * rows..][..tokens * rows];
                    assert!(
                        out.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{format} {isa} tokens {tokens} from {first}"
                    );
                }
            }
            for pool in &pools {
                assert_eq!(product(pool, &w, &x, 40), alone, "{format} {isa} threads {}", pool.threads());
            }
        }
    }
}

#[test]
fn block_formats_have_the_same_bits_on_every_instruction_set() {
    let (rows, cols, tokens) = (83, 2080, 9);
    let (weights, x) = (random(3, rows * cols), random(4, tokens * cols));
    let pool = ThreadPool::new(2);
    for format in [WeightFormat::Q8_0, WeightFormat::Q4_0] {
        let run =
            |isa| product(&pool, &PackedMatrix::pack(format, rows, cols, &weights, isa).unwrap(), &x, tokens);
        let portable = run(Isa::Portable);
        for isa in Isa::available() {
            assert_eq!(run(isa), portable, "{format} {isa}");
        }
    }
}

#[test]
fn f32_has_the_same_bits_on_every_instruction_set_with_fma() {
    let (rows, cols, tokens) = (83, 2080, 9);
    let (weights, x) = (random(3, rows * cols), random(4, tokens * cols));
    let pool = ThreadPool::new(2);
    let run = |isa| {
        let w = PackedMatrix::pack(WeightFormat::F32, rows, cols, &weights, isa).unwrap();
        product(&pool, &w, &x, tokens)
    };
    let with_fma: Vec<Isa> = Isa::available().into_iter().filter(|&isa| isa != Isa::Portable).collect();
    for pair in with_fma.windows(2) {
        assert_eq!(run(pair[0]), run(pair[1]), "{} and {}", pair[0], pair[1]);
    }
}

#[test]
fn scratch_can_be_shared_by_products_of_different_shapes_and_formats() {
    let pool = ThreadPool::new(2);
    let mut scratch = Activations::new();
    for (rows, cols, tokens) in [(40, 320, 17), (16, 64, 1), (70, 96, 30)] {
        for format in FORMATS {
            let x = random(9, tokens * cols);
            let w = PackedMatrix::pack(format, rows, cols, &random(8, rows * cols), Isa::best()).unwrap();
            let mut out = vec![f32::NAN; tokens * rows];
            matmul(&pool, &w, &x, tokens, &mut out, &mut scratch);
            assert_eq!(out, product(&pool, &w, &x, tokens), "{format} {rows}x{cols}");
        }
    }
}

#[test]
fn a_nan_activation_reaches_every_output_of_its_token_only() {
    let pool = ThreadPool::new(1);
    let (rows, cols) = (20, 64);
    let mut x = random(5, 3 * cols);
    x[cols + 40] = f32::NAN;
    for isa in Isa::available() {
        for format in FORMATS {
            let w = PackedMatrix::pack(format, rows, cols, &random(6, rows * cols), isa).unwrap();
            let out = product(&pool, &w, &x, 3);
            for (t, token) in out.chunks_exact(rows).enumerate() {
                assert!(token.iter().all(|v| v.is_nan() == (t == 1)), "{format} {isa} token {t}");
            }
        }
    }
}

#[test]
fn packing_in_parallel_gives_the_same_matrix_and_rows_come_back_exactly() {
    let (rows, cols) = (53, 96);
    let weights = random(11, rows * cols);
    for format in FORMATS {
        let one = PackedMatrix::pack(format, rows, cols, &weights, Isa::Portable).unwrap();
        let pool = ThreadPool::new(3);
        let many = PackedMatrix::pack_parallel(&pool, format, rows, cols, &weights, Isa::Portable).unwrap();
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        for row in 0..rows {
            one.dequantize_row(row, &mut a);
            many.dequantize_row(row, &mut b);
            assert_eq!(a, b);
            let original = &weights[row * cols..][..cols];
            match format {
                WeightFormat::F32 => assert_eq!(a, original),
                WeightFormat::Bf16 => {
                    let rounded: Vec<f32> =
                        original.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect();
                    assert_eq!(a, rounded);
                }
                WeightFormat::Q8_0 => {
                    let blocks = original.as_chunks::<32>().0.iter();
                    let back: Vec<f32> = blocks
                        .flat_map(|b| llmlab_kernels::quant::q8_0::BlockQ8_0::quantize(b).dequantize())
                        .collect();
                    assert_eq!(a, back);
                }
                WeightFormat::Q4_0 => {
                    let blocks = original.as_chunks::<32>().0.iter();
                    let back: Vec<f32> = blocks
                        .flat_map(|b| llmlab_kernels::quant::q4_0::BlockQ4_0::quantize(b).dequantize())
                        .collect();
                    assert_eq!(a, back);
                }
                _ => unreachable!("not in the list"),
            }
        }
    }
}

#[test]
fn packed_sizes_are_the_format_plus_padding_of_whole_tiles() {
    for format in FORMATS {
        let (rows, cols) = (64, 256);
        let w = PackedMatrix::pack(format, rows, cols, &vec![0.5; rows * cols], Isa::Portable).unwrap();
        let exact = rows * format.row_bytes(cols);
        assert!(w.bytes() >= exact && w.bytes() <= exact + 4 * 64, "{format}: {} for {exact}", w.bytes());
    }
}

#[test]
fn bad_matrices_are_refused_with_the_reason() {
    let pack = |format, rows, cols, weights: &[f32]| {
        PackedMatrix::pack(format, rows, cols, weights, Isa::Portable).err().unwrap()
    };
    let not_blocks = KernelError::NotBlockMultiple { format: WeightFormat::Q8_0, block: 32, cols: 48 };
    assert_eq!(pack(WeightFormat::Q8_0, 2, 48, &[0.0; 96]), not_blocks);
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
