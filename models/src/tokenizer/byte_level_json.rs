//! The byte-level tokenizer as a `tokenizer.json`, for other programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::tokenizer::byte_level::{ByteLevel, FIRST_WORD, Piece, SPECIAL};

/// The byte-level tokenizer as a BPE model without merges: each byte stays its own token. Words are in the vocabulary, so
/// they decode, but no merge leads to one, so no text encodes to them.
pub fn json(vocab_size: u32) -> Value {
    let bytes = byte_characters();
    let byte_level = ByteLevel::new(vocab_size);
    let mut vocab = BTreeMap::new();
    for token in 0..vocab_size {
        let text = match byte_level.piece(token) {
            Piece::Byte(byte) => bytes[byte as usize].to_string(),
            Piece::Word(word) => word.bytes().map(|byte| bytes[byte as usize]).collect(),
            Piece::Nothing => SPECIAL[(token - 256) as usize].to_string(),
        };
        vocab.insert(text, token);
    }
    let added: Vec<Value> = (256..FIRST_WORD)
        .zip(SPECIAL)
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

/// GPT-2's `bytes_to_unicode`: printable bytes stand for themselves, the others for the characters from U+0100 on.
fn byte_characters() -> Vec<char> {
    let mut next = 0x100u32;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        })
        .collect()
}
