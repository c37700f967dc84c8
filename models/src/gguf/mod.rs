//! GGUF, the format of llama.cpp: one file with shape, tokenizer and weights (format: `docs/gguf.md` of ggml).
//!
//! A file is hostile until shown otherwise: it is opened only when every field of its header has been checked against the
//! file's size and against the other fields. Tensors are read at their offsets and not through a memory map (see
//! [`crate::read_at`] for why).
//!
//! Reading order: `cursor`, [`value`] and `header` (the container, read), `container` (the same, written), `tensor_type`,
//! [`file`] (an open file).

pub mod container;
mod cursor;
pub mod file;
mod header;
mod tensor_type;
pub mod value;

pub use container::{NewTensor, NewValue, write_container};
pub use file::GgufFile;
pub use header::Tensor;
pub use value::{Array, Kind, Value};
