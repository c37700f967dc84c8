//! The tokenizer in a file's metadata, as the text of a Hugging Face `tokenizer.json`: then one implementation serves both
//! kinds of model, and a file can be turned into a folder.
//!
//! `tokenizer.ggml.model` says which kind it is. `gpt2` is BPE over bytes with merges. `llama` is SentencePiece's BPE: no
//! merges but a score for each token, and of two neighbours those are joined first whose joint token has the highest score,
//! so merges sorted by that score do the same.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::error::ModelError;
use crate::gguf::file::GgufFile;
use crate::gguf::keys::Keys;
use crate::gguf::pretokenizer::{self, byte_level};
use crate::tokenizer::Tokenizer;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
/// SentencePiece writes a space as this.
const SPACE: &str = "\u{2581}";
/// Each way of cutting a SentencePiece token is looked up, work that grows with the square of its length. Real ones have
/// under 100 characters.
const MAX_PIECE_BYTES: usize = 1024;

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn from_number(number: i128) -> TokenType {
        match number {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            // Also 0, "undefined".
            _ => TokenType::Normal,
        }
    }
}

/// Whether a model is of the family Phi-3 by its name, as llama.cpp decides it: the special tokens of these models take the
/// white space behind them with them, and files have no key that says so.
pub(crate) fn is_phi3_name(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

impl GgufFile {
    /// The tokenizer. It has the kinds `gpt2` and `llama`; a file of another kind, or with tables that contradict each other,
    /// is an error that names the key.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let json = self.tokenizer_json()?;
        Tokenizer::from_json(&json.to_string(), self.path())
    }

    /// The same as `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Result<Value, ModelError> {
        let keys = Keys::new(self, "");
        let vocabulary = Vocabulary::read(&keys)?;
        match keys.text(MODEL)? {
            Some("gpt2") => byte_bpe(&keys, &vocabulary),
            Some("llama") => sentence_piece(&keys, &vocabulary),
            other => {
                let found = other.map_or("missing".into(), |name| format!("{name:.40?} is not supported"));
                keys.fail(MODEL, format!("{found}; accepted are \"gpt2\", \"llama\""))
            }
        }
    }

    /// The chat template's text, where the file has one.
    pub fn chat_template(&self) -> Result<Option<&str>, ModelError> {
        Keys::new(self, "").text("tokenizer.chat_template")
    }

    /// The text of a token id named by a key (`bos`, `eos`), as chat templates know it.
    pub(crate) fn special_text(&self, which: &str) -> Result<Option<String>, ModelError> {
        let keys = Keys::new(self, "");
        let Some(tokens) = keys.array(TOKENS)? else { return Ok(None) };
        let count = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let Some(id) = keys.token(&format!("tokenizer.ggml.{which}_token_id"), count)? else {
            return Ok(None);
        };
        let text = tokens.iter().nth(id as usize).and_then(|value| value.str_bytes());
        Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
    }
}

/// The tokens by id.
struct Vocabulary<'a> {
    texts: Vec<&'a str>,
    types: Vec<TokenType>,
    phi3: bool,
}

impl<'a> Vocabulary<'a> {
    fn read(keys: &Keys<'a>) -> Result<Self, ModelError> {
        let Some(tokens) = keys.array(TOKENS)? else {
            return keys.fail(TOKENS, "missing; needed is the list of tokens".into());
        };
        let mut texts = Vec::with_capacity(tokens.len());
        let mut seen = HashSet::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            let Some(Ok(text)) = token.str_bytes().map(str::from_utf8) else {
                return keys.fail(TOKENS, format!("token {id}, {}, is not UTF-8 text", token.shown()));
            };
            // Empty texts mean nothing and need not be unique.
            if !text.is_empty() && !seen.insert(text) {
                return keys.fail(TOKENS, format!("token {id}, {}, occurs twice", token.shown()));
            }
            texts.push(text);
        }
        let types = match keys.array(TYPES)? {
            None => vec![TokenType::Normal; texts.len()],
            Some(types) if types.len() < texts.len() => {
                return keys.fail(TYPES, format!("{} types for {} tokens", types.len(), texts.len()));
            }
            Some(types) => {
                let kind = |value: crate::gguf::value::Value<'_>| value.integer().map(TokenType::from_number);
                match types.iter().take(texts.len()).map(kind).collect() {
                    Some(types) => types,
                    None => return keys.fail(TYPES, format!("elements of type {:?}", types.kind())),
                }
            }
        };
        let phi3 = keys.text("general.name")?.is_some_and(is_phi3_name);
        Ok(Vocabulary { texts, types, phi3 })
    }

    fn len(&self) -> u32 {
        u32::try_from(self.texts.len()).unwrap_or(u32::MAX)
    }

    /// The text by which a token is in the tables of a `tokenizer.json`; an empty one is given a name, as in llama.cpp.
    fn name(&self, id: usize) -> String {
        match self.texts[id] {
            "" => format!("[EMPTY_{id}]"),
            text => text.to_string(),
        }
    }

    fn json(&self) -> Value {
        Value::Object((0..self.texts.len()).map(|id| (self.name(id), json!(id))).collect::<Map<_, _>>())
    }

    /// Tokens that are found in a text before anything else: control tokens, and those a user has added.
    fn added(&self) -> Vec<Value> {
        let added = |kind| matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        (0..self.texts.len())
            .filter(|id| added(self.types[*id]) && !self.texts[*id].is_empty())
            .map(|id| {
                let text = self.texts[id];
                let rstrip = self.phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text);
                json!({
                    "id": id, "content": text, "special": self.types[id] != TokenType::UserDefined,
                    "single_word": false, "lstrip": false, "rstrip": rstrip, "normalized": false,
                })
            })
            .collect()
    }
}

fn byte_bpe(keys: &Keys<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, ModelError> {
    let pre = match pretokenizer::named(keys.text(PRE)?.unwrap_or("default")) {
        Ok(pre) => pre,
        Err(problem) => return keys.fail(PRE, problem),
    };
    let Some(list) = keys.array(MERGES)? else {
        return keys.fail(MERGES, "missing; needed is the list of merges".into());
    };
    let mut merges = Vec::with_capacity(list.len());
    for (rank, merge) in list.iter().enumerate() {
        let text = merge.str_bytes().and_then(|text| str::from_utf8(text).ok());
        // The first part may itself start with a space.
        let parts = text.and_then(|text| {
            let first = text.chars().next()?.len_utf8();
            let at = first + text[first..].find(' ')?;
            Some((&text[..at], &text[at + 1..]))
        });
        match parts {
            Some((left, right)) => merges.push(json!([left, right])),
            None => {
                let problem =
                    format!("merge {rank}, {}, is not two tokens with a space between", merge.shown());
                return keys.fail(MERGES, problem);
            }
        }
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre.json(),
        "post_processor": around(keys, vocabulary, pre.add_bos)?,
        "decoder": byte_level(),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "vocab": vocabulary.json(), "merges": merges,
        },
    }))
}

fn sentence_piece(keys: &Keys<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, ModelError> {
    let prefix = keys.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = (0..vocabulary.texts.len()).find(|id| vocabulary.types[*id] == TokenType::Unknown);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": around(keys, vocabulary, true)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| vocabulary.name(id)),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary.json(),
            "merges": merges_by_score(keys, vocabulary)?,
        },
    }))
}

/// Each way of making a token out of two, the highest score first. Of equal scores that of the lower id comes first, and of
/// the ways to make one token that whose first part has the lower id: the order of transformers' `generate_merges`.
fn merges_by_score(keys: &Keys<'_>, vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, ModelError> {
    let scores = match keys.array(SCORES)? {
        Some(scores) if scores.len() >= vocabulary.texts.len() => scores,
        Some(scores) => {
            let problem = format!("{} scores for {} tokens", scores.len(), vocabulary.texts.len());
            return keys.fail(SCORES, problem);
        }
        None => return keys.fail(SCORES, "missing; needed is a score for each token".into()),
    };
    let ids: HashMap<&str, u32> = vocabulary.texts.iter().copied().zip(0..).collect();
    let mut merges: Vec<(f64, u32, u32, u32)> = Vec::new();
    for (id, score) in (0..).zip(scores.iter().take(vocabulary.texts.len())) {
        let text = vocabulary.texts[id as usize];
        // The others are never made by merging: they are found in the text, or stand for a byte.
        if vocabulary.types[id as usize] != TokenType::Normal {
            continue;
        }
        let Some(score) = score.float().or_else(|| score.integer().map(|score| score as f64)) else {
            return keys.fail(SCORES, format!("elements of type {:?}", scores.kind()));
        };
        if score.is_nan() || text.len() > MAX_PIECE_BYTES {
            let problem = format!("token {id} has {} bytes and the score {score}", text.len());
            let accepted = format!("accepted are up to {MAX_PIECE_BYTES} bytes and a number");
            return keys.fail(TOKENS, format!("{problem}; {accepted}"));
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                merges.push((score, id, *left, *right));
            }
        }
    }
    merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let text = |id: u32| vocabulary.texts[id as usize];
    Ok(merges.into_iter().map(|(_, _, left, right)| json!([text(left), text(right)])).collect())
}

/// What stands around a text: BOS in front and EOS behind, where the file says so.
fn around(keys: &Keys<'_>, vocabulary: &Vocabulary<'_>, default_bos: bool) -> Result<Value, ModelError> {
    let token = |which: &str| keys.token(&format!("tokenizer.ggml.{which}_token_id"), vocabulary.len());
    let wanted = |which: &str, default| {
        keys.flag(&format!("tokenizer.ggml.add_{which}_token")).map(|flag| flag.unwrap_or(default))
    };
    let bos = if wanted("bos", default_bos)? { token("bos")? } else { None };
    let eos = if wanted("eos", false)? { token("eos")? } else { None };
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let special = |id: u32| json!({ "SpecialToken": { "id": vocabulary.name(id as usize), "type_id": 0 } });
    let template = |parts: &[&str]| {
        let text = parts.iter().map(|part| json!({ "Sequence": { "id": part, "type_id": 0 } }));
        bos.map(special).into_iter().chain(text).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|id| {
            let name = vocabulary.name(id as usize);
            (name.clone(), json!({ "id": name, "ids": [id], "tokens": [name] }))
        })
        .collect();
    Ok(json!({
        "type": "TemplateProcessing",
        "single": template(&["A"]),
        "pair": template(&["A", "B"]),
        "special_tokens": tokens,
    }))
}
