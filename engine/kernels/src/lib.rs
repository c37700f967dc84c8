//! CPU kernels: weight formats, matrix products, attention, and the probes that say how fast this machine could be.
//!
//! This crate knows: number formats, memory layout, instruction sets and threads. It must not know: models, layers,
//! requests, schedulers, files or clocks (the probes and the pool's spin limit are the two exceptions).
//! It is the only crate of the workspace that may use `unsafe`; every block says why it is sound.
//!
//! Two promises hold for every operation here:
//! - a variant for an instruction set agrees with [`mod@reference`] within the error of its number format;
//! - the result for one token never depends on which other tokens are in the call, nor on the number of threads.
//!
//! Reading order: [`error`], [`isa`], [`pool`], [`arena`] are the ground; `gemm::layout` says where packed weights lie and
//! `pack` puts them there for [`matrix`]; [`quant`] rounds activations; [`matmul`](mod@matmul) walks the tiles and `gemm`
//! holds the inner loops of each instruction set; [`ops`] and [`attention`] are the rest of a transformer layer; [`mod@reference`] is the oracle and
//! [`probe`] the roofline.

pub mod arena;
pub mod attention;
pub mod error;
mod gemm;
pub mod isa;
pub mod matmul;
pub mod matrix;
pub mod ops;
mod pack;
pub mod pool;
pub mod probe;
pub mod quant;
pub mod reference;
mod shared_mut;

pub use error::KernelError;
pub use isa::Isa;
pub use llmlab_quant::{StoredMatrix, WeightFormat};
pub use matmul::{matmul, matmul_many};
pub use matrix::PackedMatrix;
pub use pool::ThreadPool;
pub use quant::activations::Activations;
