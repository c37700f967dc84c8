//! How many bytes a weight takes in each storage format.

use std::fmt;
use std::str::FromStr;

/// Weights in one block of the quantised formats.
pub const BLOCK: u64 = 32;

/// A way of storing the two-dimensional weights. Norm vectors stay f32 in every format: they are under 0.01 % of a
/// model, and rounding them is the one rounding every later layer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageFormat {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// 2 bytes a weight.
    F16,
    /// GGML's Q8_0: blocks of 32 weights, an f16 scale and 32 signed bytes; 34 bytes a block, 8.5 bits a weight.
    Q8_0,
    /// GGML's Q4_0: blocks of 32 weights, an f16 scale and 16 bytes of nibbles; 18 bytes a block, 4.5 bits a weight.
    Q4_0,
}

impl StorageFormat {
    /// Every format, in the order an error lists them.
    pub const ALL: [StorageFormat; 5] = [
        StorageFormat::F32,
        StorageFormat::Bf16,
        StorageFormat::F16,
        StorageFormat::Q8_0,
        StorageFormat::Q4_0,
    ];

    /// Mean bits a weight, scales included.
    pub fn bits_per_weight(self) -> f64 {
        let (bytes, weights) = self.group();
        bytes as f64 * 8.0 / weights as f64
    }

    /// Bytes of a `[rows, cols]` matrix stored row by row; a row that does not fill its last block pays for all of it.
    pub fn matrix_bytes(self, rows: u64, cols: u64) -> u64 {
        let (bytes, weights) = self.group();
        rows * cols.div_ceil(weights) * bytes
    }

    /// The smallest unit: (bytes, weights in it).
    fn group(self) -> (u64, u64) {
        match self {
            StorageFormat::F32 => (4, 1),
            StorageFormat::Bf16 | StorageFormat::F16 => (2, 1),
            StorageFormat::Q8_0 => (34, BLOCK),
            StorageFormat::Q4_0 => (18, BLOCK),
        }
    }
}

impl fmt::Display for StorageFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            StorageFormat::F32 => "f32",
            StorageFormat::Bf16 => "bf16",
            StorageFormat::F16 => "f16",
            StorageFormat::Q8_0 => "q8_0",
            StorageFormat::Q4_0 => "q4_0",
        })
    }
}

impl FromStr for StorageFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        StorageFormat::ALL.into_iter().find(|format| format.to_string() == text).ok_or_else(|| {
            let accepted = StorageFormat::ALL.map(|format| format.to_string()).join(", ");
            format!("{text:?} is not a weight format; accepted are {accepted}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_bytes_follow_the_block_layouts() {
        assert_eq!(StorageFormat::Q8_0.bits_per_weight(), 8.5);
        assert_eq!(StorageFormat::Q4_0.bits_per_weight(), 4.5);
        assert_eq!(StorageFormat::Bf16.bits_per_weight(), 16.0);
        assert_eq!(StorageFormat::Q4_0.matrix_bytes(3, 64), 3 * 2 * 18);
        assert_eq!(StorageFormat::Q8_0.matrix_bytes(2, 33), 2 * 2 * 34, "a started block is a whole block");
    }

    #[test]
    fn names_round_trip_and_an_unknown_one_lists_the_accepted() {
        for format in StorageFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "int4".parse::<StorageFormat>().unwrap_err();
        assert!(error.contains("q4_0") && error.contains("int4"), "{error}");
    }
}
