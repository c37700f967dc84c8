//! The scheduler: decides what each forward pass computes and who owns which KV block.
//!
//! No tensors, no clock, no I/O, no threads, no randomness: the same code serves tokens and is simulated.
//! Reading order: [`request`], [`step`], [`executor`], [`config`].

pub mod config;
pub mod executor;
pub mod request;
pub mod step;
