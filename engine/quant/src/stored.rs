//! A weight matrix `[rows = output features, cols = input features]` exactly as a checkpoint holds it.

use std::borrow::Cow;

use crate::WeightFormat;

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
