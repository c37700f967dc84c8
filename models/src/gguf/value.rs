//! Metadata values: their types, checking them while a header is read, and views of them afterwards.

use crate::gguf::cursor::{Cursor, Parsed};

/// Arrays may hold arrays. No published file goes deeper than one, and a limit keeps a made-up one from using up the stack.
const MAX_DEPTH: u32 = 4;

/// The type of a metadata value, with the number it has in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Str,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn from_number(number: u32) -> Option<Kind> {
        Kind::ALL.get(number as usize).copied()
    }

    /// Bytes of one value; `None` for those that say their own length.
    fn bytes(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Str | Kind::Array => None,
        }
    }
}

/// Checks the value at the position, of the type that stands in front of it, and moves behind it.
pub(crate) fn check(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let kind = read_kind(cursor)?;
    check_as(cursor, kind, 0)
}

fn read_kind(cursor: &mut Cursor<'_>) -> Parsed<Kind> {
    let number = cursor.u32("a value type")?;
    match Kind::from_number(number) {
        Some(kind) => Ok(kind),
        None => cursor.fail(format!("value type {number} does not exist; accepted are 0 to 12")),
    }
}

fn check_as(cursor: &mut Cursor<'_>, kind: Kind, depth: u32) -> Parsed<()> {
    match kind {
        Kind::Str => cursor.string("a string").map(|_| ()),
        Kind::Bool => check_bools(cursor, 1),
        Kind::Array => check_array(cursor, depth + 1),
        _ => cursor.take(kind.bytes().unwrap_or(0) as u64, "a value").map(|_| ()),
    }
}

fn check_array(cursor: &mut Cursor<'_>, depth: u32) -> Parsed<()> {
    if depth > MAX_DEPTH {
        return cursor.fail(format!("arrays inside arrays, more than {MAX_DEPTH} deep"));
    }
    let kind = read_kind(cursor)?;
    let count = cursor.u64("an array length")?;
    match kind {
        Kind::Str | Kind::Array => {
            // A string is at least its length, an array its type and its length.
            let least = if kind == Kind::Str { 8 } else { 12 };
            let count = cursor.check_count(count, least, "array elements")?;
            for _ in 0..count {
                check_as(cursor, kind, depth)?;
            }
            Ok(())
        }
        Kind::Bool => {
            cursor.check_count(count, 1, "array elements")?;
            check_bools(cursor, count)
        }
        _ => {
            let each = kind.bytes().unwrap_or(0) as u64;
            let count = cursor.check_count(count, each, "array elements")?;
            cursor.take(count as u64 * each, "an array").map(|_| ())
        }
    }
}

fn check_bools(cursor: &mut Cursor<'_>, count: u64) -> Parsed<()> {
    match cursor.take(count, "a boolean")?.iter().find(|byte| **byte > 1).copied() {
        None => Ok(()),
        Some(byte) => cursor.fail(format!("the byte {byte} is not a boolean; accepted are 0 and 1")),
    }
}

/// One metadata value, as a view of the header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// UTF-8 by the format's rules; not checked, because vocabularies with other bytes exist.
    Str(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array, as a view of the header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: Kind,
    count: usize,
    /// From the first element on; what lies behind the last is not ours.
    bytes: &'a [u8],
}

/// Bytes at the front of a part of a header that [`check`] has accepted.
fn front<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the value was checked when the header was read")
}

/// The value at the front of `bytes` and the bytes behind it, both checked before.
fn split<'a>(kind: Kind, bytes: &'a [u8]) -> (Value<'a>, &'a [u8]) {
    let value = match kind {
        Kind::U8 => Value::U8(bytes[0]),
        Kind::I8 => Value::I8(bytes[0] as i8),
        Kind::U16 => Value::U16(u16::from_le_bytes(front(bytes))),
        Kind::I16 => Value::I16(i16::from_le_bytes(front(bytes))),
        Kind::U32 => Value::U32(u32::from_le_bytes(front(bytes))),
        Kind::I32 => Value::I32(i32::from_le_bytes(front(bytes))),
        Kind::F32 => Value::F32(f32::from_le_bytes(front(bytes))),
        Kind::Bool => Value::Bool(bytes[0] == 1),
        Kind::U64 => Value::U64(u64::from_le_bytes(front(bytes))),
        Kind::I64 => Value::I64(i64::from_le_bytes(front(bytes))),
        Kind::F64 => Value::F64(f64::from_le_bytes(front(bytes))),
        Kind::Str => {
            let length = u64::from_le_bytes(front(bytes)) as usize;
            let (text, rest) = bytes[8..].split_at(length);
            return (Value::Str(text), rest);
        }
        Kind::Array => {
            let kind = Kind::from_number(u32::from_le_bytes(front(bytes)))
                .expect("the type was checked when the header was read");
            let count = u64::from_le_bytes(front(&bytes[4..])) as usize;
            let array = Array { kind, count, bytes: &bytes[12..] };
            let rest = match kind.bytes() {
                Some(each) => &array.bytes[each * count..],
                None => (0..count).fold(array.bytes, |rest, _| split(kind, rest).1),
            };
            return (Value::Array(array), rest);
        }
    };
    (value, &bytes[kind.bytes().unwrap_or(0)..])
}

/// The value whose type and content start at `bytes`, checked before.
pub(crate) fn view(bytes: &[u8]) -> Value<'_> {
    let kind = Kind::from_number(u32::from_le_bytes(front(bytes)))
        .expect("the type was checked when the header was read");
    let content = &bytes[4..];
    match kind {
        // Not through `split`, which walks over every string to find the end.
        Kind::Array => {
            let kind = Kind::from_number(u32::from_le_bytes(front(content)))
                .expect("the type was checked when the header was read");
            let count = u64::from_le_bytes(front(&content[4..])) as usize;
            Value::Array(Array { kind, count, bytes: &content[12..] })
        }
        _ => split(kind, content).0,
    }
}

impl<'a> Array<'a> {
    /// The type of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut rest) = (self.kind, self.bytes);
        (0..self.count).map(move |_| {
            let (value, behind) = split(kind, rest);
            rest = behind;
            value
        })
    }
}

impl<'a> Value<'a> {
    /// A whole number of any integer type.
    pub fn integer(&self) -> Option<i128> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::I8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::I16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::I32(value) => Some(value.into()),
            Value::U64(value) => Some(value.into()),
            Value::I64(value) => Some(value.into()),
            _ => None,
        }
    }

    /// A number of any float type.
    pub fn float(&self) -> Option<f64> {
        match *self {
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }

    pub fn str_bytes(&self) -> Option<&'a [u8]> {
        match *self {
            Value::Str(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The value as an error shows it: short, on one line.
    pub fn shown(&self) -> String {
        match self {
            Value::Str(bytes) => {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
                format!("{text:?}{}", if bytes.len() > 60 { "..." } else { "" })
            }
            Value::Array(array) => format!("an array of {} {:?}", array.count, array.kind),
            Value::Bool(value) => value.to_string(),
            Value::F32(value) => value.to_string(),
            Value::F64(value) => value.to_string(),
            other => other.integer().map_or_else(String::new, |value| value.to_string()),
        }
    }
}
