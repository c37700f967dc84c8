//! Q2_K: 256 weights in sixteen groups of 16, two bits each.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::search::{Grid, LANES, Loss, affine, nearest};
use crate::SUPER_BLOCK;

const GROUPS: usize = 16;
const GROUP: usize = SUPER_BLOCK / GROUPS;

/// The block of GGUF type 10: weight = `d * (scales[j] & 15) * q - dmin * (scales[j] >> 4)` for group `j = i / 16`.
/// Byte `32 h + l` of `qs` holds weights `128 h + l + 32 k`, `k` in 0..4, from the low bits up.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ2K {
    pub scales: [u8; GROUPS],
    pub qs: [u8; SUPER_BLOCK / 4],
    pub d: f16,
    pub dmin: f16,
}

const _: () = assert!(size_of::<BlockQ2K>() == 84);

const GRID: Grid = Grid { top: 3, first: -0.5, steps: 15, loss: Loss::Absolute };

impl BlockQ2K {
    pub const WEIGHTS: usize = SUPER_BLOCK;

    /// Finds scale and minimum per group with the weight `|x|` per value, stores both in four bits, and rounds the values
    /// again with what was stored.
    pub fn quantize(x: &[f32; SUPER_BLOCK]) -> Self {
        let groups = x.as_chunks::<GROUP>().0;
        let fit = |half: &[[f32; GROUP]]| affine(half, &std::array::from_fn(|j| half[j].map(f32::abs)), GRID);
        let fits = [fit(&groups[..LANES]), fit(&groups[LANES..])];
        let (scales, d) = four_bits(std::array::from_fn(|j| fits[j / LANES].scale[j % LANES]));
        let (mins, dmin) = four_bits(std::array::from_fn(|j| fits[j / LANES].min[j % LANES]));
        let mut levels = [0; SUPER_BLOCK];
        for (j, levels) in levels.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            let scale = d.to_f32() * f32::from(scales[j]);
            let min = dmin.to_f32() * f32::from(mins[j]);
            *levels = if scale == 0.0 {
                fits[j / LANES].levels[j % LANES]
            } else {
                groups[j].map(|v| nearest((v + min) / scale).clamp(0, 3) as u8)
            };
        }
        let scales = std::array::from_fn(|j| scales[j] | mins[j] << 4);
        BlockQ2K { scales, qs: pack_pairs(&levels), d, dmin }
    }

    pub fn dequantize(&self) -> [f32; SUPER_BLOCK] {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        std::array::from_fn(|i| {
            let scale = self.scales[i / GROUP];
            let (scale, min) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            scale * f32::from(pair(&self.qs, i)) - min
        })
    }

    /// The half-precision scales, which must be finite.
    pub fn scales(&self) -> [f16; 2] {
        [self.d, self.dmin]
    }
}

/// Fifteenths of the largest value, and the half-precision size of one of them. None of the values is negative.
fn four_bits(values: [f32; GROUPS]) -> ([u8; GROUPS], f16) {
    let largest =
        values.into_iter().fold(0f32, |largest, value| if value > largest { value } else { largest });
    if largest > 0.0 {
        let inverse = 15.0 / largest;
        (values.map(|value| nearest(inverse * value) as u8 & 15), f16::from_f32(largest / 15.0))
    } else {
        ([0; GROUPS], f16::ZERO)
    }
}

/// Two-bit levels in the order Q2_K and Q3_K store them.
pub(super) fn pack_pairs(levels: &[u8; SUPER_BLOCK]) -> [u8; SUPER_BLOCK / 4] {
    std::array::from_fn(|i| {
        let first = i / 32 * 128 + i % 32;
        (0..4).fold(0, |byte, k| byte | levels[first + 32 * k] << (2 * k))
    })
}

/// The two bits of weight `i`.
pub(super) fn pair(qs: &[u8; SUPER_BLOCK / 4], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3
}
