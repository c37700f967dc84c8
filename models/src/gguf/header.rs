//! The header of a GGUF file: read once, every field checked against the file before it is used, then looked up.
//!
//! Memory: the header's bytes are kept as they are, with twelve bytes beside them for each key and four for each tensor. Both
//! take more than that in the file, so with the room to read ahead a header costs less than three times what it has in the file
//! (`tests/gguf_memory.rs`). A count or length in the file never chooses an allocation by itself.

use llmlab_quant::WeightFormat;

use crate::gguf::cursor::{Broken, Cursor, Parsed};
use crate::gguf::tensor_type::format_of;
use crate::gguf::value::{self, Value};
use crate::read_at::ReadAt;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Where the tensors start is a multiple of this unless the file says otherwise.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Vocabulary and merges make up a header; the largest published ones have some 15 MB.
const MAX_HEADER_BYTES: u64 = 1 << 30;
/// Larger than any page; a larger alignment is a mistake, and would let a small file name a large one.
const MAX_ALIGNMENT: u64 = 1 << 20;
const MAX_KEY_BYTES: usize = 65_535;
/// ggml's limit on a tensor name.
pub(crate) const MAX_NAME_BYTES: usize = 64;
const MAX_DIMENSIONS: u32 = 4;
/// A key of one character with the shortest value: lengths and types take the rest.
const LEAST_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
/// A tensor with a name of one character and one dimension.
const LEAST_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Positions in the header's bytes of one key and its value.
#[derive(Debug, Clone, Copy)]
struct Key {
    /// Of the key's text.
    text: u32,
    length: u32,
    /// Of the value's type.
    value: u32,
}

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    pub version: u32,
    /// Where the tensors' bytes start in the file.
    pub data_start: u64,
    bytes: Vec<u8>,
    /// Sorted by key.
    keys: Vec<Key>,
    /// Positions of the tensors' descriptions, sorted by name.
    tensors: Vec<u32>,
}

/// What a file says about one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tensor<'a> {
    pub name: &'a str,
    /// Row-major, outermost first as everywhere in this crate (GGUF itself writes the innermost first); the first
    /// `4 - dimensions` are 1.
    shape: [u64; 4],
    dimensions: usize,
    pub format: WeightFormat,
    /// Of its first byte, from the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl Tensor<'_> {
    /// Row-major, outermost dimension first.
    pub fn shape(&self) -> &[u64] {
        &self.shape[4 - self.dimensions..]
    }

    /// Values in one row: the innermost dimension.
    pub fn cols(&self) -> u64 {
        self.shape[3]
    }

    /// Rows over all other dimensions.
    pub fn rows(&self) -> u64 {
        self.shape[0] * self.shape[1] * self.shape[2]
    }
}

impl Header {
    pub fn read(source: &dyn ReadAt, file_bytes: u64) -> Parsed<Header> {
        let mut cursor = Cursor::new(source, file_bytes, MAX_HEADER_BYTES);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.u64("the number of tensors")?;
        let key_count = cursor.u64("the number of keys")?;
        cursor.check_count(key_count, LEAST_KEY_BYTES, "keys")?;
        let tensor_count = cursor.check_count(tensor_count, LEAST_TENSOR_BYTES, "tensors")?;
        let keys = read_keys(&mut cursor, key_count as usize)?;
        let alignment = alignment(&cursor, &keys)?;
        // Again, because the keys have taken their part of the file.
        cursor.check_count(tensor_count as u64, LEAST_TENSOR_BYTES, "tensors")?;
        let mut tensors = Vec::with_capacity(tensor_count);
        for _ in 0..tensor_count {
            tensors.push(cursor.at());
            check_tensor(&mut cursor)?;
        }
        let header_end = u64::from(cursor.at());
        let data_start = header_end.next_multiple_of(alignment);
        let mut header = Header { version, data_start, bytes: cursor.into_bytes(), keys, tensors };
        header.check_places(alignment, file_bytes)?;
        header.sort_names()?;
        Ok(header)
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        find(&self.bytes, &self.keys, key).map(|key| value::view(&self.bytes[key.value as usize..]))
    }

    /// All keys and values, in the order of the keys' bytes.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.keys.iter().map(|key| {
            let text = str::from_utf8(text(&self.bytes, key)).expect("keys were checked to be UTF-8");
            (text, value::view(&self.bytes[key.value as usize..]))
        })
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|at| self.tensor_at(*at))
    }

    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let found = self.tensors.binary_search_by(|at| self.name_at(*at).cmp(name.as_bytes()));
        found.ok().map(|index| self.tensor_at(self.tensors[index]))
    }

    fn name_at(&self, at: u32) -> &[u8] {
        let (length, rest) = u64_front(&self.bytes[at as usize..]);
        &rest[..length as usize]
    }

    /// The description at `at`, which [`check_tensor`] has accepted.
    fn tensor_at(&self, at: u32) -> Tensor<'_> {
        let name = str::from_utf8(self.name_at(at)).expect("names were checked to be UTF-8");
        let rest = &self.bytes[at as usize + 8 + name.len()..];
        let (dimensions, mut rest) = u32_front(rest);
        let dimensions = dimensions as usize;
        let mut shape = [1; 4];
        for dimension in 0..dimensions {
            (shape[3 - dimension], rest) = u64_front(rest);
        }
        let (number, rest) = u32_front(rest);
        let format = format_of(number).expect("the type was checked when the header was read");
        let (offset, _) = u64_front(rest);
        let elements: u64 = shape.iter().product();
        let bytes = elements / format.block() as u64 * format.block_bytes() as u64;
        Tensor { name, shape, dimensions, format, offset: self.data_start + offset, bytes }
    }

    /// Each tensor is aligned and inside the file, and no two share bytes.
    fn check_places(&self, alignment: u64, file_bytes: u64) -> Parsed<()> {
        let mut order: Vec<u32> = self.tensors.clone();
        order.sort_unstable_by_key(|at| (self.tensor_at(*at).offset, *at));
        let mut end = self.data_start;
        let mut before = "";
        for at in order {
            let tensor = self.tensor_at(at);
            let fail = |problem: String| {
                Err(Broken { at: at.into(), problem: format!("tensor {:?}: {problem}", tensor.name) })
            };
            let offset = tensor.offset - self.data_start;
            if !offset.is_multiple_of(alignment) {
                return fail(format!("offset {offset} is not a multiple of the alignment {alignment}"));
            }
            if tensor.offset < end {
                return fail(format!("its bytes from offset {offset} on are also those of {before:?}"));
            }
            // Neither can overflow: offsets are at most the file's size, and a tensor's bytes fit an i64.
            end = tensor.offset + tensor.bytes;
            if end > file_bytes {
                let (bytes, at) = (tensor.bytes, tensor.offset);
                return fail(format!("{bytes} bytes from byte {at} on; the file ends at {file_bytes}"));
            }
            before = tensor.name;
        }
        Ok(())
    }

    fn sort_names(&mut self) -> Parsed<()> {
        let mut tensors = std::mem::take(&mut self.tensors);
        tensors.sort_unstable_by(|a, b| self.name_at(*a).cmp(self.name_at(*b)));
        self.tensors = tensors;
        match self.tensors.windows(2).find(|pair| self.name_at(pair[0]) == self.name_at(pair[1])) {
            None => Ok(()),
            Some(pair) => {
                let problem = format!("two tensors have the name {:?}", self.tensor_at(pair[0]).name);
                Err(Broken { at: pair[0].max(pair[1]).into(), problem })
            }
        }
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Parsed<u32> {
    let magic = cursor.take(4, "the word GGUF at the start")?;
    if magic != MAGIC {
        let problem =
            format!("the file starts with {:?}; accepted is \"GGUF\"", magic.escape_ascii().to_string());
        return Err(Broken { at: 0, problem });
    }
    match cursor.u32("the version")? {
        version @ 2..=3 => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => {
            cursor.fail("the file is big-endian; accepted are little-endian files".into())
        }
        version => cursor.fail(format!("version {version}; accepted are 2 and 3")),
    }
}

/// Reads `count` keys with their values; the count has been compared with the file. Sorted by key.
fn read_keys(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<Key>> {
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let start = cursor.at();
        let key = cursor.string("a key")?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let problem = format!("a key of {} bytes; accepted are 1 to {MAX_KEY_BYTES}", key.len());
            return Err(Broken { at: start.into(), problem });
        }
        if str::from_utf8(key).is_err() {
            return Err(Broken { at: start.into(), problem: "a key that is not UTF-8".into() });
        }
        let length = key.len() as u32;
        let key = Key { text: start + 8, length, value: cursor.at() };
        value::check(cursor).map_err(|broken| Broken {
            problem: format!("key {:?}: {}", shown(text(cursor.seen(), &key)), broken.problem),
            ..broken
        })?;
        keys.push(key);
    }
    let bytes = cursor.seen();
    keys.sort_unstable_by(|a, b| text(bytes, a).cmp(text(bytes, b)));
    match keys.windows(2).find(|pair| text(bytes, &pair[0]) == text(bytes, &pair[1])) {
        None => Ok(keys),
        Some(pair) => Err(Broken {
            at: pair[0].text.max(pair[1].text).into(),
            problem: format!("the key {:?} occurs twice", shown(text(bytes, &pair[0]))),
        }),
    }
}

fn text<'a>(bytes: &'a [u8], key: &Key) -> &'a [u8] {
    &bytes[key.text as usize..][..key.length as usize]
}

fn find<'a>(bytes: &[u8], keys: &'a [Key], name: &str) -> Option<&'a Key> {
    let found = keys.binary_search_by(|key| text(bytes, key).cmp(name.as_bytes()));
    found.ok().map(|index| &keys[index])
}

fn alignment(cursor: &Cursor<'_>, keys: &[Key]) -> Parsed<u64> {
    let bytes = cursor.seen();
    let Some(key) = find(bytes, keys, ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    let value = value::view(&bytes[key.value as usize..]);
    match value.integer().and_then(|value| u64::try_from(value).ok()) {
        Some(alignment) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => Ok(alignment),
        _ => Err(Broken {
            at: key.text.into(),
            problem: format!(
                "key {ALIGNMENT_KEY:?}: {} is not a power of two from 1 to {MAX_ALIGNMENT}",
                value.shown()
            ),
        }),
    }
}

/// Checks one tensor's description, apart from where its bytes are.
fn check_tensor(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let start = cursor.at();
    let name = cursor.string("a tensor name")?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let problem = format!("a tensor name of {} bytes; accepted are 1 to {MAX_NAME_BYTES}", name.len());
        return Err(Broken { at: start.into(), problem });
    }
    let name = match str::from_utf8(name) {
        Ok(name) => name.to_string(),
        Err(_) => {
            return Err(Broken { at: start.into(), problem: "a tensor name that is not UTF-8".into() });
        }
    };
    check_shape(cursor)
        .map_err(|broken| Broken { problem: format!("tensor {name:?}: {}", broken.problem), ..broken })
}

fn check_shape(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let dimensions = cursor.u32("the number of dimensions")?;
    if dimensions == 0 || dimensions > MAX_DIMENSIONS {
        return cursor.fail(format!("{dimensions} dimensions; accepted are 1 to {MAX_DIMENSIONS}"));
    }
    let mut elements = 1u64;
    let mut cols = 0;
    for dimension in 0..dimensions {
        let size = cursor.u64("a dimension")?;
        cols = if dimension == 0 { size } else { cols };
        // ggml counts in i64.
        elements = match elements.checked_mul(size).filter(|elements| *elements <= i64::MAX as u64) {
            Some(0) => return cursor.fail(format!("dimension {dimension} is 0")),
            Some(elements) => elements,
            None => return cursor.fail(format!("dimension {dimension} of {size}: too many values")),
        };
    }
    let number = cursor.u32("the tensor type")?;
    let format = match format_of(number) {
        Ok(format) => format,
        Err(problem) => return cursor.fail(problem),
    };
    let block = format.block() as u64;
    if cols % block != 0 {
        return cursor.fail(format!("rows of {cols} values; {format} needs a multiple of {block}"));
    }
    // So that the number of bytes is a number: F32 has the most bytes a value.
    if elements > i64::MAX as u64 / 4 {
        return cursor.fail(format!("{elements} values are too many"));
    }
    let offset = cursor.u64("the tensor's offset")?;
    if offset > cursor.file_bytes() {
        return cursor.fail(format!("offset {offset}; the file ends at {}", cursor.file_bytes()));
    }
    Ok(())
}

/// A key as an error shows it, of which a file may have made 65535 bytes.
fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(&key[..key.len().min(80)]).into_owned()
}

fn u64_front(bytes: &[u8]) -> (u64, &[u8]) {
    let (front, rest) = bytes.split_first_chunk().expect("the header was checked when it was read");
    (u64::from_le_bytes(*front), rest)
}

fn u32_front(bytes: &[u8]) -> (u32, &[u8]) {
    let (front, rest) = bytes.split_first_chunk().expect("the header was checked when it was read");
    (u32::from_le_bytes(*front), rest)
}
