//! The product against the oracle, for every format and instruction set, and its promises about batches and threads.

mod common;

use common::{cols_of, random, stored};
use llmlab_kernels::{
    Activations, Isa, PackedMatrix, ThreadPool, WeightFormat, matmul, matmul_many, reference,
};

fn product(pool: &ThreadPool, w: &PackedMatrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; tokens * w.rows()];
    matmul(pool, w, x, tokens, &mut out, &mut Activations::new());
    out
}

/// Bound on |kernel - exact| as a share of the sum of |products|. Every format adds in f32, one rounding of 2^-24 per term of
/// the chain (two where the product is rounded as well), so `terms * 2^-23` is a proven bound.
fn tolerance(format: WeightFormat, cols: usize) -> f64 {
    let terms = match format {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::Fp8 => cols,
        WeightFormat::Int8 => 3,
        // Per half block: the roundings of the scale, of the minimum and of two sums; integers are exact.
        _ => 4 * cols / 16 + 2,
    };
    (terms + 1) as f64 * f64::from(f32::EPSILON)
}

fn check(format: WeightFormat, isa: Isa, rows: usize, cols: usize, tokens: usize) {
    let pool = ThreadPool::new(2);
    let x = random(cols as u64 + 7, tokens * cols);
    let stored = stored(format, rows, cols, rows as u64);
    let w = PackedMatrix::from_stored(&pool, rows, cols, &stored, isa).unwrap();
    let (exact, magnitudes) = reference::matmul(&w, &x, tokens);
    let out = product(&pool, &w, &x, tokens);
    for (i, &value) in out.iter().enumerate() {
        let error = (f64::from(value) - exact[i]).abs();
        // Minima cancel against levels: what is added is larger than the weight.
        let bound = magnitudes[i]
            * tolerance(format, cols)
            * if format == WeightFormat::Int8Group { 8.0 } else { 2.0 };
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
        for format in WeightFormat::ALL {
            for (rows, cols) in [(1, 32), (17, 96), (65, 32), (100, 160), (130, 2080)] {
                let tokens: &[usize] = if cols > 1000 { &[1, 13] } else { &[1, 2, 3, 5, 8, 13, 33] };
                for &tokens in tokens {
                    check(format, isa, rows, cols_of(format, cols), tokens);
                }
            }
        }
    }
}

#[test]
fn odd_columns_work_in_the_formats_without_blocks() {
    for isa in Isa::available() {
        for format in
            [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Fp8]
        {
            for cols in [1, 2, 3, 33, 515] {
                for tokens in [1, 4, 15] {
                    check(format, isa, 35, cols, tokens);
                }
            }
        }
    }
}

/// Long prompts and wide inputs walk every loop around the kernels.
#[test]
fn many_tokens_and_many_panels_agree_with_the_reference() {
    for format in WeightFormat::ALL {
        check(format, Isa::best(), 48, 1024, 601);
        check(format, Isa::best(), 33, 11008, 7);
    }
}

#[test]
fn a_token_has_the_same_bits_in_any_batch_and_with_any_number_of_threads() {
    let pools: Vec<ThreadPool> = (1..=3).map(ThreadPool::new).collect();
    for isa in Isa::available() {
        for format in WeightFormat::ALL {
            let (rows, cols) = (83, cols_of(format, 544));
            let x = random(2, 40 * cols);
            let stored = stored(format, rows, cols, 1);
            let w = PackedMatrix::from_stored(&pools[0], rows, cols, &stored, isa).unwrap();
            let alone: Vec<f32> =
                x.chunks_exact(cols).flat_map(|token| product(&pools[0], &w, token, 1)).collect();
            for tokens in 1..=40 {
                // Also at another position: the batch starts at a token that is not the first.
                let first = (40 - tokens) / 2;
                let pool = &pools[tokens % 3];
                let out = product(pool, &w, &x[first * cols..][..tokens * cols], tokens);
                let expected = &alone[first * rows..][..tokens * rows];
                assert!(out == expected, "{format} {isa} {tokens} tokens from {first}");
            }
        }
    }
}

#[test]
fn integer_formats_have_the_same_bits_on_every_instruction_set() {
    for format in WeightFormat::ALL {
        let floats = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Fp8];
        if floats.contains(&format) {
            continue;
        }
        for tokens in [1, 9, 17] {
            let (rows, cols) = (83, cols_of(format, 2080));
            let x = random(4, tokens * cols);
            let stored = stored(format, rows, cols, 3);
            let pool = ThreadPool::new(2);
            let run = |isa| {
                let w = PackedMatrix::from_stored(&pool, rows, cols, &stored, isa).unwrap();
                product(&pool, &w, &x, tokens)
            };
            let portable = run(Isa::Portable);
            for isa in Isa::available() {
                assert!(run(isa) == portable, "{format} {isa} {tokens} tokens");
            }
        }
    }
}

#[test]
fn f32_and_f16_have_the_same_bits_on_every_instruction_set_with_fma() {
    let (rows, cols, tokens) = (83, 2080, 9);
    let x = random(4, tokens * cols);
    let pool = ThreadPool::new(2);
    for format in [WeightFormat::F32, WeightFormat::F16] {
        let stored = stored(format, rows, cols, 3);
        let run = |isa| {
            let w = PackedMatrix::from_stored(&pool, rows, cols, &stored, isa).unwrap();
            product(&pool, &w, &x, tokens)
        };
        let with_fma: Vec<Isa> = Isa::available().into_iter().filter(|&isa| isa != Isa::Portable).collect();
        for pair in with_fma.windows(2) {
            assert!(run(pair[0]) == run(pair[1]), "{format} {} and {}", pair[0], pair[1]);
        }
    }
}

#[test]
fn several_products_in_one_call_have_the_bits_of_single_ones() {
    let pool = ThreadPool::new(2);
    let cols = 512;
    let mut scratch = Activations::new();
    for isa in Isa::available() {
        let pack = |format, rows| {
            PackedMatrix::from_stored(&pool, rows, cols, &stored(format, rows, cols, rows as u64), isa)
                .unwrap()
        };
        // More than fit one region, of every format: shared and separate inputs, ends of matrices inside groups.
        let ws: Vec<PackedMatrix> =
            WeightFormat::ALL.into_iter().enumerate().map(|(i, format)| pack(format, 20 + 13 * i)).collect();
        let all: Vec<&PackedMatrix> = ws.iter().collect();
        let width: usize = ws.iter().map(PackedMatrix::rows).sum();
        for tokens in [1, 3, 12, 30] {
            let x = random(8, tokens * cols);
            let mut out = vec![f32::NAN; tokens * width];
            matmul_many(&pool, &all, &x, tokens, &mut out, &mut scratch);
            let mut column = 0;
            for w in &ws {
                let single = product(&pool, w, &x, tokens);
                for (row, single) in out.chunks_exact(width).zip(single.chunks_exact(w.rows())) {
                    assert!(row[column..][..w.rows()] == *single, "{} {isa} {tokens} tokens", w.format());
                }
                column += w.rows();
            }
        }
    }
}

#[test]
fn scratch_can_be_shared_by_products_of_different_shapes_and_formats() {
    let pool = ThreadPool::new(2);
    let mut scratch = Activations::new();
    for (rows, cols, tokens) in [(40, 320, 17), (16, 64, 1), (70, 96, 30)] {
        for format in WeightFormat::ALL {
            let cols = cols_of(format, cols);
            let x = random(9, tokens * cols);
            let w = PackedMatrix::pack(format, rows, cols, &random(8, rows * cols), Isa::best()).unwrap();
            let mut out = vec![f32::NAN; tokens * rows];
            matmul(&pool, &w, &x, tokens, &mut out, &mut scratch);
            assert_eq!(out, product(&pool, &w, &x, tokens), "{format} {rows}x{cols}");
        }
    }
}

#[test]
fn no_tokens_and_no_matrices_are_nothing_to_do() {
    let (pool, mut scratch) = (ThreadPool::new(2), Activations::new());
    let w = PackedMatrix::pack(WeightFormat::Q8_0, 3, 32, &[0.5; 96], Isa::best()).unwrap();
    matmul(&pool, &w, &[], 0, &mut [], &mut scratch);
    matmul_many(&pool, &[], &[], 4, &mut [], &mut scratch);
}

#[test]
fn a_nan_activation_reaches_every_output_of_its_token_only() {
    let pool = ThreadPool::new(1);
    for isa in Isa::available() {
        for format in WeightFormat::ALL {
            for tokens in [3, 20] {
                let (rows, cols) = (20, cols_of(format, 64));
                let mut x = random(5, tokens * cols);
                x[cols + 40] = f32::NAN;
                let w = PackedMatrix::pack(format, rows, cols, &random(6, rows * cols), isa).unwrap();
                let out = product(&pool, &w, &x, tokens);
                for (t, token) in out.chunks_exact(rows).enumerate() {
                    assert!(token.iter().all(|v| v.is_nan() == (t == 1)), "{format} {isa} token {t}");
                }
            }
        }
    }
}
