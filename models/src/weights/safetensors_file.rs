//! One safetensors file: its header, checked, and its tensors, read when asked for.
//!
//! Layout: 8 bytes little-endian header length, that many bytes of JSON, then the data without gaps or overlaps.
//! Tensors are read at their offset, for the reasons given in [`crate::read_at`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::IgnoredAny;

use crate::error::ModelError;
use crate::files::{UniqueMap, parse_json, read_error};
use crate::read_at::ReadAt;

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;
/// Values converted at once by one thread: 4 MiB of f32, small enough to stay in a cache slice, large enough to read well.
const CHUNK: usize = 1 << 20;

/// A safetensors file whose header has been read and checked.
pub struct SafetensorsFile {
    path: PathBuf,
    source: Box<dyn ReadAt>,
    metadata: Metadata,
    /// Where the data section starts in the file.
    data_start: u64,
}

impl SafetensorsFile {
    /// Opens `path` and checks the header against the file's length. Reads no tensor.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|error| read_error(path, error))?;
        Self::from_source(path, Box::new(file))
    }

    /// Like [`Self::open`], over bytes from anywhere; `path` is the name in errors.
    pub fn from_source(path: &Path, source: Box<dyn ReadAt>) -> Result<Self, ModelError> {
        let broken = |problem: String| ModelError::Weights { path: path.to_path_buf(), problem };
        let file_bytes = source.len_bytes().map_err(|error| read_error(path, error))?;
        if file_bytes < LENGTH_BYTES {
            return Err(broken(format!("{file_bytes} bytes are too few for a safetensors file")));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        source.read_exact_at(&mut length, 0).map_err(|error| read_error(path, error))?;
        let header_bytes = u64::from_le_bytes(length);
        let largest = (file_bytes - LENGTH_BYTES).min(MAX_HEADER_BYTES);
        if header_bytes > largest {
            return Err(broken(format!(
                "the header claims {header_bytes} bytes; the file has {file_bytes}, and {MAX_HEADER_BYTES} are the most accepted"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        source.read_exact_at(&mut header, LENGTH_BYTES).map_err(|error| read_error(path, error))?;
        parse_json::<UniqueMap<IgnoredAny>>(&header, path)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| broken(format!("the safetensors header is not valid: {error}")))?;
        let data_start = LENGTH_BYTES + header_bytes;
        let held = file_bytes - data_start;
        if metadata.data_len() as u64 != held {
            let claimed = metadata.data_len();
            return Err(broken(format!(
                "the header describes {claimed} bytes of data; the file holds {held}"
            )));
        }
        Ok(SafetensorsFile { path: path.to_path_buf(), source, metadata, data_start })
    }

    /// Names of all tensors in the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Dtype and shape of `name`.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.metadata.info(name).ok_or_else(|| self.tensor_error(name, "is not in this file".into()))
    }

    /// The values of `name` as f32. Fails on a value that is not finite: one NaN makes every token of every request the
    /// same, and is better found here.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.info(name)?.dtype {
            Dtype::F32 => self.read_as(name, f32::from_le_bytes),
            Dtype::F16 => self.read_as(name, |raw| f16::from_le_bytes(raw).to_f32()),
            Dtype::BF16 => self.read_as(name, |raw| bf16::from_le_bytes(raw).to_f32()),
            other => Err(self.tensor_error(name, format!("dtype {other}; accepted are F32, F16, BF16"))),
        }
    }

    /// The bytes of `name`.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        let (start, end) = self.info(name)?.data_offsets;
        let mut bytes = vec![0; end - start];
        bytes.par_chunks_mut(4 * CHUNK).enumerate().try_for_each(|(index, out)| {
            let offset = self.data_start + (start + index * 4 * CHUNK) as u64;
            self.source.read_exact_at(out, offset).map_err(|error| read_error(&self.path, error))
        })?;
        Ok(bytes)
    }

    /// The 32-bit words of `name`.
    pub fn words(&self, name: &str) -> Result<Vec<i32>, ModelError> {
        let words = self.bytes(name)?;
        Ok(words.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect())
    }

    /// Reads values of `N` bytes, in parallel and in parts, so that the raw bytes never lie beside the whole tensor.
    fn read_as<const N: usize>(
        &self,
        name: &str,
        value: impl Fn([u8; N]) -> f32 + Sync,
    ) -> Result<Vec<f32>, ModelError> {
        let (start, end) = self.info(name)?.data_offsets;
        let first_byte = self.data_start + start as u64;
        let mut values = vec![0.0; (end - start) / N];
        let first_bad = AtomicUsize::new(usize::MAX);
        values.par_chunks_mut(CHUNK).enumerate().try_for_each_init(Vec::new, |buffer, (index, out)| {
            buffer.resize(out.len() * N, 0);
            let offset = first_byte + (index * CHUNK * N) as u64;
            self.source.read_exact_at(buffer, offset).map_err(|error| read_error(&self.path, error))?;
            for (out, word) in out.iter_mut().zip(buffer.as_chunks::<N>().0) {
                *out = value(*word);
            }
            if let Some(bad) = out.iter().position(|value| !value.is_finite()) {
                first_bad.fetch_min(index * CHUNK + bad, Ordering::Relaxed);
            }
            Ok::<(), ModelError>(())
        })?;
        match first_bad.into_inner() {
            usize::MAX => Ok(values),
            bad => {
                Err(self.tensor_error(name, format!("value {bad} is {}, not a finite number", values[bad])))
            }
        }
    }

    pub fn tensor_error(&self, name: &str, problem: String) -> ModelError {
        ModelError::Tensor { path: self.path.clone(), tensor: name.to_string(), problem }
    }
}
