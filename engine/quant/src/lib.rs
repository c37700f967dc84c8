//! Number formats of weights: what stored bytes mean, and how values are rounded into them.
//!
//! This crate knows: block layouts (GGUF), group quantisation (GPTQ, AWQ, compressed-tensors), FP8, the mixes of formats
//! that a name like `q4_k_m` stands for, and the scalar conversions that define each of them. It must not know: files,
//! models, threads, instruction sets, packed tiles. Everything here is the reference that kernels are tested against.
//!
//! Reading order: [`mod@format`] (the names and sizes), [`stored`] (a matrix as a checkpoint holds it), [`block`] (the structs
//! of GGUF), [`fp8`], [`quantize`] (f32 to any format), `rows` (taking rows of a stored matrix), [`packed`] (GPTQ, AWQ,
//! compressed-tensors), [`recipe`] (which matrix gets which format).

pub mod block;
mod error;
pub mod format;
pub mod fp8;
pub mod packed;
pub mod quantize;
pub mod recipe;
mod rows;
pub mod stored;

pub use block::{
    BlockIq4Nl, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, IQ4_NL_VALUES,
};
pub use error::QuantError;
pub use format::{BLOCK, SUPER_BLOCK, UnknownFormat, WeightFormat};
pub use fp8::{e4m3_to_f32, f32_to_e4m3};
pub use quantize::{DEFAULT_GROUP, Range, quantize_grouped, quantize_matrix, quantize_row};
pub use recipe::{MatrixRole, TensorPlace, WeightRecipe};
pub use stored::{Fp8Matrix, Grouped, Int8Channel, StoredMatrix};
