//! Rounding a matrix of f32 weights into a format.

use std::borrow::Cow;

use half::{bf16, f16};

use crate::fp8::{E4M3_MAX, f32_to_e4m3};
use crate::stored::{Fp8Matrix, Grouped, Int8Channel, finite, length};
use crate::{QuantError, StoredMatrix, WeightFormat, block};

/// Columns per group where nothing else is asked for.
pub const DEFAULT_GROUP: usize = 128;

/// The bytes of one row in a format that GGUF files can hold. Values must be finite, or the bytes mean nothing in
/// particular; [`quantize_matrix`] checks that, and that the scales fit their half precision.
pub fn quantize_row(format: WeightFormat, x: &[f32]) -> Result<Vec<u8>, QuantError> {
    let mut out = Vec::with_capacity(format.row_bytes(x.len()));
    append_row(format, x, &mut out)?;
    Ok(out)
}

fn append_row(format: WeightFormat, x: &[f32], out: &mut Vec<u8>) -> Result<(), QuantError> {
    match format {
        WeightFormat::F32 => out.extend_from_slice(bytemuck::cast_slice(x)),
        WeightFormat::F16 => out.extend(x.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        WeightFormat::Bf16 => out.extend(x.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        _ if !format.is_gguf() => return Err(QuantError::NotABlockFormat { format }),
        _ => {
            if !block::quantize_into(format, x, out) {
                return Err(QuantError::PartialBlock { format, block: format.block(), cols: x.len() });
            }
        }
    }
    Ok(())
}

/// Rounds `[rows][cols]` weights into a format: the block formats by ggml's reference quantizers, `Int8` and `Fp8` with the
/// largest magnitude of a row at 127 and 448, `Int4` and `Int8Group` by [`quantize_grouped`] with an asymmetric range and
/// groups of [`DEFAULT_GROUP`]. An error for values that are not finite or do not fit the format's scales.
pub fn quantize_matrix(
    format: WeightFormat,
    rows: usize,
    cols: usize,
    x: &[f32],
) -> Result<StoredMatrix<'static>, QuantError> {
    check_shape(rows, cols, x)?;
    match format {
        WeightFormat::F32 => Ok(StoredMatrix::Floats(Cow::Owned(x.to_vec()))),
        WeightFormat::Int8 => Ok(StoredMatrix::Int8(int8(rows, cols, x))),
        WeightFormat::Fp8 => Ok(StoredMatrix::Fp8(fp8(rows, cols, x))),
        WeightFormat::Int4 => {
            quantize_grouped(4, DEFAULT_GROUP, Range::Asymmetric, rows, cols, x).map(StoredMatrix::Grouped)
        }
        WeightFormat::Int8Group => {
            quantize_grouped(8, DEFAULT_GROUP, Range::Asymmetric, rows, cols, x).map(StoredMatrix::Grouped)
        }
        _ => blocks(format, rows, cols, x),
    }
}

fn check_shape(rows: usize, cols: usize, x: &[f32]) -> Result<(), QuantError> {
    let count = rows.checked_mul(cols).ok_or(QuantError::TooLarge { what: "weights", rows, cols })?;
    length("weights", x.len(), count)?;
    finite("weight", x, cols)
}

/// The largest weight of Q6_K, which reaches furthest: the largest half-precision number, times 128, times 32. Far beyond,
/// squares in the searches overflow and would leave zeros.
const LARGEST_IN_BLOCKS: f32 = 65504.0 * 128.0 * 32.0;

fn blocks(
    format: WeightFormat,
    rows: usize,
    cols: usize,
    x: &[f32],
) -> Result<StoredMatrix<'static>, QuantError> {
    let mut bytes = Vec::with_capacity(rows * format.row_bytes(cols));
    for (row, x) in x.chunks_exact(cols.max(1)).enumerate() {
        let magnitude = largest_magnitude(x);
        if magnitude > LARGEST_IN_BLOCKS && format != WeightFormat::Bf16 {
            return Err(QuantError::ScaleOverflow { format, row, magnitude });
        }
        append_row(format, x, &mut bytes)?;
    }
    let matrix = StoredMatrix::Blocks { format, bytes: Cow::Owned(bytes) };
    match matrix.validate(rows, cols) {
        Err(QuantError::NotFinite { row, .. }) => {
            let magnitude = largest_magnitude(&x[row * cols..(row + 1) * cols]);
            Err(QuantError::ScaleOverflow { format, row, magnitude })
        }
        other => other.map(|()| matrix),
    }
}

fn largest_magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |largest, v| largest.max(v.abs()))
}

/// A scale that puts `largest` on `top`. Never denormal, so that dividing by it is exact enough for rows that are nearly 0.
fn row_scale(largest: f32, top: f32) -> f32 {
    (largest / top).max(f32::MIN_POSITIVE)
}

fn int8(rows: usize, cols: usize, x: &[f32]) -> Int8Channel {
    let (mut q, mut scales) = (Vec::with_capacity(x.len()), Vec::with_capacity(rows));
    for x in rows_of(rows, cols, x) {
        let scale = row_scale(largest_magnitude(x), 127.0);
        q.extend(x.iter().map(|v| (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    Int8Channel { q, scales }
}

fn fp8(rows: usize, cols: usize, x: &[f32]) -> Fp8Matrix {
    let (mut q, mut scales) = (Vec::with_capacity(x.len()), Vec::with_capacity(rows));
    for x in rows_of(rows, cols, x) {
        let scale = row_scale(largest_magnitude(x), E4M3_MAX);
        q.extend(x.iter().map(|v| f32_to_e4m3(v / scale)));
        scales.push(scale);
    }
    Fp8Matrix { q, scales, block_rows: 1, block_cols: cols.max(1), input_scale: None }
}

/// How the levels of a group lie around zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From the smallest to the largest value (0 included), with a zero point per group.
    Asymmetric,
    /// The zero point is the middle level, `2^(bits - 1)`.
    Symmetric,
}

/// Round to nearest with a scale and a zero point per `group` columns, `bits` 4 or 8. The range of a group is that of GPTQ
/// (AutoGPTQ `quantizer.py`): `scale = (max - min) / (2^bits - 1)`, rounded to half precision as checkpoints store it, and
/// `zero = round(-min / scale)`. The last group may be shorter.
pub fn quantize_grouped(
    bits: u32,
    group: usize,
    range: Range,
    rows: usize,
    cols: usize,
    x: &[f32],
) -> Result<Grouped, QuantError> {
    check_shape(rows, cols, x)?;
    if !matches!(bits, 4 | 8) {
        return Err(QuantError::Unsupported { what: "bits per weight", got: bits.into(), accepted: "4, 8" });
    }
    if group == 0 {
        return Err(QuantError::Unsupported { what: "group size", got: 0, accepted: "1 and above" });
    }
    let format = if bits == 4 { WeightFormat::Int4 } else { WeightFormat::Int8Group };
    let top = ((1u32 << bits) - 1) as f32;
    let groups = cols.div_ceil(group);
    let mut out = Grouped {
        bits,
        group,
        q: Vec::with_capacity(x.len()),
        scales: Vec::with_capacity(rows * groups),
        zeros: Vec::with_capacity(rows * groups),
        group_of: None,
    };
    for (row, x) in rows_of(rows, cols, x).enumerate() {
        for x in x.chunks(group) {
            let (min, max) = x.iter().fold((0f32, 0f32), |(min, max), v| (min.min(*v), max.max(*v)));
            let (min, max) = match range {
                Range::Asymmetric => (min, max),
                Range::Symmetric => (-max.max(-min), max.max(-min)),
            };
            let scale = half_scale(max / top - min / top);
            if !scale.is_finite() {
                return Err(QuantError::ScaleOverflow { format, row, magnitude: max.max(-min) });
            }
            let zero = match range {
                Range::Asymmetric => (-min / scale).round_ties_even().clamp(0.0, top),
                Range::Symmetric => (1u32 << (bits - 1)) as f32,
            };
            out.q.extend(x.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, top) as u8));
            out.scales.push(scale);
            out.zeros.push(zero as u16);
        }
    }
    Ok(out)
}

/// Rounded to half precision, but not to 0, which values could not be divided by.
fn half_scale(scale: f32) -> f32 {
    let smallest = f16::from_bits(1);
    f16::from_f32(scale).to_f32().max(smallest.to_f32())
}

fn rows_of(rows: usize, cols: usize, x: &[f32]) -> impl Iterator<Item = &[f32]> {
    (0..rows).map(move |row| &x[row * cols..(row + 1) * cols])
}
