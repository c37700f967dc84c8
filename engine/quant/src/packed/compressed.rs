//! The `pack-quantized` format of compressed-tensors: words along the input features, rows padded to whole words.

use super::{Shape, packable};
use crate::QuantError;
use crate::stored::{Grouped, length};

/// The tensors of one linear layer with `cols` input and `rows` output features, borrowed from a checkpoint. With
/// `p = 32 / bits` values per word, stored with the offset `2^(bits - 1)`, so without sign:
#[derive(Debug, Clone, Copy)]
pub struct CompressedTensors<'a> {
    pub bits: u32,
    /// Columns per group; `None` for one scale per row (strategy `channel`).
    pub group: Option<usize>,
    /// `[rows][cols.div_ceil(p)]`: value `j` of word `i` belongs to column `p i + j`.
    pub weight_packed: &'a [i32],
    /// `[rows][groups]`.
    pub weight_scale: &'a [f32],
    /// `[rows.div_ceil(p)][groups]`: value `j` of word row `i` belongs to row `p i + j`. `None` where the scheme is
    /// symmetric.
    pub weight_zero_point: Option<&'a [i32]>,
    /// `[cols]`, the group of each column; ignored, as compressed-tensors does, where it holds the -1 of "not set".
    pub weight_g_idx: Option<&'a [i32]>,
}

/// The tensors of [`CompressedTensors`], owned; `weight_shape` is `[rows, cols]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressedPacked {
    pub weight_packed: Vec<i32>,
    pub weight_scale: Vec<f32>,
    /// `None` where every zero point is the middle level, so that the scheme can be called symmetric.
    pub weight_zero_point: Option<Vec<i32>>,
    /// `None` for plain groups.
    pub weight_g_idx: Option<Vec<i32>>,
}

/// Unpacks and checks.
pub fn unpack(tensors: &CompressedTensors<'_>, rows: usize, cols: usize) -> Result<Grouped, QuantError> {
    let shape = Shape::new(tensors.bits, tensors.group, rows, cols)?;
    let Shape { group, groups, per_word, .. } = shape;
    let words = cols.div_ceil(per_word);
    length("weight_packed", tensors.weight_packed.len(), rows * words)?;
    length("weight_scale", tensors.weight_scale.len(), rows * groups)?;
    crate::stored::finite("weight_scale", tensors.weight_scale, groups)?;
    let group_of = shape.group_of(tensors.weight_g_idx.filter(|indices| !indices.contains(&-1)))?;
    let zeros = match tensors.weight_zero_point {
        None => vec![1 << (tensors.bits - 1); rows * groups],
        Some(packed) => {
            length("weight_zero_point", packed.len(), rows.div_ceil(per_word) * groups)?;
            let zero = |row: usize, g: usize| shape.get(packed[row / per_word * groups + g], row % per_word);
            (0..rows).flat_map(|row| (0..groups).map(move |g| u16::from(zero(row, g)))).collect()
        }
    };
    let mut q = Vec::with_capacity(rows * cols);
    for words in tensors.weight_packed.chunks_exact(words.max(1)) {
        q.extend((0..cols).map(|col| shape.get(words[col / per_word], col % per_word)));
    }
    Ok(Grouped { bits: tensors.bits, group, q, scales: tensors.weight_scale.to_vec(), zeros, group_of })
}

/// Packs; an error for zero points above `2^bits - 1`.
pub fn pack(grouped: &Grouped, rows: usize, cols: usize) -> Result<CompressedPacked, QuantError> {
    let shape = packable(grouped, rows, cols)?;
    let Shape { groups, per_word, .. } = shape;
    let word = |q: &[u8]| q.iter().enumerate().fold(0, |word, (j, q)| word | shape.put(j, *q));
    let weight_packed =
        grouped.q.chunks_exact(cols.max(1)).flat_map(|row| row.chunks(per_word).map(word)).collect();
    let middle = 1 << (grouped.bits - 1);
    let symmetric = grouped.zeros.iter().all(|zero| *zero == middle);
    let mut zero_words = vec![0i32; if symmetric { 0 } else { rows.div_ceil(per_word) * groups }];
    if !symmetric {
        for (i, zero) in grouped.zeros.iter().enumerate() {
            let (row, g) = (i / groups, i % groups);
            let code = super::zero_code(&shape, *zero, row)?;
            zero_words[row / per_word * groups + g] |= shape.put(row % per_word, code);
        }
    }
    let g_idx = |group_of: &Vec<u32>| group_of.iter().map(|group| *group as i32).collect();
    Ok(CompressedPacked {
        weight_packed,
        weight_scale: grouped.scales.clone(),
        weight_zero_point: (!symmetric).then_some(zero_words),
        weight_g_idx: grouped.group_of.as_ref().map(g_idx),
    })
}
