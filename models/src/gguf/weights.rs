//! The tensors of a GGUF file under Hugging Face names and in Hugging Face row order.

use std::collections::BTreeMap;

use llmlab_quant::{StoredMatrix, WeightFormat};
use rayon::prelude::*;

use crate::error::ModelError;
use crate::gguf::file::GgufFile;
use crate::gguf::header::Tensor;
use crate::gguf::names::{Place, places, stored_row};
use crate::spec::{ModelSpec, TensorRole};
use crate::weights::WeightSource;

/// The weights of one file. All places are checked when it is opened, values are read one tensor at a time.
pub struct GgufWeights {
    file: GgufFile,
    /// By Hugging Face name.
    places: BTreeMap<String, Place>,
}

impl GgufWeights {
    /// Finds each tensor of `spec` in `file` and checks its shape. Tensors the model does not have are ignored.
    pub fn new(file: GgufFile, spec: &ModelSpec) -> Result<Self, ModelError> {
        let mut found = BTreeMap::new();
        for place in places(spec) {
            let place = locate(&file, place, spec)?;
            found.insert(place.name.clone(), place);
        }
        Ok(GgufWeights { file, places: found })
    }

    /// The file the tensors are in.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    fn place(&self, name: &str) -> Result<(&Place, Tensor<'_>), ModelError> {
        let place = self.places.get(name);
        let place = place.ok_or_else(|| ModelError::NoSuchTensor { tensor: name.to_string() })?;
        let tensor = self.file.tensor(&place.gguf).expect("places were looked up when the file was opened");
        Ok((place, tensor))
    }

    /// A vector's values: a part of the tensor's only row.
    fn vector(&self, place: &Place, tensor: &Tensor<'_>) -> Result<Vec<f32>, ModelError> {
        let values = self.file.stored_rows(tensor, 0, 1)?.dequantize(1, tensor.cols() as usize);
        let values = &values[place.first_row as usize..][..place.rows() as usize];
        Ok(match place.permuted_heads_of {
            None => values.to_vec(),
            Some(head_dim) => {
                (0..place.rows()).map(|row| values[stored_row(row, head_dim) as usize]).collect()
            }
        })
    }

    fn matrix(&self, place: &Place, tensor: &Tensor<'_>) -> Result<StoredMatrix<'static>, ModelError> {
        let matrix = self.file.stored_rows(tensor, place.first_row, place.rows())?;
        let (rows, cols) = (place.rows() as usize, tensor.cols() as usize);
        let checked = match place.permuted_heads_of {
            None => matrix.validate(rows, cols).map(|()| matrix),
            // Rows move as whole rows: their bytes are the same.
            Some(head_dim) => {
                let source: Vec<usize> =
                    (0..rows as u64).map(|row| stored_row(row, head_dim) as usize).collect();
                matrix.permute_rows(rows, cols, &source)
            }
        };
        checked.map_err(|error| self.file.tensor_error(&place.gguf, error.to_string()))
    }
}

impl WeightSource for GgufWeights {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let (place, tensor) = self.place(name)?;
        let values = if place.shape.len() == 1 {
            self.vector(place, &tensor)?
        } else {
            let (matrix, cols) = (self.matrix(place, &tensor)?, tensor.cols() as usize);
            let mut values = vec![0.0; place.rows() as usize * cols];
            values
                .par_chunks_mut(cols)
                .enumerate()
                .for_each(|(row, out)| matrix.dequantize_row(row, cols, out));
            values
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(bad) => {
                let problem = format!("value {bad} of {name} is {}, not a finite number", values[bad]);
                Err(self.file.tensor_error(&place.gguf, problem))
            }
        }
    }

    fn stored(&self, name: &str) -> Result<StoredMatrix<'_>, ModelError> {
        let (place, tensor) = self.place(name)?;
        if place.shape.len() == 1 {
            return Ok(StoredMatrix::Floats(self.tensor(name)?.into()));
        }
        self.matrix(place, &tensor)
    }

    fn format(&self, name: &str) -> Result<WeightFormat, ModelError> {
        let (place, tensor) = self.place(name)?;
        // As in `stored`: vectors are small, and only floats.
        Ok(if place.shape.len() == 1 { WeightFormat::F32 } else { tensor.format })
    }
}

/// The place with the name and row it has in this file, checked against the tensor there.
fn locate(file: &GgufFile, mut place: Place, spec: &ModelSpec) -> Result<Place, ModelError> {
    if file.tensor(&place.gguf).is_none() {
        place = elsewhere(file, place, spec);
    }
    let Some(tensor) = file.tensor(&place.gguf) else {
        return Err(file.tensor_error(&place.gguf, "is not in this file".into()));
    };
    let fail = |needed: String| {
        let problem = format!("shape {:?}; needed is {needed}", tensor.shape());
        Err(file.tensor_error(&place.gguf, problem))
    };
    // Rows, or values, that the tensor must have: those of the other parts too, where it holds several.
    let shared = place.gguf.contains("attn_qkv") && !place.name.contains("qkv_proj");
    let together = if shared { spec.query_width() + 2 * spec.kv_width() } else { place.shape[0] };
    if place.shape.len() == 1 {
        if tensor.shape() != [together] {
            return fail(format!("[{together}]"));
        }
        if !matches!(tensor.format, WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16) {
            let problem = format!("format {}; accepted for a vector are f32, f16, bf16", tensor.format);
            return Err(file.tensor_error(&place.gguf, problem));
        }
        return Ok(place);
    }
    let (rows, cols) = (place.shape[0], place.shape[1]);
    let fits = match (tensor.shape(), place.expert) {
        // The gate of the shared expert has one row; older files have it as a vector.
        ([found], None) => rows == 1 && *found == cols,
        ([found_rows, found], None) => (*found_rows, *found) == (together, cols),
        ([experts, found_rows, found], Some((_, count))) => {
            // Gate and up rows of an expert may stand in one tensor.
            let together = if place.gguf.contains("ffn_gate_up_exps") { 2 * rows } else { rows };
            (*experts, *found_rows, *found) == (u64::from(count), together, cols)
        }
        // Files from before experts were one tensor.
        ([found_rows, found], Some(_)) => place.first_row == 0 && (*found_rows, *found) == (rows, cols),
        _ => false,
    };
    match (fits, place.expert) {
        (true, _) => Ok(place),
        (false, Some((_, count))) => fail(format!("[{count}, {rows}, {cols}]")),
        (false, None) => fail(format!("[{together}, {cols}]")),
    }
}

/// Where a tensor is in files that hold several in one, or one in several: newer converters can write query, key and value
/// rows in one tensor, and gate and up rows of all experts; files of early 2024 have a tensor for each expert.
fn elsewhere(file: &GgufFile, place: Place, spec: &ModelSpec) -> Place {
    let Some(layer) = place.layer else { return place };
    let suffix = if place.shape.len() == 1 { "bias" } else { "weight" };
    let moved = |gguf: String, first_row: u64| match file.tensor(&gguf) {
        Some(_) => Place { gguf, first_row, ..place.clone() },
        None => place.clone(),
    };
    let query_key_value = |first_row| moved(format!("blk.{layer}.attn_qkv.{suffix}"), first_row);
    match (place.role, place.expert) {
        _ if place.gguf.contains("attn_q.") => query_key_value(0),
        _ if place.gguf.contains("attn_k.") => query_key_value(spec.query_width()),
        _ if place.gguf.contains("attn_v.") => query_key_value(spec.query_width() + spec.kv_width()),
        (role @ (TensorRole::Gate | TensorRole::Up), Some((index, _)))
            if file.tensor(&format!("blk.{layer}.ffn_gate_up_exps.weight")).is_some() =>
        {
            let behind_gate = if role == TensorRole::Up { place.rows() } else { 0 };
            let first = u64::from(index) * 2 * place.rows() + behind_gate;
            moved(format!("blk.{layer}.ffn_gate_up_exps.weight"), first)
        }
        (_, Some((index, _))) => moved(place.gguf.replace("_exps.", &format!(".{index}.")), 0),
        _ => place,
    }
}
