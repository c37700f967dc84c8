//! Taking rows of a stored matrix: in another order (GGUF stores query and key rows permuted), or some of them (parts of
//! fused matrices). Exact: no number changes.

use std::borrow::Cow;

use crate::stored::{Fp8Matrix, Grouped, Int8Channel};
use crate::{QuantError, StoredMatrix};

impl StoredMatrix<'_> {
    /// The matrix whose row `i` is row `source[i]` of this one, which has `rows` x `cols` weights. An error where the matrix
    /// is not of that shape, a source row does not exist, or FP8 scales belong to several rows but not to all.
    pub fn permute_rows(
        &self,
        rows: usize,
        cols: usize,
        source: &[usize],
    ) -> Result<StoredMatrix<'static>, QuantError> {
        self.validate(rows, cols)?;
        if let Some(row) = source.iter().position(|from| *from >= rows) {
            let (value, limit) = (source[row] as u64, rows.saturating_sub(1) as u64);
            return Err(QuantError::OutOfRange { what: "source row", row, value, limit });
        }
        Ok(match self {
            StoredMatrix::Floats(values) => StoredMatrix::Floats(Cow::Owned(take(values, cols, source))),
            StoredMatrix::Blocks { format, bytes } => {
                let bytes = take(bytes, format.row_bytes(cols), source);
                StoredMatrix::Blocks { format: *format, bytes: Cow::Owned(bytes) }
            }
            StoredMatrix::Grouped(grouped) => {
                let groups = cols.div_ceil(grouped.group);
                StoredMatrix::Grouped(Grouped {
                    bits: grouped.bits,
                    group: grouped.group,
                    q: take(&grouped.q, cols, source),
                    scales: take(&grouped.scales, groups, source),
                    zeros: take(&grouped.zeros, groups, source),
                    group_of: grouped.group_of.clone(),
                })
            }
            StoredMatrix::Int8(channel) => StoredMatrix::Int8(Int8Channel {
                q: take(&channel.q, cols, source),
                scales: take(&channel.scales, 1, source),
            }),
            StoredMatrix::Fp8(matrix) => {
                let across = cols.div_ceil(matrix.block_cols);
                let (scales, block_rows) = match matrix.block_rows {
                    1 => (take(&matrix.scales, across, source), 1),
                    // One scale row for the whole matrix holds for any rows of it.
                    shared if shared >= rows => (matrix.scales.clone(), source.len().max(1)),
                    block_rows => return Err(QuantError::RowsShareScales { block_rows }),
                };
                let q = take(&matrix.q, cols, source);
                let (block_cols, input_scale) = (matrix.block_cols, matrix.input_scale);
                StoredMatrix::Fp8(Fp8Matrix { q, scales, block_rows, block_cols, input_scale })
            }
        })
    }
}

/// Rows of `width` values each.
fn take<T: Copy>(values: &[T], width: usize, source: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(source.len() * width);
    for row in source {
        out.extend_from_slice(&values[row * width..(row + 1) * width]);
    }
    out
}
