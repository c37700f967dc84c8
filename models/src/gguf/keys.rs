//! Metadata values by key, with the type and range that is needed, or an error that says what is accepted.

use crate::error::ModelError;
use crate::gguf::file::GgufFile;
use crate::gguf::value::{Array, Value};

/// The keys of an open file. Keys that start with a dot stand behind the architecture's name.
pub(crate) struct Keys<'a> {
    file: &'a GgufFile,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(file: &'a GgufFile, arch: &'a str) -> Self {
        Keys { file, arch }
    }

    pub fn full(&self, key: &str) -> String {
        match key.starts_with('.') {
            true => format!("{}{key}", self.arch),
            false => key.to_string(),
        }
    }

    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        self.file.value(&self.full(key))
    }

    pub fn fail<T>(&self, key: &str, problem: String) -> Result<T, ModelError> {
        Err(self.file.key_error(&self.full(key), problem))
    }

    /// A whole number from 1 to `max`.
    pub fn required(&self, key: &str, max: u32) -> Result<u32, ModelError> {
        match self.optional(key, max)? {
            Some(value) => Ok(value),
            None => self.fail(key, format!("missing; accepted are whole numbers from 1 to {max}")),
        }
    }

    /// A whole number from 1 to `max`, or nothing. A list with one number for each layer counts as that number where all
    /// are equal: some converters write lists for models with equal layers.
    pub fn optional(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = match value {
            Value::Array(array) => {
                let first = array.iter().next();
                if array.iter().any(|other| Some(other) != first) {
                    let problem =
                        "layers of different sizes are not supported; accepted is one number".into();
                    return self.fail(key, problem);
                }
                first
            }
            one => Some(one),
        };
        match number.and_then(|number| number.integer()).map(u32::try_from) {
            Some(Ok(number)) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => self.fail(key, format!("{} is not a whole number from 1 to {max}", value.shown())),
        }
    }

    /// Like [`Self::optional`], and 0 means the same as a missing key.
    pub fn nonzero(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        match self.value(key).and_then(|value| value.integer()) {
            Some(0) => Ok(None),
            _ => self.optional(key, max),
        }
    }

    /// A number above 0 and up to `max`.
    pub fn number(&self, key: &str, max: f64) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.float().or_else(|| value.integer().map(|number| number as f64)) {
            // A NaN fails every comparison; the cast is what is compared, since 1e-60 is 0 as an f32.
            Some(number) if number as f32 > 0.0 && number <= max => Ok(Some(number)),
            _ => self.fail(key, format!("{} is not a number above 0 and up to {max:e}", value.shown())),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => self.fail(key, format!("{} is not true or false", other.shown())),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.str_bytes().map(str::from_utf8) {
            Some(Ok(text)) => Ok(Some(text)),
            _ => self.fail(key, format!("{} is not a UTF-8 string", value.shown())),
        }
    }

    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => self.fail(key, format!("{} is not an array", other.shown())),
        }
    }

    /// A token id below `vocab_size`, or nothing. Ids outside are nothing too, as in llama.cpp: files exist in which an
    /// unused id is -1 as an unsigned number.
    pub fn token(&self, key: &str, vocab_size: u32) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.integer() {
            Some(id) => Ok(u32::try_from(id).ok().filter(|id| *id < vocab_size)),
            None => self.fail(key, format!("{} is not a token id", value.shown())),
        }
    }
}
