//! Inner loops for AVX2 with FMA and F16C: a tile is two registers of 8 rows.
//!
//! The layout is that of the AVX-512 kernels, so one register holds a column group of half a tile. Each kernel is written
//! once for `H` half tiles x `T` tokens. Sixteen registers allow one tile x 6 tokens of floats; the block formats spend
//! registers on integers and take 3. A single token uses more tiles instead, so that its sums do not wait for each other.

use std::arch::x86_64::*;

use super::{Kernel, PREFETCH_BYTES, Plan, TILE_ROWS, TileArgs};
use crate::WeightFormat;

/// Rows per register, and registers per tile.
const LANES: usize = 8;
const HALVES: usize = TILE_ROWS / LANES;

/// Half tiles of a single token: four tiles of floats, two of the block formats.
const FEW_FLOAT: usize = 4 * HALVES;
const FEW_BLOCK: usize = 2 * HALVES;

pub(crate) fn plan(format: WeightFormat, tokens: usize) -> Plan {
    match ((format.block() > 1), tokens) {
        (false, 1) => Plan { tiles: FEW_FLOAT / HALVES, tokens: 1 },
        (true, 1) => Plan { tiles: FEW_BLOCK / HALVES, tokens: 1 },
        (false, _) => Plan { tiles: 1, tokens: 6 },
        (true, _) => Plan { tiles: 1, tokens: 3 },
    }
}

pub(crate) fn kernel(format: WeightFormat, plan: &Plan, tokens: usize) -> Kernel {
    macro_rules! pick {
        ($tile:ident: $few:ident $($t:literal)*) => {
            match (plan.tiles, tokens) {
                $((1, $t) => $tile::<HALVES, $t>,)*
                (_, 1) => $tile::<$few, 1>,
                (tiles, tokens) => unreachable!("no AVX2 kernel for {tiles} tiles x {tokens} tokens"),
            }
        };
    }
    match format {
        WeightFormat::F32 => pick!(f32_tile: FEW_FLOAT 1 2 3 4 5 6),
        WeightFormat::Bf16 => pick!(bf16_tile: FEW_FLOAT 1 2 3 4 5 6),
        WeightFormat::Q8_0 => pick!(q8_0_tile: FEW_BLOCK 1 2 3),
        WeightFormat::Q4_0 => pick!(q4_0_tile: FEW_BLOCK 1 2 3),
        _ => unreachable!("{format} is not packed"),
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn f32_tile<const H: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 64 bytes of weights and one word per token; the caller vouches for `units` of them.
    unsafe {
        let w = half_tiles::<H>(a);
        let mut acc = [[_mm256_setzero_ps(); T]; H];
        for unit in 0..a.units {
            let mut wv = [_mm256_setzero_ps(); H];
            for h in 0..H {
                wv[h] = _mm256_castsi256_ps(load::<H>(w[h], unit * 64));
            }
            add_products(&mut acc, &wv, a.x.add(unit * T));
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_tile<const H: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 64 bytes of pairs and two words per token; the caller vouches for `units` of them.
    unsafe {
        let w = half_tiles::<H>(a);
        let mut acc = [[_mm256_setzero_ps(); T]; H];
        let odd = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        for unit in 0..a.units {
            let mut first = [_mm256_setzero_ps(); H];
            let mut second = [_mm256_setzero_ps(); H];
            for h in 0..H {
                let pairs = load::<H>(w[h], unit * 64);
                // A bf16 is the upper half of an f32.
                first[h] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
                second[h] = _mm256_castsi256_ps(_mm256_and_si256(pairs, odd));
            }
            add_products(&mut acc, &first, a.x.add(unit * 2 * T));
            add_products(&mut acc, &second, a.x.add((unit * 2 + 1) * T));
        }
        store(a, &acc);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_0_tile<const H: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 8 x 64 bytes and 16 scales, and 8 words and a scale per token; the caller vouches for them.
    unsafe {
        let w = half_tiles::<H>(a);
        let mut acc = [[_mm256_setzero_ps(); T]; H];
        let bias = _mm256_set1_epi8(-128);
        let ones = _mm256_set1_epi16(1);
        for unit in 0..a.units {
            let mut sums = [[_mm256_setzero_si256(); T]; H];
            for step in 0..8 {
                for h in 0..H {
                    // The bias is removed here: the byte multiply saturates for unsigned weights above 127.
                    let wv = _mm256_xor_si256(load::<H>(w[h], (unit * 8 + step) * 64), bias);
                    let magnitude = _mm256_abs_epi8(wv);
                    for t in 0..T {
                        let x = _mm256_set1_epi32(*a.x.add((unit * 8 + step) * T + t) as i32);
                        // |w| * (x with the sign of w): pairs reach 2 * 127 * 127, which 16 bits hold.
                        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, wv));
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
unsafe fn q4_0_tile<const H: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 4 x 64 bytes and 16 scales, and 8 words, a scale and an offset per token; the caller vouches for
    // them.
    unsafe {
        let w = half_tiles::<H>(a);
        let mut acc = [[_mm256_setzero_ps(); T]; H];
        let nibble = _mm256_set1_epi8(15);
        let ones = _mm256_set1_epi16(1);
        for unit in 0..a.units {
            // Sums of a whole block stay in 16 bits: 8 steps x 2 products x 15 * 127 = 30480.
            let mut pairs = [[_mm256_setzero_si256(); T]; H];
            for step in 0..4 {
                for h in 0..H {
                    let bytes = load::<H>(w[h], (unit * 4 + step) * 64);
                    let low = _mm256_and_si256(bytes, nibble);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
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
                for h in 0..H {
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
unsafe fn add_products<const H: usize, const T: usize>(
    acc: &mut [[__m256; T]; H],
    w: &[__m256; H],
    x: *const u32,
) {
    for t in 0..T {
        // SAFETY: `x` points at one word per token.
        let x = _mm256_set1_ps(f32::from_bits(unsafe { *x.add(t) }));
        for h in 0..H {
            acc[h][t] = _mm256_fmadd_ps(w[h], x, acc[h][t]);
        }
    }
}

/// `acc = fma(f32(sum), d_w * d_x, acc)`: the end of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale<const H: usize, const T: usize>(
    a: &TileArgs,
    unit: usize,
    sums: &[[__m256i; T]; H],
    acc: &mut [[__m256; T]; H],
) {
    for h in 0..H {
        // SAFETY: 16 scales per unit in every tile, `tile_stride` bytes apart.
        let d_w = unsafe {
            let tile = a.scales.cast::<u8>().add(a.tile(h / HALVES) * a.tile_stride);
            _mm256_cvtph_ps(_mm_loadu_si128(tile.add((unit * TILE_ROWS + h % HALVES * LANES) * 2).cast()))
        };
        for t in 0..T {
            // SAFETY: one scale per unit and token.
            let d_x = _mm256_set1_ps(unsafe { *a.x_scales.add(unit * T + t) });
            acc[h][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[h][t]), _mm256_mul_ps(d_w, d_x), acc[h][t]);
        }
    }
}

/// Where each half tile starts; its pieces follow every 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_tiles<const H: usize>(a: &TileArgs) -> [*const u8; H] {
    let mut pointers = [a.weights; H];
    for h in 0..H {
        // SAFETY: `tile` only names tiles that hold one of the `rows` rows.
        pointers[h] = unsafe { a.weights.add(a.tile(h / HALVES) * a.tile_stride + h % HALVES * 32) };
    }
    pointers
}

/// The 32 bytes of a half tile at `at`. With more than one tile memory is the limit, so it is asked for ahead of time.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load<const H: usize>(half: *const u8, at: usize) -> __m256i {
    if H > HALVES {
        // Past the end of the matrix this is an address that is never read: a prefetch cannot fault.
        _mm_prefetch::<_MM_HINT_T0>(half.wrapping_add(at + PREFETCH_BYTES).cast());
    }
    // SAFETY: the caller's unit lies inside the tile; tiles are aligned to 64 bytes.
    unsafe { _mm256_load_si256(half.add(at).cast()) }
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
unsafe fn store<const H: usize, const T: usize>(a: &TileArgs, acc: &[[__m256; T]; H]) {
    for h in 0..H {
        for t in 0..T {
            // SAFETY: the mask keeps to rows that exist; masked-out lanes are not accessed.
            unsafe {
                let out = a.out.wrapping_add(t * a.out_stride + h * LANES);
                _mm256_maskstore_ps(out, mask(a, h), acc[h][t]);
            }
        }
    }
}
