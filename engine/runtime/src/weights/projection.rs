//! Matrices that multiply the same input, computed together.

use llmlab_kernels::ops::{RowsMut, add_bias};
use llmlab_kernels::{Activations, PackedMatrix, ThreadPool, matmul_many};

use crate::lora::LoraScratch;

/// At most query, key and value.
const MAX_PARTS: usize = 3;

/// One or more matrices [rows, cols] whose outputs lie side by side, each in its own format, and a bias for all of them.
pub struct Projection {
    parts: Vec<Part>,
    /// [rows of all parts].
    bias: Option<Vec<f32>>,
    /// Whether all parts read the columns in the same order.
    one_order: bool,
}

/// A matrix and the order in which it reads its input.
pub struct Part {
    pub matrix: PackedMatrix,
    /// Column c of the matrix multiplies input `columns[c]`; `None` for the order as it is. Quantisers that round columns
    /// in order of importance (GPTQ's act-order) leave the columns of a group scattered; packed, they lie together.
    pub columns: Option<Vec<u32>>,
}

/// Buffers of products, kept between them.
#[derive(Default)]
pub struct ProjectionScratch {
    pub activations: Activations,
    reordered: Vec<f32>,
    separate: Vec<f32>,
    pub lora: LoraScratch,
}

impl Projection {
    /// Panics when there is no part, more than three, or parts of different widths.
    pub(super) fn new(parts: Vec<Part>, bias: Option<Vec<f32>>) -> Self {
        assert!((1..=MAX_PARTS).contains(&parts.len()), "{} parts", parts.len());
        assert!(
            parts.iter().all(|part| part.matrix.cols() == parts[0].matrix.cols()),
            "parts of different widths"
        );
        let one_order = parts.iter().all(|part| part.columns == parts[0].columns);
        let projection = Projection { parts, bias, one_order };
        assert!(
            projection.bias.as_ref().is_none_or(|bias| bias.len() == projection.rows()),
            "length of the bias"
        );
        projection
    }

    /// Output features of all parts.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.matrix.rows()).sum()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.parts[0].matrix.cols()
    }

    pub fn bytes(&self) -> u64 {
        let matrices: usize = self.parts.iter().map(|part| part.matrix.bytes()).sum();
        (matrices + 4 * self.bias.as_ref().map_or(0, Vec::len)) as u64
    }

    /// The values of one row of a matrix without parts, [cols]: looks a token up in an embedding table.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let [Part { matrix, columns: None }] = self.parts.as_slice() else { panic!("a table of parts") };
        matrix.dequantize_row(row, out);
    }

    /// `out = x * matrices^T + bias`; `x` is [tokens, cols], `out` becomes [tokens, rows].
    pub fn apply(&self, pool: &ThreadPool, x: &[f32], out: &mut Vec<f32>, scratch: &mut ProjectionScratch) {
        let tokens = x.len() / self.cols();
        out.resize(tokens * self.rows(), 0.0);
        if self.one_order {
            let mut matrices = [&self.parts[0].matrix; MAX_PARTS];
            for (to, part) in matrices.iter_mut().zip(&self.parts) {
                *to = &part.matrix;
            }
            let x = reorder(x, self.parts[0].columns.as_deref(), &mut scratch.reordered);
            matmul_many(pool, &matrices[..self.parts.len()], x, tokens, out, &mut scratch.activations);
        } else {
            self.apply_separately(pool, x, tokens, out, scratch);
        }
        if let Some(bias) = &self.bias {
            add_bias(pool, RowsMut::packed(out, bias.len()), bias);
        }
    }

    /// For parts that read the columns in different orders: one product each, then side by side.
    fn apply_separately(
        &self,
        pool: &ThreadPool,
        x: &[f32],
        tokens: usize,
        out: &mut [f32],
        scratch: &mut ProjectionScratch,
    ) {
        let (width, mut first) = (self.rows(), 0);
        for Part { matrix, columns } in &self.parts {
            let rows = matrix.rows();
            scratch.separate.resize(tokens * rows, 0.0);
            let x = reorder(x, columns.as_deref(), &mut scratch.reordered);
            matmul_many(pool, &[matrix], x, tokens, &mut scratch.separate, &mut scratch.activations);
            for (out, part) in out.chunks_exact_mut(width).zip(scratch.separate.chunks_exact(rows)) {
                out[first..first + rows].copy_from_slice(part);
            }
            first += rows;
        }
    }
}

impl Part {
    /// The values it multiplies with, [rows, cols] in the order of the input.
    pub fn dequantize(&self) -> Vec<f32> {
        let (rows, cols) = (self.matrix.rows(), self.matrix.cols());
        let mut values = vec![0.0; rows * cols];
        let mut row = vec![0.0; cols];
        for (index, out) in values.chunks_exact_mut(cols).enumerate() {
            self.matrix.dequantize_row(index, &mut row);
            match &self.columns {
                None => out.copy_from_slice(&row),
                Some(columns) => {
                    columns.iter().zip(&row).for_each(|(column, value)| out[*column as usize] = *value)
                }
            }
        }
        values
    }
}

/// `x` with the columns of each row in the given order.
fn reorder<'a>(x: &'a [f32], columns: Option<&[u32]>, space: &'a mut Vec<f32>) -> &'a [f32] {
    let Some(columns) = columns else { return x };
    space.clear();
    for row in x.chunks_exact(columns.len()) {
        space.extend(columns.iter().map(|column| row[*column as usize]));
    }
    space
}
