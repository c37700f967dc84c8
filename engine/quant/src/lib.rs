//! Number formats of weights: what stored bytes mean, and how values are rounded into them.
//!
//! This crate knows: block layouts (GGUF), group quantisation (GPTQ, AWQ, compressed-tensors), FP8, the mixes of formats
//! that a name like `q4_k_m` stands for, and the scalar conversions that define each of them. It must not know: files,
//! models, threads, instruction sets, packed tiles. Everything here is the reference that kernels are tested against.
//!
//! Reading order: [`format`] (the names and sizes), [`stored`] (a matrix as a checkpoint holds it).

pub mod format;
pub mod stored;

pub use format::{BLOCK, SUPER_BLOCK, UnknownFormat, WeightFormat};
pub use stored::{Fp8Matrix, Grouped, Int8Channel, StoredMatrix};
