//! Which format each matrix of a model gets: one for all, or a mix that spends bits where they matter.
//!
//! The mixes are those of llama.cpp without importance matrix (`llama_tensor_get_type_impl` in `src/llama-quant.cpp`), for
//! every architecture but Falcon, so that a file written with one of these names holds the types people expect.

use std::fmt;
use std::str::FromStr;

use crate::{UnknownFormat, WeightFormat};

/// How a model is to be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightRecipe {
    /// Every matrix stays as the checkpoint holds it.
    AsStored,
    /// Every matrix but routers in one format (`--pure` of llama-quantize). A name like `q4_0` means this; llama-quantize
    /// without `--pure` would raise the output matrix to Q6_K.
    Uniform(WeightFormat),
    Q2K,
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
}

/// What a matrix does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatrixRole {
    /// Token embedding, where the output matrix is another one.
    Embedding,
    /// Token embedding that is the output matrix as well.
    TiedEmbedding,
    Output,
    Query,
    Key,
    Value,
    /// The three above in one matrix of the file.
    Qkv,
    AttentionOutput,
    Gate,
    Up,
    /// Gate and up in one matrix of the file.
    GateUp,
    Down,
    /// Chooses experts; never quantized.
    Router,
}

/// What the choice of a format depends on.
#[derive(Debug, Clone, Copy)]
pub struct TensorPlace {
    pub role: MatrixRole,
    /// Index of the layer, 0 outside layers.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Input features: the length of a row.
    pub cols: usize,
    /// Query heads per key-value head.
    pub gqa: usize,
    /// Experts per layer; 0 or 1 in a dense model.
    pub experts: usize,
}

impl TensorPlace {
    /// The layers llama.cpp spends more on in its M mixes: the first and last eighth, and every third between.
    fn is_favoured(&self) -> bool {
        let eighth = self.layers / 8;
        self.layer < eighth || self.layer >= 7 * self.layers / 8 || (self.layer - eighth) % 3 == 2
    }

    /// llama.cpp knows models of 70B parameters by their 80 layers with grouped-query attention.
    fn is_70b(&self) -> bool {
        self.layers == 80 && self.gqa > 1
    }
}

impl WeightRecipe {
    /// Every recipe, in the order an error lists them.
    pub const ALL: [WeightRecipe; WeightFormat::ALL.len() + 9] = {
        let mut all = [WeightRecipe::AsStored; WeightFormat::ALL.len() + 9];
        let mut i = 0;
        while i < WeightFormat::ALL.len() {
            all[i + 1] = WeightRecipe::Uniform(WeightFormat::ALL[i]);
            i += 1;
        }
        let mut mix = 0;
        while mix < WeightRecipe::MIXES.len() {
            all[i + 1 + mix] = WeightRecipe::MIXES[mix];
            mix += 1;
        }
        all
    };

    const MIXES: [WeightRecipe; 8] = [
        WeightRecipe::Q2K,
        WeightRecipe::Q3KS,
        WeightRecipe::Q3KM,
        WeightRecipe::Q3KL,
        WeightRecipe::Q4KS,
        WeightRecipe::Q4KM,
        WeightRecipe::Q5KS,
        WeightRecipe::Q5KM,
    ];

    /// The format of one matrix; `None` where it stays as it is stored.
    pub fn format(self, place: &TensorPlace) -> Option<WeightFormat> {
        if place.role == MatrixRole::Router {
            return None;
        }
        let format = match self {
            WeightRecipe::AsStored => return None,
            WeightRecipe::Uniform(format) => format,
            _ => self.mixed(place),
        };
        Some(fitting(format, place.cols))
    }

    /// The format that most matrices get; `None` for [`WeightRecipe::AsStored`].
    pub fn base(self) -> Option<WeightFormat> {
        match self {
            WeightRecipe::AsStored => None,
            WeightRecipe::Uniform(format) => Some(format),
            WeightRecipe::Q2K => Some(WeightFormat::Q2K),
            WeightRecipe::Q3KS | WeightRecipe::Q3KM | WeightRecipe::Q3KL => Some(WeightFormat::Q3K),
            WeightRecipe::Q4KS | WeightRecipe::Q4KM => Some(WeightFormat::Q4K),
            WeightRecipe::Q5KS | WeightRecipe::Q5KM => Some(WeightFormat::Q5K),
        }
    }

    fn mixed(self, place: &TensorPlace) -> WeightFormat {
        use WeightFormat::{Q2K, Q3K, Q4K, Q5K, Q6K, Q8_0};
        use WeightRecipe as R;
        let base = self.base().expect("a mix has a base format");
        let eight_experts = place.experts == 8;
        match place.role {
            MatrixRole::Output | MatrixRole::TiedEmbedding if !place.cols.is_multiple_of(base.block()) => {
                Q8_0
            }
            MatrixRole::Output | MatrixRole::TiedEmbedding => Q6K,
            // Keys and values are small where eight experts share them.
            MatrixRole::Value | MatrixRole::Qkv | MatrixRole::Key if eight_experts => Q8_0,
            MatrixRole::Value | MatrixRole::Qkv => {
                let format = match self {
                    R::Q2K => {
                        if place.gqa >= 4 {
                            Q4K
                        } else {
                            Q3K
                        }
                    }
                    R::Q3KM => {
                        if place.layer < 2 {
                            Q5K
                        } else {
                            Q4K
                        }
                    }
                    R::Q3KL => Q5K,
                    R::Q4KS if place.layer < 4 => Q5K,
                    R::Q4KM | R::Q5KM if place.is_favoured() => Q6K,
                    _ => base,
                };
                if place.is_70b() && matches!(format, Q3K | Q4K) { Q5K } else { format }
            }
            MatrixRole::Down => match self {
                R::Q2K => Q3K,
                R::Q3KM => {
                    if place.layer < place.layers / 16 {
                        Q5K
                    } else {
                        Q4K
                    }
                }
                R::Q3KL => Q5K,
                R::Q4KS if place.layer < place.layers / 8 => Q5K,
                R::Q4KM | R::Q5KM if place.is_favoured() => Q6K,
                _ => base,
            },
            MatrixRole::AttentionOutput if eight_experts => match base {
                Q2K | Q4K => Q5K,
                Q3K if self != R::Q3KL => Q5K,
                _ => base,
            },
            MatrixRole::AttentionOutput => match self {
                R::Q2K => Q3K,
                R::Q3KM => Q4K,
                R::Q3KL => Q5K,
                _ => base,
            },
            _ => base,
        }
    }
}

/// The format itself where a row of `cols` is a whole number of its blocks, otherwise what llama.cpp falls back to.
fn fitting(format: WeightFormat, cols: usize) -> WeightFormat {
    let fits = |format: WeightFormat| !format.is_gguf() || cols.is_multiple_of(format.block());
    if fits(format) {
        return format;
    }
    let smaller = match format {
        WeightFormat::Q2K | WeightFormat::Q3K => WeightFormat::Q4_0,
        WeightFormat::Q4K => WeightFormat::Q5_0,
        WeightFormat::Q5K => WeightFormat::Q5_1,
        WeightFormat::Q6K => WeightFormat::Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { WeightFormat::F16 }
}

impl fmt::Display for WeightRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            WeightRecipe::AsStored => "as_stored",
            // `q2_k` is the name of the mix everywhere.
            WeightRecipe::Uniform(WeightFormat::Q2K) => "q2_k_pure",
            WeightRecipe::Uniform(format) => return format.fmt(f),
            WeightRecipe::Q2K => "q2_k",
            WeightRecipe::Q3KS => "q3_k_s",
            WeightRecipe::Q3KM => "q3_k_m",
            WeightRecipe::Q3KL => "q3_k_l",
            WeightRecipe::Q4KS => "q4_k_s",
            WeightRecipe::Q4KM => "q4_k_m",
            WeightRecipe::Q5KS => "q5_k_s",
            WeightRecipe::Q5KM => "q5_k_m",
        };
        f.pad(name)
    }
}

impl FromStr for WeightRecipe {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        WeightRecipe::ALL.into_iter().find(|recipe| recipe.to_string() == name).ok_or_else(|| UnknownFormat {
            name: name.to_owned(),
            expected: WeightRecipe::ALL.map(|recipe| recipe.to_string()).join(", "),
        })
    }
}
