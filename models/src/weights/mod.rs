//! Where a model's values come from.
//!
//! Reading order: [`WeightSource`], `safetensors_file` (one file), `shards` and `parts` (the files of a folder), [`scheme`] (how
//! they are quantized), `layout` (which tensors hold a matrix), `checkpoint` (its values).

mod checkpoint;
mod layout;
mod parts;
mod safetensors_file;
pub mod scheme;
mod shards;

pub use checkpoint::SafetensorsWeights;
pub use safetensors_file::SafetensorsFile;
pub use scheme::Scheme;

use std::borrow::Cow;

use llmlab_quant::{StoredMatrix, WeightFormat};

use crate::error::ModelError;

/// Values by Hugging Face tensor name, produced when asked for, so that a model larger than memory in f32 can be packed
/// one tensor at a time.
pub trait WeightSource: Send + Sync {
    /// The tensor's values, row-major, in the shape [`crate::ModelSpec::tensors`] gives it; all finite.
    ///
    /// Fails when the name is not one of the model's, or when the file changed or cannot be read any more.
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError>;

    /// The matrix as the checkpoint holds it, without any rounding: [`Self::tensor`] is its dequantised form. Only for
    /// tensors of two dimensions.
    fn stored(&self, name: &str) -> Result<StoredMatrix<'_>, ModelError> {
        Ok(StoredMatrix::Floats(Cow::Owned(self.tensor(name)?)))
    }

    /// The format in which the checkpoint holds the tensor, known without reading its values; that of [`Self::stored`].
    fn format(&self, _name: &str) -> Result<WeightFormat, ModelError> {
        Ok(WeightFormat::F32)
    }
}
