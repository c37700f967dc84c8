//! What Q4_K and Q5_K share: eight groups of 32 with six-bit scales and minima in twelve bytes, and how both are found.

use half::f16;

use super::search::{Grid, LANES, affine, nearest};
use crate::SUPER_BLOCK;

/// Groups per super-block.
const GROUPS: usize = LANES;
const GROUP: usize = SUPER_BLOCK / GROUPS;

/// A super-block before its levels are packed.
pub(super) struct SuperBlock {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; 12],
    pub levels: [u8; SUPER_BLOCK],
}

/// Six-bit scale and minimum of group `j`. The first four of each lie in the low bits of bytes 0..4 and 4..8; of the last
/// four, byte `j + 4` holds the low four bits of both and the top bits of bytes `j - 4` and `j` the rest.
pub(super) fn unpack(scales: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let low = scales[j + 4];
        (low & 15 | scales[j - 4] >> 6 << 4, low >> 4 | scales[j] >> 6 << 4)
    }
}

fn pack(scale: &[u8; GROUPS], min: &[u8; GROUPS]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scale[i] | scale[i + 4] >> 4 << 6,
        4..8 => min[i - 4] | min[i] >> 4 << 6,
        _ => scale[i - 4] & 15 | min[i - 4] << 4,
    })
}

/// Finds scale and minimum per group with the weight `rms + |x|` per value, stores both in six bits, and rounds the values
/// again with what was stored.
pub(super) fn quantize(x: &[f32; SUPER_BLOCK], grid: Grid) -> SuperBlock {
    let groups = x.as_chunks::<GROUP>().0;
    let weights = std::array::from_fn(|j| {
        let group: &[f32; GROUP] = &groups[j];
        let square = group.iter().fold(0f32, |sum, v| sum + v * v);
        let rms = (square / GROUP as f32).sqrt();
        group.map(|v| rms + v.abs())
    });
    let fits = affine(groups, &weights, grid);
    let (scales, max_scale) = six_bits(&fits.scale);
    let (mins, max_min) = six_bits(&fits.min);
    let scales = pack(&scales, &mins);
    let (d, dmin) = (f16::from_f32(max_scale / 63.0), f16::from_f32(max_min / 63.0));

    let mut levels = [0; SUPER_BLOCK];
    for (j, (levels, group)) in levels.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups).enumerate() {
        let (scale, min) = unpack(&scales, j);
        let scale = d.to_f32() * f32::from(scale);
        let min = dmin.to_f32() * f32::from(min);
        *levels = if scale == 0.0 {
            fits.levels[j]
        } else {
            group.map(|v| nearest((v + min) / scale).clamp(0, i32::from(grid.top)) as u8)
        };
    }
    SuperBlock { d, dmin, scales, levels }
}

/// Sixty-thirds of the largest value, and that value. None is negative.
fn six_bits(values: &[f32; GROUPS]) -> ([u8; GROUPS], f32) {
    let largest = values.iter().fold(0f32, |largest, &value| if value > largest { value } else { largest });
    let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    (values.map(|value| (nearest(inverse * value) as u8).min(63)), largest)
}

/// Weights from levels: `d * scale[j] * level - dmin * min[j]`.
pub(super) fn dequantize(block: &SuperBlock) -> [f32; SUPER_BLOCK] {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    let mut out = [0f32; SUPER_BLOCK];
    for (j, (out, levels)) in
        out.as_chunks_mut::<GROUP>().0.iter_mut().zip(block.levels.as_chunks::<GROUP>().0).enumerate()
    {
        let (scale, min) = unpack(&block.scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        *out = levels.map(|level| scale * f32::from(level) - min);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_scales_come_back() {
        let scale: [u8; GROUPS] = std::array::from_fn(|j| (j as u8 * 9) & 63);
        let min: [u8; GROUPS] = std::array::from_fn(|j| 63 - j as u8 * 7);
        let packed = pack(&scale, &min);
        for j in 0..GROUPS {
            assert_eq!(unpack(&packed, j), (scale[j], min[j]), "group {j}");
        }
    }
}
