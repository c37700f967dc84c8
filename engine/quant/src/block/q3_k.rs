//! Q3_K: 256 weights in sixteen groups of 16, three bits each.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::q2_k::{pack_pairs, pair};
use super::search::{extreme, nearest, symmetric_by_moves};
use crate::SUPER_BLOCK;

const GROUPS: usize = 16;
const GROUP: usize = SUPER_BLOCK / GROUPS;

/// The block of GGUF type 11: weight = `d * (scale[j] - 32) * (q - 4)` for group `j = i / 16`, with six-bit scales
/// ([`BlockQ3K::scale`]). The low two bits of `q` are ordered as in Q2_K; bit `k` of byte `l` of `hmask` is the high bit of
/// weight `32 k + l`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ3K {
    pub hmask: [u8; SUPER_BLOCK / 8],
    pub qs: [u8; SUPER_BLOCK / 4],
    pub scales: [u8; 12],
    pub d: f16,
}

const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl BlockQ3K {
    pub const WEIGHTS: usize = SUPER_BLOCK;

    /// Finds a scale per group, stores it in six bits such that the largest becomes -32, and rounds the values again with
    /// what was stored.
    pub fn quantize(x: &[f32; SUPER_BLOCK]) -> Self {
        let groups = x.as_chunks::<GROUP>().0;
        let fits: [(f32, [i8; GROUP]); GROUPS] = std::array::from_fn(|j| symmetric_by_moves(&groups[j], 4));
        let largest = extreme(&fits.map(|(scale, _)| scale));
        let mut block = BlockQ3K::zeroed();
        if largest != 0.0 {
            let inverse = -32.0 / largest;
            block.scales =
                pack(&fits.map(|(scale, _)| ((nearest(inverse * scale) as i8).clamp(-32, 31) + 32) as u8));
            block.d = f16::from_f32(1.0 / inverse);
        }
        let mut levels = [0u8; SUPER_BLOCK];
        for (j, levels) in levels.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let scale = block.d.to_f32() * f32::from(block.scale(j));
            *levels = if scale == 0.0 {
                fits[j].1.map(|level| level as u8)
            } else {
                groups[j].map(|v| (nearest(v / scale).clamp(-4, 3) + 4) as u8)
            };
        }
        block.hmask = std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | levels[32 * k + l] >> 2 << k));
        block.qs = pack_pairs(&levels.map(|level| level & 3));
        block
    }

    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        let d = self.d.to_f32();
        let scales: [f32; GROUPS] = std::array::from_fn(|j| d * f32::from(self.scale(j)));
        std::array::from_fn(|i| {
            let high = self.hmask[i % 32] >> (i / 32) & 1;
            scales[i / GROUP] * (f32::from(pair(&self.qs, i) | high << 2) - 4.0)
        })
    }

    /// Scale of group `j`, below 16, with its offset removed: -32..32.
    pub fn scale(&self, j: usize) -> i8 {
        let low = self.scales[j % 8] >> (j / 8 * 4) & 15;
        let high = self.scales[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 1] {
        [self.d]
    }
}

/// Six-bit scales: low nibbles of two groups per byte, then the high pairs of four groups per byte.
fn pack(scale: &[u8; GROUPS]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..8 => scale[i] & 15 | scale[i + 8] << 4,
        _ => (0..4).fold(0, |byte, k| byte | scale[i - 8 + 4 * k] >> 4 << (2 * k)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_scales_come_back() {
        let scale: [u8; GROUPS] = std::array::from_fn(|j| (j * 37 % 64) as u8);
        let block = BlockQ3K { scales: pack(&scale), ..BlockQ3K::zeroed() };
        for j in 0..GROUPS {
            assert_eq!(block.scale(j), scale[j] as i8 - 32, "group {j}");
        }
    }
}
