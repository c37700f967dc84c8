//! The formats a weight matrix can be stored in, by name and size.

use std::fmt;
use std::str::FromStr;

/// Weights per block of the plain block formats, along the input dimension.
pub const BLOCK: usize = 32;

/// Weights per super-block of the K formats.
pub const SUPER_BLOCK: usize = 256;

/// How the weights of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// Blocks of 32: f16 scale, signed bytes.
    Q8_0,
    /// Blocks of 32: f16 scale, four bits around 8.
    Q4_0,
    /// Blocks of 32: f16 scale and minimum, four bits.
    Q4_1,
    /// Blocks of 32: f16 scale, five bits around 16.
    Q5_0,
    /// Blocks of 32: f16 scale and minimum, five bits.
    Q5_1,
    /// Blocks of 32: f16 scale, four bits that index 16 fixed values.
    Iq4Nl,
    /// Super-blocks of 256: two bits, 16 four-bit scales and minima.
    Q2K,
    /// Super-blocks of 256: three bits around 4, 16 six-bit scales.
    Q3K,
    /// Super-blocks of 256: four bits, 8 six-bit scales and minima.
    Q4K,
    /// Super-blocks of 256: five bits, 8 six-bit scales and minima.
    Q5K,
    /// Super-blocks of 256: six bits around 32, 16 eight-bit scales.
    Q6K,
    /// Signed bytes with one f32 scale per output row; activations one scale per token (W8A8 of compressed-tensors).
    Int8,
    /// E4M3 bytes with f32 scales; activations rounded to E4M3 with one scale per token.
    Fp8,
    /// Four bits with an f16 scale and a zero point per group along the input dimension (GPTQ, AWQ, W4A16).
    Int4,
    /// Eight bits, otherwise as [`WeightFormat::Int4`] (8-bit GPTQ).
    Int8Group,
}

/// A name that no format has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a weight format; accepted are {expected}")]
pub struct UnknownFormat {
    pub name: String,
    /// The accepted names, separated by commas.
    pub expected: String,
}

impl WeightFormat {
    /// Every format, in the order an error lists them.
    pub const ALL: [WeightFormat; 18] = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::Bf16,
        WeightFormat::Q8_0,
        WeightFormat::Q4_0,
        WeightFormat::Q4_1,
        WeightFormat::Q5_0,
        WeightFormat::Q5_1,
        WeightFormat::Iq4Nl,
        WeightFormat::Q2K,
        WeightFormat::Q3K,
        WeightFormat::Q4K,
        WeightFormat::Q5K,
        WeightFormat::Q6K,
        WeightFormat::Int8,
        WeightFormat::Fp8,
        WeightFormat::Int4,
        WeightFormat::Int8Group,
    ];

    /// Weights that share one stored unit: rows must be a multiple of this long. For group formats: of the default group.
    pub fn block(self) -> usize {
        match self {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => 1,
            WeightFormat::Int8 | WeightFormat::Fp8 => 1,
            WeightFormat::Q8_0
            | WeightFormat::Q4_0
            | WeightFormat::Q4_1
            | WeightFormat::Q5_0
            | WeightFormat::Q5_1
            | WeightFormat::Iq4Nl => BLOCK,
            WeightFormat::Int4 | WeightFormat::Int8Group => 128,
            _ => SUPER_BLOCK,
        }
    }

    /// Bytes of one unit of [`WeightFormat::block`] weights: the layouts of GGUF, and for the formats GGUF does not have,
    /// what the values, scales and zero points of a unit take. The scale per row of `Int8` and `Fp8` is not counted.
    pub fn block_bytes(self) -> usize {
        match self {
            WeightFormat::F32 => 4,
            WeightFormat::F16 | WeightFormat::Bf16 => 2,
            WeightFormat::Int8 | WeightFormat::Fp8 => 1,
            WeightFormat::Q8_0 => 34,
            WeightFormat::Q4_0 | WeightFormat::Iq4Nl => 18,
            WeightFormat::Q4_1 => 20,
            WeightFormat::Q5_0 => 22,
            WeightFormat::Q5_1 => 24,
            WeightFormat::Q2K => 84,
            WeightFormat::Q3K => 110,
            WeightFormat::Q4K => 144,
            WeightFormat::Q5K => 176,
            WeightFormat::Q6K => 210,
            WeightFormat::Int4 => 64 + 3,
            WeightFormat::Int8Group => 128 + 3,
        }
    }

    /// Bytes that one row of `cols` weights needs, whole blocks.
    pub fn row_bytes(self, cols: usize) -> usize {
        cols.div_ceil(self.block()) * self.block_bytes()
    }

    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block() as f64
    }

    /// Whether GGUF files can hold it.
    pub fn is_gguf(self) -> bool {
        !matches!(self, WeightFormat::Int8 | WeightFormat::Fp8 | WeightFormat::Int4 | WeightFormat::Int8Group)
    }

    fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Q8_0 => "q8_0",
            WeightFormat::Q4_0 => "q4_0",
            WeightFormat::Q4_1 => "q4_1",
            WeightFormat::Q5_0 => "q5_0",
            WeightFormat::Q5_1 => "q5_1",
            WeightFormat::Iq4Nl => "iq4_nl",
            WeightFormat::Q2K => "q2_k",
            WeightFormat::Q3K => "q3_k",
            WeightFormat::Q4K => "q4_k",
            WeightFormat::Q5K => "q5_k",
            WeightFormat::Q6K => "q6_k",
            WeightFormat::Int8 => "int8",
            WeightFormat::Fp8 => "fp8",
            WeightFormat::Int4 => "int4",
            WeightFormat::Int8Group => "int8_group",
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        WeightFormat::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| UnknownFormat {
            name: name.to_owned(),
            expected: WeightFormat::ALL.map(WeightFormat::name).join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_an_unknown_one_lists_the_accepted() {
        for format in WeightFormat::ALL {
            assert_eq!(format.to_string().parse::<WeightFormat>().unwrap(), format);
        }
        let error = "q9_9".parse::<WeightFormat>().unwrap_err().to_string();
        assert!(error.contains("q9_9") && error.contains("iq4_nl"), "{error}");
    }
}
