//! Tokenizers: the byte-level one, its exported twin, and the ways a `tokenizer.json` can treat spaces and bytes.

use std::path::Path;

use llmlab_models::{ModelError, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut decoder = tokenizer.stream_decoder();
    let mut text: String = tokens.iter().map(|&token| decoder.push(token)).collect();
    text.push_str(&decoder.finish());
    text
}

fn from_json(json: &Value) -> Tokenizer {
    Tokenizer::from_json(&json.to_string(), Path::new("tokenizer.json")).unwrap()
}

/// Llama 2's conventions in small: '▁' marks the start of a word, a text gets one in front, decoding takes it off again,
/// and characters without a token become their bytes.
fn sentencepiece_style() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for (id, text) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(text.into(), json!(id));
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(3 + byte));
    }
    let pieces = ["▁", "h", "i", "t", "e", "r", "▁h", "▁t", "hi", "▁hi", "▁te", "er", "▁ter"];
    for (index, piece) in pieces.into_iter().enumerate() {
        vocab.insert(piece.into(), json!(259 + index));
    }
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false })
    };
    from_json(&json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab,
            "merges": [["▁", "h"], ["▁h", "i"], ["▁", "t"], ["▁t", "e"], ["e", "r"], ["▁te", "r"]] },
    }))
}

#[test]
fn a_stream_keeps_the_spaces_between_words_and_drops_the_one_in_front() {
    let tokenizer = sentencepiece_style();
    let tokens = tokenizer.encode("hi hi ter hi");
    assert_eq!(
        tokens,
        [1, 268, 268, 271, 268],
        "BOS and one token a word; the file's truncation to 4 is off"
    );
    let mut decoder = tokenizer.stream_decoder();
    let pieces: Vec<String> = tokens.iter().map(|&token| decoder.push(token)).collect();
    assert_eq!(pieces, ["", "hi", " hi", " ter", " hi"]);
    assert_eq!(decoder.finish(), "");
}

#[test]
fn a_character_made_of_byte_tokens_comes_out_whole() {
    let tokenizer = sentencepiece_style();
    let tokens = tokenizer.try_encode("hi 你", false).unwrap();
    assert_eq!(tokens, [268, 259, 3 + 0xe4, 3 + 0xbd, 3 + 0xa0]);
    let mut decoder = tokenizer.stream_decoder();
    let pieces: Vec<String> = tokens.iter().map(|&token| decoder.push(token)).collect();
    assert_eq!(pieces, ["hi", " ", "", "", "你"]);

    let mut cut = tokenizer.stream_decoder();
    let text: String = tokens[..4].iter().map(|&token| cut.push(token)).collect();
    assert_eq!(
        (text.as_str(), cut.finish()),
        ("hi ", "\u{fffd}\u{fffd}".to_string()),
        "what never became complete"
    );
    assert_eq!(cut.finish(), "", "finished once");
}

#[test]
fn endless_invalid_bytes_do_not_grow_the_window() {
    let tokenizer = sentencepiece_style();
    let mut decoder = tokenizer.stream_decoder();
    let given: String = (0..1000).map(|_| decoder.push(3 + 0xff)).collect();
    assert!(given.chars().count() > 900, "{} characters of 1000 given out", given.chars().count());
    assert!(given.chars().all(|character| character == '\u{fffd}'));
}

#[test]
fn special_tokens_are_left_out_of_text() {
    let tokenizer = sentencepiece_style();
    assert_eq!(tokenizer.special_tokens(), [0, 1, 2]);
    assert_eq!(tokenizer.decode(&[1, 268, 2, 268]), "hi hi");
    assert_eq!(streamed(&tokenizer, &[1, 268, 2, 268]), "hi hi");
    assert_eq!(tokenizer.token_text(2).as_deref(), Some("</s>"));
    assert_eq!(tokenizer.token_text(u32::MAX), None);
    assert_eq!(tokenizer.vocab_size(), 272);
}

#[test]
fn a_broken_tokenizer_file_is_an_error() {
    for text in ["", "{}", "[]", "{\"model\": {\"type\": \"BPE\"}}", "\u{0}"] {
        let error = Tokenizer::from_json(text, Path::new("x/tokenizer.json")).err().expect(text);
        assert!(matches!(error, ModelError::Tokenizer { .. }));
        assert!(error.to_string().starts_with("x/tokenizer.json: not a tokenizer"), "{error}");
    }
    assert!(matches!(Tokenizer::from_file(Path::new("no/such")), Err(ModelError::Read { .. })));
}

proptest! {
    /// Any ids at all, broken UTF-8 included: the pieces joined are the decoded whole.
    #[test]
    fn byte_level_stream_equals_decode(tokens in prop::collection::vec(0u32..600, 0..200)) {
        let tokenizer = Tokenizer::byte_level(512);
        prop_assert_eq!(streamed(&tokenizer, &tokens), tokenizer.decode(&tokens));
    }

    /// The same where bytes dominate, so that most sequences are broken in the middle of a character.
    #[test]
    fn byte_level_stream_equals_decode_on_broken_utf8(
        tokens in prop::collection::vec(prop_oneof![0x80u32..0x100, 0xc0u32..0x100, 0x20u32..0x80], 0..100),
    ) {
        let tokenizer = Tokenizer::byte_level(512);
        prop_assert_eq!(streamed(&tokenizer, &tokens), tokenizer.decode(&tokens));
    }

    #[test]
    fn byte_level_text_survives_the_round_trip(text in "\\PC*") {
        let tokenizer = Tokenizer::byte_level(512);
        let tokens = tokenizer.encode(&text);
        prop_assert_eq!(tokens.len(), text.len(), "one token a byte");
        prop_assert_eq!(tokenizer.decode(&tokens), text);
    }

    /// Text of any language, in bytes and in words: the stream says what decoding at once says.
    #[test]
    fn sentencepiece_stream_equals_decode(text in "(hi|ter| |你|é|🦀|x){0,40}") {
        let tokenizer = sentencepiece_style();
        let tokens = tokenizer.encode(&text);
        prop_assert_eq!(streamed(&tokenizer, &tokens), tokenizer.decode(&tokens));
        prop_assert_eq!(tokenizer.decode(&tokens), text);
    }
}
