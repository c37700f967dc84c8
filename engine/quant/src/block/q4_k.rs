//! Q4_K: 256 weights in eight groups of 32, four bits each.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::scales6::{self, SuperBlock};
use super::search::{Grid, Loss};
use crate::SUPER_BLOCK;

/// The block of GGUF type 12: weight = `d * scale[j] * q - dmin * min[j]` for group `j = i / 32`, with six-bit scales and
/// minima ([`BlockQ4K::scale_min`]). Byte `32 p + l` of `qs` holds weight `64 p + l` (low nibble) and `64 p + 32 + l`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ4K {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; 12],
    pub qs: [u8; SUPER_BLOCK / 2],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144);

const GRID: Grid = Grid { top: 15, first: -1.0, steps: 20, loss: Loss::Squared };

impl BlockQ4K {
    pub const WEIGHTS: usize = SUPER_BLOCK;

    pub fn quantize(x: &[f32; SUPER_BLOCK]) -> Self {
        let SuperBlock { d, dmin, scales, levels } = scales6::quantize(x, GRID);
        let qs = std::array::from_fn(|i| {
            let low = i / 32 * 64 + i % 32;
            levels[low] | levels[low + 32] << 4
        });
        BlockQ4K { d, dmin, scales, qs }
    }

    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        let levels = std::array::from_fn(|i| self.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15);
        scales6::dequantize(&SuperBlock { d: self.d, dmin: self.dmin, scales: self.scales, levels })
    }

    /// Six-bit scale and minimum of group `j`, below 8.
    pub fn scale_min(&self, j: usize) -> (u8, u8) {
        scales6::unpack(&self.scales, j)
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 2] {
        [self.d, self.dmin]
    }
}
