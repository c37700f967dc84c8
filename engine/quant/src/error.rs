//! What can be wrong with values to be quantized, or with a matrix somebody else wrote.

use crate::WeightFormat;

/// Positions are rows (output features) and columns (input features) counted from 0.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantError {
    #[error("{what}: {got} values where the shape needs {expected}")]
    Length { what: &'static str, expected: usize, got: usize },
    #[error("{what}: a shape of {rows} x {cols} does not fit in memory")]
    TooLarge { what: &'static str, rows: usize, cols: usize },
    #[error("{format} stores blocks of {block} weights, and a row of {cols} is not a whole number of them")]
    PartialBlock { format: WeightFormat, block: usize, cols: usize },
    #[error("{what} in row {row} is {value}, not a finite number")]
    NotFinite { what: &'static str, row: usize, value: f32 },
    #[error(
        "row {row} holds a value of magnitude {magnitude}, too large for the half-precision scale of {format}"
    )]
    ScaleOverflow { format: WeightFormat, row: usize, magnitude: f32 },
    #[error("{what} {value} in row {row} is out of range, the largest allowed is {limit}")]
    OutOfRange { what: &'static str, row: usize, value: u64, limit: u64 },
    #[error("{what} is {got}; accepted: {accepted}")]
    Unsupported { what: &'static str, got: u64, accepted: &'static str },
    #[error("{what} does not divide evenly: {cols} by {by}")]
    Indivisible { what: &'static str, cols: usize, by: usize },
    #[error("{format} is not a block format of GGUF files")]
    NotABlockFormat { format: WeightFormat },
    #[error("{what} of column {col} is {value}, but there are only {limit}")]
    ColumnOutOfRange { what: &'static str, col: usize, value: u64, limit: u64 },
    #[error("the scales of {block_rows} rows are stored together, so single rows cannot be moved")]
    RowsShareScales { block_rows: usize },
    #[error("GPTQ version 1 stores zero points minus one and has no code for the zero point 0 of row {row}")]
    ZeroPointZero { row: usize },
}
