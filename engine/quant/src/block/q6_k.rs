//! Q6_K: 256 weights in sixteen groups of 16, six bits each.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::search::{NOTHING, extreme, nearest, symmetric};
use crate::SUPER_BLOCK;

const GROUPS: usize = 16;
const GROUP: usize = SUPER_BLOCK / GROUPS;

/// The block of GGUF type 14: weight = `d * scales[j] * (q - 32)` for group `j = i / 16`. In each half `h` of 128 weights,
/// byte `64 h + l` of `ql` holds the low four bits of weights `l` and `l + 64` (`l` in 0..64), and byte `32 h + l` of `qh`
/// the high pairs of weights `l + 32 k`, `k` in 0..4.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ6K {
    pub ql: [u8; SUPER_BLOCK / 2],
    pub qh: [u8; SUPER_BLOCK / 4],
    pub scales: [i8; GROUPS],
    pub d: f16,
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl BlockQ6K {
    pub const WEIGHTS: usize = SUPER_BLOCK;

    /// Finds a scale per group, stores it in eight bits such that the largest becomes -128, and rounds the values again
    /// with what was stored.
    pub fn quantize(x: &[f32; SUPER_BLOCK]) -> Self {
        let groups = x.as_chunks::<GROUP>().0;
        let fits: [(f32, [i8; GROUP]); GROUPS] = std::array::from_fn(|j| symmetric(&groups[j], 32));
        let largest = extreme(&fits.map(|(scale, _)| scale));
        if largest.abs() < NOTHING {
            return BlockQ6K::zeroed();
        }
        let inverse = -128.0 / largest;
        let d = f16::from_f32(1.0 / inverse);
        let scales = fits.map(|(scale, _)| nearest(inverse * scale).min(127) as i8);
        let mut levels = [0u8; SUPER_BLOCK];
        for (j, levels) in levels.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let scale = d.to_f32() * f32::from(scales[j]);
            *levels = if scale == 0.0 {
                fits[j].1.map(|level| level as u8)
            } else {
                groups[j].map(|v| (nearest(v / scale).clamp(-32, 31) + 32) as u8)
            };
        }
        let ql = std::array::from_fn(|i| {
            let low = i / 64 * 128 + i % 64;
            levels[low] & 15 | levels[low + 64] << 4
        });
        let qh = std::array::from_fn(|i| {
            let first = i / 32 * 128 + i % 32;
            (0..4).fold(0, |byte, k| byte | levels[first + 32 * k] >> 4 << (2 * k))
        });
        BlockQ6K { ql, qh, scales, d }
    }

    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        let d = self.d.to_f32();
        std::array::from_fn(|i| {
            let (half, within) = (i / 128, i % 128);
            let low = self.ql[half * 64 + within % 64] >> (within / 64 * 4) & 15;
            let high = self.qh[half * 32 + within % 32] >> (within / 32 * 2) & 3;
            d * f32::from(self.scales[i / GROUP]) * (f32::from(low | high << 4) - 32.0)
        })
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 1] {
        [self.d]
    }
}
