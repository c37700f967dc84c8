//! GGUF, the format of llama.cpp: one file with shape, tokenizer and weights (format: `docs/gguf.md` of ggml).
//!
//! A file is hostile until shown otherwise: it is opened only when every field of its header has been checked against the
//! file's size and against the other fields. Tensors are read at their offsets and not through a memory map (see
//! [`crate::read_at`] for why).
//!
//! Reading order: `cursor`, [`value`] and `header` (the container, read), [`container`] (the same, written), [`file`] (an open
//! file); `keys`, `arch`, `spec` and `rope` (metadata to shape), `names` and [`weights`] (tensors), `pretokenizer` and
//! `tokenizer` (text), [`loading`] (all of it together); [`model_writer`], `metadata` and `tokenizer_writer` (the way back).

mod arch;
pub mod container;
mod cursor;
pub mod file;
mod header;
mod keys;
pub mod loading;
mod metadata;
pub mod model_writer;
mod names;
mod pretokenizer;
mod rope;
mod spec;
mod tensor_type;
mod tokenizer;
mod tokenizer_writer;
pub mod value;
pub mod weights;

pub use container::{NewTensor, NewValue, write_container};
pub use file::GgufFile;
pub use header::Tensor;
pub use loading::load_gguf;
pub use model_writer::{NewModel, NewVocabulary, write_gguf};
pub use value::{Array, Kind, Value};
pub use weights::GgufWeights;
