//! A weight matrix `[rows = output features, cols = input features]` exactly as a checkpoint holds it.

use std::borrow::Cow;

use crate::block;
use crate::fp8::e4m3_to_f32;
use crate::{QuantError, WeightFormat};

/// The values of one matrix, without any rounding of ours.
#[derive(Debug, Clone)]
pub enum StoredMatrix<'a> {
    /// Row-major f32.
    Floats(Cow<'a, [f32]>),
    /// Row-major blocks of a GGUF format, little-endian, `rows * format.row_bytes(cols)` bytes; also raw F32, F16, Bf16.
    Blocks { format: WeightFormat, bytes: Cow<'a, [u8]> },
    /// GPTQ, AWQ, and pack-quantized compressed-tensors.
    Grouped(Grouped),
    /// INT8 W8A8 of compressed-tensors.
    Int8(Int8Channel),
    /// FP8 E4M3.
    Fp8(Fp8Matrix),
}

/// `w[r][c] = scales[r][g] * (q[r][c] - zeros[r][g])` with `g = group_of[c]`.
#[derive(Debug, Clone)]
pub struct Grouped {
    /// 4 or 8.
    pub bits: u32,
    /// Columns per group; `groups = cols.div_ceil(group)`.
    pub group: usize,
    /// Unpacked values `[rows][cols]`, below `2^bits`.
    pub q: Vec<u8>,
    /// `[rows][groups]`.
    pub scales: Vec<f32>,
    /// `[rows][groups]`, up to `2^bits`.
    pub zeros: Vec<u16>,
    /// The group of each column where that is not `c / group` (act-order): `[cols]`.
    pub group_of: Option<Vec<u32>>,
}

/// `w[r][c] = scales[r] * q[r][c]`.
#[derive(Debug, Clone)]
pub struct Int8Channel {
    /// `[rows][cols]`.
    pub q: Vec<i8>,
    /// `[rows]`.
    pub scales: Vec<f32>,
}

/// `w[r][c] = scales[r / block_rows][c / block_cols] * e4m3(q[r][c])`.
#[derive(Debug, Clone)]
pub struct Fp8Matrix {
    /// E4M3 (fn: no infinities, S.1111.111 is NaN) bytes `[rows][cols]`.
    pub q: Vec<u8>,
    /// `[rows.div_ceil(block_rows)][cols.div_ceil(block_cols)]`. One scale a tensor: block of `[rows, cols]`; one a channel:
    /// block of `[1, cols]`.
    pub scales: Vec<f32>,
    pub block_rows: usize,
    pub block_cols: usize,
    /// Scale of the activations where the checkpoint fixes it; otherwise one per token is computed.
    pub input_scale: Option<f32>,
}

impl StoredMatrix<'_> {
    pub fn format(&self) -> WeightFormat {
        match self {
            StoredMatrix::Floats(_) => WeightFormat::F32,
            StoredMatrix::Blocks { format, .. } => *format,
            StoredMatrix::Grouped(grouped) if grouped.bits == 4 => WeightFormat::Int4,
            StoredMatrix::Grouped(_) => WeightFormat::Int8Group,
            StoredMatrix::Int8(_) => WeightFormat::Int8,
            StoredMatrix::Fp8(_) => WeightFormat::Fp8,
        }
    }

    /// The same matrix, borrowing nothing.
    pub fn into_owned(self) -> StoredMatrix<'static> {
        match self {
            StoredMatrix::Floats(values) => StoredMatrix::Floats(Cow::Owned(values.into_owned())),
            StoredMatrix::Blocks { format, bytes } => {
                StoredMatrix::Blocks { format, bytes: Cow::Owned(bytes.into_owned()) }
            }
            StoredMatrix::Grouped(grouped) => StoredMatrix::Grouped(grouped),
            StoredMatrix::Int8(channel) => StoredMatrix::Int8(channel),
            StoredMatrix::Fp8(matrix) => StoredMatrix::Fp8(matrix),
        }
    }

    /// Checks that every length follows from the shape and that every number can be one of a weight. What passes can be
    /// dequantized without a panic and gives finite weights, or overflows f32.
    pub fn validate(&self, rows: usize, cols: usize) -> Result<(), QuantError> {
        let count = rows.checked_mul(cols).ok_or(QuantError::TooLarge { what: "weights", rows, cols })?;
        match self {
            StoredMatrix::Floats(values) => {
                length("weights", values.len(), count)?;
                finite("weight", values, cols)
            }
            StoredMatrix::Blocks { format, bytes } => validate_blocks(*format, bytes, rows, cols),
            StoredMatrix::Grouped(grouped) => grouped.validate(rows, cols),
            StoredMatrix::Int8(channel) => {
                length("int8 weights", channel.q.len(), count)?;
                length("row scales", channel.scales.len(), rows)?;
                finite("row scale", &channel.scales, 1)
            }
            StoredMatrix::Fp8(matrix) => matrix.validate(rows, cols, count),
        }
    }

    /// The weights of one row, exactly what the stored numbers mean, products rounded to f32. `out` has `cols` values.
    /// Panics where [`StoredMatrix::validate`] would have given an error.
    pub fn dequantize_row(&self, row: usize, cols: usize, out: &mut [f32]) {
        assert_eq!(out.len(), cols, "room for a row of {cols} weights");
        let span = row * cols..(row + 1) * cols;
        match self {
            StoredMatrix::Floats(values) => out.copy_from_slice(&values[span]),
            StoredMatrix::Blocks { format, bytes } => {
                let row_bytes = format.row_bytes(cols);
                dequantize_blocks(*format, &bytes[row * row_bytes..(row + 1) * row_bytes], out);
            }
            StoredMatrix::Grouped(grouped) => grouped.dequantize_row(row, cols, out),
            StoredMatrix::Int8(channel) => {
                let scale = channel.scales[row];
                for (out, q) in out.iter_mut().zip(&channel.q[span]) {
                    *out = scale * f32::from(*q);
                }
            }
            StoredMatrix::Fp8(matrix) => {
                let across = cols.div_ceil(matrix.block_cols);
                let scales = &matrix.scales[row / matrix.block_rows * across..][..across];
                for (c, (out, q)) in out.iter_mut().zip(&matrix.q[span]).enumerate() {
                    *out = scales[c / matrix.block_cols] * e4m3_to_f32(*q);
                }
            }
        }
    }

    /// All weights, row by row. Panics as [`StoredMatrix::dequantize_row`] does.
    pub fn dequantize(&self, rows: usize, cols: usize) -> Vec<f32> {
        let mut out = vec![0.0; rows * cols];
        for (row, out) in out.chunks_exact_mut(cols.max(1)).enumerate() {
            self.dequantize_row(row, cols, out);
        }
        out
    }
}

impl Grouped {
    /// As [`StoredMatrix::validate`].
    pub fn validate(&self, rows: usize, cols: usize) -> Result<(), QuantError> {
        let count = rows.checked_mul(cols).ok_or(QuantError::TooLarge { what: "weights", rows, cols })?;
        if !matches!(self.bits, 4 | 8) {
            return Err(QuantError::Unsupported {
                what: "bits per weight",
                got: self.bits.into(),
                accepted: "4, 8",
            });
        }
        if self.group == 0 {
            return Err(QuantError::Unsupported { what: "group size", got: 0, accepted: "1 and above" });
        }
        let groups = cols.div_ceil(self.group);
        let scale_count = rows * groups; // not above rows * cols
        length("grouped weights", self.q.len(), count)?;
        length("group scales", self.scales.len(), scale_count)?;
        length("zero points", self.zeros.len(), scale_count)?;
        let top = 1u64 << self.bits;
        if self.bits == 4
            && let Some(at) = self.q.iter().position(|q| *q > 15)
        {
            let value = self.q[at].into();
            return Err(QuantError::OutOfRange { what: "weight", row: at / cols, value, limit: top - 1 });
        }
        if let Some(at) = self.zeros.iter().position(|zero| u64::from(*zero) > top) {
            let value = self.zeros[at].into();
            return Err(QuantError::OutOfRange { what: "zero point", row: at / groups, value, limit: top });
        }
        finite("group scale", &self.scales, groups)?;
        if let Some(group_of) = &self.group_of {
            length("group indices", group_of.len(), cols)?;
            if let Some(col) = group_of.iter().position(|group| *group as usize >= groups) {
                let (value, limit) = (group_of[col].into(), groups as u64);
                return Err(QuantError::ColumnOutOfRange { what: "group", col, value, limit });
            }
        }
        Ok(())
    }

    /// Group of a column.
    pub fn group_at(&self, col: usize) -> usize {
        self.group_of.as_ref().map_or(col / self.group, |group_of| group_of[col] as usize)
    }

    fn dequantize_row(&self, row: usize, cols: usize, out: &mut [f32]) {
        let groups = cols.div_ceil(self.group);
        let scales = &self.scales[row * groups..(row + 1) * groups];
        let zeros = &self.zeros[row * groups..(row + 1) * groups];
        for (c, (out, q)) in out.iter_mut().zip(&self.q[row * cols..(row + 1) * cols]).enumerate() {
            let group = self.group_at(c);
            *out = scales[group] * (f32::from(*q) - f32::from(zeros[group]));
        }
    }
}

impl Fp8Matrix {
    fn validate(&self, rows: usize, cols: usize, count: usize) -> Result<(), QuantError> {
        if self.block_rows == 0 || self.block_cols == 0 {
            return Err(QuantError::Unsupported { what: "FP8 block side", got: 0, accepted: "1 and above" });
        }
        let across = cols.div_ceil(self.block_cols);
        length("FP8 weights", self.q.len(), count)?;
        length("FP8 scales", self.scales.len(), rows.div_ceil(self.block_rows) * across)?;
        if let Some(at) = self.scales.iter().position(|scale| !scale.is_finite()) {
            let row = at / across * self.block_rows;
            return Err(QuantError::NotFinite { what: "FP8 scale", row, value: self.scales[at] });
        }
        if let Some(at) = self.q.iter().position(|q| q & 0x7f == 0x7f) {
            return Err(QuantError::NotFinite { what: "FP8 weight", row: at / cols, value: f32::NAN });
        }
        match self.input_scale {
            Some(value) if !value.is_finite() => {
                Err(QuantError::NotFinite { what: "FP8 input scale", row: 0, value })
            }
            _ => Ok(()),
        }
    }
}

fn validate_blocks(format: WeightFormat, bytes: &[u8], rows: usize, cols: usize) -> Result<(), QuantError> {
    if !format.is_gguf() {
        return Err(QuantError::NotABlockFormat { format });
    }
    if !cols.is_multiple_of(format.block()) {
        return Err(QuantError::PartialBlock { format, block: format.block(), cols });
    }
    let row_bytes = (cols / format.block()).checked_mul(format.block_bytes());
    let expected = row_bytes.and_then(|row_bytes| rows.checked_mul(row_bytes));
    let expected = expected.ok_or(QuantError::TooLarge { what: "blocks", rows, cols })?;
    length("bytes of blocks", bytes.len(), expected)?;
    let row_bytes = format.row_bytes(cols).max(1);
    let mut values = if raw_floats(format) { vec![0.0; cols] } else { Vec::new() };
    for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        if raw_floats(format) {
            dequantize_blocks(format, bytes, &mut values);
            if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                return Err(QuantError::NotFinite { what: "weight", row, value });
            }
        } else if let Some(value) = block::bad_scale(format, bytes) {
            return Err(QuantError::NotFinite { what: "block scale", row, value });
        }
    }
    Ok(())
}

fn raw_floats(format: WeightFormat) -> bool {
    matches!(format, WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16)
}

fn dequantize_blocks(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *out = value(*bytes);
        }
    }
    match format {
        WeightFormat::F32 => each(bytes, out, f32::from_le_bytes),
        WeightFormat::F16 => each(bytes, out, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
        WeightFormat::Bf16 => each(bytes, out, |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
        _ => block::dequantize_from(format, bytes, out),
    }
}

pub(crate) fn length(what: &'static str, got: usize, expected: usize) -> Result<(), QuantError> {
    if got == expected { Ok(()) } else { Err(QuantError::Length { what, expected, got }) }
}

/// Checks row-major values, `cols` to a row.
pub(crate) fn finite(what: &'static str, values: &[f32], cols: usize) -> Result<(), QuantError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(QuantError::NotFinite { what, row: at / cols, value: values[at] }),
        None => Ok(()),
    }
}
