//! How text prompts were made to have the length they should have, by the server's own count.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptFitMethod {
    /// The server's tokenizer was asked for each prompt.
    Tokenizer,
    /// A line through the prompt lengths that the server reported for a few requests.
    Usage,
    /// The server does not say how long its requests' prompts were, so lengths are guesses.
    Estimate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptFit {
    pub method: PromptFitMethod,
    /// What a chat template and special tokens add to every prompt.
    pub overhead_tokens: f64,
    pub tokens_per_word: f64,
    /// Prompts that no number of words made exact, by the tokenizer's count, or that there was no time for.
    pub missed: u64,
}
