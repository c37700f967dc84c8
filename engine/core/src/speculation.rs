//! Where guesses at the next tokens come from, and what they need.

use serde::{Deserialize, Serialize};

use crate::ngram;
use crate::request::TokenId;

/// Guessing tokens ahead and verifying them in one forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeculativeConfig {
    pub method: SpeculativeMethod,
    /// Drafts a step verifies at most.
    pub num_speculative_tokens: u32,
    /// Method `ngram`: how many tokens at the end of the text must have occurred before, at least and at most. With a
    /// most of 0 the scheduler does not look itself and takes what the executor proposes.
    pub prompt_lookup_min: u32,
    pub prompt_lookup_max: u32,
}

/// Where drafts come from, as far as it matters to memory and to the prefix cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeculativeMethod {
    /// What followed the last tokens earlier in the same text. Needs no memory.
    Ngram,
    /// A head on the model's own hidden states. It needs slots for its drafts, and the hash of a block covers the token
    /// after it, since the head's keys and values depend on it.
    Eagle,
    /// The same with plain hashes: the last block of a hit is computed again instead.
    EagleDropLastBlock,
    /// A smaller model. Needs slots for its drafts and one of the step's tokens for each sequence.
    DraftModel,
}

impl SpeculativeConfig {
    /// The scheduler itself proposes drafts.
    pub fn looks_up(&self) -> bool {
        self.method == SpeculativeMethod::Ngram && self.prompt_lookup_max > 0
    }

    /// Drafts for a text, as far as the context length leaves room.
    pub fn look_up(&self, tokens: &[TokenId], max_model_len: usize) -> Vec<TokenId> {
        let count = (self.num_speculative_tokens as usize).min(max_model_len.saturating_sub(tokens.len()));
        let (least, most) = (self.prompt_lookup_min as usize, self.prompt_lookup_max as usize);
        ngram::propose(tokens, least, most, count)
    }

    /// Slots beyond a step's own tokens that the drafter writes to.
    pub fn look_ahead_slots(&self) -> usize {
        match self.method {
            SpeculativeMethod::Ngram => 0,
            _ => self.num_speculative_tokens as usize,
        }
    }
}
