//! GPTQ: words run along the input features, zero points along the output features.

use super::{Shape, TILE, packable, transposed};
use crate::QuantError;
use crate::stored::{Grouped, length};

/// How zero points are stored (`checkpoint_format` of the configuration).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GptqVersion {
    /// `gptq`: minus one, so that the field 15 means 16.
    V1,
    /// `gptq_v2`: as they are.
    V2,
}

/// The tensors of one linear layer with `cols` input and `rows` output features, borrowed from a checkpoint. With
/// `p = 32 / bits` values per word:
#[derive(Debug, Clone, Copy)]
pub struct GptqTensors<'a> {
    pub bits: u32,
    /// Columns per group; `None` (-1 in the configuration) for one group per row.
    pub group: Option<usize>,
    pub version: GptqVersion,
    /// `[cols / p][rows]`: value `j` of word row `i` belongs to column `p i + j`.
    pub qweight: &'a [i32],
    /// `[groups][rows / p]`: value `j` of word `i` belongs to row `p i + j`.
    pub qzeros: &'a [i32],
    /// `[groups][rows]`.
    pub scales: &'a [f32],
    /// `[cols]`, the group of each column.
    pub g_idx: Option<&'a [i32]>,
}

/// The tensors of [`GptqTensors`], owned.
#[derive(Debug, Clone, PartialEq)]
pub struct GptqPacked {
    pub qweight: Vec<i32>,
    pub qzeros: Vec<i32>,
    pub scales: Vec<f32>,
    pub g_idx: Vec<i32>,
}

/// Unpacks and checks. `rows` and `cols` must be multiples of the values per word.
pub fn unpack(tensors: &GptqTensors<'_>, rows: usize, cols: usize) -> Result<Grouped, QuantError> {
    let shape = shape(tensors.bits, tensors.group, rows, cols)?;
    let Shape { group, groups, per_word, .. } = shape;
    length("qweight", tensors.qweight.len(), cols / per_word * rows)?;
    length("qzeros", tensors.qzeros.len(), rows / per_word * groups)?;
    length("scales", tensors.scales.len(), rows * groups)?;
    let group_of = shape.group_of(tensors.g_idx)?;

    let mut q = vec![0; rows * cols];
    for first in (0..rows).step_by(TILE) {
        let last = (first + TILE).min(rows);
        for (i, words) in tensors.qweight.chunks_exact(rows.max(1)).enumerate() {
            for row in first..last {
                for (j, q) in q[row * cols + i * per_word..][..per_word].iter_mut().enumerate() {
                    *q = shape.get(words[row], j);
                }
            }
        }
    }
    let offset = u16::from(tensors.version == GptqVersion::V1);
    let zero = |row: usize, g: usize| {
        u16::from(shape.get(tensors.qzeros[(g * rows + row) / per_word], row % per_word)) + offset
    };
    let zeros =
        (0..rows).flat_map(|row| (0..groups).map(move |g| (row, g))).map(|(row, g)| zero(row, g)).collect();
    let scales = transposed(tensors.scales, rows, groups);
    let grouped = Grouped { bits: tensors.bits, group, q, scales, zeros, group_of };
    crate::stored::finite("scales", &grouped.scales, groups)?;
    Ok(grouped)
}

/// Packs. Version 1 has no code for a zero point of 0, version 2 none for one of `2^bits`: both are errors.
pub fn pack(
    grouped: &Grouped,
    rows: usize,
    cols: usize,
    version: GptqVersion,
) -> Result<GptqPacked, QuantError> {
    packable(grouped, rows, cols)?;
    let shape = shape(grouped.bits, Some(grouped.group), rows, cols)?;
    let Shape { groups, per_word, .. } = shape;
    let mut qweight = vec![0i32; rows * cols / per_word];
    for (row, q) in grouped.q.chunks_exact(cols.max(1)).enumerate() {
        for (i, q) in q.chunks_exact(per_word).enumerate() {
            qweight[i * rows + row] = q.iter().enumerate().fold(0, |word, (j, q)| word | shape.put(j, *q));
        }
    }
    let mut qzeros = vec![0i32; rows * groups / per_word];
    for (row, zeros) in grouped.zeros.chunks_exact(groups.max(1)).enumerate() {
        for (g, zero) in zeros.iter().enumerate() {
            let stored = match version {
                GptqVersion::V1 => zero.checked_sub(1).ok_or(QuantError::ZeroPointZero { row })?,
                GptqVersion::V2 => *zero,
            };
            let code = super::zero_code(&shape, stored, row)?;
            qzeros[(g * rows + row) / per_word] |= shape.put(row % per_word, code);
        }
    }
    Ok(GptqPacked {
        qweight,
        qzeros,
        scales: transposed(&grouped.scales, groups, rows),
        g_idx: (0..cols).map(|col| grouped.group_at(col) as i32).collect(),
    })
}

fn shape(bits: u32, group: Option<usize>, rows: usize, cols: usize) -> Result<Shape, QuantError> {
    let shape = Shape::new(bits, group, rows, cols)?;
    shape.divides("input features of GPTQ", cols)?;
    shape.divides("output features of GPTQ", rows)?;
    Ok(shape)
}
