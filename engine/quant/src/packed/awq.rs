//! AWQ: four bits; two layouts that differ in everything but the meaning of the numbers.

use super::{Shape, TILE, packable, transposed};
use crate::QuantError;
use crate::stored::{Grouped, length};

/// Which layout (`version` of the configuration).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwqVersion {
    /// Words along the output features, values in the order [`GEMM_ORDER`].
    Gemm,
    /// Words along the input features, values in order, scales and zero points padded per row.
    Gemv,
}

/// Value `i` of a word in the `gemm` layout belongs to this one of the word's eight output features.
pub const GEMM_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The tensors of one linear layer with `cols` input and `rows` output features, borrowed from a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct AwqTensors<'a> {
    /// Columns per group; `None` (-1 in the configuration) for one group per row.
    pub group: Option<usize>,
    pub version: AwqVersion,
    /// Gemm `[cols][rows / 8]`, gemv `[rows][cols / 8]`.
    pub qweight: &'a [i32],
    /// Gemm `[groups][rows / 8]`, gemv `[rows][width]` with `8 * width >= groups`.
    pub qzeros: &'a [i32],
    /// Gemm `[groups][rows]`, gemv `[rows][8 * width]`.
    pub scales: &'a [f32],
}

/// The tensors of [`AwqTensors`], owned.
#[derive(Debug, Clone, PartialEq)]
pub struct AwqPacked {
    pub qweight: Vec<i32>,
    pub qzeros: Vec<i32>,
    pub scales: Vec<f32>,
}

/// Unpacks and checks. The packed dimension must be a multiple of 8.
pub fn unpack(tensors: &AwqTensors<'_>, rows: usize, cols: usize) -> Result<Grouped, QuantError> {
    let shape = Shape::new(4, tensors.group, rows, cols)?;
    let grouped = match tensors.version {
        AwqVersion::Gemm => unpack_gemm(tensors, shape)?,
        AwqVersion::Gemv => unpack_gemv(tensors, shape)?,
    };
    crate::stored::finite("scales", &grouped.scales, shape.groups)?;
    Ok(grouped)
}

/// Packs; an error for act-order, which AWQ does not have, and for zero points above 15.
pub fn pack(
    grouped: &Grouped,
    rows: usize,
    cols: usize,
    version: AwqVersion,
) -> Result<AwqPacked, QuantError> {
    let shape = packable(grouped, rows, cols)?;
    if grouped.bits != 4 {
        return Err(QuantError::Unsupported {
            what: "bits per weight",
            got: grouped.bits.into(),
            accepted: "4",
        });
    }
    if let Some(group_of) = &grouped.group_of {
        let col = group_of.iter().enumerate().position(|(col, group)| *group as usize != col / grouped.group);
        if let Some(col) = col {
            let (value, limit) = (group_of[col].into(), (col / grouped.group) as u64);
            return Err(QuantError::ColumnOutOfRange {
                what: "group (AWQ has plain groups only)",
                col,
                value,
                limit,
            });
        }
    }
    let codes = grouped.zeros.iter().enumerate();
    let zeros = codes
        .map(|(i, zero)| super::zero_code(&shape, *zero, i / shape.groups))
        .collect::<Result<Vec<u8>, QuantError>>()?;
    match version {
        AwqVersion::Gemm => pack_gemm(grouped, &zeros, shape),
        AwqVersion::Gemv => pack_gemv(grouped, &zeros, shape),
    }
}

fn unpack_gemm(tensors: &AwqTensors<'_>, shape: Shape) -> Result<Grouped, QuantError> {
    let Shape { rows, cols, group, groups, per_word } = shape;
    shape.divides("output features of AWQ gemm", rows)?;
    length("qweight", tensors.qweight.len(), rows / per_word * cols)?;
    length("qzeros", tensors.qzeros.len(), rows / per_word * groups)?;
    length("scales", tensors.scales.len(), rows * groups)?;
    let q = transposed_words(tensors.qweight, &shape, cols);
    let zeros = transposed_words(tensors.qzeros, &shape, groups).into_iter().map(u16::from).collect();
    let scales = transposed(tensors.scales, rows, groups);
    Ok(Grouped { bits: 4, group, q, scales, zeros, group_of: None })
}

/// `[rows][width]` values from `[width][rows / 8]` words in gemm order.
fn transposed_words(words: &[i32], shape: &Shape, width: usize) -> Vec<u8> {
    let (rows, per_word) = (shape.rows, shape.per_word);
    let mut out = vec![0; rows * width];
    for first in (0..width).step_by(TILE) {
        for i in 0..rows / per_word {
            for at in first..(first + TILE).min(width) {
                let word = words[at * (rows / per_word) + i];
                for (nibble, row) in GEMM_ORDER.iter().enumerate() {
                    out[(i * per_word + row) * width + at] = shape.get(word, nibble);
                }
            }
        }
    }
    out
}

fn pack_gemm(grouped: &Grouped, zeros: &[u8], shape: Shape) -> Result<AwqPacked, QuantError> {
    let Shape { rows, cols, groups, per_word, .. } = shape;
    shape.divides("output features of AWQ gemm", rows)?;
    let words = |values: &[u8], width: usize| {
        let word = |at: usize, i: usize| {
            let value = |row: usize| values[(i * per_word + row) * width + at];
            GEMM_ORDER.iter().enumerate().fold(0, |word, (nibble, row)| word | shape.put(nibble, value(*row)))
        };
        (0..width)
            .flat_map(|at| (0..rows / per_word).map(move |i| (at, i)))
            .map(|(at, i)| word(at, i))
            .collect()
    };
    Ok(AwqPacked {
        qweight: words(&grouped.q, cols),
        qzeros: words(zeros, groups),
        scales: transposed(&grouped.scales, groups, rows),
    })
}

fn unpack_gemv(tensors: &AwqTensors<'_>, shape: Shape) -> Result<Grouped, QuantError> {
    let Shape { rows, cols, group, groups, per_word } = shape;
    shape.divides("input features of AWQ gemv", cols)?;
    length("qweight", tensors.qweight.len(), cols / per_word * rows)?;
    // The width is padded differently for different group sizes; what is there must be enough and consistent.
    let width = tensors.qzeros.len() / rows.max(1);
    length("qzeros", tensors.qzeros.len(), rows * width.max(groups.div_ceil(per_word)))?;
    length("scales", tensors.scales.len(), rows * width * per_word)?;
    let q = (0..rows * cols).map(|i| shape.get(tensors.qweight[i / per_word], i % per_word)).collect();
    let places = (0..rows).flat_map(|row| (0..groups).map(move |g| row * width * per_word + g));
    let zero = |at: usize| u16::from(shape.get(tensors.qzeros[at / per_word], at % per_word));
    let zeros = places.clone().map(zero).collect();
    let scales = places.map(|at| tensors.scales[at]).collect();
    Ok(Grouped { bits: 4, group, q, scales, zeros, group_of: None })
}

fn pack_gemv(grouped: &Grouped, zeros: &[u8], shape: Shape) -> Result<AwqPacked, QuantError> {
    let Shape { rows, cols, group, groups, per_word } = shape;
    shape.divides("input features of AWQ gemv", cols)?;
    // AutoAWQ widens by 2 for groups of 64 and by 4 for groups of 32.
    let multiple = match group {
        0..64 => 4,
        64..128 => 2,
        _ => 1,
    };
    let width = groups.div_ceil(per_word).next_multiple_of(multiple);
    let mut padded = vec![0.0; rows * width * per_word];
    let mut qzeros = vec![0i32; rows * width];
    for row in 0..rows {
        for g in 0..groups {
            padded[row * width * per_word + g] = grouped.scales[row * groups + g];
            qzeros[row * width + g / per_word] |= shape.put(g % per_word, zeros[row * groups + g]);
        }
    }
    let word = |q: &[u8]| q.iter().enumerate().fold(0, |word, (j, q)| word | shape.put(j, *q));
    let qweight = grouped.q.chunks_exact(per_word).map(word).collect();
    Ok(AwqPacked { qweight, qzeros, scales: padded })
}
