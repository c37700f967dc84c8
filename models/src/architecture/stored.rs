//! The format a checkpoint is published in.

use std::fmt;

use crate::error::ModelError;
use crate::hf_config::{Keys, shown};

/// What the matrices of a checkpoint are stored in. Tables, norms and routers are 16 bits in all the quantized ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredFormat {
    F32,
    F16,
    Bf16,
    /// Matrices of layers in 8-bit floats with a scale for each block of 128 x 128, or for each row.
    Fp8,
    Int8,
    /// GPTQ, AWQ and other 4-bit integers.
    Int4,
    /// Experts in blocks of 32 4-bit floats with one 8-bit exponent; all else in bf16.
    Mxfp4,
}

impl StoredFormat {
    /// Of the `dtype` of a configuration; f32 where it is unknown, as transformers takes it.
    pub fn of_dtype(dtype: &str) -> StoredFormat {
        match dtype {
            "bfloat16" => StoredFormat::Bf16,
            "float16" | "half" => StoredFormat::F16,
            _ => StoredFormat::F32,
        }
    }

    pub(super) fn read(keys: &Keys) -> Result<StoredFormat, ModelError> {
        let Some(quantization) = keys.object("quantization_config")? else {
            let dtype = keys.text("torch_dtype")?.or(keys.text("dtype")?);
            return Ok(Self::of_dtype(dtype.unwrap_or("float32")));
        };
        match quantization.text("quant_method")? {
            Some("fp8" | "fbgemm_fp8") => Ok(StoredFormat::Fp8),
            Some("mxfp4") => Ok(StoredFormat::Mxfp4),
            Some("gptq" | "awq") => Ok(StoredFormat::Int4),
            other => {
                let found = other.map_or_else(|| "missing".into(), |name| shown(&name.into()));
                let accepted = "accepted are \"fp8\", \"fbgemm_fp8\", \"mxfp4\", \"gptq\", \"awq\"";
                quantization.fail("quant_method", format!("{found}; {accepted}"))
            }
        }
    }
}

impl fmt::Display for StoredFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            StoredFormat::F32 => "f32",
            StoredFormat::F16 => "f16",
            StoredFormat::Bf16 => "bf16",
            StoredFormat::Fp8 => "fp8",
            StoredFormat::Int8 => "int8",
            StoredFormat::Int4 => "int4",
            StoredFormat::Mxfp4 => "mxfp4",
        })
    }
}
