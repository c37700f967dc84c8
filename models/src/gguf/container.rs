//! Writing the container: keys, tensor descriptions, and the tensors' bytes one after the other.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use llmlab_quant::WeightFormat;

use crate::error::ModelError;
use crate::files::read_error;
use crate::gguf::header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use crate::gguf::tensor_type::number_of;
use crate::gguf::value::Kind;

const VERSION: u32 = 3;

/// A metadata value to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum NewValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTensor {
    pub name: String,
    /// Row-major, outermost first; rows a multiple of the format's block.
    pub shape: Vec<u64>,
    /// One that GGUF has.
    pub format: WeightFormat,
}

impl NewTensor {
    /// Bytes the tensor takes in the file, without padding.
    pub fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().product();
        elements / self.format.block() as u64 * self.format.block_bytes() as u64
    }
}

/// Writes a GGUF file of version 3. `data(i, out)` writes the bytes of tensor `i`; it is called once for each, in order, so
/// that one tensor at a time is in memory. The file appears under its name when it is complete.
pub fn write_container(
    path: &Path,
    keys: &[(String, NewValue)],
    tensors: &[NewTensor],
    mut data: impl FnMut(usize, &mut dyn Write) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let failed = |error| read_error(partial, error);
    let write = || {
        let file = File::create(partial).map_err(failed)?;
        let mut out = Counted { out: BufWriter::with_capacity(1 << 20, file), bytes: 0 };
        out.write_all(&header(keys, tensors)).map_err(failed)?;
        for (index, tensor) in tensors.iter().enumerate() {
            out.pad().map_err(failed)?;
            let start = out.bytes;
            data(index, &mut out)?;
            let written = out.bytes - start;
            assert_eq!(written, tensor.bytes(), "bytes written for {}", tensor.name);
        }
        out.pad().map_err(failed)?;
        out.flush().map_err(failed)?;
        fs::rename(partial, path).map_err(|error| read_error(path, error))
    };
    let mut write = write;
    write().inspect_err(|_| {
        // What could not be completed is of no use; that it cannot be removed changes nothing about the error.
        let _ = fs::remove_file(partial);
    })
}

/// Everything in front of the first tensor's padding.
pub(crate) fn header(keys: &[(String, NewValue)], tensors: &[NewTensor]) -> Vec<u8> {
    assert!(keys.iter().all(|(key, _)| key != ALIGNMENT_KEY), "files are written with the default alignment");
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        put_str(&mut bytes, key);
        put_value(&mut bytes, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_str(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            bytes.extend(size.to_le_bytes());
        }
        let number = number_of(tensor.format).unwrap_or_else(|| {
            panic!("{} has no number in GGUF: the recipe check lets none pass", tensor.format)
        });
        bytes.extend(number.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    bytes
}

fn put_str(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &NewValue) {
    let kind = |bytes: &mut Vec<u8>, kind: Kind| bytes.extend((kind as u32).to_le_bytes());
    let array = |bytes: &mut Vec<u8>, element: Kind, count: usize| {
        kind(bytes, Kind::Array);
        kind(bytes, element);
        bytes.extend((count as u64).to_le_bytes());
    };
    match value {
        NewValue::U32(value) => {
            kind(bytes, Kind::U32);
            bytes.extend(value.to_le_bytes());
        }
        NewValue::F32(value) => {
            kind(bytes, Kind::F32);
            bytes.extend(value.to_le_bytes());
        }
        NewValue::Bool(value) => {
            kind(bytes, Kind::Bool);
            bytes.push(u8::from(*value));
        }
        NewValue::Str(text) => {
            kind(bytes, Kind::Str);
            put_str(bytes, text);
        }
        NewValue::U32s(values) => {
            array(bytes, Kind::U32, values.len());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::I32s(values) => {
            array(bytes, Kind::I32, values.len());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::F32s(values) => {
            array(bytes, Kind::F32, values.len());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::Bools(values) => {
            array(bytes, Kind::Bool, values.len());
            bytes.extend(values.iter().map(|value| u8::from(*value)));
        }
        NewValue::Strs(values) => {
            array(bytes, Kind::Str, values.len());
            for value in values {
                put_str(bytes, value);
            }
        }
    }
}

/// Counts, because offsets in the header were computed before the bytes exist.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    fn pad(&mut self) -> io::Result<()> {
        let padding = self.bytes.next_multiple_of(DEFAULT_ALIGNMENT) - self.bytes;
        self.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize])
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
