//! The row-wise operations between the matrix products of a Llama layer.
//!
//! Every result is a function of its own row: the same bits come out for any number of rows and threads. The bodies
//! are plain loops over 16 fixed lanes without fused multiply-add, so they also give the same bits on every
//! instruction set; they are compiled once per set ([`rows::multiversion`]) only to be faster there.
//!
//! Reading order: [`rows`] (who computes which rows), [`exp`] and [`lanes`], then one file per operation.

mod bias;
pub(crate) mod exp;
mod gated;
pub(crate) mod lanes;
mod norm;
mod rope;
pub(crate) mod rows;
pub(crate) mod tanh;

pub use bias::add_bias;
pub use gated::{gelu_tanh_mul_fused, silu_mul, silu_mul_fused};
pub use norm::{add_rms_norm, rms_norm, rms_norm_heads};
pub use rope::RopeTable;
pub use rows::{RowsMut, RowsRef};
pub use tanh::soft_cap;

#[cfg(test)]
pub(crate) mod testing {
    use rand::{RngExt, SeedableRng};

    use crate::Isa;

    /// `n` values in -1..1.
    pub(crate) fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// All instruction sets this machine has.
    pub(crate) fn every_isa() -> Vec<Isa> {
        Isa::available()
    }
}
