//! The safetensors file, written one tensor of the model at a time: the header first, from shapes alone.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, json};

use crate::error::ModelError;
use crate::export::format::HfFormat;
use crate::export::matrix::{self, Part};
use crate::files::read_error;
use crate::spec::TensorSpec;

/// Every tensor starts at a multiple of this, so that readers can map it.
const ALIGNMENT: usize = 8;

/// Writes `tensors` in `format` to `path`; `values` gives the values of each, row-major.
pub fn write(
    path: &Path,
    tensors: &[TensorSpec],
    format: HfFormat,
    values: impl Fn(&TensorSpec) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    let mut jobs: Vec<(&TensorSpec, Vec<Part>)> =
        tensors.iter().map(|tensor| (tensor, matrix::parts(tensor, format))).collect();
    // The format has no gaps, so the few parts that would misalign what follows come last.
    jobs.sort_by_key(|(_, parts)| parts.iter().any(|part| part.bytes() % ALIGNMENT != 0));

    let io = |error| read_error(path, error);
    let mut file = File::create(path).map_err(io)?;
    file.write_all(&header(&jobs)).map_err(io)?;
    for (tensor, parts) in &jobs {
        let bytes = matrix::bytes(tensor, &values(tensor)?, format).map_err(|error| ModelError::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.name.clone(),
            problem: error.to_string(),
        })?;
        for (bytes, part) in bytes.iter().zip(parts) {
            assert_eq!(bytes.len(), part.bytes(), "{} of {:?}", part.name, part.shape);
            file.write_all(bytes).map_err(io)?;
        }
    }
    Ok(())
}

fn header(jobs: &[(&TensorSpec, Vec<Part>)]) -> Vec<u8> {
    let mut entries = Map::new();
    // transformers refuses a file without this key.
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for part in jobs.iter().flat_map(|(_, parts)| parts) {
        let end = at + part.bytes();
        let entry =
            json!({ "dtype": part.dtype.to_string(), "shape": part.shape, "data_offsets": [at, end] });
        entries.insert(part.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat()
}
