//! Strict JSON: a body is one object, no key twice at any depth, and an error inside a field names the field.
//!
//! serde's derive would accept a repeated unknown key and report only line and column. Depth is bounded by serde_json's
//! recursion limit (128), size by the body limit.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::ApiError;

/// The body's fields.
pub(crate) fn parse_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice::<Body>(body) {
        Ok(Body(fields)) => Ok(fields),
        Err(error) => Err(ApiError::bad_request(format!("invalid JSON: {error}"))),
    }
}

struct Body(Map<String, Value>);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Body;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Body, A::Error> {
                let mut fields = Map::new();
                while let Some(key) = access.next_key::<String>()? {
                    let value = access
                        .next_value_seed(Strict)
                        .map_err(|e| de::Error::custom(format_args!("in {}: {e}", shown(&key))))?;
                    insert_once(&mut fields, key, value)?;
                }
                Ok(Body(fields))
            }
        }
        deserializer.deserialize_map(Top)
    }
}

/// Any JSON value, refusing repeated keys.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict)?;
            insert_once(&mut fields, key, value)?;
        }
        Ok(Value::Object(fields))
    }
}

fn insert_once<E: de::Error>(fields: &mut Map<String, Value>, key: String, value: Value) -> Result<(), E> {
    if fields.contains_key(&key) {
        return Err(E::custom(format_args!("duplicate key {}", shown(&key))));
    }
    fields.insert(key, value);
    Ok(())
}

/// A key fit for an error message: quoted, escaped and short, whatever the client sent.
fn shown(key: &str) -> String {
    format!("{:?}", key.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &[u8]) -> String {
        parse_object(body).unwrap_err().message
    }

    #[test]
    fn keeps_every_kind_of_value() {
        let body = br#"{"a":null,"b":[true,1,-2,1.5,"x\u00e9"],"c":{"d":{}}}"#;
        let parsed = Value::Object(parse_object(body).unwrap());
        assert_eq!(parsed, serde_json::from_slice::<Value>(body).unwrap());
    }

    #[test]
    fn refuses_repeated_keys_at_any_depth() {
        assert!(refused(br#"{"n":1,"n":2}"#).contains("duplicate key \"n\""));
        assert!(refused(br#"{"a":[{"deep":1,"deep":1}]}"#).contains("duplicate key \"deep\""));
    }

    #[test]
    fn an_error_inside_a_field_names_it() {
        assert!(refused(br#"{"temperature": NaN}"#).contains("temperature"));
        assert!(refused(br#"{"temperature": 1e999}"#).contains("temperature"));
        assert!(refused(br#"{"prompt": "\ud800"}"#).contains("prompt"));
        assert!(refused(b"{\"prompt\": \"\xff\"}").contains("prompt"));
    }

    #[test]
    fn depth_is_bounded() {
        let mut body = br#"{"prompt":"#.to_vec();
        body.extend(std::iter::repeat_n(b'[', 100_000));
        assert!(refused(&body).contains("recursion limit"));
    }

    #[test]
    fn only_an_object_with_nothing_after_it() {
        assert!(refused(b"[1]").contains("a JSON object"));
        assert!(refused(b"{} x").contains("trailing"));
        assert!(refused(b"").contains("EOF"));
    }
}
