//! An open GGUF file: its checked header, and reads inside its tensors.

use std::fs::File;
use std::path::{Path, PathBuf};

use llmlab_quant::StoredMatrix;

use crate::error::ModelError;
use crate::files::read_error;
use crate::gguf::header::{Header, Tensor};
use crate::gguf::value::Value;
use crate::read_at::ReadAt;

/// A GGUF file whose header has been read and checked. Tensors are read when they are asked for.
pub struct GgufFile {
    path: PathBuf,
    source: Box<dyn ReadAt>,
    header: Header,
}

impl GgufFile {
    /// Opens `path`, version 2 or 3, little-endian, one file. Fails with the file, the place and what is accepted there when
    /// anything about the header is wrong, or when the file is shorter than its header says.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|error| read_error(path, error))?;
        Self::from_source(path, Box::new(file))
    }

    /// Like [`Self::open`], over bytes from anywhere; `path` is the name in errors.
    pub fn from_source(path: &Path, source: Box<dyn ReadAt>) -> Result<Self, ModelError> {
        let file_bytes = source.len_bytes().map_err(|error| read_error(path, error))?;
        let header = Header::read(&*source, file_bytes).map_err(|broken| ModelError::Weights {
            path: path.to_path_buf(),
            problem: format!("not a valid GGUF file: byte {}: {}", broken.at, broken.problem),
        })?;
        Ok(GgufFile { path: path.to_path_buf(), source, header })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The value of a metadata key.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.header.value(key)
    }

    /// All metadata, in the order of the keys.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.header.entries()
    }

    /// All tensors under the names they have in the file, in the order of the names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.header.tensors()
    }

    /// One tensor by the name it has in the file.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.header.tensor(name)
    }

    /// The bytes of `rows` rows of `tensor` from row `first` on. Rows are counted over all outer dimensions, so the slice
    /// of one expert is a range of rows.
    pub fn read_rows(&self, tensor: &Tensor<'_>, first: u64, rows: u64) -> Result<Vec<u8>, ModelError> {
        assert!(
            first.checked_add(rows).is_some_and(|end| end <= tensor.rows()),
            "rows {first}+{rows} of the {} of {}",
            tensor.rows(),
            tensor.name
        );
        // Inside the tensor, which is inside the file.
        let row_bytes = tensor.bytes / tensor.rows();
        let mut bytes = vec![0; (rows * row_bytes) as usize];
        let offset = tensor.offset + first * row_bytes;
        self.source.read_exact_at(&mut bytes, offset).map_err(|error| read_error(&self.path, error))?;
        Ok(bytes)
    }

    /// Rows as the file holds them, as a matrix of `rows` rows.
    pub fn stored_rows(
        &self,
        tensor: &Tensor<'_>,
        first: u64,
        rows: u64,
    ) -> Result<StoredMatrix<'static>, ModelError> {
        let bytes = self.read_rows(tensor, first, rows)?;
        Ok(StoredMatrix::Blocks { format: tensor.format, bytes: bytes.into() })
    }

    pub(crate) fn tensor_error(&self, name: &str, problem: String) -> ModelError {
        ModelError::Tensor { path: self.path.clone(), tensor: name.to_string(), problem }
    }

    pub(crate) fn key_error(&self, key: &str, problem: String) -> ModelError {
        ModelError::Key { path: self.path.clone(), key: key.to_string(), problem }
    }
}
