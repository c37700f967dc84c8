//! Decoding one token at a time. A token may end in the middle of a character, and a tokenizer may treat the first word
//! of a text differently, so text is given out only when later tokens cannot change it.

use std::sync::Arc;

use crate::tokenizer::Inner;

/// Tokens in a row without one complete character after which the text is given out as it is. A character has at most four
/// bytes, so this many tokens are no text; holding them back would only make each step decode a longer window.
const MAX_HELD_TOKENS: usize = 16;

/// Decodes one generation. Owned and `Send`: it moves with the request it belongs to.
///
/// For the byte-level tokenizer the pieces joined are exactly `decode` of all tokens. For a Hugging Face tokenizer they
/// are wherever the bytes are valid UTF-8; on invalid bytes decoders of the byte-fallback kind may rewrite text that was
/// already sent, which no stream can take back.
pub struct StreamDecoder {
    tokenizer: Arc<Inner>,
    state: State,
}

enum State {
    /// Bytes of a character that is not complete.
    Bytes(Vec<u8>),
    /// The last token given out as text, as context for the decoder, and the tokens that are not given out yet.
    Window { tokens: Vec<u32>, given: usize },
}

impl StreamDecoder {
    pub(crate) fn new(tokenizer: Arc<Inner>) -> Self {
        let state = match &*tokenizer {
            Inner::ByteLevel(_) => State::Bytes(Vec::new()),
            Inner::HuggingFace(_) => State::Window { tokens: Vec::new(), given: 0 },
        };
        StreamDecoder { tokenizer, state }
    }

    /// Text that is complete with `token`; often empty, never part of a character.
    pub fn push(&mut self, token: u32) -> String {
        match (&*self.tokenizer, &mut self.state) {
            (Inner::ByteLevel(tokenizer), State::Bytes(bytes)) => {
                tokenizer.append(token, bytes);
                take_complete(bytes)
            }
            (Inner::HuggingFace(tokenizer), State::Window { tokens, given }) => {
                tokens.push(token);
                let text = new_text(tokenizer, tokens, *given);
                let held = tokens.len() - *given;
                if text.is_empty() || (text.ends_with(char::REPLACEMENT_CHARACTER) && held < MAX_HELD_TOKENS)
                {
                    // A special token in front adds nothing to the text or to the context.
                    if text.is_empty() && held >= MAX_HELD_TOKENS {
                        tokens.truncate(*given);
                    }
                    return String::new();
                }
                tokens.drain(..*given);
                *given = tokens.len();
                text
            }
            _ => unreachable!("the state is made for the tokenizer in `new`"),
        }
    }

    /// The rest, with U+FFFD for a character that never became complete. The decoder is empty afterwards.
    pub fn finish(&mut self) -> String {
        match (&*self.tokenizer, &mut self.state) {
            (_, State::Bytes(bytes)) => String::from_utf8_lossy(&std::mem::take(bytes)).into_owned(),
            (Inner::HuggingFace(tokenizer), State::Window { tokens, given }) => {
                let text = new_text(tokenizer, tokens, *given);
                tokens.clear();
                *given = 0;
                text
            }
            _ => unreachable!("the state is made for the tokenizer in `new`"),
        }
    }
}

/// What `tokens[given..]` add to the text of `tokens[..given]`. Decoding the window with its context, and not the new
/// tokens alone, keeps the space in front of a word: SentencePiece drops it at the start of a text.
fn new_text(tokenizer: &tokenizers::Tokenizer, tokens: &[u32], given: usize) -> String {
    let context = tokenizer.decode(&tokens[..given], true).unwrap_or_default();
    let mut text = tokenizer.decode(tokens, true).unwrap_or_default();
    if text.starts_with(&context) {
        text.drain(..context.len());
        return text;
    }
    // The new bytes made earlier ones invalid; give what lies behind them.
    let skip = context.chars().count();
    text.chars().skip(skip).collect()
}

/// Takes the complete characters off the front of `bytes`, with U+FFFD for what can no longer become one, exactly as
/// `from_utf8_lossy` would for the whole text.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    loop {
        match std::str::from_utf8(&bytes[done..]) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = done + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[done..valid]));
                match error.error_len() {
                    Some(broken) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        done = valid + broken;
                    }
                    None => {
                        bytes.drain(..valid);
                        return text;
                    }
                }
            }
        }
    }
}
