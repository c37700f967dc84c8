//! What model families do that their `config.json` does not say: norms, biases, positions, which layers have windows.
//!
//! Source: the model classes of transformers 5. A family that is not listed counts as Llama with the keys it has, which
//! misses at most vectors, under 0.1 % of a model.

/// What a family adds to the sizes of its configuration.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Norms of the residual stream in a layer.
    pub norms: u32,
    /// LayerNorm, with a bias; else RMSNorm.
    pub norm_bias: bool,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// A norm for each of query and key heads.
    pub head_norms: bool,
    /// Gate and up projection.
    pub gated: bool,
    pub tied: bool,
    pub positions: Positions,
    pub windows: Windows,
    /// A norm after the embedding.
    pub embedding_norm: bool,
    /// A bias of the output projection.
    pub head_bias: bool,
    /// One learned value a head beside the scores.
    pub attention_sinks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Rotary embedding or ALiBi: nothing is stored.
    Computed,
    /// A table with this many rows beyond the positions.
    Learned { extra: u32 },
}

/// Which layers of a model with a sliding window have it, where the configuration does not list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    Every,
    Even,
    /// All but each `n`-th, where the key `sliding_window_pattern` does not say another number.
    AllButEach(u32),
    /// From `max_window_layers` on.
    FromLayer,
    /// Even layers below `max_window_layers`.
    EvenBelowLayer,
    Never,
}

const LLAMA: Family = Family {
    norms: 2,
    norm_bias: false,
    qkv_bias: false,
    output_bias: false,
    mlp_bias: false,
    head_norms: false,
    gated: true,
    tied: false,
    positions: Positions::Computed,
    windows: Windows::Every,
    embedding_norm: false,
    head_bias: false,
    attention_sinks: false,
};

/// GPT-2 and its kin: LayerNorm and biases everywhere.
const GPT: Family =
    Family { norm_bias: true, qkv_bias: true, output_bias: true, mlp_bias: true, gated: false, ..LLAMA };

impl Family {
    /// By the `model_type` of a configuration.
    pub fn of(model_type: &str) -> Family {
        match model_type {
            "llama4" | "llama4_text" => Family { windows: Windows::AllButEach(4), ..LLAMA },
            "qwen2" => Family { qkv_bias: true, windows: Windows::FromLayer, ..LLAMA },
            "qwen2_moe" => Family { qkv_bias: true, windows: Windows::EvenBelowLayer, ..LLAMA },
            "qwen3" => Family { head_norms: true, windows: Windows::FromLayer, ..LLAMA },
            "qwen3_moe" => Family { head_norms: true, ..LLAMA },
            "gemma" => Family { tied: true, ..LLAMA },
            "gemma2" => Family { norms: 4, tied: true, windows: Windows::Even, ..LLAMA },
            "gemma3" | "gemma3_text" => {
                Family { norms: 4, head_norms: true, tied: true, windows: Windows::AllButEach(6), ..LLAMA }
            }
            "cohere2" => Family { norms: 1, tied: true, windows: Windows::AllButEach(4), ..LLAMA },
            "cohere" => Family { norms: 1, tied: true, ..LLAMA },
            "gpt_oss" => Family {
                qkv_bias: true,
                output_bias: true,
                windows: Windows::Even,
                attention_sinks: true,
                ..LLAMA
            },
            "gpt2" => Family { tied: true, positions: Positions::Learned { extra: 0 }, ..GPT },
            "opt" => Family { tied: true, positions: Positions::Learned { extra: 2 }, ..GPT },
            "gptj" => Family { norms: 1, qkv_bias: false, output_bias: false, head_bias: true, ..GPT },
            "gpt_neox" => GPT,
            "bloom" => Family { tied: true, embedding_norm: true, ..GPT },
            "falcon" => Family { qkv_bias: false, output_bias: false, mlp_bias: false, tied: true, ..GPT },
            "phi" => Family { norms: 1, head_bias: true, ..GPT },
            _ => LLAMA,
        }
    }
}
