//! Reading small text files with a bound: a wrong path must not pull gigabytes into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::error::ModelError;

pub fn read_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Read { path: path.to_path_buf(), source }
}

/// The whole file as UTF-8, or an error when it is larger than `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<String, ModelError> {
    let file = File::open(path).map_err(|error| read_error(path, error))?;
    let bytes = file.metadata().map_err(|error| read_error(path, error))?.len();
    if bytes > limit {
        return Err(ModelError::TooLarge { path: path.to_path_buf(), bytes, limit });
    }
    let mut text = String::new();
    // `take` and not the size above: pipes and /proc files report no size.
    file.take(limit).read_to_string(&mut text).map_err(|error| read_error(path, error))?;
    Ok(text)
}

/// Like [`read_text`], but a file that is not there is `None`.
pub fn read_text_if_present(path: &Path, limit: u64) -> Result<Option<String>, ModelError> {
    match read_text(path, limit) {
        Ok(text) => Ok(Some(text)),
        Err(ModelError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses `json` read from `path`; the error carries line and column.
pub fn parse_json<T: DeserializeOwned>(json: &[u8], path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(json).map_err(|error| ModelError::Json {
        path: path.to_path_buf(),
        problem: format!("not the JSON expected: {error}"),
    })
}

/// A JSON object in which no key occurs twice. `serde_json` keeps the last of two equal keys in silence, and a weight
/// file with two entries of one name is either damaged or made to be read differently by different programs.
pub struct UniqueMap<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("the key {key:?} occurs twice")));
                    }
                    map.insert(key, value);
                }
                Ok(UniqueMap(map))
            }
        }
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}
