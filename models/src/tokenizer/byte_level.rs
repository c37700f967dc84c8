//! The tokenizer of the synthetic models. Ids 0 to 255 are the bytes, the next few are special, and each id above is a
//! made-up word, so that whatever a random model picks prints as stable text. Encoding uses bytes and special tokens only.

/// Starts a text.
pub const BOS_TOKEN_ID: u32 = 256;
/// Ends a text and a chat turn.
pub const EOS_TOKEN_ID: u32 = 257;
/// Texts of the special tokens, ids from 256.
pub const SPECIAL: [&str; 6] = ["<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"];
/// The first id that is a word.
pub const FIRST_WORD: u32 = 256 + SPECIAL.len() as u32;

const CONSONANTS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";
const VOWELS: &[u8; 5] = b"aeiou";
const SYLLABLES: u32 = 100;

/// What one id stands for.
pub(crate) enum Piece {
    Byte(u8),
    Word(String),
    /// Special, or beyond the vocabulary: no text.
    Nothing,
}

/// See the module.
pub(crate) struct ByteLevel {
    vocab_size: u32,
}

impl ByteLevel {
    /// `vocab_size` ids; at least the bytes and the special tokens.
    pub fn new(vocab_size: u32) -> Self {
        assert!(
            vocab_size >= FIRST_WORD,
            "{vocab_size} ids do not hold 256 bytes and {} specials",
            SPECIAL.len()
        );
        ByteLevel { vocab_size }
    }

    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(&byte) = rest.as_bytes().first() {
            let special = SPECIAL.iter().position(|special| byte == b'<' && rest.starts_with(special));
            if let Some(index) = special {
                tokens.push(256 + index as u32);
                rest = &rest[SPECIAL[index].len()..];
            } else {
                let width = rest.chars().next().map_or(1, char::len_utf8);
                tokens.extend(rest.as_bytes()[..width].iter().map(|&byte| u32::from(byte)));
                rest = &rest[width..];
            }
        }
        tokens
    }

    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(tokens.len());
        for &token in tokens {
            self.append(token, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Adds the bytes of `token` to `bytes`.
    pub fn append(&self, token: u32, bytes: &mut Vec<u8>) {
        match self.piece(token) {
            Piece::Byte(byte) => bytes.push(byte),
            Piece::Word(word) => bytes.extend_from_slice(word.as_bytes()),
            Piece::Nothing => {}
        }
    }

    pub fn token_text(&self, token: u32) -> Option<String> {
        match self.piece(token) {
            Piece::Byte(byte) => Some(String::from_utf8_lossy(&[byte]).into_owned()),
            Piece::Word(word) => Some(word),
            Piece::Nothing => SPECIAL.get((token as usize).checked_sub(256)?).map(|text| text.to_string()),
        }
    }

    pub fn piece(&self, token: u32) -> Piece {
        match token {
            0..256 => Piece::Byte(token as u8),
            FIRST_WORD.. if token < self.vocab_size => Piece::Word(word(token - FIRST_WORD)),
            _ => Piece::Nothing,
        }
    }
}

/// Ids of the special tokens.
pub(crate) fn special_tokens() -> impl Iterator<Item = u32> {
    256..FIRST_WORD
}

/// A space and two or more syllables, different for each index.
fn word(index: u32) -> String {
    let mut syllables = Vec::new();
    let mut rest = index;
    while rest > 0 || syllables.len() < 2 {
        syllables.push(rest % SYLLABLES);
        rest /= SYLLABLES;
    }
    let mut word = String::from(" ");
    for syllable in syllables.into_iter().rev() {
        word.push(char::from(CONSONANTS[(syllable / 5) as usize]));
        word.push(char::from(VOWELS[(syllable % 5) as usize]));
    }
    word
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_distinct_and_printable() {
        let words: HashSet<String> = (0..32_000).map(word).collect();
        assert_eq!(words.len(), 32_000);
        assert!(words.iter().all(|word| word.trim_start().bytes().all(|byte| byte.is_ascii_lowercase())));
        assert_eq!((word(0), word(101), word(12_345)), (" baba".into(), " bebe".into(), " begoma".into()));
    }

    #[test]
    fn special_tokens_in_a_text_become_their_ids() {
        let tokenizer = ByteLevel::new(512);
        let tokens = tokenizer.encode("<|bos|>a<|<|user|>é");
        assert_eq!(tokens, [256, 97, 60, 124, 259, 0xc3, 0xa9]);
        assert_eq!(tokenizer.decode(&tokens), "a<|é");
    }

    #[test]
    fn ids_beyond_the_vocabulary_have_no_text() {
        let tokenizer = ByteLevel::new(512);
        assert_eq!(tokenizer.decode(&[97, 512, u32::MAX, 98]), "ab");
        assert_eq!(tokenizer.token_text(512), None);
        assert_eq!(tokenizer.token_text(257).as_deref(), Some("<|eos|>"));
    }
}
