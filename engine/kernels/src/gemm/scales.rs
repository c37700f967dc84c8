//! What the header of a unit says about one row: plain code for single rows, the definition of every header layout.

use half::f16;

use super::layout::{LINE, TILE_ROWS};
use crate::WeightFormat;

/// How levels become factors of the integer products, and what those are worth.
///
/// The product of a block adds `scale[s] * sum(factor(level) - bias) * x` over halves or the whole, and `min[m] * sum(x)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numerics {
    /// Scales per block: 1, or 2 where 16 columns share one.
    pub subs: usize,
    /// Minima per block: 0, 1 or 2.
    pub mins: usize,
    /// What is subtracted from a factor.
    pub bias: i32,
}

/// Whether activations keep a step of `amax / 127` instead of a power of two. Bytes are precise enough for the difference to
/// show in the product; below them the weights' own rounding hides it.
pub(crate) fn fine_steps(format: WeightFormat) -> bool {
    format == WeightFormat::Q8_0
}

pub(crate) fn numerics(format: WeightFormat) -> Numerics {
    use WeightFormat::*;
    let (subs, mins, bias) = match format {
        Q8_0 | Iq4Nl | Int8 => (1, 0, 128),
        Q4_0 => (1, 0, 8),
        Q5_0 | Int4 => (1, 0, 16),
        Q4_1 | Q5_1 | Q4K | Q5K | Int8Group => (1, 1, 0),
        Q2K => (2, 2, 0),
        Q3K => (2, 0, 4),
        Q6K => (2, 0, 32),
        F32 | F16 | Bf16 | Fp8 => (1, 0, 0),
    };
    Numerics { subs, mins, bias }
}

/// Header of one row for one block: the scales and minima as a checkpoint means them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct RowScales {
    pub scale: [f32; 2],
    /// Added per unit of the activation: `m` of q4_1, `-dmin * m` of the K formats, `-scale * zero` of int8_group.
    pub min: [f32; 2],
    /// Zero point of a group.
    pub zero: i32,
}

fn half_at(header: &[u8], line: usize, index: usize) -> f32 {
    let at = line * LINE + index * 2;
    f16::from_le_bytes([header[at], header[at + 1]]).to_f32()
}

fn byte_at(header: &[u8], line: usize, lane: usize, index: usize) -> u8 {
    header[(line + index / 4) * LINE + lane * 4 + index % 4]
}

/// Word `lane` of a line.
pub(crate) fn word_at(header: &[u8], line: usize, lane: usize) -> u32 {
    let at = line * LINE + lane * 4;
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Reads the header of a unit for row `lane` of the tile and block `j` of the unit.
#[inline(always)]
pub(crate) fn row_scales(
    format: WeightFormat,
    wide: bool,
    header: &[u8],
    lane: usize,
    j: usize,
) -> RowScales {
    use WeightFormat::*;
    let mut row = RowScales::default();
    match format {
        F32 | F16 | Bf16 => row.scale = [1.0; 2],
        Q8_0 | Q4_0 | Q5_0 | Iq4Nl => row.scale = [half_at(header, 0, j * TILE_ROWS + lane); 2],
        Q4_1 | Q5_1 => {
            row.scale = [half_at(header, 0, j * TILE_ROWS + lane); 2];
            row.min = [half_at(header, 1, j * TILE_ROWS + lane); 2];
        }
        Q4K | Q5K => {
            let (d, dmin) = (half_at(header, 0, lane * 2), half_at(header, 0, lane * 2 + 1));
            let byte = |i| byte_at(header, 1, lane, i);
            let (scale, min) = if j < 4 {
                (byte(j) & 63, byte(j + 4) & 63)
            } else {
                let low = byte(j + 4);
                (low & 15 | byte(j - 4) >> 6 << 4, low >> 4 | byte(j) >> 6 << 4)
            };
            row.scale = [d * f32::from(scale); 2];
            row.min = [-(dmin * f32::from(min)); 2];
        }
        Q2K => {
            let (d, dmin) = (half_at(header, 0, lane * 2), half_at(header, 0, lane * 2 + 1));
            for half in 0..2 {
                let byte = byte_at(header, 1, lane, 2 * j + half);
                row.scale[half] = d * f32::from(byte & 15);
                row.min[half] = -(dmin * f32::from(byte >> 4));
            }
        }
        Q3K => {
            let d = half_at(header, 0, lane);
            for half in 0..2 {
                let index = 2 * j + half;
                let low = byte_at(header, 1, lane, index % 8) >> (index / 8 * 4) & 15;
                let high = byte_at(header, 1, lane, 8 + index % 4) >> (index / 4 * 2) & 3;
                row.scale[half] = d * (f32::from(low | high << 4) - 32.0);
            }
        }
        Q6K => {
            let d = half_at(header, 0, lane);
            for half in 0..2 {
                row.scale[half] = d * f32::from(byte_at(header, 1, lane, 2 * j + half) as i8);
            }
        }
        Int8 | Fp8 => row.scale = [f32::from_bits(word_at(header, 0, lane)); 2],
        Int4 | Int8Group => {
            let word = word_at(header, 0, lane);
            let (scale, zero) = if wide {
                (f32::from_bits(word), word_at(header, 1, lane))
            } else {
                (f16::from_bits((word >> 16) as u16).to_f32(), word & 0xffff)
            };
            row.scale = [scale; 2];
            row.zero = zero as i32;
            if format == Int8Group {
                row.min = [-(scale * zero as f32); 2];
            }
        }
    }
    row
}

/// The unsigned byte that stands for a level in the integer products; see [`Numerics`].
#[inline(always)]
pub(crate) fn factor(format: WeightFormat, row: &RowScales, level: u8) -> u8 {
    use WeightFormat::*;
    match format {
        Iq4Nl => (i32::from(llmlab_quant::IQ4_NL_VALUES[usize::from(level & 15)]) + 128) as u8,
        Int4 => (i32::from(level) - row.zero + 16) as u8,
        _ => level,
    }
}

/// The weight that a level means, rounded exactly as the checkpoint's own formula rounds it.
#[inline(always)]
pub(crate) fn weight(format: WeightFormat, row: &RowScales, half: usize, level: u8) -> f32 {
    use WeightFormat::*;
    let (scale, level) = (row.scale[half], f32::from(level));
    match format {
        Q8_0 | Int8 => scale * (level - 128.0),
        Q4_0 => (level - 8.0) * scale,
        Q5_0 => (level - 16.0) * scale,
        Iq4Nl => scale * f32::from(llmlab_quant::IQ4_NL_VALUES[level as usize & 15]),
        Q4_1 | Q5_1 | Q2K | Q4K | Q5K => scale * level + row.min[half],
        Q3K => scale * (level - 4.0),
        Q6K => scale * (level - 32.0),
        Int4 | Int8Group => scale * (level - row.zero as f32),
        F32 | F16 | Bf16 | Fp8 => unreachable!("{format} has no levels"),
    }
}
