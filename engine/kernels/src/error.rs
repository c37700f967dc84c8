//! What can go wrong when threads are started, weights are packed or names are parsed. The kernels themselves cannot fail.

use crate::{Isa, WeightFormat};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("a matrix of {rows} x {cols} has no elements")]
    EmptyShape { rows: usize, cols: usize },
    #[error("a matrix of {rows} x {cols} needs {expected} values, got {got}")]
    LengthMismatch { rows: usize, cols: usize, expected: usize, got: usize },
    #[error("{format} stores blocks of {block} weights, but the matrix has {cols} columns")]
    NotBlockMultiple { format: WeightFormat, block: usize, cols: usize },
    #[error("the weight at row {row}, column {col} is not finite in the chosen format")]
    NonFinite { row: usize, col: usize },
    #[error("row {row} has weights too large for a 16-bit scale of {format}")]
    ScaleOverflow { format: WeightFormat, row: usize },
    #[error("unknown {what} `{name}`, expected one of: {expected}")]
    UnknownName { what: &'static str, name: String, expected: &'static str },
    #[error("this CPU cannot run {isa} kernels")]
    IsaUnavailable { isa: Isa },
    #[error("cannot allocate {bytes} bytes")]
    OutOfMemory { bytes: usize },
    #[error("the system refused thread {thread} of {threads}: {reason}")]
    ThreadRefused { thread: usize, threads: usize, reason: String },
    #[error("{format} weights cannot be packed: {reason}")]
    Unsupported { format: WeightFormat, reason: &'static str },
    /// What a stored matrix, or a quantizer of [`llmlab_quant`], complained of.
    #[error("{0}")]
    BadWeights(String),
    #[error("{0}")]
    BadShape(String),
}
