//! The tensors of a checkpoint by name, over all its files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::Dtype;

use crate::error::ModelError;
use crate::weights::safetensors_file::SafetensorsFile;

/// Every tensor of the files that may belong to the model.
pub struct Parts {
    pub files: Vec<SafetensorsFile>,
    /// Tensor name to the file that holds it.
    pub place: BTreeMap<String, usize>,
    /// What an error about an absent tensor names: the one file, or the index.
    pub list: PathBuf,
    /// How it says that a tensor is absent.
    pub absent: &'static str,
}

impl Parts {
    /// The dtype of `name`, or nothing where no file is said to hold it. Fails where one is said to and does not.
    pub fn dtype(&self, name: &str) -> Result<Option<Dtype>, ModelError> {
        self.place.get(name).map(|&file| Ok(self.files[file].info(name)?.dtype)).transpose()
    }

    /// The shape of `name`; as [`Self::dtype`].
    pub fn shape(&self, name: &str) -> Result<Option<&[usize]>, ModelError> {
        self.place.get(name).map(|&file| Ok(self.files[file].info(name)?.shape.as_slice())).transpose()
    }

    /// Checks that `name` is there with this shape and one of the dtypes, and returns which.
    pub fn expect(&self, name: &str, dtypes: &[Dtype], shape: &[usize]) -> Result<Dtype, ModelError> {
        let file = self.file(name)?;
        let info = file.info(name)?;
        if info.shape != shape {
            return Err(
                file.tensor_error(name, format!("shape {:?}; the config needs {shape:?}", info.shape))
            );
        }
        if !dtypes.contains(&info.dtype) {
            let accepted: Vec<String> = dtypes.iter().map(ToString::to_string).collect();
            let problem = format!("dtype {}; accepted are {}", info.dtype, accepted.join(", "));
            return Err(file.tensor_error(name, problem));
        }
        Ok(info.dtype)
    }

    /// The file that holds `name`.
    pub fn file(&self, name: &str) -> Result<&SafetensorsFile, ModelError> {
        match self.place.get(name) {
            Some(&file) => Ok(&self.files[file]),
            None => Err(self.missing(name, self.absent.to_string())),
        }
    }

    pub fn missing(&self, name: &str, problem: String) -> ModelError {
        ModelError::Tensor { path: self.list.clone(), tensor: name.to_string(), problem }
    }
}
