//! Q4_0: 32 weights as four-bit values around 8 with one scale.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::search::extreme;
use crate::BLOCK;

/// The block of GGUF type 2: weight = `d * (q - 8)`; byte `i` holds weight `i` (low nibble) and `i + 16` (high nibble).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ4_0 {
    pub d: f16,
    pub qs: [u8; BLOCK / 2],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl BlockQ4_0 {
    pub const WEIGHTS: usize = BLOCK;

    /// `d = m / -8` where `m` is the value of largest magnitude with its sign, so that `m` itself is stored exactly as 0.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let d = extreme(x) / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let q = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        let qs = std::array::from_fn(|i| q(x[i]) | q(x[i + BLOCK / 2]) << 4);
        BlockQ4_0 { d: f16::from_f32(d), qs }
    }

    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = self.d.to_f32();
        std::array::from_fn(|i| (f32::from(nibble(&self.qs, i)) - 8.0) * d)
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 1] {
        [self.d]
    }
}

/// Nibble of weight `i` in the order all 32-weight formats share: the low halves first, then the high ones.
pub(super) fn nibble(qs: &[u8; BLOCK / 2], i: usize) -> u8 {
    if i < BLOCK / 2 { qs[i] & 15 } else { qs[i - BLOCK / 2] >> 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extreme_value_is_exact_up_to_the_scale_and_others_within_one_step() {
        for sign in [1.0, -1.0] {
            let x: [f32; BLOCK] = std::array::from_fn(|i| sign * (i as f32 - 19.0) * 0.25);
            let block = BlockQ4_0::quantize(&x);
            let back = block.dequantize();
            assert_eq!(block.qs[0] & 15, 0);
            assert_eq!(back[0], x[0]);
            for (value, back) in x.iter().zip(back) {
                // Half a step, or a whole one at the end that has only 7 steps.
                assert!((value - back).abs() <= block.d.to_f32().abs() * 1.001, "{value} {back}");
            }
        }
    }

    #[test]
    fn nibbles_are_ordered_as_in_gguf() {
        let mut x = [0.0; BLOCK];
        x[3] = -8.0;
        x[19] = 7.0;
        let block = BlockQ4_0::quantize(&x);
        assert_eq!(block.d.to_f32(), 1.0);
        assert_eq!(block.qs[3], 0xf0);
        assert_eq!(block.qs[0], 0x88);
    }
}
