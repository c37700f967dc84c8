//! What the weights are held in.

use std::fmt;
use std::str::FromStr;

use llmlab_quant::{MatrixRole, TensorPlace, WeightFormat, WeightRecipe};

use super::matrices::Matrix;
use crate::architecture::{Architecture, StoredFormat};

/// Weights that share a scale and a zero point where nothing else is said.
const DEFAULT_GROUP: u32 = 128;
/// Weights that share the exponent of MXFP4 (OCP Microscaling Formats 1.0).
const MX_BLOCK: u64 = 32;
/// Weights that share an 8-bit scale in NVFP4 (NVIDIA ModelOpt); the one scale of a matrix is not counted.
const NV_BLOCK: u64 = 16;

/// The format of a model's matrices. Norms, biases, routers and, but for GGUF, the tables stay in 16 bits, as vLLM and the
/// tools that write such checkpoints leave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// As the checkpoint is published.
    Published,
    F32,
    F16,
    Bf16,
    /// A byte a weight and an f32 scale for each row.
    Fp8,
    /// The same with signed bytes (W8A8).
    Int8,
    /// GPTQ and AWQ: four bits, and for each group along the input an f16 scale and a 4-bit zero point.
    Int4 {
        group: u32,
    },
    /// Experts in 4-bit floats with an 8-bit exponent for each 32; of a model without experts all matrices of layers.
    Mxfp4,
    /// 4-bit floats with an 8-bit scale for each 16.
    Nvfp4,
    /// A mix of GGUF formats, tables included; norms and routers in f32.
    Gguf(WeightRecipe),
}

impl Weights {
    /// The names an error lists; beside them those of GGUF mixes.
    pub const NAMES: [&str; 11] =
        ["published", "f32", "f16", "bf16", "fp8", "int8", "int4", "awq", "gptq", "mxfp4", "nvfp4"];

    /// With `Published` looked up.
    pub fn of(self, model: &Architecture) -> Weights {
        match (self, model.stored) {
            (Weights::Published, StoredFormat::F32) => Weights::F32,
            (Weights::Published, StoredFormat::F16) => Weights::F16,
            (Weights::Published, StoredFormat::Bf16) => Weights::Bf16,
            (Weights::Published, StoredFormat::Fp8) => Weights::Fp8,
            (Weights::Published, StoredFormat::Int8) => Weights::Int8,
            (Weights::Published, StoredFormat::Int4 { group }) => Weights::Int4 { group },
            (Weights::Published, StoredFormat::Mxfp4) => Weights::Mxfp4,
            (Weights::Published, StoredFormat::Nvfp4) => Weights::Nvfp4,
            (weights, _) => weights,
        }
    }

    /// Bytes of one matrix of `rows` by `cols` on one device; the sizes are already divided.
    pub(super) fn matrix_bytes(self, matrix: &Matrix, rows: u64, cols: u64, place: &TensorPlace) -> u64 {
        let values = rows * cols;
        let table =
            matches!(matrix.role, MatrixRole::Embedding | MatrixRole::TiedEmbedding | MatrixRole::Output);
        let exact = table || matrix.role == MatrixRole::Router;
        match self {
            Weights::Gguf(recipe) => match recipe.format(place) {
                Some(format) => rows * format.row_bytes(cols as usize) as u64,
                None => values * self.vector_bytes(),
            },
            Weights::F32 => values * 4,
            _ if exact => values * 2,
            Weights::Published | Weights::F16 | Weights::Bf16 => values * 2,
            Weights::Fp8 | Weights::Int8 => values + 4 * rows,
            Weights::Int4 { group } => {
                let groups = cols.div_ceil(u64::from(group.max(1)));
                rows * (cols.div_ceil(2) + groups * 2) + (rows * groups).div_ceil(2)
            }
            Weights::Mxfp4 if matrix.routed || place.experts == 0 => {
                rows * (cols.div_ceil(2) + cols.div_ceil(MX_BLOCK))
            }
            Weights::Mxfp4 => values * 2,
            Weights::Nvfp4 => rows * (cols.div_ceil(2) + cols.div_ceil(NV_BLOCK)),
        }
    }

    /// Bytes of a value of a norm or a bias.
    pub(super) fn vector_bytes(self) -> u64 {
        match self {
            Weights::F32 | Weights::Gguf(_) => 4,
            _ => 2,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Weights::Published => "published",
            Weights::F32 => "f32",
            Weights::F16 => "f16",
            Weights::Bf16 => "bf16",
            Weights::Fp8 => "fp8",
            Weights::Int8 => "int8",
            Weights::Int4 { group: DEFAULT_GROUP } => "int4",
            Weights::Int4 { group } => return write!(formatter, "int4:{group}"),
            Weights::Mxfp4 => "mxfp4",
            Weights::Nvfp4 => "nvfp4",
            Weights::Gguf(recipe) => return recipe.fmt(formatter),
        };
        formatter.pad(name)
    }
}

impl FromStr for Weights {
    type Err = String;

    /// A name; for four bits with the size of a group behind a colon, as `awq:64`.
    fn from_str(name: &str) -> Result<Weights, String> {
        let (base, group) = name.split_once(':').map_or((name, None), |(base, group)| (base, Some(group)));
        let group = match group.map(str::parse::<u32>) {
            None => DEFAULT_GROUP,
            Some(Ok(group)) if (8..=1024).contains(&group) && matches!(base, "int4" | "awq" | "gptq") => {
                group
            }
            Some(_) => {
                return Err(format!(
                    "{name:.40?}: a group is a whole number from 8 to 1024 behind int4, awq or gptq"
                ));
            }
        };
        Ok(match base {
            "published" => Weights::Published,
            "f32" => Weights::F32,
            "f16" => Weights::F16,
            "bf16" => Weights::Bf16,
            "fp8" => Weights::Fp8,
            "int8" => Weights::Int8,
            "int4" | "awq" | "gptq" => Weights::Int4 { group },
            "mxfp4" => Weights::Mxfp4,
            "nvfp4" => Weights::Nvfp4,
            _ => match base.parse::<WeightRecipe>() {
                Ok(recipe) if recipe.base().is_some_and(WeightFormat::is_gguf) => Weights::Gguf(recipe),
                _ => {
                    let gguf = WeightRecipe::ALL.into_iter().filter(|recipe| {
                        recipe.base().is_some_and(|base| base.is_gguf() && base.block() > 1)
                    });
                    let names = Weights::NAMES.map(String::from).into_iter();
                    let accepted: Vec<String> = names.chain(gguf.map(|recipe| recipe.to_string())).collect();
                    return Err(format!(
                        "{name:.40?} is not a format of weights; accepted are {}",
                        accepted.join(", ")
                    ));
                }
            },
        })
    }
}
