//! Inner loops in plain Rust, for CPUs without AVX2. The compiler turns the 16 lanes into whatever vectors there are.
//!
//! One tile and one token per call: more sums than 16 lanes do not fit the registers of a basic vector unit. Weights come from
//! unpacked panels, so there is one loop for all integer formats and one for all floats.

use super::layout::{BLOCK, FP8_CHUNK, LINE, QUADS, TILE_ROWS};
use super::{Kernel, Plan, TileArgs};
use crate::WeightFormat;
use crate::quant::MAGIC;

type Lanes = [f32; TILE_ROWS];
type Words = [u32; TILE_ROWS];

pub(crate) fn plan() -> Plan {
    Plan { tiles: 1, tokens: 1, panels: true, ahead: 0 }
}

pub(crate) fn kernel(format: WeightFormat, _wide: bool, _plan: &Plan, _tokens: usize) -> Kernel {
    use WeightFormat::*;
    match format {
        F32 | F16 | Bf16 => float_tile::<false>,
        Fp8 => float_tile::<true>,
        Int8 => row8_tile,
        Q3K | Q6K => block_tile::<2, 0, false>,
        Q2K => block_tile::<2, 2, false>,
        Q4_1 | Q5_1 | Q4K | Q5K | Int8Group => block_tile::<1, 1, false>,
        Q8_0 => block_tile::<1, 0, true>,
        Q4_0 | Q5_0 | Iq4Nl | Int4 => block_tile::<1, 0, false>,
    }
}

/// Line `index` of a block.
#[inline(always)]
unsafe fn line<'a, T>(block: *const u8, index: usize) -> &'a [T; TILE_ROWS] {
    // SAFETY: the caller names a line of a panel block, which is aligned to 64 bytes and holds 16 words.
    unsafe { &*block.add(index * LINE).cast() }
}

unsafe fn block_tile<const SUBS: usize, const MINS: usize, const FINE: bool>(a: &TileArgs) {
    // SAFETY: the panel has `blocks` blocks of quads, scales and minima, and the token a record for each.
    unsafe {
        let mut acc = load::<f32>(a);
        let words = QUADS + SUBS + 1 + MINS;
        for b in 0..a.blocks {
            let (block, x) = (a.tile(0).add(b * a.layout.block_bytes), a.x.add(b * words));
            let word = f32::from_bits(*x.add(QUADS + SUBS));
            for sub in 0..SUBS {
                let mut sums = [*x.add(QUADS + sub) as i32; TILE_ROWS];
                for s in sub * QUADS / SUBS..(sub + 1) * QUADS / SUBS {
                    add_products(&mut sums, line(block, s), *x.add(s));
                }
                let scale: &Lanes = line(block, QUADS + sub);
                for row in 0..TILE_ROWS {
                    let sum = f32::from_bits(sums[row] as u32);
                    let sum = if FINE { (sum - MAGIC) * word } else { sum - word };
                    acc[row] = sum.mul_add(scale[row], acc[row]);
                }
            }
            for m in 0..MINS {
                let sum = f32::from_bits(*x.add(QUADS + SUBS + 1 + m));
                let min: &Lanes = line(block, QUADS + SUBS + m);
                for row in 0..TILE_ROWS {
                    acc[row] = sum.mul_add(min[row], acc[row]);
                }
            }
        }
        finish(a, &acc, |_, v| v);
    }
}

unsafe fn row8_tile(a: &TileArgs) {
    // SAFETY: the panel has a header and `blocks` blocks of quads, and the token a record for each.
    unsafe {
        let mut sums = load::<i32>(a);
        for b in 0..a.blocks {
            let block = a.tile(0).add(a.layout.header_bytes + b * a.layout.block_bytes);
            for s in 0..QUADS {
                add_products(&mut sums, line(block, s), *a.x.add(b * QUADS + s));
            }
        }
        let scale: &Lanes = line(a.tile(0), 0);
        finish(a, &sums, |row, sum| (sum + *a.token_offsets) as f32 * (scale[row] * *a.token_scales));
    }
}

unsafe fn float_tile<const FP8: bool>(a: &TileArgs) {
    // SAFETY: the panel has `blocks` blocks of columns (fp8: and scales), and the token a record for each.
    unsafe {
        let mut acc = load::<f32>(a);
        let mut chunk = [0.0; TILE_ROWS];
        for b in 0..a.blocks {
            let block = a.tile(0).add(b * a.layout.block_bytes);
            let sums = if FP8 { &mut chunk } else { &mut acc };
            for k in 0..BLOCK {
                let (w, x): (&Lanes, f32) = (line(block, k), f32::from_bits(*a.x.add(b * BLOCK + k)));
                for row in 0..TILE_ROWS {
                    sums[row] += w[row] * x;
                }
            }
            if FP8 && ((b + 1) % (FP8_CHUNK / BLOCK) == 0 || b + 1 == a.blocks) {
                let scale: &Lanes = line(block, BLOCK);
                for row in 0..TILE_ROWS {
                    acc[row] = chunk[row].mul_add(scale[row], acc[row]);
                }
                chunk = [0.0; TILE_ROWS];
            }
        }
        let token = if FP8 { *a.token_scales } else { 1.0 };
        finish(a, &acc, |_, v| if FP8 { v * token } else { v });
    }
}

/// Adds the products of 4 columns. Products of 16-bit values are the widest integer multiply every vector unit has, so both
/// factors must be seen by the compiler to fit.
#[inline(always)]
fn add_products(sums: &mut [i32; TILE_ROWS], w: &Words, x: u32) {
    let x: [i8; 4] = bytemuck::cast(x);
    for j in 0..4 {
        for row in 0..TILE_ROWS {
            let weight = u32::from_le(w[row]) >> (8 * j as u32) & 255;
            sums[row] = sums[row].wrapping_add(weight as i32 * i32::from(x[j]));
        }
    }
}

/// Sums of the panels before.
#[inline(always)]
unsafe fn load<T: bytemuck::Pod>(a: &TileArgs) -> [T; TILE_ROWS] {
    // SAFETY: the scratch has a line for this tile and token, and any bits are a `Pod`.
    if a.resume { unsafe { *a.sums.cast() } } else { bytemuck::Zeroable::zeroed() }
}

/// Keeps the sums for the next panel, or makes them outputs.
#[inline(always)]
unsafe fn finish<T: bytemuck::Pod>(a: &TileArgs, sums: &[T; TILE_ROWS], output: impl Fn(usize, T) -> f32) {
    // SAFETY: as in `load`, and outputs of rows that exist.
    unsafe {
        if a.suspend {
            *a.sums.cast() = *sums;
            return;
        }
        for row in 0..a.lanes(0) {
            *a.out.add(row) = output(row, sums[row]);
        }
    }
}
