//! Inner loops in plain Rust, for CPUs without AVX2. The compiler turns the 16 lanes into whatever vectors there are.

use super::{Kernel, Plan, TILE_ROWS, TileArgs};
use crate::WeightFormat;
use crate::quant::BLOCK;

pub(crate) fn plan() -> Plan {
    Plan { tiles: 1, tokens: 4, units: usize::MAX }
}

type Lanes = [f32; TILE_ROWS];

pub(crate) fn kernel(format: WeightFormat, tokens: usize) -> Kernel {
    match tokens {
        1 => kernel_of::<1>(format),
        2 => kernel_of::<2>(format),
        3 => kernel_of::<3>(format),
        4 => kernel_of::<4>(format),
        _ => unreachable!("the portable kernels take 1..=4 tokens, not {tokens}"),
    }
}

fn kernel_of<const T: usize>(format: WeightFormat) -> Kernel {
    match format {
        WeightFormat::F32 => f32_tile::<T>,
        WeightFormat::Bf16 => bf16_tile::<T>,
        WeightFormat::Q8_0 => q8_0_tile::<T>,
        WeightFormat::Q4_0 => q4_0_tile::<T>,
    }
}

unsafe fn f32_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: one unit is 16 f32 weights and one word per token; the caller vouches for `units` of them.
    unsafe {
        let mut acc = load::<T>(a);
        for k in 0..a.units {
            let w = &*a.weights.cast::<Lanes>().add(k);
            for t in 0..T {
                add_product(&mut acc[t], w, f32::from_bits(*a.x.add(k * T + t)));
            }
        }
        store(a, &acc);
    }
}

unsafe fn bf16_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: one unit is 16 pairs of bf16 weights and two words per token; the caller vouches for `units` of them.
    unsafe {
        let mut acc = load::<T>(a);
        for unit in 0..a.units {
            let pairs = &*a.weights.cast::<[[u16; 2]; TILE_ROWS]>().add(unit);
            for half in 0..2 {
                let w = pairs.map(|pair| f32::from_bits(u32::from(pair[half]) << 16));
                for t in 0..T {
                    add_product(&mut acc[t], &w, f32::from_bits(*a.x.add((unit * 2 + half) * T + t)));
                }
            }
        }
        store(a, &acc);
    }
}

unsafe fn q8_0_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 8 steps of 16 x 4 bytes; the caller vouches for `units` of them.
    unsafe {
        block_tile::<T>(a, |unit, step| {
            let bytes = &*a.weights.cast::<[[u8; 4]; TILE_ROWS]>().add(unit * 8 + step);
            bytes.map(|word| word.map(|byte| i32::from(byte) - 128))
        });
    }
}

unsafe fn q4_0_tile<const T: usize>(a: &TileArgs) {
    // SAFETY: a unit is 4 steps of 16 x 4 bytes, low nibbles for steps 0..4 and high nibbles for steps 4..8.
    unsafe {
        block_tile::<T>(a, |unit, step| {
            let bytes = &*a.weights.cast::<[[u8; 4]; TILE_ROWS]>().add(unit * 4 + step % 4);
            let shift = if step < 4 { 0 } else { 4 };
            bytes.map(|word| word.map(|byte| i32::from(byte >> shift & 15) - 8))
        });
    }
}

/// The block formats: `weights(unit, step)` are the integers of 4 columns x 16 rows.
#[inline(always)]
unsafe fn block_tile<const T: usize>(a: &TileArgs, weights: impl Fn(usize, usize) -> [[i32; 4]; TILE_ROWS]) {
    const STEPS: usize = BLOCK / 4;
    // SAFETY: a unit has 8 words and one scale per token and 16 weight scales; the caller vouches for `units` of them.
    unsafe {
        let mut acc = load::<T>(a);
        for unit in 0..a.units {
            let mut sums = [[0i32; TILE_ROWS]; T];
            for step in 0..STEPS {
                let w = weights(unit, step);
                for t in 0..T {
                    let x: [i8; 4] = bytemuck::cast(*a.x.add((unit * STEPS + step) * T + t));
                    for row in 0..TILE_ROWS {
                        for j in 0..4 {
                            sums[t][row] += w[row][j] * i32::from(x[j]);
                        }
                    }
                }
            }
            let d_w =
                (*a.scales.add(unit * TILE_ROWS).cast::<[half::f16; TILE_ROWS]>()).map(half::f16::to_f32);
            for t in 0..T {
                let d_x = *a.x_scales.add(unit * T + t);
                for row in 0..TILE_ROWS {
                    acc[t][row] = (sums[t][row] as f32).mul_add(d_w[row] * d_x, acc[t][row]);
                }
            }
        }
        store(a, &acc);
    }
}

#[inline(always)]
fn add_product(acc: &mut Lanes, w: &Lanes, x: f32) {
    for (sum, w) in acc.iter_mut().zip(w) {
        *sum += w * x;
    }
}

#[inline(always)]
unsafe fn load<const T: usize>(a: &TileArgs) -> [Lanes; T] {
    let mut acc = [[0.0; TILE_ROWS]; T];
    if a.accumulate {
        for t in 0..T {
            for row in 0..a.rows.min(TILE_ROWS) {
                // SAFETY: output elements of existing rows and tokens.
                acc[t][row] = unsafe { *a.out.add(t * a.out_stride + row) };
            }
        }
    }
    acc
}

#[inline(always)]
unsafe fn store<const T: usize>(a: &TileArgs, acc: &[Lanes; T]) {
    for t in 0..T {
        for row in 0..a.rows.min(TILE_ROWS) {
            // SAFETY: output elements of existing rows and tokens.
            unsafe { *a.out.add(t * a.out_stride + row) = acc[t][row] };
        }
    }
}
