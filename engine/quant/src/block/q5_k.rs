//! Q5_K: 256 weights in eight groups of 32, five bits each.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::scales6::{self, SuperBlock};
use super::search::{Grid, Loss};
use crate::SUPER_BLOCK;

/// The block of GGUF type 13: as Q4_K, and bit `j` of byte `l` of `qh` is the fifth bit of weight `32 j + l`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ5K {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; 12],
    pub qh: [u8; SUPER_BLOCK / 8],
    pub qs: [u8; SUPER_BLOCK / 2],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176);

const GRID: Grid = Grid { top: 31, first: -0.5, steps: 15, loss: Loss::Squared };

impl BlockQ5K {
    pub const WEIGHTS: usize = SUPER_BLOCK;

    pub fn quantize(x: &[f32; SUPER_BLOCK]) -> Self {
        let SuperBlock { d, dmin, scales, levels } = scales6::quantize(x, GRID);
        let qh = std::array::from_fn(|l| (0..8).fold(0, |bits, j| bits | levels[32 * j + l] >> 4 << j));
        let qs = std::array::from_fn(|i| {
            let low = i / 32 * 64 + i % 32;
            levels[low] & 15 | levels[low + 32] << 4
        });
        BlockQ5K { d, dmin, scales, qh, qs }
    }

    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        let levels = std::array::from_fn(|i| {
            let low = self.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
            low | (self.qh[i % 32] >> (i / 32) & 1) << 4
        });
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
