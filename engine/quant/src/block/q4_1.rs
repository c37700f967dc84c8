//! Q4_1: 32 weights as four-bit steps above a minimum.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::q4_0::nibble;
use super::search::range;
use crate::BLOCK;

/// The block of GGUF type 3: weight = `d * q + m`, nibbles ordered as in Q4_0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ4_1 {
    pub d: f16,
    pub m: f16,
    pub qs: [u8; BLOCK / 2],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl BlockQ4_1 {
    pub const WEIGHTS: usize = BLOCK;

    /// 15 steps from the smallest value to the largest; values are rounded with the unrounded scale and minimum.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let (min, max) = range(x);
        let d = (max - min) / 15.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = |v: f32| (((v - min) * inverse + 0.5) as u8).min(15);
        let qs = std::array::from_fn(|i| q(x[i]) | q(x[i + BLOCK / 2]) << 4);
        BlockQ4_1 { d: f16::from_f32(d), m: f16::from_f32(min), qs }
    }

    pub fn dequantize(&self) -> [f32; BLOCK] {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        std::array::from_fn(|i| f32::from(nibble(&self.qs, i)) * d + m)
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 2] {
        [self.d, self.m]
    }
}
