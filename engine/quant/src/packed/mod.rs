//! Group-quantized matrices as checkpoints pack them into 32-bit words, to [`Grouped`] and back.
//!
//! Sources of the layouts: GPTQ from AutoGPTQ (`qlinear_cuda_old.py`) and GPTQModel (v2), AWQ from AutoAWQ
//! (`modules/linear/gemm.py`, `gemv.py`), pack-quantized from compressed-tensors (`pack_quantized.py`). Scales come and go as
//! f32; who reads the file converts them. Every length is checked before anything is read or allocated.

pub mod awq;
pub mod compressed;
pub mod gptq;

use crate::QuantError;
use crate::stored::{Grouped, length};

/// Output features handled together when a matrix is transposed, so that what is written stays in the first-level cache.
const TILE: usize = 64;

/// Shape of a packed matrix, with the checks that all packings share.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    cols: usize,
    /// Columns per group, and how many groups that makes.
    group: usize,
    groups: usize,
    /// Values per 32-bit word.
    per_word: usize,
}

impl Shape {
    /// A group of `None` spans the row.
    fn new(bits: u32, group: Option<usize>, rows: usize, cols: usize) -> Result<Shape, QuantError> {
        if !matches!(bits, 4 | 8) {
            return Err(QuantError::Unsupported {
                what: "bits per weight",
                got: bits.into(),
                accepted: "4, 8",
            });
        }
        let group = group.unwrap_or(cols.max(1));
        if group == 0 {
            return Err(QuantError::Unsupported { what: "group size", got: 0, accepted: "1 and above" });
        }
        rows.checked_mul(cols).ok_or(QuantError::TooLarge { what: "packed weights", rows, cols })?;
        Ok(Shape { rows, cols, group, groups: cols.div_ceil(group), per_word: 32 / bits as usize })
    }

    fn divides(&self, what: &'static str, count: usize) -> Result<(), QuantError> {
        match count.is_multiple_of(self.per_word) {
            true => Ok(()),
            false => Err(QuantError::Indivisible { what, cols: count, by: self.per_word }),
        }
    }

    fn bits(&self) -> usize {
        32 / self.per_word
    }

    /// Value `i` of a word, counted from the low bits.
    fn get(&self, word: i32, i: usize) -> u8 {
        (word as u32 >> (i * self.bits()) & ((1 << self.bits()) - 1)) as u8
    }

    /// A word with only value `i`.
    fn put(&self, i: usize, value: u8) -> i32 {
        (u32::from(value) << (i * self.bits())) as i32
    }

    /// Groups of columns, `None` where they are the plain runs of `group` columns.
    fn group_of(&self, indices: Option<&[i32]>) -> Result<Option<Vec<u32>>, QuantError> {
        let Some(indices) = indices else { return Ok(None) };
        length("group indices", indices.len(), self.cols)?;
        if indices.iter().enumerate().all(|(col, index)| *index >= 0 && *index as usize == col / self.group) {
            return Ok(None);
        }
        let in_range = |(col, index): (usize, &i32)| match u32::try_from(*index) {
            Ok(index) if (index as usize) < self.groups => Ok(index),
            _ => {
                let (value, limit) = (u64::from(*index as u32), self.groups as u64);
                Err(QuantError::ColumnOutOfRange { what: "group", col, value, limit })
            }
        };
        indices.iter().enumerate().map(in_range).collect::<Result<_, _>>().map(Some)
    }
}

/// The shape of a matrix about to be packed, after checking that it is one.
fn packable(grouped: &Grouped, rows: usize, cols: usize) -> Result<Shape, QuantError> {
    let shape = Shape::new(grouped.bits, Some(grouped.group), rows, cols)?;
    grouped.validate(rows, cols)?;
    Ok(shape)
}

/// `[rows][cols]` from `[cols][rows]`, or the other way round.
fn transposed<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..rows * cols).map(|i| values[i % cols * rows + i / cols]).collect()
}

/// Eight-bit zero points fit their field up to 255, four-bit ones up to 15; what GPTQ version 1 reads as 16 does not.
fn zero_code(shape: &Shape, zero: u16, row: usize) -> Result<u8, QuantError> {
    let limit = (1u64 << shape.bits()) - 1;
    match u8::try_from(zero) {
        Ok(code) if u64::from(code) <= limit => Ok(code),
        _ => Err(QuantError::OutOfRange { what: "zero point", row, value: zero.into(), limit }),
    }
}
