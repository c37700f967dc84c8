//! GGUF files byte by byte, so that tests can write what no writer would.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::Path;

use llmlab_models::ModelError;
use llmlab_models::gguf::{GgufFile, Kind};

/// One tensor's description, with whatever values.
#[derive(Clone)]
pub struct RawTensor {
    pub name: Vec<u8>,
    /// Innermost first, as in the file.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub offset: u64,
}

/// A file as fields.
#[derive(Clone)]
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    /// Key, type, and the value's bytes.
    pub keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<RawTensor>,
    pub alignment: usize,
    pub data_bytes: usize,
}

pub fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

pub fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

pub fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> RawTensor {
    RawTensor { name: name.into(), dims: dims.to_vec(), kind, offset }
}

impl Raw {
    /// A small valid file with a value of every type and three tensors: f32 [5], q8_0 [3, 64], q4_k [2, 2, 256].
    pub fn valid() -> Raw {
        let key = |name: &str, kind: Kind, value: &[u8]| (name.into(), kind as u32, value.to_vec());
        let nested = array(Kind::Array as u32, 2, &[array(0, 2, &[1, 2]), array(0, 0, &[])].concat());
        let texts = array(Kind::Str as u32, 2, &[string(b"a"), string("é".as_bytes())].concat());
        Raw {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: vec![
                key("general.architecture", Kind::Str, &string(b"llama")),
                key("a.u8", Kind::U8, &[200]),
                key("a.i8", Kind::I8, &[200]),
                key("a.u16", Kind::U16, &60_000u16.to_le_bytes()),
                key("a.i16", Kind::I16, &(-2i16).to_le_bytes()),
                key("a.u32", Kind::U32, &7u32.to_le_bytes()),
                key("a.i32", Kind::I32, &(-7i32).to_le_bytes()),
                key("a.f32", Kind::F32, &1.5f32.to_le_bytes()),
                key("a.bool", Kind::Bool, &[1]),
                key("a.u64", Kind::U64, &(1u64 << 40).to_le_bytes()),
                key("a.i64", Kind::I64, &(-1i64 << 40).to_le_bytes()),
                key("a.f64", Kind::F64, &0.1f64.to_le_bytes()),
                key("a.bools", Kind::Array, &array(Kind::Bool as u32, 3, &[1, 0, 1])),
                key("a.texts", Kind::Array, &texts),
                key("a.nested", Kind::Array, &nested),
                key("a.empty", Kind::Array, &array(Kind::F64 as u32, 0, &[])),
            ],
            tensors: vec![
                tensor("norm", &[5], 0, 0),
                tensor("matrix", &[64, 3], 8, 32),
                tensor("experts", &[256, 2, 2], 12, 256),
            ],
            alignment: 32,
            data_bytes: 256 + 4 * 144,
        }
    }

    /// With `general.alignment`, and everything placed by it.
    pub fn aligned(alignment: u32) -> Raw {
        let mut raw = Raw::valid();
        raw.keys.push((b"general.alignment".to_vec(), Kind::U32 as u32, alignment.to_le_bytes().to_vec()));
        raw
    }

    /// The header without the padding behind it.
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes
    }

    /// The file. Byte `i` of the data is `i % 251`.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend((0..self.data_bytes).map(|index| (index % 251) as u8));
        bytes
    }
}

pub const NAME: &str = "some/model.gguf";

pub fn open(bytes: Vec<u8>) -> Result<GgufFile, ModelError> {
    GgufFile::from_source(Path::new(NAME), Box::new(bytes))
}
