//! Inner loops in plain Rust, for CPUs without AVX2. The compiler turns the 16 lanes into whatever vectors there are.
//!
//! One token per call: more sums than 16 lanes do not fit the registers of a basic vector unit, and a tile of weights stays
//! in cache from one token to the next anyway.

use super::{Kernel, Plan, TILE_ROWS, TileArgs};
use crate::WeightFormat;
use crate::quant::BLOCK;

type Lanes = [f32; TILE_ROWS];
type Words = [u32; TILE_ROWS];

/// Groups of four columns in a block.
const STEPS: usize = BLOCK / 4;

pub(crate) fn plan() -> Plan {
    Plan { tiles: 1, tokens: 1 }
}

pub(crate) fn kernel(format: WeightFormat) -> Kernel {
    match format {
        WeightFormat::F32 => f32_tile,
        WeightFormat::Bf16 => bf16_tile,
        WeightFormat::Q8_0 => q8_0_tile,
        WeightFormat::Q4_0 => q4_0_tile,
        _ => unreachable!("{format} is not packed"),
    }
}

unsafe fn f32_tile(a: &TileArgs) {
    // SAFETY: one unit is 16 f32 weights and one word; the caller vouches for `units` of them.
    unsafe {
        let mut acc = [0.0; TILE_ROWS];
        for unit in 0..a.units {
            add_products(&mut acc, &*a.weights.cast::<Lanes>().add(unit), *a.x.add(unit));
        }
        store(a, &acc);
    }
}

unsafe fn bf16_tile(a: &TileArgs) {
    // SAFETY: one unit is 16 pairs of bf16 weights and two words; the caller vouches for `units` of them.
    unsafe {
        let mut acc = [0.0; TILE_ROWS];
        for unit in 0..a.units {
            let pairs = &*a.weights.cast::<Words>().add(unit);
            // The first of a pair lies at the lower address; a bf16 is the upper half of an f32.
            let shift = if cfg!(target_endian = "little") { 16 } else { 0 };
            let (mut first, mut second) = ([0.0; TILE_ROWS], [0.0; TILE_ROWS]);
            for row in 0..TILE_ROWS {
                first[row] = f32::from_bits(pairs[row] << shift & 0xffff_0000);
                second[row] = f32::from_bits(pairs[row] << (16 - shift) & 0xffff_0000);
            }
            add_products(&mut acc, &first, *a.x.add(unit * 2));
            add_products(&mut acc, &second, *a.x.add(unit * 2 + 1));
        }
        store(a, &acc);
    }
}

unsafe fn q8_0_tile(a: &TileArgs) {
    // SAFETY: a unit is 8 groups of 16 x 4 bytes; the caller vouches for `units` of them.
    unsafe {
        block_tile(a, |unit, sums| {
            for step in 0..STEPS {
                let w = &*a.weights.cast::<Words>().add(unit * STEPS + step);
                add_integer_products::<255>(sums, w, 0, *a.x.add(unit * STEPS + step));
            }
        });
    }
}

unsafe fn q4_0_tile(a: &TileArgs) {
    // SAFETY: a unit is 4 groups of 16 x 4 bytes, low nibbles for words 0..4 and high nibbles for words 4..8.
    unsafe {
        block_tile(a, |unit, sums| {
            for step in 0..STEPS / 2 {
                let w = &*a.weights.cast::<Words>().add(unit * STEPS / 2 + step);
                add_integer_products::<15>(sums, w, 0, *a.x.add(unit * STEPS + step));
                add_integer_products::<15>(sums, w, 4, *a.x.add(unit * STEPS + step + STEPS / 2));
            }
        });
    }
}

/// The block formats: `products` adds the integer products of a block.
#[inline(always)]
unsafe fn block_tile(a: &TileArgs, products: impl Fn(usize, &mut [i32; TILE_ROWS])) {
    let mut acc = [0.0f32; TILE_ROWS];
    for unit in 0..a.units {
        // SAFETY: one offset and one scale of the token and 16 scales of the weights per unit.
        let (offset, d_x, d_w) = unsafe {
            let d_w = &*a.scales.add(unit * TILE_ROWS).cast::<[half::f16; TILE_ROWS]>();
            (*a.x_offsets.add(unit), *a.x_scales.add(unit), d_w)
        };
        let mut sums = [offset; TILE_ROWS];
        products(unit, &mut sums);
        for row in 0..TILE_ROWS {
            acc[row] = (sums[row] as f32).mul_add(d_w[row].to_f32() * d_x, acc[row]);
        }
    }
    // SAFETY: the caller vouches for the outputs.
    unsafe { store(a, &acc) };
}

/// Adds the products of 4 columns. Products of 16-bit values are the widest integer multiply every vector unit has, so both
/// factors must be seen by the compiler to fit.
#[inline(always)]
fn add_integer_products<const MASK: u32>(sums: &mut [i32; TILE_ROWS], w: &Words, shift: u32, x: u32) {
    let x: [i8; 4] = bytemuck::cast(x);
    for j in 0..4 {
        for row in 0..TILE_ROWS {
            let weight = u32::from_le(w[row]) >> (8 * j as u32 + shift) & MASK;
            sums[row] += weight as i32 * i32::from(x[j]);
        }
    }
}

#[inline(always)]
fn add_products(acc: &mut Lanes, w: &Lanes, x: u32) {
    let x = f32::from_bits(x);
    for row in 0..TILE_ROWS {
        acc[row] += w[row] * x;
    }
}

#[inline(always)]
unsafe fn store(a: &TileArgs, acc: &Lanes) {
    for row in 0..a.rows.min(TILE_ROWS) {
        // SAFETY: outputs of rows that exist.
        unsafe { *a.out.add(row) = acc[row] };
    }
}
