//! Inner loops for AVX-512 with VNNI and BF16: one register holds one column group of a whole tile.
//!
//! Each kernel is written once for `R` tiles x `T` tokens and made for every shape the plan can ask for. Per step it loads
//! `R` registers of weights and broadcasts `T` words of activations, so a 2 x 12 float tile does 24 multiply-adds with 14
//! loads, which two load ports can feed.

use std::arch::x86_64::*;

use super::{Kernel, PREFETCH_BYTES, Plan, TILE_ROWS, TileArgs};
use crate::WeightFormat;

/// With few tokens a product is bound by memory: four tiles side by side keep more loads in flight.
const FEW_TILES: usize = 4;
const MANY_TILES: usize = 2;

pub(crate) fn plan(format: WeightFormat, tokens: usize) -> Plan {
    // Sums of the float formats take one register per tile and token; the block formats need two, one of integers.
    let (few, many) = if format.block() > 1 { (2, 6) } else { (4, 12) };
    if tokens <= few {
        return Plan { tiles: FEW_TILES, tokens: few };
    }
    Plan { tiles: MANY_TILES, tokens: many }
}

pub(crate) fn kernel(format: WeightFormat, plan: &Plan, tokens: usize) -> Kernel {
    macro_rules! pick {
        ($tile:ident: $($t:literal)*) => {
            match (plan.tiles, tokens) {
                $((MANY_TILES, $t) => $tile::<MANY_TILES, $t>,)*
                (FEW_TILES, 1) => $tile::<FEW_TILES, 1>,
                (FEW_TILES, 2) => $tile::<FEW_TILES, 2>,
                (FEW_TILES, 3) => $tile::<FEW_TILES, 3>,
                (FEW_TILES, 4) => $tile::<FEW_TILES, 4>,
                (tiles, tokens) => unreachable!("no AVX-512 kernel for {tiles} tiles x {tokens} tokens"),
            }
        };
    }
    match format {
        WeightFormat::F32 => pick!(f32_tile: 1 2 3 4 5 6 7 8 9 10 11 12),
        WeightFormat::Bf16 => pick!(bf16_tile: 1 2 3 4 5 6 7 8 9 10 11 12),
        WeightFormat::Q8_0 => pick!(q8_0_tile: 1 2 3 4 5 6),
        WeightFormat::Q4_0 => pick!(q4_0_tile: 1 2 3 4 5 6),
        _ => unreachable!("{format} is not packed"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn f32_tile<const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 64 bytes of weights per tile and one word per token; the caller vouches for `units` of them.
    unsafe {
        let w = tiles::<R>(a);
        let mut acc = [[_mm512_setzero_ps(); T]; R];
        for unit in 0..a.units {
            let mut wv = [_mm512_setzero_ps(); R];
            for r in 0..R {
                prefetch::<R>(w[r], unit * 64);
                wv[r] = _mm512_load_ps(w[r].add(unit * 64).cast());
            }
            for t in 0..T {
                let x = _mm512_set1_ps(f32::from_bits(*a.x.add(unit * T + t)));
                for r in 0..R {
                    acc[r][t] = _mm512_fmadd_ps(wv[r], x, acc[r][t]);
                }
            }
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn bf16_tile<const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: as in `f32_tile`; a word holds two bf16. The casts between vector types are of the same size and any bits are
    // valid.
    unsafe {
        let w = tiles::<R>(a);
        let mut acc = [[_mm512_setzero_ps(); T]; R];
        for unit in 0..a.units {
            let mut wv = [_mm512_setzero_si512(); R];
            for r in 0..R {
                prefetch::<R>(w[r], unit * 64);
                wv[r] = _mm512_load_si512(w[r].add(unit * 64).cast());
            }
            for t in 0..T {
                let x = _mm512_set1_epi32(*a.x.add(unit * T + t) as i32);
                for r in 0..R {
                    acc[r][t] = _mm512_dpbf16_ps(acc[r][t], pairs(wv[r]), pairs(x));
                }
            }
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q8_0_tile<const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 8 x 64 bytes and 16 scales per tile, and 8 words, a scale and an offset per token; the caller
    // vouches for `units` of them.
    unsafe {
        let w = tiles::<R>(a);
        let mut acc = [[_mm512_setzero_ps(); T]; R];
        for unit in 0..a.units {
            let mut sums = offsets::<R, T>(a, unit);
            for step in 0..8 {
                let at = (unit * 8 + step) * 64;
                let mut wv = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    prefetch::<R>(w[r], at);
                    wv[r] = _mm512_load_si512(w[r].add(at).cast());
                }
                dot::<R, T>(&mut sums, &wv, a.x.add((unit * 8 + step) * T));
            }
            scale(a, unit, &sums, &mut acc);
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn q4_0_tile<const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: as in `q8_0_tile`, with 4 x 64 bytes per unit, low nibbles first.
    unsafe {
        let w = tiles::<R>(a);
        let mut acc = [[_mm512_setzero_ps(); T]; R];
        let nibble = _mm512_set1_epi8(15);
        for unit in 0..a.units {
            let mut sums = offsets::<R, T>(a, unit);
            for step in 0..4 {
                let at = (unit * 4 + step) * 64;
                let mut low = [_mm512_setzero_si512(); R];
                let mut high = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    prefetch::<R>(w[r], at);
                    let bytes = _mm512_load_si512(w[r].add(at).cast());
                    low[r] = _mm512_and_si512(bytes, nibble);
                    high[r] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
                }
                dot::<R, T>(&mut sums, &low, a.x.add((unit * 8 + step) * T));
                dot::<R, T>(&mut sums, &high, a.x.add((unit * 8 + step + 4) * T));
            }
            scale(a, unit, &sums, &mut acc);
        }
        store(a, &acc);
    }
}

/// Stored weights are unsigned (`q + bias`), so integer sums start at minus the bias times the sum of the activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn offsets<const R: usize, const T: usize>(a: &TileArgs, unit: usize) -> [[__m512i; T]; R] {
    let mut sums = [[_mm512_setzero_si512(); T]; R];
    for t in 0..T {
        // SAFETY: one offset per unit and token.
        let offset = _mm512_set1_epi32(unsafe { *a.x_offsets.add(unit * T + t) });
        for r in 0..R {
            sums[r][t] = offset;
        }
    }
    sums
}

/// Adds the products of 4 columns: 16 rows of `R` tiles with the word of each token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn dot<const R: usize, const T: usize>(sums: &mut [[__m512i; T]; R], w: &[__m512i; R], x: *const u32) {
    for t in 0..T {
        // SAFETY: `x` points at one word per token.
        let x = _mm512_set1_epi32(unsafe { *x.add(t) } as i32);
        for r in 0..R {
            sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], w[r], x);
        }
    }
}

/// `acc = fma(f32(sum), d_w * d_x, acc)`: the end of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn scale<const R: usize, const T: usize>(
    a: &TileArgs,
    unit: usize,
    sums: &[[__m512i; T]; R],
    acc: &mut [[__m512; T]; R],
) {
    for r in 0..R {
        // SAFETY: 16 scales per unit in every tile, `tile_stride` bytes apart.
        let d_w = unsafe {
            let scales = a.scales.cast::<u8>().add(a.tile(r) * a.tile_stride + unit * TILE_ROWS * 2);
            _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()))
        };
        for t in 0..T {
            // SAFETY: one scale per unit and token.
            let d_x = _mm512_set1_ps(unsafe { *a.x_scales.add(unit * T + t) });
            acc[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][t]), _mm512_mul_ps(d_w, d_x), acc[r][t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tiles<const R: usize>(a: &TileArgs) -> [*const u8; R] {
    let mut pointers = [a.weights; R];
    for r in 1..R {
        // SAFETY: `tile` only names tiles that hold one of the `rows` rows.
        pointers[r] = unsafe { a.weights.add(a.tile(r) * a.tile_stride) };
    }
    pointers
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn prefetch<const R: usize>(tile: *const u8, at: usize) {
    if R == FEW_TILES {
        // Past the end of the matrix this is an address that is never read: a prefetch cannot fault.
        _mm_prefetch::<_MM_HINT_T0>(tile.wrapping_add(at + PREFETCH_BYTES).cast());
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(v: __m512i) -> __m512bh {
    // SAFETY: same size, and every bit pattern is valid for both types.
    unsafe { std::mem::transmute(v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mask(lanes: usize) -> __mmask16 {
    ((1u32 << lanes) - 1) as __mmask16
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const R: usize, const T: usize>(a: &TileArgs, acc: &[[__m512; T]; R]) {
    for r in 0..R {
        for t in 0..T {
            // SAFETY: the mask keeps to rows that exist; masked-out lanes are not accessed.
            unsafe {
                let out = a.out.wrapping_add(t * a.out_stride + r * TILE_ROWS);
                _mm512_mask_storeu_ps(out, mask(a.lanes(r)), acc[r][t]);
            }
        }
    }
}
