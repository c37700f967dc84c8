//! The network: one decoder for every family, because families differ in parts that are present or absent, not in order.
//!
//! Reading order: [`decoder`] (the order of a forward pass and its two ends), [`attention`] and [`mlp`] (the halves of a
//! layer), [`moe`] (the other kind of MLP).

pub mod attention;
pub mod decoder;
pub mod mlp;
pub mod moe;

pub use decoder::{Decoder, Workspace};
