//! What is common to the answers of all protocols: how much was asked for, and what a stream is made of.

/// What an answer without a number of tokens has, as with OpenAI's completions.
const DEFAULT_TOKENS: u32 = 16;
const MAX_TOKENS: u32 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub stream: bool,
    /// Exact for token ids; words of a text.
    pub prompt_tokens: u64,
    pub tokens: u32,
}

/// The parts of one answer, each the bytes of one chunk or more.
pub(crate) trait Answering: Sync {
    /// Of a stream.
    fn head(&self) -> Vec<u8>;
    /// What comes with the head and holds no token.
    fn opening(&self) -> Vec<u8>;
    /// Appends an event of `tokens`, the last of which is number `so_far`.
    fn event(&self, tokens: u32, so_far: u32, out: &mut Vec<u8>);
    /// Appends what follows the last event: counts, and what ends the stream where it is to end.
    fn closing(&self, out: &mut Vec<u8>);
    /// Any data, as an event has it.
    fn frame(&self, json: &str) -> Vec<u8>;
    /// Everything at once, for a request that does not stream.
    fn whole(&self) -> String;
}

pub(crate) fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// How many tokens are wanted, by a field of that name.
pub(crate) fn asked_tokens(name: &str, wanted: Option<u32>) -> Result<u32, String> {
    let tokens = wanted.unwrap_or(DEFAULT_TOKENS);
    match (1..=MAX_TOKENS).contains(&tokens) {
        true => Ok(tokens),
        false => Err(format!("{name} must be 1 to {MAX_TOKENS}, got {tokens}")),
    }
}
