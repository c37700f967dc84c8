//! The kernel of all integer formats with scales along the input, and the unpacking of panels.

use std::arch::x86_64::*;

use super::formats::Blocks;
use super::{each_quad, mask};
use crate::Isa;
use crate::gemm::layout::{LINE, QUADS, TILE_ROWS};
use crate::gemm::{TileArgs, UnpackArgs, panel};
use crate::quant::MAGIC;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn block_tile<F: Blocks, const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: the caller vouches for `blocks` blocks of `R` tiles and a record per block; see `TileArgs`.
    unsafe {
        let mut acc = load::<R, T>(a);
        let unit_blocks = if F::UNIT > 0 { F::UNIT } else { a.layout.unit_blocks };
        let words = words::<F>() * T;
        let mut tiles = [a.weights; R];
        for r in 0..R {
            tiles[r] = a.tile(r).add(a.layout.unit_at(a.first));
        }
        let mut x = a.x;
        let (mut left, mut done) = (a.blocks, a.layout.unit_at(a.first));
        while left > 0 {
            let mut units = [F::unit(tiles[0]); R];
            for r in 1..R {
                units[r] = F::unit(tiles[r]);
            }
            let ahead = a.ahead_of::<R>(done);
            for line in 0..F::HEADER_LINES {
                for r in 0..R {
                    prefetch(tiles[r], line * LINE + ahead);
                }
            }
            let count = if F::UNIT > 0 { F::UNIT } else { unit_blocks.min(left) };
            for j in 0..count {
                let at = a.layout.header_bytes + j * a.layout.block_bytes;
                let mut blocks = tiles;
                for r in 0..R {
                    blocks[r] = tiles[r].add(at);
                    for line in 0..F::BLOCK_LINES {
                        prefetch(blocks[r], line * LINE + ahead);
                    }
                }
                block::<F, R, T>(&mut acc, &units, &blocks, j, x);
                x = x.add(words);
            }
            for r in 0..R {
                tiles[r] = tiles[r].add(a.layout.unit_bytes);
            }
            left -= count;
            done += a.layout.unit_bytes;
        }
        finish(a, &acc);
    }
}

/// Words of a token's record of a block.
const fn words<F: Blocks>() -> usize {
    QUADS + F::SUBS + 1 + F::MINS
}

/// Adds one block: integer sums that start at the bits of a float, so that they become one without a conversion.
#[inline(always)]
unsafe fn block<F: Blocks, const R: usize, const T: usize>(
    acc: &mut [[__m512; T]; R],
    units: &[F::Unit; R],
    blocks: &[*const u8; R],
    j: usize,
    x: *const u32,
) {
    // SAFETY: as in `block_tile`.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); T]; R];
        start::<F, R, T>(&mut sums, x.add(QUADS));
        macro_rules! add {
            ($($quad:literal)*) => {
                each_quad!($($quad)* => {
                    let mut w = [_mm512_setzero_si512(); R];
                    for r in 0..R {
                        w[r] = F::quad::<S>(&units[r], blocks[r], j);
                    }
                    for t in 0..T {
                        let word = _mm512_set1_epi32(*x.add(t * words::<F>() + S) as i32);
                        for r in 0..R {
                            sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], w[r], word);
                        }
                    }
                })
            };
        }
        add!(0 1 2 3);
        if F::SUBS == 2 {
            scale::<F, R, T>(acc, &sums, units, blocks, j, 0, x);
            start::<F, R, T>(&mut sums, x.add(QUADS + 1));
        }
        add!(4 5 6 7);
        scale::<F, R, T>(acc, &sums, units, blocks, j, F::SUBS - 1, x);
        for m in 0..F::MINS {
            let mut min = [_mm512_setzero_ps(); R];
            for r in 0..R {
                min[r] = F::min(&units[r], blocks[r], j, m);
            }
            for t in 0..T {
                let sum = _mm512_set1_ps(f32::from_bits(*x.add(t * words::<F>() + QUADS + F::SUBS + 1 + m)));
                for r in 0..R {
                    acc[r][t] = _mm512_fmadd_ps(sum, min[r], acc[r][t]);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn start<F: Blocks, const R: usize, const T: usize>(sums: &mut [[__m512i; T]; R], x: *const u32) {
    for t in 0..T {
        for r in 0..R {
            // SAFETY: a start word per token.
            sums[r][t] = unsafe { _mm512_set1_epi32(*x.add(t * words::<F>()) as i32) };
        }
    }
}

/// `acc = fma(f32(sum) * step, scale, acc)`; the difference of two floats of the same exponent is exact.
#[inline(always)]
unsafe fn scale<F: Blocks, const R: usize, const T: usize>(
    acc: &mut [[__m512; T]; R],
    sums: &[[__m512i; T]; R],
    units: &[F::Unit; R],
    blocks: &[*const u8; R],
    j: usize,
    sub: usize,
    x: *const u32,
) {
    // SAFETY: as in `block_tile`.
    unsafe {
        let mut scales = [_mm512_setzero_ps(); R];
        for r in 0..R {
            scales[r] = F::scale(&units[r], blocks[r], j, sub);
        }
        for t in 0..T {
            let word = _mm512_set1_ps(f32::from_bits(*x.add(t * words::<F>() + QUADS + F::SUBS)));
            for r in 0..R {
                let sum = _mm512_castsi512_ps(sums[r][t]);
                let sum = if F::FINE {
                    _mm512_mul_ps(_mm512_sub_ps(sum, _mm512_set1_ps(MAGIC)), word)
                } else {
                    _mm512_sub_ps(sum, word)
                };
                acc[r][t] = _mm512_fmadd_ps(sum, scales[r], acc[r][t]);
            }
        }
    }
}

/// Asks memory for the line `ahead` bytes from here; for none where that is 0.
#[inline(always)]
pub(super) unsafe fn prefetch(p: *const u8, ahead: usize) {
    if ahead > 0 {
        // SAFETY: a prefetch cannot fault, also past the end of the matrix.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(ahead).cast()) }
    }
}

#[inline(always)]
pub(super) unsafe fn load<const R: usize, const T: usize>(a: &TileArgs) -> [[__m512; T]; R] {
    // SAFETY: the scratch has `R x T` lines.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        if a.resume {
            for r in 0..R {
                for t in 0..T {
                    sums[r][t] = _mm512_load_ps(a.sums.add((r * T + t) * TILE_ROWS));
                }
            }
        }
        sums
    }
}

/// Keeps sums for the next panel. True when that was asked for.
#[inline(always)]
pub(super) unsafe fn suspend<const R: usize, const T: usize>(a: &TileArgs, sums: &[[__m512; T]; R]) -> bool {
    if a.suspend {
        for r in 0..R {
            for t in 0..T {
                // SAFETY: as in `load`.
                unsafe { _mm512_store_ps(a.sums.add((r * T + t) * TILE_ROWS), sums[r][t]) };
            }
        }
    }
    a.suspend
}

/// Writes the rows that exist.
#[inline(always)]
pub(super) unsafe fn store<const R: usize, const T: usize>(a: &TileArgs, values: &[[__m512; T]; R]) {
    for r in 0..R {
        for t in 0..T {
            // SAFETY: the mask keeps to rows that exist; masked-out lanes are not accessed.
            unsafe {
                let out = a.out.wrapping_add(t * a.out_stride + r * TILE_ROWS);
                _mm512_mask_storeu_ps(out, mask(a.lanes(r)), values[r][t]);
            }
        }
    }
}

#[inline(always)]
unsafe fn finish<const R: usize, const T: usize>(a: &TileArgs, acc: &[[__m512; T]; R]) {
    // SAFETY: as in `block_tile`.
    unsafe {
        if !suspend(a, acc) {
            store(a, acc);
        }
    }
}

/// Unpacks blocks of one tile to a panel, and asks memory for those that come next.
///
/// # Safety
/// As [`crate::gemm::Unpack`] says.
pub(super) unsafe fn unpack<F: Blocks>(a: &UnpackArgs) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn body<F: Blocks>(a: &UnpackArgs) {
        let to = panel::layout(a.format, Isa::Avx512);
        // SAFETY: the caller's tile holds the blocks, its panel has room for them.
        unsafe {
            let mut unit = F::unit(a.tile.add(a.layout.unit_at(a.first)));
            for index in 0..a.blocks {
                let block = a.first + index;
                let j = block % a.layout.unit_blocks;
                if j == 0 {
                    let header = a.tile.add(a.layout.unit_at(block));
                    unit = F::unit(header);
                    for line in 0..F::HEADER_LINES {
                        prefetch(header, line * LINE + a.ahead);
                    }
                }
                let (from, out) = (a.tile.add(a.layout.block_at(block)), a.out.add(index * to.block_bytes));
                for line in 0..F::BLOCK_LINES {
                    prefetch(from, line * LINE + a.ahead);
                }
                each_quad!(0 1 2 3 4 5 6 7 => {
                    _mm512_store_si512(out.add(S * LINE).cast(), F::quad::<S>(&unit, from, j));
                });
                for sub in 0..F::SUBS {
                    _mm512_store_ps(out.add((QUADS + sub) * LINE).cast(), F::scale(&unit, from, j, sub));
                }
                for m in 0..F::MINS {
                    _mm512_store_ps(out.add((QUADS + F::SUBS + m) * LINE).cast(), F::min(&unit, from, j, m));
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { body::<F>(a) }
}
