//! Models made from a seed: real shapes and real work with nothing to download. The text they write means nothing; the
//! time they take is that of a trained model of the same shape.

mod adapter;
mod tiny;
mod values;

use std::path::Path;
use std::str::FromStr;

pub use values::SyntheticWeights;

use crate::error::ModelError;
use crate::export::{HfFormat, export_model};
use crate::load::LoadedModel;
use crate::spec::{Family, ModelSpec};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::byte_level::{BOS_TOKEN_ID, EOS_TOKEN_ID, SPECIAL};

/// The prefix of a synthetic source, as in `synthetic:llama-15m`.
pub const SOURCE_PREFIX: &str = "synthetic:";

/// Jinja chat template of the synthetic models, one special token a role.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// The shapes on offer. All widths are multiples of 256, as K-quants need, and all heads are 64 wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// 14.4 M parameters, 512 tokens, tied: a decode step fits a laptop's last-level cache in 8 bits.
    Llama15m,
    /// 109.5 M parameters, 32000 tokens, tied: the size of GPT-2 small.
    Llama110m,
    /// 1,100,048,384 parameters: the shape of TinyLlama 1.1B.
    Llama1_1b,
    /// A few million parameters with what published checkpoints of the family have, for tests of correctness.
    Tiny(Family),
}

impl Preset {
    pub const ALL: [Preset; 13] = [
        Preset::Llama15m,
        Preset::Llama110m,
        Preset::Llama1_1b,
        Preset::Tiny(Family::Llama),
        Preset::Tiny(Family::Mistral),
        Preset::Tiny(Family::Qwen2),
        Preset::Tiny(Family::Qwen3),
        Preset::Tiny(Family::Gemma2),
        Preset::Tiny(Family::Gemma3),
        Preset::Tiny(Family::Phi3),
        Preset::Tiny(Family::Mixtral),
        Preset::Tiny(Family::Qwen2Moe),
        Preset::Tiny(Family::Qwen3Moe),
    ];

    /// The name after `synthetic:`.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Llama15m => "llama-15m",
            Preset::Llama110m => "llama-110m",
            Preset::Llama1_1b => "llama-1.1b",
            Preset::Tiny(Family::Llama) => "llama-tiny",
            Preset::Tiny(Family::Mistral) => "mistral-tiny",
            Preset::Tiny(Family::Qwen2) => "qwen2-tiny",
            Preset::Tiny(Family::Qwen3) => "qwen3-tiny",
            Preset::Tiny(Family::Gemma2) => "gemma2-tiny",
            Preset::Tiny(Family::Gemma3) => "gemma3-tiny",
            Preset::Tiny(Family::Phi3) => "phi3-tiny",
            Preset::Tiny(Family::Mixtral) => "mixtral-tiny",
            Preset::Tiny(Family::Qwen2Moe) => "qwen2moe-tiny",
            Preset::Tiny(Family::Qwen3Moe) => "qwen3moe-tiny",
        }
    }

    /// The shape.
    pub fn spec(self) -> ModelSpec {
        let base = ModelSpec {
            name: self.name().into(),
            vocab_size: 32000,
            head_dim: 64,
            max_position_embeddings: 2048,
            tie_word_embeddings: true,
            bos_token_id: Some(BOS_TOKEN_ID),
            eos_token_ids: vec![EOS_TOKEN_ID],
            ..ModelSpec::neutral()
        };
        let spec = match self {
            Preset::Llama15m => ModelSpec {
                vocab_size: 512,
                hidden_size: 512,
                intermediate_size: 1024,
                num_layers: 6,
                num_heads: 8,
                num_kv_heads: 4,
                max_position_embeddings: 8192,
                ..base
            },
            Preset::Llama110m => ModelSpec {
                hidden_size: 768,
                intermediate_size: 2048,
                num_layers: 12,
                num_heads: 12,
                num_kv_heads: 12,
                max_position_embeddings: 4096,
                ..base
            },
            Preset::Llama1_1b => ModelSpec {
                hidden_size: 2048,
                intermediate_size: 5632,
                num_layers: 22,
                num_heads: 32,
                num_kv_heads: 4,
                tie_word_embeddings: false,
                ..base
            },
            Preset::Tiny(family) => return tiny::spec(family, base),
        };
        spec.with_plain_attention(10_000.0)
    }

    /// The model with the values of `seed`.
    pub fn load(self, seed: u64) -> LoadedModel {
        let spec = self.spec();
        let special = |token: u32| SPECIAL[(token - 256) as usize].to_string();
        LoadedModel {
            weights: Box::new(SyntheticWeights::new(spec.clone(), seed)),
            tokenizer: Tokenizer::byte_level(spec.vocab_size),
            chat_template: Some(CHAT_TEMPLATE.into()),
            bos_token: Some(special(BOS_TOKEN_ID)),
            eos_token: Some(special(EOS_TOKEN_ID)),
            source: format!("{SOURCE_PREFIX}{}", self.name()),
            spec,
        }
    }
}

/// Writes `preset` as a Hugging Face folder, which is made if it does not exist.
pub fn write_synthetic_hf(
    preset: Preset,
    seed: u64,
    folder: &Path,
    format: HfFormat,
) -> Result<(), ModelError> {
    export_model(&preset.load(seed), folder, format)
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Preset::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| {
            let accepted = Preset::ALL.map(Preset::name).join(", ");
            format!("{name:?} is not a synthetic model; accepted are {accepted}")
        })
    }
}
