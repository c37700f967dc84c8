//! Typed reading of a JSON object in which nothing is trusted; each error names the file and the key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// Ids a list of end tokens may hold.
const MAX_EOS_TOKENS: usize = 256;

/// An object of a configuration file.
pub struct Keys<'a> {
    pub map: &'a Map<String, Value>,
    pub file: &'a Path,
    /// What stands before a key in errors: empty, or "rope_scaling." for the keys of that object.
    pub prefix: String,
}

impl<'a> Keys<'a> {
    pub fn new(map: &'a Map<String, Value>, file: &'a Path) -> Self {
        Keys { map, file, prefix: String::new() }
    }

    pub fn fail<T>(&self, key: &str, problem: String) -> Result<T, ModelError> {
        let key = format!("{}{key}", self.prefix);
        Err(ModelError::Key { path: self.file.to_path_buf(), key, problem })
    }

    /// The value, where `null` means the same as absent.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it with `null`: some defaults apply to absent keys only.
    pub fn present(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The object under `key`.
    pub fn object(&self, key: &str) -> Result<Option<Keys<'a>>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Keys { map, file: self.file, prefix: format!("{}{key}.", self.prefix) }))
            }
            Some(other) => self
                .fail(key, format!("{} is not supported yet; accepted is null or an object", shown(other))),
        }
    }

    pub fn required(&self, key: &str, max: u32) -> Result<u32, ModelError> {
        match self.optional(key, max)? {
            Some(value) => Ok(value),
            None => self.fail(key, format!("missing; accepted are whole numbers from 1 to {max}")),
        }
    }

    pub fn optional(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        self.whole(key, 1, max)
    }

    /// A whole number from `min` to `max`.
    pub fn whole(&self, key: &str, min: u32, max: u32) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => self.fail(key, format!("{} is not a whole number from {min} to {max}", shown(value))),
        }
    }

    pub fn number(&self, key: &str, default: f64, max: f64) -> Result<f64, ModelError> {
        Ok(self.optional_number(key, max)?.unwrap_or(default))
    }

    /// A number above 0 and up to `max`.
    pub fn optional_number(&self, key: &str, max: f64) -> Result<Option<f64>, ModelError> {
        self.value(key).map(|value| self.checked_number(key, value, max)).transpose()
    }

    fn checked_number(&self, key: &str, value: &Value, max: f64) -> Result<f64, ModelError> {
        match value.as_f64() {
            // A NaN fails every comparison; the cast is what is compared, since 1e-60 is 0 as an f32.
            Some(number) if number as f32 > 0.0 && number <= max => Ok(number),
            _ => self.fail(key, format!("{} is not a number above 0 and up to {max:e}", shown(value))),
        }
    }

    /// Exactly `count` numbers above 0 and up to `max`.
    pub fn numbers(&self, key: &str, count: usize, max: f64) -> Result<Vec<f64>, ModelError> {
        match self.value(key) {
            Some(Value::Array(values)) if values.len() == count => {
                values.iter().map(|value| self.checked_number(key, value, max)).collect()
            }
            Some(Value::Array(values)) => {
                self.fail(key, format!("{} numbers; {count} are needed", values.len()))
            }
            Some(other) => self.fail(key, format!("{} is not a list of {count} numbers", shown(other))),
            None => self.fail(key, format!("missing; needed is a list of {count} numbers")),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.fail(key, format!("{} is not true or false", shown(other))),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.fail(key, format!("{} is not a text", shown(other))),
        }
    }

    /// A list of texts; nothing where the key is absent.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let texts = value.as_array().and_then(|values| values.iter().map(Value::as_str).collect());
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => self.fail(key, format!("{} is not a list of texts", shown(value))),
        }
    }

    /// One id, a list of ids, or nothing.
    pub fn token_ids(&self, key: &str, vocab_size: u32) -> Result<Vec<u32>, ModelError> {
        let values = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() > MAX_EOS_TOKENS => {
                return self
                    .fail(key, format!("{} ids; accepted are at most {MAX_EOS_TOKENS}", values.len()));
            }
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let mut ids = Vec::with_capacity(values.len());
        for value in values {
            match value.as_u64() {
                Some(id) if id < u64::from(vocab_size) => ids.push(id as u32),
                _ => return self.fail(key, format!("{} is not a token id below {vocab_size}", shown(value))),
            }
        }
        Ok(ids)
    }

    /// Refuses `key` unless it is absent or says what is computed anyway.
    pub fn refuse_true(&self, key: &str) -> Result<(), ModelError> {
        match self.flag(key, false)? {
            false => Ok(()),
            true => self.fail(key, "true is not supported yet; accepted is false".into()),
        }
    }
}

/// A value as it stands in the file, cut short so that an error stays one line.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
