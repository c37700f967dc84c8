//! Inner loops for AVX2 with FMA and F16C: a tile is two registers of 8 rows.
//!
//! The layout is that of the AVX-512 kernels, so one register holds a column group of half a tile. Sixteen registers allow
//! one tile x 6 tokens of floats; the block formats spend registers on integers and take 3.

use std::arch::x86_64::*;

use super::{Kernel, Plan, TILE_ROWS, TileArgs};
use crate::WeightFormat;

/// Registers per tile, and rows per register.
const HALVES: usize = 2;
const LANES: usize = TILE_ROWS / HALVES;

pub(crate) fn plan(format: WeightFormat) -> Plan {
    let many = if format.is_quantized() { 3 } else { 6 };
    Plan { tiles: 1, tokens: many }
}

pub(crate) fn kernel(format: WeightFormat, tokens: usize) -> Kernel {
    macro_rules! pick {
        ($tile:ident: $($t:literal)*) => {
            match tokens {
                $($t => $tile::<$t>,)*
                _ => unreachable!("no AVX2 kernel for {tokens} tokens"),
            }
        };
    }
    match format {
        WeightFormat::F32 => pick!(f32_tile: 1 2 3 4 5 6),
        WeightFormat::Bf16 => pick!(bf16_tile: 1 2 3 4 5 6),
        WeightFormat::Q8_0 => pick!(q8_0_tile: 1 2 3),
        WeightFormat::Q4_0 => pick!(q4_0_tile: 1 2 3),
    }
}

type Acc<const T: usize> = [[__m256; T]; HALVES];

#[target_feature(enable = "avx2,fma")]
unsafe fn f32_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 64 bytes of weights and one word per token; the caller vouches for `units` of them.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; HALVES];
        for unit in 0..a.units {
            let w = a.weights.add(unit * 64).cast::<f32>();
            let w = [_mm256_load_ps(w), _mm256_load_ps(w.add(LANES))];
            add_products(&mut acc, w, a.x.add(unit * T));
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 64 bytes of pairs and two words per token; the caller vouches for `units` of them.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; HALVES];
        let odd = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        for unit in 0..a.units {
            let w = halves(a.weights.add(unit * 64));
            // A bf16 is the upper half of an f32.
            let first = w.map(|w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)));
            let second = w.map(|w| _mm256_castsi256_ps(_mm256_and_si256(w, odd)));
            add_products(&mut acc, first, a.x.add(unit * 2 * T));
            add_products(&mut acc, second, a.x.add((unit * 2 + 1) * T));
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_0_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 8 x 64 bytes and 16 scales, and 8 words and a scale per token; the caller vouches for them.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; HALVES];
        let bias = _mm256_set1_epi8(-128);
        let ones = _mm256_set1_epi16(1);
        for unit in 0..a.units {
            let mut sums = [[_mm256_setzero_si256(); T]; HALVES];
            for step in 0..8 {
                let stored = halves(a.weights.add((unit * 8 + step) * 64));
                for h in 0..HALVES {
                    // The bias is removed here: the byte multiply saturates for unsigned weights above 127.
                    let w = _mm256_xor_si256(stored[h], bias);
                    let magnitude = _mm256_abs_epi8(w);
                    for t in 0..T {
                        let x = _mm256_set1_epi32(*a.x.add((unit * 8 + step) * T + t) as i32);
                        // |w| * (x with the sign of w): pairs reach 2 * 127 * 127, which 16 bits hold.
                        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
                        sums[h][t] = _mm256_add_epi32(sums[h][t], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            scale(a, unit, &sums, &mut acc);
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_0_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 4 x 64 bytes and 16 scales, and 8 words, a scale and an offset per token; the caller vouches for
    // them.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; HALVES];
        let nibble = _mm256_set1_epi8(15);
        let ones = _mm256_set1_epi16(1);
        for unit in 0..a.units {
            // Sums of a whole block stay in 16 bits: 8 steps x 2 products x 15 * 127 = 30480.
            let mut pairs = [[_mm256_setzero_si256(); T]; HALVES];
            for step in 0..4 {
                let bytes = halves(a.weights.add((unit * 4 + step) * 64));
                for h in 0..HALVES {
                    let low = _mm256_and_si256(bytes[h], nibble);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[h]), nibble);
                    for t in 0..T {
                        let x = a.x.add((unit * 8 + step) * T + t);
                        let x_low = _mm256_set1_epi32(*x as i32);
                        let x_high = _mm256_set1_epi32(*x.add(4 * T) as i32);
                        pairs[h][t] = _mm256_add_epi16(pairs[h][t], _mm256_maddubs_epi16(low, x_low));
                        pairs[h][t] = _mm256_add_epi16(pairs[h][t], _mm256_maddubs_epi16(high, x_high));
                    }
                }
            }
            for t in 0..T {
                let offset = _mm256_set1_epi32(*a.x_offsets.add(unit * T + t));
                for h in 0..HALVES {
                    pairs[h][t] = _mm256_add_epi32(_mm256_madd_epi16(pairs[h][t], ones), offset);
                }
            }
            scale(a, unit, &pairs, &mut acc);
        }
        store(a, &acc);
    }
}

/// `acc = fma(w, x, acc)` for one column and all tokens.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products<const T: usize>(acc: &mut Acc<T>, w: [__m256; HALVES], x: *const u32) {
    for t in 0..T {
        // SAFETY: `x` points at one word per token.
        let x = _mm256_set1_ps(f32::from_bits(unsafe { *x.add(t) }));
        for h in 0..HALVES {
            acc[h][t] = _mm256_fmadd_ps(w[h], x, acc[h][t]);
        }
    }
}

/// `acc = fma(f32(sum), d_w * d_x, acc)`: the end of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale<const T: usize>(a: &TileArgs, unit: usize, sums: &[[__m256i; T]; HALVES], acc: &mut Acc<T>) {
    for h in 0..HALVES {
        // SAFETY: 16 scales per unit.
        let d_w =
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(a.scales.add(unit * TILE_ROWS + h * LANES).cast())) };
        for t in 0..T {
            // SAFETY: one scale per unit and token.
            let d_x = _mm256_set1_ps(unsafe { *a.x_scales.add(unit * T + t) });
            acc[h][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[h][t]), _mm256_mul_ps(d_w, d_x), acc[h][t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn halves(at: *const u8) -> [__m256i; HALVES] {
    // SAFETY: `at` is 64 bytes of a tile, aligned to 64.
    unsafe { [_mm256_load_si256(at.cast()), _mm256_load_si256(at.add(32).cast())] }
}

/// All ones in the lanes of half `h` whose rows exist.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(a: &TileArgs, h: usize) -> __m256i {
    let rows = a.rows.saturating_sub(h * LANES).min(LANES) as i32;
    _mm256_cmpgt_epi32(_mm256_set1_epi32(rows), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const T: usize>(a: &TileArgs, acc: &Acc<T>) {
    for h in 0..HALVES {
        for t in 0..T {
            // SAFETY: the mask keeps to rows that exist; masked-out lanes are not accessed.
            unsafe {
                let out = a.out.wrapping_add(t * a.out_stride + h * LANES);
                _mm256_maskstore_ps(out, mask(a, h), acc[h][t]);
            }
        }
    }
}
