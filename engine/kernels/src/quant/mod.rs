//! Number formats of weights: what a stored weight means, independent of how tiles are laid out.
//!
//! The block formats are those of GGUF (ggml `quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`), bit for bit, so that a
//! matrix quantised here equals one quantised by llama.cpp.

pub mod activations;
pub mod q4_0;
pub mod q8_0;

pub use llmlab_quant::{BLOCK, WeightFormat};
