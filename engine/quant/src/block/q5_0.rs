//! Q5_0: 32 weights as five-bit values around 16 with one scale.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::q4_0::nibble;
use super::search::extreme;
use crate::BLOCK;

/// The block of GGUF type 6: weight = `d * (q - 16)`. The low four bits are nibbles ordered as in Q4_0, bit `i` of the
/// little-endian `qh` is the fifth bit of weight `i`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ5_0 {
    pub d: f16,
    pub qh: [u8; 4],
    pub qs: [u8; BLOCK / 2],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl BlockQ5_0 {
    pub const WEIGHTS: usize = BLOCK;

    /// `d = m / -16` where `m` is the value of largest magnitude with its sign.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let d = extreme(x) / -16.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let (qh, qs) = split(&x.map(|v| ((v * inverse + 16.5) as u8).min(31)));
        BlockQ5_0 { d: f16::from_f32(d), qh, qs }
    }

    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = self.d.to_f32();
        std::array::from_fn(|i| (f32::from(joined(&self.qh, &self.qs, i)) - 16.0) * d)
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 1] {
        [self.d]
    }
}

/// Five-bit values to fifth bits and nibbles.
pub(super) fn split(q: &[u8; BLOCK]) -> ([u8; 4], [u8; BLOCK / 2]) {
    let high = q.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i);
    (high.to_le_bytes(), std::array::from_fn(|i| q[i] & 15 | q[i + BLOCK / 2] << 4))
}

/// The five-bit value of weight `i`.
pub(super) fn joined(qh: &[u8; 4], qs: &[u8; BLOCK / 2], i: usize) -> u8 {
    nibble(qs, i) | (qh[i / 8] >> (i % 8) & 1) << 4
}
