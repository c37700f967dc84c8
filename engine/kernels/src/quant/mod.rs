//! Number formats of weights: what a stored weight means, independent of how tiles are laid out.
//!
//! The block formats are those of GGUF (ggml `quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`), bit for bit, so that a
//! matrix quantised here equals one quantised by llama.cpp.

pub mod activations;
pub mod q4_0;
pub mod q8_0;

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// Weights per block of the block formats, along the input dimension.
pub const BLOCK: usize = 32;

/// How the weights of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// Blocks of 32 signed bytes and one 16-bit float scale.
    Q8_0,
    /// Blocks of 32 four-bit values with offset 8 and one 16-bit float scale.
    Q4_0,
}

impl WeightFormat {
    pub const ALL: [WeightFormat; 4] =
        [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4_0];

    /// Weights that share one stored unit: rows must be a multiple of this long.
    pub fn block(self) -> usize {
        match self {
            WeightFormat::F32 | WeightFormat::Bf16 => 1,
            WeightFormat::Q8_0 | WeightFormat::Q4_0 => BLOCK,
        }
    }

    /// Bytes of one unit of [`WeightFormat::block`] weights.
    pub fn block_bytes(self) -> usize {
        match self {
            WeightFormat::F32 => 4,
            WeightFormat::Bf16 => 2,
            WeightFormat::Q8_0 => size_of::<q8_0::BlockQ8_0>(),
            WeightFormat::Q4_0 => size_of::<q4_0::BlockQ4_0>(),
        }
    }

    /// Bytes that `weights` weights need, whole blocks, without the padding of tiles.
    pub fn bytes(self, weights: usize) -> usize {
        weights.div_ceil(self.block()) * self.block_bytes()
    }

    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block() as f64
    }

    pub(crate) fn is_quantized(self) -> bool {
        self.block() > 1
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WeightFormat::F32 => "f32",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Q8_0 => "q8_0",
            WeightFormat::Q4_0 => "q4_0",
        })
    }
}

impl FromStr for WeightFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        WeightFormat::ALL.into_iter().find(|format| format.to_string() == name).ok_or_else(|| {
            KernelError::UnknownName {
                what: "weight format",
                name: name.to_owned(),
                expected: "f32, bf16, q8_0, q4_0",
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_gguf() {
        let bits: Vec<f64> = WeightFormat::ALL.iter().map(|f| f.bits_per_weight()).collect();
        assert_eq!(bits, [32.0, 16.0, 8.5, 4.5]);
        assert_eq!(WeightFormat::Q4_0.bytes(64), 36);
        assert_eq!(WeightFormat::Q8_0.bytes(33), 68);
    }

    #[test]
    fn names_round_trip() {
        for format in WeightFormat::ALL {
            assert_eq!(format.to_string().parse::<WeightFormat>().unwrap(), format);
        }
        assert!("q5_0".parse::<WeightFormat>().is_err());
    }
}
