//! Q5_1: 32 weights as five-bit steps above a minimum.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::q5_0::{joined, split};
use super::search::range;
use crate::BLOCK;

/// The block of GGUF type 7: weight = `d * q + m`, bits ordered as in Q5_0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ5_1 {
    pub d: f16,
    pub m: f16,
    pub qh: [u8; 4],
    pub qs: [u8; BLOCK / 2],
}

const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl BlockQ5_1 {
    pub const WEIGHTS: usize = BLOCK;

    /// 31 steps from the smallest value to the largest; values are rounded with the unrounded scale and minimum.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let (min, max) = range(x);
        let d = (max - min) / 31.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        // Masked as ggml masks it: nothing finite gets above 31, only a denormal step whose inverse overflows.
        let (qh, qs) = split(&x.map(|v| ((v - min) * inverse + 0.5) as u8 & 31));
        BlockQ5_1 { d: f16::from_f32(d), m: f16::from_f32(min), qh, qs }
    }

    pub fn dequantize(&self) -> [f32; BLOCK] {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        std::array::from_fn(|i| f32::from(joined(&self.qh, &self.qs, i)) * d + m)
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 2] {
        [self.d, self.m]
    }
}
