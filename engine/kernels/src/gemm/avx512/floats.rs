//! The kernels of the float formats.

use std::arch::x86_64::*;

use super::blocks::{load, prefetch, store, suspend};
use super::formats::{Floats, Fp8Packed};
use crate::Isa;
use crate::gemm::layout::{BLOCK, FP8_CHUNK, LINE};
use crate::gemm::{TileArgs, UnpackArgs, panel};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn float_tile<F: Floats, const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: the caller vouches for `blocks` blocks of `R` tiles and a record per block; see `TileArgs`.
    unsafe {
        let mut acc = load::<R, T>(a);
        let mut w = [a.weights; R];
        for r in 0..R {
            w[r] = a.tile(r).add(a.first * a.layout.block_bytes);
        }
        let mut x = a.x;
        // Blocks follow each other without headers, so a row is one sequence of steps.
        for b in 0..a.blocks {
            let ahead = a.ahead_of::<R>((a.first + b) * F::LINES * LINE);
            for step in 0..F::STEPS {
                let mut wv = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    if step * F::LINES % F::STEPS == 0 {
                        prefetch(w[r], step * F::LINES / F::STEPS * LINE + ahead);
                    }
                    wv[r] = F::step(w[r], step);
                }
                add::<F, R, T>(&mut acc, &wv, x.add(step));
            }
            x = x.add(F::STEPS * T);
            for r in 0..R {
                w[r] = w[r].add(F::LINES * LINE);
            }
        }
        if !suspend(a, &acc) {
            store(a, &acc);
        }
    }
}

/// FP8: sums over 128 columns get their scale, the output that of the token.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn fp8_tile<F: Floats, const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: as in `float_tile`.
    unsafe {
        let mut acc = load::<R, T>(a);
        let mut chunk = [[_mm512_setzero_ps(); T]; R];
        let mut x = a.x;
        for b in 0..a.blocks {
            let block = a.first + b;
            let mut w = [a.weights; R];
            for r in 0..R {
                w[r] = a.tile(r).add(a.layout.block_at(block));
            }
            let ahead = a.ahead_of::<R>(b * F::LINES * LINE);
            for step in 0..F::STEPS {
                let mut wv = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    if F::PACKED && step % 2 == 0 {
                        prefetch(w[r], step / 2 * LINE + ahead);
                    }
                    wv[r] = F::step(w[r], step);
                }
                add::<F, R, T>(&mut chunk, &wv, x.add(step));
            }
            x = x.add(F::STEPS * T);
            if (b + 1) % (FP8_CHUNK / BLOCK) == 0 || b + 1 == a.blocks {
                for r in 0..R {
                    // Packed blocks have their scales at the start of their unit, panels in the line behind each block.
                    let at = if F::PACKED {
                        a.tile(r).add(a.layout.unit_at(block))
                    } else {
                        w[r].add(F::STEPS * LINE)
                    };
                    let scale = _mm512_load_ps(at.cast());
                    for t in 0..T {
                        acc[r][t] = _mm512_fmadd_ps(chunk[r][t], scale, acc[r][t]);
                        chunk[r][t] = _mm512_setzero_ps();
                    }
                }
            }
        }
        if suspend(a, &acc) {
            return;
        }
        for t in 0..T {
            let token = _mm512_set1_ps(*a.token_scales.add(t));
            for r in 0..R {
                acc[r][t] = _mm512_mul_ps(acc[r][t], token);
            }
        }
        store(a, &acc);
    }
}

#[inline(always)]
unsafe fn add<F: Floats, const R: usize, const T: usize>(
    acc: &mut [[__m512; T]; R],
    w: &[__m512i; R],
    x: *const u32,
) {
    for t in 0..T {
        // SAFETY: `x` points at the word of the step in the record of the first token.
        unsafe {
            let word = _mm512_set1_epi32(*x.add(t * F::STEPS) as i32);
            for r in 0..R {
                acc[r][t] = F::add(acc[r][t], w[r], word);
            }
        }
    }
}

/// Unpacks FP8 blocks to pairs of bf16.
///
/// # Safety
/// As [`crate::gemm::Unpack`] says.
pub(super) unsafe fn unpack_fp8(a: &UnpackArgs) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn body(a: &UnpackArgs) {
        let to = panel::layout(a.format, Isa::Avx512);
        // SAFETY: the caller's tile holds the blocks, its panel has room for them.
        unsafe {
            for index in 0..a.blocks {
                let block = a.first + index;
                let (from, out) = (a.tile.add(a.layout.block_at(block)), a.out.add(index * to.block_bytes));
                for step in 0..Fp8Packed::STEPS {
                    if step % 2 == 0 {
                        prefetch(from, step / 2 * LINE + a.ahead);
                    }
                    _mm512_store_si512(out.add(step * LINE).cast(), Fp8Packed::step(from, step));
                }
                let scale = _mm512_load_si512(a.tile.add(a.layout.unit_at(block)).cast());
                _mm512_store_si512(out.add(Fp8Packed::STEPS * LINE).cast(), scale);
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { body(a) }
}
