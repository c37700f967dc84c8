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

/// Inverse scales that are tried; independent of each other, so one lane each, every lane summing in index order.
const TRIALS: usize = 16;

fn best_scale(x: &[f32; BLOCK]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let lowest = f32::from(IQ4_NL_VALUES[0]);
    let inverse: [f32; TRIALS] = std::array::from_fn(|t| match t {
        0 => 1.0 / (-extreme / lowest),
        _ => (t as f32 - 8.0 + lowest) / extreme,
    });
    let (mut qx, mut qq) = ([0f32; TRIALS], [0f32; TRIALS]);
    for &v in x {
        let w = v * v;
        for t in 0..TRIALS {
            let q = nearest_value(inverse[t] * v);
            qx[t] += w * q * v;
            qq[t] += w * q * q;
        }
    }
    let mut d = if qq[0] > 0.0 { qx[0] / qq[0] } else { 0.0 };
    let mut best = d * qx[0];
    for t in 1..TRIALS {
        if qq[t] > 0.0 && qx[t] * qx[t] > best * qq[t] {
            d = qx[t] / qq[t];
            best = d * qx[t];
        }
    }
    d
}

/// Midpoint of the values of code `i` and the next: from it on, the next is taken.
const fn middle(i: usize) -> f32 {
    (IQ4_NL_VALUES[i] as f32 + IQ4_NL_VALUES[i + 1] as f32) / 2.0
}

fn nearest_code(x: f32) -> u8 {
    (0..15).map(|i| u8::from(x >= middle(i))).sum()
}

/// The value of the nearest code: the lowest one, plus every step up to it. All are small integers, so the sum is exact.
fn nearest_value(x: f32) -> f32 {
    let mut value = f32::from(IQ4_NL_VALUES[0]);
    for i in 0..15 {
        let step = f32::from(IQ4_NL_VALUES[i + 1]) - f32::from(IQ4_NL_VALUES[i]);
        value += if x >= middle(i) { step } else { 0.0 };
    }
    value
}
