//! Q8_0: 32 weights as signed bytes with one scale.

use bytemuck::{Pod, Zeroable};
use half::f16;

use crate::BLOCK;

/// The block of GGUF type 8: weight = `d * qs[i]`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ8_0 {
    pub d: f16,
    pub qs: [i8; BLOCK],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl BlockQ8_0 {
    pub const WEIGHTS: usize = BLOCK;

    /// `d = amax / 127`; values are rounded with the unrounded scale, half away from zero, as ggml does.
    pub fn quantize(x: &[f32; BLOCK]) -> Self {
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let d = amax / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        BlockQ8_0 { d: f16::from_f32(d), qs: x.map(|v| (v * inverse).round() as i8) }
    }

    pub fn dequantize(&self) -> [f32; BLOCK] {
        let d = self.d.to_f32();
        self.qs.map(|q| f32::from(q) * d)
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 1] {
        [self.d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_becomes_127_and_errors_stay_within_half_a_step() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 - 20.3) * 0.37);
        let block = BlockQ8_0::quantize(&x);
        assert_eq!(block.qs[0], -127);
        let step = block.d.to_f32();
        for (value, back) in x.iter().zip(block.dequantize()) {
            // Half a step of rounding, plus the relative rounding of the f16 scale (2^-11) on up to 127 steps.
            assert!((value - back).abs() <= step * (0.5 + 127.0 / 2048.0) + 1e-6, "{value} {back}");
        }
    }
}
