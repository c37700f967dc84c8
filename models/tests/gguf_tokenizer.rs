//! Vocabularies in metadata: each kind reads as it should, and each contradiction is one error that names the key.

use std::path::Path;

use llmlab_models::gguf::{GgufFile, NewValue, write_container};
use llmlab_models::{ModelError, Tokenizer};

type Keys = Vec<(String, NewValue)>;

fn texts(list: &[&str]) -> NewValue {
    NewValue::Strs(list.iter().map(|text| text.to_string()).collect())
}

fn keys(list: &[(&str, NewValue)]) -> Keys {
    list.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value.clone())).collect()
}

/// BPE over bytes: letters, two merges, a control token and one that a user added.
fn bpe() -> Keys {
    keys(&[
        ("model", NewValue::Str("gpt2".into())),
        ("pre", NewValue::Str("llama-bpe".into())),
        ("tokens", texts(&["a", "b", "c", "\u{120}", "1", "ab", "\u{120}ab", "abc", "<|end|>", "[user]"])),
        ("token_type", NewValue::I32s(vec![1, 1, 1, 1, 1, 1, 1, 1, 3, 4])),
        ("merges", texts(&["a b", "\u{120} ab"])),
        ("bos_token_id", NewValue::U32(8)),
    ])
}

fn open(keys: &Keys) -> Result<Tokenizer, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_container(&path, keys, &[], |_, _| Ok(())).unwrap();
    GgufFile::open(Path::new(&path)).unwrap().tokenizer()
}

fn with(mut keys: Keys, key: &str, value: Option<NewValue>) -> Keys {
    let key = format!("tokenizer.ggml.{key}");
    keys.retain(|(found, _)| *found != key);
    keys.extend(value.map(|value| (key, value)));
    keys
}

#[test]
fn byte_level_bpe_merges_words_of_its_kind() {
    let tokenizer = open(&bpe()).unwrap();
    // Llama 3 takes whole words from the vocabulary without merges, and starts with BOS.
    assert_eq!(tokenizer.encode("abc ab"), [8, 7, 6]);
    assert_eq!(tokenizer.try_encode("ab<|end|>[user]c11", false).unwrap(), [5, 8, 9, 2, 4, 4]);
    assert_eq!(tokenizer.decode(&[6, 8, 9]), " ab[user]", "only control tokens are special");
    assert_eq!(tokenizer.special_tokens(), [8]);
    let plain = open(&with(bpe(), "pre", Some(NewValue::Str("gpt-2".into())))).unwrap();
    assert_eq!(plain.encode("abc ab"), [5, 2, 6], "GPT-2 merges every word, and has no BOS by default");
    let with_bos = with(bpe(), "add_bos_token", Some(NewValue::Bool(false)));
    assert_eq!(open(&with_bos).unwrap().encode("ab"), [5]);
}

#[test]
fn contradictions_name_their_key() {
    let score = |count: usize| Some(NewValue::F32s(vec![0.0; count]));
    let spm = || with(with(bpe(), "model", Some(NewValue::Str("llama".into()))), "scores", score(10));
    assert!(open(&spm()).is_ok());
    let long = texts(&["a", &"ab".repeat(600)]);
    let cases: Vec<(Keys, &str, &str)> = vec![
        (with(bpe(), "model", None), "tokenizer.ggml.model", "missing"),
        (
            with(bpe(), "model", Some(NewValue::Str("rwkv".into()))),
            "tokenizer.ggml.model",
            "\"gpt2\", \"llama\"",
        ),
        (with(bpe(), "model", Some(NewValue::U32(1))), "tokenizer.ggml.model", "1 is not a UTF-8 string"),
        (with(bpe(), "pre", Some(NewValue::Str("other".into()))), "tokenizer.ggml.pre", "llama-bpe"),
        (with(bpe(), "tokens", None), "tokenizer.ggml.tokens", "missing"),
        (with(bpe(), "tokens", Some(NewValue::U32(3))), "tokenizer.ggml.tokens", "3 is not an array"),
        (with(bpe(), "tokens", Some(NewValue::U32s(vec![3]))), "tokenizer.ggml.tokens", "not UTF-8 text"),
        (
            with(bpe(), "tokens", Some(texts(&["a", "b", "a"]))),
            "tokenizer.ggml.tokens",
            "token 2, \"a\", occurs twice",
        ),
        (
            with(bpe(), "token_type", Some(NewValue::I32s(vec![1; 9]))),
            "tokenizer.ggml.token_type",
            "9 types for 10",
        ),
        (with(bpe(), "token_type", score(10)), "tokenizer.ggml.token_type", "F32"),
        (with(bpe(), "merges", None), "tokenizer.ggml.merges", "missing"),
        (
            with(bpe(), "merges", Some(texts(&["a b", "ab"]))),
            "tokenizer.ggml.merges",
            "merge 1, \"ab\", is not two",
        ),
        (with(bpe(), "bos_token_id", score(1)), "tokenizer.ggml.bos_token_id", "not a token id"),
        (
            with(bpe(), "add_eos_token", Some(NewValue::U32(1))),
            "tokenizer.ggml.add_eos_token",
            "not true or false",
        ),
        (with(spm(), "scores", None), "tokenizer.ggml.scores", "missing"),
        (with(spm(), "scores", score(3)), "tokenizer.ggml.scores", "3 scores for 10 tokens"),
        (
            with(spm(), "scores", Some(NewValue::F32s(vec![f32::NAN; 10]))),
            "tokenizer.ggml.tokens",
            "the score NaN",
        ),
        (with(with(spm(), "tokens", Some(long)), "token_type", None), "tokenizer.ggml.tokens", "1200 bytes"),
    ];
    for (keys, key, expected) in cases {
        let error = open(&keys).err().unwrap_or_else(|| panic!("{key} {expected}: accepted")).to_string();
        assert!(error.contains("model.gguf") && error.contains(key) && error.contains(expected), "{error}");
    }
    // What the tables of a tokenizer contradict is found when it is built.
    let error = open(&with(bpe(), "merges", Some(texts(&["a x"])))).err().unwrap().to_string();
    assert!(error.contains("not a tokenizer"), "{error}");
}
