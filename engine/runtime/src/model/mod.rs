//! Networks, one file per family.

pub mod llama;
