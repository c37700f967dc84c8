//! Prompt contents. They carry no meaning; what matters is that the length is exact, that no two requests share a
//! prefix by accident (a prefix cache would find it), and that a longer prompt starts with the shorter one's content.

use crate::streams::{Purpose, below, stream};
use crate::workload::{Prompt, WorkloadError};

#[derive(Debug, Clone, PartialEq)]
pub enum PromptStyle {
    /// Ids drawn uniformly from `first..end`, a range that leaves out the model's special tokens. Exact lengths.
    TokenIds { first: u32, end: u32 },
    /// Common short words, for protocols that take no token ids. The length in tokens is an estimate with the given
    /// `tokens_per_word`; the server's usage counts are the truth.
    Words { tokens_per_word: f64 },
}

/// A beginning that several prompts share, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub purpose: Purpose,
    pub number: u64,
    pub tokens: u32,
}

const WORDS: [&str; 64] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school",
    "state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week",
    "company", "system", "program", "question", "work", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job",
    "word", "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power",
    "hour", "game", "line", "end", "member", "law", "car",
];

impl PromptStyle {
    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        match self {
            PromptStyle::TokenIds { first, end } if first >= end => {
                Err(WorkloadError::TokenRange { first: *first, end: *end })
            }
            PromptStyle::Words { tokens_per_word } if !(0.1..=100.0).contains(tokens_per_word) => {
                Err(WorkloadError::TokensPerWord { value: *tokens_per_word })
            }
            _ => Ok(()),
        }
    }

    /// The prompt of request `index`: `tokens` long, `beginning` before what is its own. At least the last token is the
    /// request's own, else a prefix cache would have nothing left to compute.
    pub(crate) fn prompt(&self, seed: u64, index: u64, tokens: u32, beginning: &[Piece]) -> Prompt {
        match self {
            PromptStyle::TokenIds { first, end } => {
                let mut ids = drawn(seed, index, tokens, beginning, end - first, |tokens| tokens);
                ids.iter_mut().for_each(|id| *id += first);
                Prompt::Tokens(ids)
            }
            PromptStyle::Words { tokens_per_word } => {
                let words = |tokens: u32| (f64::from(tokens) / tokens_per_word).round() as u32;
                let total = words(tokens).max(1);
                Prompt::Text(words_of(&drawn(seed, index, total, beginning, WORDS.len() as u32, words)))
            }
        }
    }

    /// Something as long as an answer of so many tokens.
    pub(crate) fn stand_in(&self, seed: u64, index: u64, tokens: u32) -> Prompt {
        match self {
            PromptStyle::TokenIds { first, end } => {
                let ids = draw(seed, Purpose::StandIn, index, tokens, end - first);
                Prompt::Tokens(ids.into_iter().map(|id| id + first).collect())
            }
            PromptStyle::Words { tokens_per_word } => {
                let words = (f64::from(tokens) / tokens_per_word).round().max(1.0) as u32;
                Prompt::Text(words_of(&draw(seed, Purpose::StandIn, index, words, WORDS.len() as u32)))
            }
        }
    }

    pub(crate) fn nothing(&self) -> Prompt {
        match self {
            PromptStyle::TokenIds { .. } => Prompt::Tokens(Vec::new()),
            PromptStyle::Words { .. } => Prompt::Text(String::new()),
        }
    }
}

fn words_of(picks: &[u32]) -> String {
    picks.iter().map(|word| WORDS[*word as usize]).collect::<Vec<_>>().join(" ")
}

/// `total` draws, those of the beginning first; `size` says how many a piece of so many tokens has.
fn drawn(
    seed: u64,
    index: u64,
    total: u32,
    beginning: &[Piece],
    choices: u32,
    size: impl Fn(u32) -> u32,
) -> Vec<u32> {
    let mut picks = Vec::new();
    for piece in beginning {
        let room = total - 1 - picks.len() as u32;
        picks.extend(draw(seed, piece.purpose, piece.number, size(piece.tokens).min(room), choices));
    }
    picks.extend(draw(seed, Purpose::Prompt, index, total - picks.len() as u32, choices));
    picks
}

/// Word `place` of what a prompt of words is lengthened with; `other` chooses between lists of them.
pub(crate) fn filler(other: u64, place: u64) -> &'static str {
    // Odd factors, so that each list has all words before one comes again.
    let pick = place.wrapping_mul(17).wrapping_add(other.wrapping_mul(29)) % WORDS.len() as u64;
    WORDS[pick as usize]
}

fn draw(seed: u64, purpose: Purpose, index: u64, count: u32, choices: u32) -> Vec<u32> {
    let mut rng = stream(seed, purpose, index);
    (0..count).map(|_| below(&mut rng, choices)).collect()
}
