//! The fields of a request body, taken out one by one with their accepted range, so that each error names both.
//!
//! A field that is absent or null has its default. Fields this server does not know are ignored, as vLLM does; those
//! it knows and cannot honour are refused by [`Fields::refuse_unsupported`], because ignoring them would change
//! what the client gets without a word.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        crate::json::parse_object(body).map(Fields)
    }

    pub fn nested(name: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(fields) => Ok(Fields(fields)),
            other => Err(wrong(name, "an object", &other)),
        }
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|v| !v.is_null())
    }

    pub fn bool(&mut self, name: &str) -> Result<bool, ApiError> {
        self.bool_or(name, false)
    }

    pub fn bool_or(&mut self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(v)) => Ok(v),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_i64() {
            Some(v) if range.contains(&v) => Ok(Some(v)),
            _ => {
                let accepted = match (*range.start(), *range.end()) {
                    (i64::MIN, i64::MAX) => "a 64-bit integer".to_owned(),
                    (low, i64::MAX) => format!("an integer of at least {low}"),
                    (low, high) => format!("an integer between {low} and {high}"),
                };
                Err(wrong(name, &accepted, &value))
            }
        }
    }

    /// `accepted` says in words what `ok` checks.
    pub fn float(
        &mut self,
        name: &str,
        ok: impl Fn(f64) -> bool,
        accepted: &str,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(v) if v.is_finite() && ok(v) => Ok(Some(v)),
            _ => Err(wrong(name, accepted, &value)),
        }
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(v)) => text(name, v).map(Some),
            Some(other) => Err(wrong(name, "a string", &other)),
        }
    }

    /// Token ids, each below `vocab_size`; at most `most` of them.
    pub fn token_ids(
        &mut self,
        name: &str,
        vocab_size: u32,
        most: usize,
    ) -> Result<Option<Vec<u32>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(ids)) if ids.len() > most => Err(ApiError::field(
                name,
                format!("{name} has {} entries; at most {most} are accepted", ids.len()),
            )),
            Some(Value::Array(ids)) => token_ids(name, &ids, vocab_size).map(Some),
            Some(other) => Err(wrong(name, "an array of token ids", &other)),
        }
    }

    /// Refuses fields that would change the result if they were honoured. Their neutral values pass.
    pub fn refuse_unsupported(&mut self) -> Result<(), ApiError> {
        for (name, neutral) in UNSUPPORTED {
            if let Some(value) = self.take(name)
                && !neutral.allows(&value)
            {
                let message = format!("{name} is not supported{}; got {}", neutral.but(), shown(&value));
                return Err(ApiError::field(name, message));
            }
        }
        Ok(())
    }
}

/// The value of an unsupported field that means the same as leaving it out.
enum Neutral {
    None,
    False,
    True,
    Number(f64),
    EmptyObject,
    EmptyArray,
    Text(&'static str),
    TypeText,
}

impl Neutral {
    fn allows(&self, value: &Value) -> bool {
        match self {
            Neutral::None => false,
            Neutral::False => value == &Value::Bool(false),
            Neutral::True => value == &Value::Bool(true),
            Neutral::Number(v) => value.as_f64() == Some(*v),
            Neutral::EmptyObject => value.as_object().is_some_and(Map::is_empty),
            Neutral::EmptyArray => value.as_array().is_some_and(Vec::is_empty),
            Neutral::Text(v) => value.as_str() == Some(v),
            Neutral::TypeText => value.get("type").and_then(Value::as_str) == Some("text"),
        }
    }

    fn but(&self) -> String {
        match self {
            Neutral::None => String::new(),
            Neutral::False => ", only false is accepted".to_owned(),
            Neutral::True => ", only true is accepted".to_owned(),
            Neutral::Number(v) => format!(", only {v} is accepted"),
            Neutral::EmptyObject => ", only {} is accepted".to_owned(),
            Neutral::EmptyArray => ", only [] is accepted".to_owned(),
            Neutral::Text(v) => format!(", only \"{v}\" is accepted"),
            Neutral::TypeText => ", only {\"type\": \"text\"} is accepted".to_owned(),
        }
    }
}

#[rustfmt::skip]
const UNSUPPORTED: &[(&str, Neutral)] = &[
    ("n", Neutral::Number(1.0)),
    ("best_of", Neutral::Number(1.0)),
    ("use_beam_search", Neutral::False),
    ("echo", Neutral::False),
    ("suffix", Neutral::None),
    ("logprobs", Neutral::False),
    ("top_logprobs", Neutral::Number(0.0)),
    ("prompt_logprobs", Neutral::None),
    ("logit_bias", Neutral::EmptyObject),
    ("presence_penalty", Neutral::Number(0.0)),
    ("frequency_penalty", Neutral::Number(0.0)),
    ("repetition_penalty", Neutral::Number(1.0)),
    ("length_penalty", Neutral::Number(1.0)),
    ("min_p", Neutral::Number(0.0)),
    ("bad_words", Neutral::EmptyArray),
    ("allowed_token_ids", Neutral::None),
    ("truncate_prompt_tokens", Neutral::None),
    ("include_stop_str_in_output", Neutral::False),
    ("skip_special_tokens", Neutral::True),
    ("spaces_between_special_tokens", Neutral::True),
    ("return_tokens_as_token_ids", Neutral::False),
    ("response_format", Neutral::TypeText),
    ("structured_outputs", Neutral::None),
    ("guided_json", Neutral::None),
    ("guided_regex", Neutral::None),
    ("guided_choice", Neutral::None),
    ("guided_grammar", Neutral::None),
    ("tools", Neutral::EmptyArray),
    ("tool_choice", Neutral::Text("none")),
    ("functions", Neutral::EmptyArray),
    ("function_call", Neutral::Text("none")),
    ("add_generation_prompt", Neutral::True),
    ("continue_final_message", Neutral::False),
    ("chat_template", Neutral::None),
    ("chat_template_kwargs", Neutral::EmptyObject),
    ("documents", Neutral::EmptyArray),
    ("mm_processor_kwargs", Neutral::EmptyObject),
    ("prompt_embeds", Neutral::None),
    ("kv_transfer_params", Neutral::EmptyObject),
    ("logits_processors", Neutral::EmptyArray),
];

/// Checks token ids that came as JSON numbers.
pub(crate) fn token_ids(name: &str, ids: &[Value], vocab_size: u32) -> Result<Vec<u32>, ApiError> {
    ids.iter()
        .enumerate()
        .map(|(index, id)| match id.as_u64() {
            Some(v) if v < u64::from(vocab_size) => Ok(v as u32),
            _ => {
                let accepted = format!("a token id between 0 and {}", vocab_size - 1);
                Err(ApiError::field(name, format!("{name}[{index}] must be {accepted}; got {}", shown(id))))
            }
        })
        .collect()
}

/// NUL is valid in JSON but no tokenizer was trained on it, and C string code downstream would cut the text there.
pub(crate) fn text(name: &str, value: String) -> Result<String, ApiError> {
    if value.contains('\0') {
        return Err(ApiError::field(name, format!("{name} must not contain the NUL character")));
    }
    Ok(value)
}

pub(crate) fn wrong(name: &str, accepted: &str, got: &Value) -> ApiError {
    ApiError::field(name, format!("{name} must be {accepted}; got {}", shown(got)))
}

/// A value short enough for an error message.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(fields) => format!("an object of {}", fields.len()),
        Value::String(s) if s.chars().count() > 40 => format!("a string of {} bytes", s.len()),
        scalar => scalar.to_string(),
    }
}
