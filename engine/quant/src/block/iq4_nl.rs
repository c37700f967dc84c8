//! IQ4_NL: 32 weights as indices into sixteen unevenly spaced values, denser around zero where weights are.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::q4_0::nibble;
use super::search::{NOTHING, extreme};
use crate::BLOCK;

/// What the sixteen codes stand for (`kvalues_iq4nl` of ggml).
pub const IQ4_NL_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The block of GGUF type 20: weight = `d * IQ4_NL_VALUES[q]`, nibbles ordered as in Q4_0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq4Nl {
    pub d: f16,
    pub qs: [u8; BLOCK / 2],
}

const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

impl BlockIq4Nl {
    pub const WEIGHTS: usize = BLOCK;

    /// Tries the scales that put the value of largest magnitude on each of -134..=-120, and on +127, takes the
    /// least-squares scale of the assignment each gives (values weighted by their squares), and keeps the best.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let d = best_scale(x);
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let qs = std::array::from_fn(|i| {
            nearest_code(inverse * x[i]) | nearest_code(inverse * x[i + BLOCK / 2]) << 4
        });
        BlockIq4Nl { d: f16::from_f32(d), qs }
    }

    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = self.d.to_f32();
        std::array::from_fn(|i| d * f32::from(IQ4_NL_VALUES[usize::from(nibble(&self.qs, i))]))
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 1] {
        [self.d]
    }
}

fn best_scale(x: &[f32; BLOCK]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let lowest = f32::from(IQ4_NL_VALUES[0]);
    // Sums of `w q x` and `w q q` over the assignment that an inverse scale gives.
    let fit = |inverse: f32| {
        x.iter().fold((0f32, 0f32), |(qx, qq), &v| {
            let q = f32::from(IQ4_NL_VALUES[usize::from(nearest_code(inverse * v))]);
            let w = v * v;
            (qx + w * q * v, qq + w * q * q)
        })
    };
    let (qx, qq) = fit(1.0 / (-extreme / lowest));
    let mut d = if qq > 0.0 { qx / qq } else { 0.0 };
    let mut best = d * qx;
    for shift in -7..=7 {
        let (qx, qq) = fit((shift as f32 + lowest) / extreme);
        if qq > 0.0 && qx * qx > best * qq {
            d = qx / qq;
            best = d * qx;
        }
    }
    d
}

/// The code whose value is nearest; the upper one of two equally near.
fn nearest_code(x: f32) -> u8 {
    // Number of values at or below x, except the first: where a search for the interval of x would end.
    let above = IQ4_NL_VALUES[1..15].iter().fold(1, |n, &value| n + usize::from(x >= f32::from(value)));
    let (low, high) = (f32::from(IQ4_NL_VALUES[above - 1]), f32::from(IQ4_NL_VALUES[above]));
    // Beyond the ends the nearest is the end itself, whatever the differences are.
    if x <= low || (x < high && x - low < high - x) { above as u8 - 1 } else { above as u8 }
}
