//! A tokenizer as metadata: the inverse of [`crate::gguf::tokenizer`].

use std::collections::HashMap;

use serde_json::Value;

use crate::gguf::container::NewValue;
use crate::gguf::file::GgufFile;
use crate::gguf::metadata::NewKeys;
use crate::gguf::pretokenizer::{patterns_of, with_patterns};
use crate::gguf::tokenizer::TokenType;
use crate::gguf::value;
use crate::spec::ModelSpec;
use crate::tokenizer::Tokenizer;

const SPACE: &str = "\u{2581}";
/// For tokens that no merge makes: below every score that a merge gives.
const NEVER_MERGED: f32 = -1e9;

/// The keys for `tokenizer`, or what about it has no place in a file.
pub(crate) fn token_keys(spec: &ModelSpec, tokenizer: &Tokenizer) -> Result<NewKeys, String> {
    let text = tokenizer.to_json().map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(format!("its model is {}; accepted is \"BPE\"", model["type"]));
    }
    let mut keys = NewKeys::new();
    let mut add = |key: &str, value| keys.push((format!("tokenizer.ggml.{key}"), value));
    let table = Table::read(spec, &json)?;
    let merges = merges(model)?;
    if model["byte_fallback"] == true {
        add("model", NewValue::Str("llama".into()));
        add("pre", NewValue::Str("default".into()));
        add("scores", NewValue::F32s(table.scores(&merges)));
        add("add_space_prefix", NewValue::Bool(adds_space(&json)));
    } else {
        let ignore_merges = model["ignore_merges"] == true;
        add("model", NewValue::Str("gpt2".into()));
        add("pre", NewValue::Str(pre_name(&json["pre_tokenizer"], &merges, ignore_merges)?.into()));
        let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        add("merges", NewValue::Strs(merges));
    }
    add("tokens", NewValue::Strs(table.texts));
    add("token_type", NewValue::I32s(table.types.iter().map(|kind| *kind as i32).collect()));
    if let Some(id) = spec.bos_token_id {
        add("bos_token_id", NewValue::U32(id));
    }
    // A file has a name for the end of text, of a turn and of a message; more than three are found by their texts.
    for (key, id) in ["eos", "eot", "eom"].into_iter().zip(&spec.eos_token_ids) {
        add(&format!("{key}_token_id"), NewValue::U32(*id));
    }
    let [front, behind] = around(&json["post_processor"]);
    add("add_bos_token", NewValue::Bool(front));
    add("add_eos_token", NewValue::Bool(behind));
    Ok(keys)
}

/// Every key about the tokenizer that `file` has, unchanged.
pub(crate) fn copied_keys(file: &GgufFile) -> NewKeys {
    let ours = file.metadata().filter(|(key, _)| key.starts_with("tokenizer."));
    ours.filter_map(|(key, value)| Some((key.to_string(), owned(value)?))).collect()
}

/// The value as one that can be written; `None` for types that no tokenizer key has.
fn owned(value: value::Value<'_>) -> Option<NewValue> {
    use crate::gguf::value::{Kind, Value};
    let text = |value: Value<'_>| Some(String::from_utf8_lossy(value.str_bytes()?).into_owned());
    Some(match value {
        Value::Str(_) => NewValue::Str(text(value)?),
        Value::Bool(flag) => NewValue::Bool(flag),
        Value::F32(number) => NewValue::F32(number),
        Value::Array(array) => match array.kind() {
            Kind::Str => NewValue::Strs(array.iter().map(text).collect::<Option<_>>()?),
            Kind::Bool => NewValue::Bools(array.iter().map(|value| value == Value::Bool(true)).collect()),
            Kind::F32 | Kind::F64 => NewValue::F32s(
                array.iter().map(|value| value.float().map(|value| value as f32)).collect::<Option<_>>()?,
            ),
            _ => {
                let integers =
                    array.iter().map(|value| value.integer().and_then(|value| i32::try_from(value).ok()));
                NewValue::I32s(integers.collect::<Option<_>>()?)
            }
        },
        other => NewValue::U32(u32::try_from(other.integer()?).ok()?),
    })
}

/// Texts and types by id.
struct Table {
    texts: Vec<String>,
    types: Vec<TokenType>,
}

impl Table {
    fn read(spec: &ModelSpec, json: &Value) -> Result<Table, String> {
        let size = spec.vocab_size as usize;
        let mut texts: Vec<Option<String>> = vec![None; size];
        let mut types = vec![TokenType::Normal; size];
        let mut put = |id: Option<u64>, text: &str, kind: TokenType| match id {
            Some(id) if id < size as u64 => {
                texts[id as usize] = Some(text.to_string());
                types[id as usize] = kind;
                Ok(())
            }
            _ => Err(format!("the token {text:.80?} has the id {id:?}, and the model has {size} rows")),
        };
        let model = &json["model"];
        let bytes = model["byte_fallback"] == true;
        for (text, id) in model["vocab"].as_object().into_iter().flatten() {
            let is_byte = bytes && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = if is_byte { TokenType::Byte } else { TokenType::Normal };
            put(id.as_u64(), text, if model["unk_token"] == *text { TokenType::Unknown } else { kind })?;
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            let special = token["special"] == true && model["unk_token"] != *text;
            let kind = match (special, model["unk_token"] == *text) {
                (_, true) => TokenType::Unknown,
                (true, _) => TokenType::Control,
                (false, _) => TokenType::UserDefined,
            };
            put(token["id"].as_u64(), text, kind)?;
        }
        for (id, text) in texts.iter().enumerate() {
            if text.is_none() {
                types[id] = TokenType::Unused;
            }
        }
        // Rows without a token, which many models have for alignment.
        let named = |(id, text): (usize, Option<String>)| text.unwrap_or_else(|| format!("[PAD{id}]"));
        Ok(Table { texts: texts.into_iter().enumerate().map(named).collect(), types })
    }

    /// The score of each token: the earlier the first merge that makes it, the higher.
    fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut rank: HashMap<String, usize> = HashMap::with_capacity(merges.len());
        for (index, (left, right)) in merges.iter().enumerate() {
            rank.entry(format!("{left}{right}")).or_insert(index);
        }
        let score = |text: &String| rank.get(text).map_or(NEVER_MERGED, |rank| -(*rank as f32));
        self.texts.iter().map(score).collect()
    }
}

/// Pairs, written as pairs or as one text with a space between.
fn merges(model: &Value) -> Result<Vec<(String, String)>, String> {
    let pair = |merge: &Value| match merge {
        Value::Array(pair) => Some((pair.first()?.as_str()?.to_string(), pair.get(1)?.as_str()?.to_string())),
        other => other.as_str()?.split_once(' ').map(|(left, right)| (left.to_string(), right.to_string())),
    };
    let list = model["merges"].as_array().into_iter().flatten();
    list.map(|merge| pair(merge).ok_or_else(|| format!("the merge {merge:.80}"))).collect()
}

fn pre_name(
    pre_tokenizer: &Value,
    merges: &[(String, String)],
    ignore_merges: bool,
) -> Result<&'static str, String> {
    let patterns = patterns_of(pre_tokenizer)?;
    // Where nothing is merged it does not matter where a text is split.
    if merges.is_empty() && !ignore_merges {
        return Ok("gpt-2");
    }
    match with_patterns(&patterns, ignore_merges) {
        Some(known) => Ok(known.names[0]),
        None => Err(format!("it splits words by {patterns:?}, for which there is no name")),
    }
}

fn adds_space(json: &Value) -> bool {
    let steps = |value: &Value, list: &str| match value["type"].as_str() {
        Some("Sequence") => value[list].as_array().cloned().unwrap_or_default(),
        _ => vec![value.clone()],
    };
    let prepends = steps(&json["normalizer"], "normalizers")
        .iter()
        .any(|step| step["type"] == "Prepend" && step["prepend"] == SPACE);
    let metaspace = steps(&json["pre_tokenizer"], "pretokenizers").iter().any(|step| {
        step["type"] == "Metaspace"
            && (step["prepend_scheme"] == "always" || step["prepend_scheme"] == "first")
    });
    prepends || metaspace
}

/// Whether a special token stands in front of a text, and whether one stands behind it.
fn around(post_processor: &Value) -> [bool; 2] {
    match post_processor["type"].as_str() {
        Some("TemplateProcessing") => {
            let is_special = |part: Option<&Value>| part.is_some_and(|part| part["SpecialToken"].is_object());
            let single = post_processor["single"].as_array();
            [single.and_then(|parts| parts.first()), single.and_then(|parts| parts.last())].map(is_special)
        }
        Some("Sequence") => {
            let steps = post_processor["processors"].as_array().into_iter().flatten();
            steps.map(around).fold([false; 2], |[a, b], [front, behind]| [a | front, b | behind])
        }
        _ => [false; 2],
    }
}
