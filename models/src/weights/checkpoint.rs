//! The weights of a Hugging Face folder, in floats or quantized.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use llmlab_quant::packed::awq::{self, AwqTensors};
use llmlab_quant::packed::compressed::{self, CompressedTensors};
use llmlab_quant::packed::gptq::{self, GptqTensors};
use llmlab_quant::{Fp8Matrix, Grouped, Int8Channel, QuantError, StoredMatrix, WeightFormat};
use rayon::prelude::*;

use crate::error::ModelError;
use crate::spec::{ModelSpec, TensorSpec};
use crate::weights::WeightSource;
use crate::weights::layout::{self, Layout, prefix};
use crate::weights::parts::Parts;
use crate::weights::scheme::Scheme;
use crate::weights::shards;

/// A checkpoint. All headers, shapes and dtypes are checked when it is opened; values are read one tensor at a time.
pub struct SafetensorsWeights {
    parts: Parts,
    scheme: Option<Scheme>,
    tensors: HashMap<String, (TensorSpec, Layout)>,
}

impl SafetensorsWeights {
    /// Opens the checkpoint in `folder`, quantized as `scheme` says, and checks that each tensor of `spec` is there.
    pub fn open(folder: &Path, spec: &ModelSpec, scheme: Option<Scheme>) -> Result<Self, ModelError> {
        let parts = shards::open(folder, spec)?;
        let mut tensors = HashMap::new();
        for tensor in spec.tensors() {
            let layout = layout::find(&tensor, &parts, scheme)?;
            tensors.insert(tensor.name.clone(), (tensor, layout));
        }
        Ok(SafetensorsWeights { parts, scheme, tensors })
    }

    fn find(&self, name: &str) -> Result<(&TensorSpec, Layout), ModelError> {
        let found = self.tensors.get(name).map(|(tensor, layout)| (tensor, *layout));
        found.ok_or_else(|| ModelError::NoSuchTensor { tensor: name.to_string() })
    }
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let (tensor, layout) = self.find(name)?;
        if let Layout::Floats(_) = layout {
            return self.parts.file(name)?.floats(name);
        }
        let (rows, cols) = matrix_shape(tensor);
        let stored = self.stored(name)?;
        let mut values = vec![0.0; rows * cols];
        values
            .par_chunks_mut(cols.max(1))
            .with_min_len(16)
            .enumerate()
            .for_each(|(row, out)| stored.dequantize_row(row, cols, out));
        Ok(values)
    }

    fn stored(&self, name: &str) -> Result<StoredMatrix<'_>, ModelError> {
        let (tensor, layout) = self.find(name)?;
        if let Layout::Floats(format) = layout {
            return self.raw_floats(name, format);
        }
        let (rows, cols) = matrix_shape(tensor);
        let reader = Reader { parts: &self.parts, prefix: prefix(name), rows, cols };
        let scheme = self.scheme.expect("only a scheme gives a packed layout");
        let stored = match (layout, scheme) {
            (Layout::Packed { act_order }, scheme) => {
                reader.packed(scheme, act_order).map(StoredMatrix::Grouped)
            }
            (Layout::Int8, Scheme::Int8 { activations }) => reader.int8(activations),
            (Layout::Fp8 { .. }, Scheme::Fp8 { activations, .. }) => reader.fp8(layout, activations),
            (layout, scheme) => unreachable!("{layout:?} of {scheme:?}"),
        }?;
        stored.validate(rows, cols).map_err(|error| reader.bad(error))?;
        Ok(stored)
    }

    fn format(&self, name: &str) -> Result<WeightFormat, ModelError> {
        let (_, layout) = self.find(name)?;
        Ok(match (layout, self.scheme) {
            (Layout::Floats(format), _) => format,
            (Layout::Packed { .. }, Some(Scheme::Gptq { bits: 8, .. } | Scheme::Packed { bits: 8, .. })) => {
                WeightFormat::Int8Group
            }
            (Layout::Packed { .. }, _) => WeightFormat::Int4,
            (Layout::Int8, Some(Scheme::Int8 { activations: false })) => WeightFormat::Int8Group,
            (Layout::Int8, _) => WeightFormat::Int8,
            (Layout::Fp8 { .. }, Some(Scheme::Fp8 { activations: false, .. })) => WeightFormat::F32,
            (Layout::Fp8 { .. }, _) => WeightFormat::Fp8,
        })
    }
}

impl SafetensorsWeights {
    /// The bytes of a tensor of floats, all of them finite.
    fn raw_floats(&self, name: &str, format: WeightFormat) -> Result<StoredMatrix<'_>, ModelError> {
        let file = self.parts.file(name)?;
        let bytes = file.bytes(name)?;
        let bad = match format {
            WeightFormat::F16 => first_bad(&bytes, |raw| f16::from_le_bytes(raw).is_finite()),
            WeightFormat::Bf16 => first_bad(&bytes, |raw| bf16::from_le_bytes(raw).is_finite()),
            _ => first_bad(&bytes, |raw| f32::from_le_bytes(raw).is_finite()),
        };
        match bad {
            None => Ok(StoredMatrix::Blocks { format, bytes: Cow::Owned(bytes) }),
            Some(index) => Err(file.tensor_error(name, format!("value {index} is not a finite number"))),
        }
    }
}

fn matrix_shape(tensor: &TensorSpec) -> (usize, usize) {
    match tensor.shape[..] {
        [rows, cols] => (rows as usize, cols as usize),
        _ => unreachable!("a vector is stored as floats"),
    }
}

fn first_bad<const N: usize>(bytes: &[u8], good: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    bytes.as_chunks::<N>().0.par_iter().position_first(|raw| !good(*raw))
}

/// Reads the parts of one packed matrix.
struct Reader<'a> {
    parts: &'a Parts,
    prefix: &'a str,
    rows: usize,
    cols: usize,
}

impl Reader<'_> {
    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.prefix)
    }

    fn words(&self, part: &str) -> Result<Vec<i32>, ModelError> {
        let name = self.name(part);
        self.parts.file(&name)?.words(&name)
    }

    fn words_if(&self, wanted: bool, part: &str) -> Result<Option<Vec<i32>>, ModelError> {
        wanted.then(|| self.words(part)).transpose()
    }

    fn floats(&self, part: &str) -> Result<Vec<f32>, ModelError> {
        let name = self.name(part);
        self.parts.file(&name)?.floats(&name)
    }

    fn bytes(&self, part: &str) -> Result<Vec<u8>, ModelError> {
        let name = self.name(part);
        self.parts.file(&name)?.bytes(&name)
    }

    fn bad(&self, error: QuantError) -> ModelError {
        self.parts.missing(self.prefix, error.to_string())
    }

    fn packed(&self, scheme: Scheme, act_order: bool) -> Result<Grouped, ModelError> {
        let (rows, cols) = (self.rows, self.cols);
        let grouped = match scheme {
            Scheme::Gptq { bits, group, version } => {
                let (qweight, qzeros) = (self.words("qweight")?, self.words("qzeros")?);
                let (scales, g_idx) = (self.floats("scales")?, self.words_if(act_order, "g_idx")?);
                let (qweight, qzeros, scales, g_idx) = (&qweight, &qzeros, &scales, g_idx.as_deref());
                gptq::unpack(
                    &GptqTensors { bits, group, version, qweight, qzeros, scales, g_idx },
                    rows,
                    cols,
                )
            }
            Scheme::Awq { group, version } => {
                let (qweight, qzeros) = (self.words("qweight")?, self.words("qzeros")?);
                let scales = self.floats("scales")?;
                let (qweight, qzeros, scales) = (&qweight, &qzeros, &scales);
                awq::unpack(&AwqTensors { group, version, qweight, qzeros, scales }, rows, cols)
            }
            Scheme::Packed { bits, group, symmetric } => {
                let (packed, scale) = (self.words("weight_packed")?, self.floats("weight_scale")?);
                let zero_point = self.words_if(!symmetric, "weight_zero_point")?;
                let g_idx = self.words_if(act_order, "weight_g_idx")?;
                let tensors = CompressedTensors {
                    bits,
                    group,
                    weight_packed: &packed,
                    weight_scale: &scale,
                    weight_zero_point: zero_point.as_deref(),
                    weight_g_idx: g_idx.as_deref(),
                };
                compressed::unpack(&tensors, rows, cols)
            }
            scheme => unreachable!("{scheme:?} packs nothing into words"),
        };
        grouped.map_err(|error| self.bad(error))
    }

    fn int8(&self, activations: bool) -> Result<StoredMatrix<'static>, ModelError> {
        let q = self.bytes("weight")?;
        let zero_point = self.name("weight_zero_point");
        // Written by some tools for symmetric weights too, and then all zero.
        if self.parts.dtype(&zero_point)?.is_some()
            && self.bytes("weight_zero_point")?.iter().any(|byte| *byte != 0)
        {
            let problem = "zero points other than 0 are not supported yet".to_string();
            return Err(self.parts.missing(&zero_point, problem));
        }
        let mut scales = self.floats("weight_scale")?;
        if scales.len() == 1 {
            scales = vec![scales[0]; self.rows];
        }
        if activations {
            let q = q.into_iter().map(|byte| byte as i8).collect();
            return Ok(StoredMatrix::Int8(Int8Channel { q, scales }));
        }
        // Without rounded activations this is not W8A8 but eight bits with one group a row, shifted to be without sign.
        Ok(StoredMatrix::Grouped(Grouped {
            bits: 8,
            group: self.cols,
            q: q.into_iter().map(|byte| byte ^ 0x80).collect(),
            zeros: vec![128; self.rows],
            scales,
            group_of: None,
        }))
    }

    fn fp8(&self, layout: Layout, activations: bool) -> Result<StoredMatrix<'static>, ModelError> {
        let Layout::Fp8 { block_rows, block_cols, inverse_name, input_scale } = layout else {
            unreachable!("{layout:?} is not FP8");
        };
        let input_scale = match input_scale && activations {
            true => self.floats("input_scale")?.first().copied(),
            false => None,
        };
        let scales = self.floats(if inverse_name { "weight_scale_inv" } else { "weight_scale" })?;
        let matrix = Fp8Matrix { q: self.bytes("weight")?, scales, block_rows, block_cols, input_scale };
        if activations {
            return Ok(StoredMatrix::Fp8(matrix));
        }
        // The engine's FP8 rounds activations as well; a checkpoint that does not want that is multiplied in floats.
        let stored = StoredMatrix::Fp8(matrix);
        stored.validate(self.rows, self.cols).map_err(|error| self.bad(error))?;
        Ok(StoredMatrix::Floats(Cow::Owned(stored.dequantize(self.rows, self.cols))))
    }
}
