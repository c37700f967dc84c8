//! Text to tokens and back: a Hugging Face `tokenizer.json`, or the byte-level tokenizer of the synthetic models.

pub mod byte_level;
mod byte_level_json;
mod stream;

use std::path::Path;
use std::sync::Arc;

pub use stream::StreamDecoder;

use crate::error::ModelError;
use crate::files::read_text;
use byte_level::ByteLevel;

/// Larger than any published `tokenizer.json` (Gemma's has 33 MB).
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// A tokenizer; cloning is cheap, the tables are shared.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

pub(crate) enum Inner {
    ByteLevel(ByteLevel),
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// The tokenizer of the synthetic models: ids 0 to 255 are bytes, then special tokens, then words.
    pub fn byte_level(vocab_size: u32) -> Self {
        Tokenizer { inner: Arc::new(Inner::ByteLevel(ByteLevel::new(vocab_size))) }
    }

    /// Reads a `tokenizer.json`. Truncation and padding set in the file are switched off: a server must not shorten a
    /// prompt in silence.
    pub fn from_file(file: &Path) -> Result<Self, ModelError> {
        let json = read_text(file, MAX_TOKENIZER_BYTES)?;
        Self::from_json(&json, file)
    }

    /// Like [`Self::from_file`], from the text of `file`.
    pub fn from_json(json: &str, file: &Path) -> Result<Self, ModelError> {
        let failed = |error: tokenizers::Error| ModelError::Tokenizer {
            path: file.to_path_buf(),
            problem: format!("not a tokenizer: {error}"),
        };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(failed)?;
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.with_padding(None);
        Ok(Tokenizer { inner: Arc::new(Inner::HuggingFace(Box::new(tokenizer))) })
    }

    /// The text of a `tokenizer.json` that reads back as this tokenizer.
    pub fn to_json(&self) -> Result<String, ModelError> {
        match &*self.inner {
            Inner::ByteLevel(tokenizer) => {
                Ok(format!("{:#}\n", byte_level_json::json(tokenizer.vocab_size())))
            }
            Inner::HuggingFace(tokenizer) => {
                tokenizer.to_string(true).map_err(|error| ModelError::Encode(error.to_string()))
            }
        }
    }

    /// Tokens of `text`, with the special tokens the tokenizer puts around a text (Llama's leading BOS): what a
    /// completion request means. Special tokens written out in the text become their ids. Text the tokenizer has no
    /// tokens for gives none; [`Self::try_encode`] says why.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.try_encode(text, true).unwrap_or_default()
    }

    /// Tokens of `text`. `add_special_tokens` is false for a rendered chat template, which writes its own BOS.
    pub fn try_encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, ModelError> {
        match &*self.inner {
            // It adds none either way: one byte is one token, so that a load test knows its prompt lengths.
            Inner::ByteLevel(tokenizer) => Ok(tokenizer.encode(text)),
            Inner::HuggingFace(tokenizer) => tokenizer
                .encode_fast(text, add_special_tokens)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| ModelError::Encode(error.to_string())),
        }
    }

    /// Text of `tokens`, without special tokens and without ids the tokenizer does not know. Bytes that are no UTF-8
    /// become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        match &*self.inner {
            Inner::ByteLevel(tokenizer) => tokenizer.decode(tokens),
            // Decoding fails only inside custom decoders, for token texts this vocabulary cannot hold.
            Inner::HuggingFace(tokenizer) => tokenizer.decode(tokens, true).unwrap_or_default(),
        }
    }

    /// The token as the vocabulary writes it, special tokens included; `None` for an id without one.
    pub fn token_text(&self, token: u32) -> Option<String> {
        match &*self.inner {
            Inner::ByteLevel(tokenizer) => tokenizer.token_text(token),
            Inner::HuggingFace(tokenizer) => tokenizer.id_to_token(token),
        }
    }

    /// Ids with a text. A model may have more rows than its tokenizer has ids.
    pub fn vocab_size(&self) -> u32 {
        match &*self.inner {
            Inner::ByteLevel(tokenizer) => tokenizer.vocab_size(),
            Inner::HuggingFace(tokenizer) => {
                u32::try_from(tokenizer.get_vocab_size(true)).unwrap_or(u32::MAX)
            }
        }
    }

    /// Ids that [`Self::decode`] leaves out, in ascending order.
    pub fn special_tokens(&self) -> Vec<u32> {
        match &*self.inner {
            Inner::ByteLevel(_) => byte_level::special_tokens().collect(),
            Inner::HuggingFace(tokenizer) => {
                let added = tokenizer.get_added_tokens_decoder();
                let mut ids: Vec<u32> =
                    added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
                ids.sort_unstable();
                ids
            }
        }
    }

    /// A decoder for one generation, which gives text as soon as it is complete.
    pub fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder::new(self.inner.clone())
    }
}
