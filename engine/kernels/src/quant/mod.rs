//! How activations are rounded for the integer products. The formats of weights are those of [`llmlab_quant`].

pub mod activations;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod round;

pub use llmlab_quant::{BLOCK, WeightFormat};
pub(crate) use round::{MAGIC, bf16_bits, block8, e4m3_value, token_scale};
