//! Inner loops for AVX2 with FMA and F16C: a tile is two registers of 8 rows.
//!
//! Weights come from unpacked panels, so there is one kernel for all integer formats and one for all floats, made for one tile
//! x up to 6 tokens of floats or 3 of integers, which spend two registers on a sum.
//!
//! The multiply of bytes adds two products in 16 bits and saturates, so factors above 127 are taken as signed bytes instead:
//! `|w| * (x with the sign of w)`, pairs of which reach 2 * 128 * 127, which 16 bits hold.

use std::arch::x86_64::*;

use super::layout::{BLOCK, FP8_CHUNK, LINE, QUADS, TILE_ROWS};
use super::{Input, Kernel, Plan, TileArgs, UnpackArgs, panel};
use crate::quant::MAGIC;
use crate::{Isa, WeightFormat};

/// Rows per register, and registers per tile.
const LANES: usize = 8;
const HALVES: usize = TILE_ROWS / LANES;

pub(crate) fn plan(input: Input) -> Plan {
    let tokens = match input {
        Input::F32 | Input::Bf16Widened => 6,
        _ => 3,
    };
    Plan { tiles: 1, tokens, panels: true, ahead: 0 }
}

pub(crate) fn kernel(format: WeightFormat, _wide: bool, _plan: &Plan, tokens: usize) -> Kernel {
    use WeightFormat::*;
    macro_rules! three {
        ($tile:ident $($parameter:literal)*) => {
            match tokens {
                1 => $tile::<$($parameter,)* 1>,
                2 => $tile::<$($parameter,)* 2>,
                3 => $tile::<$($parameter,)* 3>,
                _ => unreachable!("no AVX2 kernel for {tokens} tokens"),
            }
        };
    }
    match format {
        F32 | F16 | Bf16 => match tokens {
            4 => float_tile::<false, 4>,
            5 => float_tile::<false, 5>,
            6 => float_tile::<false, 6>,
            _ => three!(float_tile false),
        },
        Fp8 => three!(float_tile true),
        Int8 => three!(row8_tile),
        Q3K | Q6K => three!(block_tile 2 0 false false),
        Q2K => three!(block_tile 2 2 false false),
        Q4_1 | Q5_1 | Q4K | Q5K => three!(block_tile 1 1 false false),
        Int8Group => three!(block_tile 1 1 true false),
        Q4_0 | Q5_0 | Int4 => three!(block_tile 1 0 false false),
        Q8_0 => three!(block_tile 1 0 true true),
        Iq4Nl => three!(block_tile 1 0 true false),
    }
}

/// # Safety
/// As [`super::Unpack`] says.
pub(crate) unsafe fn unpack(a: &UnpackArgs) {
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn body(a: &UnpackArgs) {
        // SAFETY: the caller's promise.
        unsafe { panel::unpack_body(a, Isa::Avx2) }
    }
    // SAFETY: the caller's promise.
    unsafe { body(a) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn block_tile<
    const SUBS: usize,
    const MINS: usize,
    const SIGNED: bool,
    const FINE: bool,
    const T: usize,
>(
    a: &TileArgs,
) {
    // SAFETY: the panel has `blocks` blocks of quads, scales and minima, and every token a record for each.
    unsafe {
        let words = QUADS + SUBS + 1 + MINS;
        let mut acc: [[__m256; T]; HALVES] = load(a);
        for b in 0..a.blocks {
            let (block, x) = (a.tile(0).add(b * a.layout.block_bytes), a.x.add(b * T * words));
            for sub in 0..SUBS {
                let mut sums = [[_mm256_setzero_si256(); T]; HALVES];
                for t in 0..T {
                    let start = _mm256_set1_epi32(*x.add(t * words + QUADS + sub) as i32);
                    sums[0][t] = start;
                    sums[1][t] = start;
                }
                for s in sub * QUADS / SUBS..(sub + 1) * QUADS / SUBS {
                    add_products::<SIGNED, T>(&mut sums, block.add(s * LINE), x.add(s), words);
                }
                for t in 0..T {
                    let word = _mm256_set1_ps(f32::from_bits(*x.add(t * words + QUADS + SUBS)));
                    for h in 0..HALVES {
                        let scale = line(block, QUADS + sub, h);
                        let sum = _mm256_castsi256_ps(sums[h][t]);
                        let sum = if FINE {
                            _mm256_mul_ps(_mm256_sub_ps(sum, _mm256_set1_ps(MAGIC)), word)
                        } else {
                            _mm256_sub_ps(sum, word)
                        };
                        acc[h][t] = _mm256_fmadd_ps(sum, scale, acc[h][t]);
                    }
                }
            }
            for m in 0..MINS {
                for t in 0..T {
                    let sum = _mm256_set1_ps(f32::from_bits(*x.add(t * words + QUADS + SUBS + 1 + m)));
                    for h in 0..HALVES {
                        acc[h][t] = _mm256_fmadd_ps(sum, line(block, QUADS + SUBS + m, h), acc[h][t]);
                    }
                }
            }
        }
        finish(a, &acc, |_, _, v| v);
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn row8_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: the panel has a header and `blocks` blocks of quads, and every token a record for each. Sums are kept as floats
    // by bits alone.
    unsafe {
        let kept: [[__m256; T]; HALVES] = load(a);
        let mut sums = [[_mm256_setzero_si256(); T]; HALVES];
        for h in 0..HALVES {
            for t in 0..T {
                sums[h][t] = _mm256_castps_si256(kept[h][t]);
            }
        }
        for b in 0..a.blocks {
            let block = a.tile(0).add(a.layout.header_bytes + b * a.layout.block_bytes);
            for s in 0..QUADS {
                add_products::<true, T>(&mut sums, block.add(s * LINE), a.x.add(b * T * QUADS + s), QUADS);
            }
        }
        let mut kept = [[_mm256_setzero_ps(); T]; HALVES];
        for h in 0..HALVES {
            for t in 0..T {
                kept[h][t] = _mm256_castsi256_ps(sums[h][t]);
            }
        }
        finish(a, &kept, |h, t, v| {
            let offset = _mm256_set1_epi32(*a.token_offsets.add(t));
            let scale = _mm256_mul_ps(line(a.tile(0), 0, h), _mm256_set1_ps(*a.token_scales.add(t)));
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_castps_si256(v), offset)), scale)
        });
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn float_tile<const FP8: bool, const T: usize>(a: &TileArgs) {
    // SAFETY: the panel has `blocks` blocks of columns (fp8: and scales), and every token a record for each.
    unsafe {
        let mut acc: [[__m256; T]; HALVES] = load(a);
        let mut chunk = [[_mm256_setzero_ps(); T]; HALVES];
        for b in 0..a.blocks {
            let block = a.tile(0).add(b * a.layout.block_bytes);
            for k in 0..BLOCK {
                let w = [line(block, k, 0), line(block, k, 1)];
                for t in 0..T {
                    let x = _mm256_set1_ps(f32::from_bits(*a.x.add((b * T + t) * BLOCK + k)));
                    for h in 0..HALVES {
                        let sum = if FP8 { &mut chunk[h][t] } else { &mut acc[h][t] };
                        *sum = _mm256_fmadd_ps(w[h], x, *sum);
                    }
                }
            }
            if FP8 && ((b + 1) % (FP8_CHUNK / BLOCK) == 0 || b + 1 == a.blocks) {
                for h in 0..HALVES {
                    for t in 0..T {
                        acc[h][t] = _mm256_fmadd_ps(chunk[h][t], line(block, BLOCK, h), acc[h][t]);
                        chunk[h][t] = _mm256_setzero_ps();
                    }
                }
            }
        }
        finish(a, &acc, |_, t, v| match FP8 {
            true => _mm256_mul_ps(v, _mm256_set1_ps(*a.token_scales.add(t))),
            false => v,
        });
    }
}

/// Adds the products of a quad with the word of each token.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products<const SIGNED: bool, const T: usize>(
    sums: &mut [[__m256i; T]; HALVES],
    quad: *const u8,
    x: *const u32,
    words: usize,
) {
    let ones = _mm256_set1_epi16(1);
    for h in 0..HALVES {
        // SAFETY: a quad is a line of 64 bytes.
        let w = unsafe { _mm256_load_si256(quad.add(h * LINE / HALVES).cast()) };
        for t in 0..T {
            // SAFETY: `x` points at the word of the first of `T` records of `words`.
            let x = _mm256_set1_epi32(unsafe { *x.add(t * words) } as i32);
            let pairs = match SIGNED {
                true => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
                false => _mm256_maddubs_epi16(w, x),
            };
            sums[h][t] = _mm256_add_epi32(sums[h][t], _mm256_madd_epi16(pairs, ones));
        }
    }
}

/// Half `h` of line `index`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn line(block: *const u8, index: usize, h: usize) -> __m256 {
    // SAFETY: the caller names a line of a panel, whose blocks are aligned to 64 bytes.
    unsafe { _mm256_load_ps(block.add(index * LINE + h * LINE / HALVES).cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load<const T: usize>(a: &TileArgs) -> [[__m256; T]; HALVES] {
    let mut sums = [[_mm256_setzero_ps(); T]; HALVES];
    if a.resume {
        for t in 0..T {
            for h in 0..HALVES {
                // SAFETY: the scratch has a line for every token.
                sums[h][t] = unsafe { _mm256_load_ps(a.sums.add(t * TILE_ROWS + h * LANES)) };
            }
        }
    }
    sums
}

/// Keeps the sums for the next panel, or makes them outputs of the rows that exist.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish<const T: usize>(
    a: &TileArgs,
    sums: &[[__m256; T]; HALVES],
    output: impl Fn(usize, usize, __m256) -> __m256,
) {
    for t in 0..T {
        for h in 0..HALVES {
            // SAFETY: the scratch has a line for every token; the mask keeps to rows that exist, other lanes are not accessed.
            unsafe {
                if a.suspend {
                    _mm256_store_ps(a.sums.add(t * TILE_ROWS + h * LANES), sums[h][t]);
                } else {
                    let out = a.out.wrapping_add(t * a.out_stride + h * LANES);
                    _mm256_maskstore_ps(out, mask(a, h), output(h, t, sums[h][t]));
                }
            }
        }
    }
}

/// All ones in the lanes of half `h` whose rows exist.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(a: &TileArgs, h: usize) -> __m256i {
    let rows = a.lanes(0).saturating_sub(h * LANES).min(LANES) as i32;
    _mm256_cmpgt_epi32(_mm256_set1_epi32(rows), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
