//! `{name}` in a path, a header or a body stands for a value that an earlier step saved. Any other brace is a brace.

use std::collections::BTreeMap;

use serde_json::Value;

enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(inside) = rest.strip_prefix('{')
            && let Some((name, after)) = inside.split_once('}')
            && is_name(name)
        {
            rest = after;
            return Some(Piece::Variable(name));
        }
        // At least one character, so that a brace that opens nothing is passed.
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let end = rest[first..].find('{').map_or(rest.len(), |at| first + at);
        let (plain, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(plain))
    })
}

/// Small letters, digits and '_', with a letter first.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The text with every variable's value; the error names one that has none.
pub(crate) fn fill(text: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    pieces(text).try_fold(String::with_capacity(text.len()), |mut filled, piece| {
        filled.push_str(match piece {
            Piece::Text(plain) => plain,
            Piece::Variable(name) => {
                values.get(name).ok_or_else(|| format!("nothing was saved as {name}"))?
            }
        });
        Ok(filled)
    })
}

/// The same in every string of a JSON value.
pub(crate) fn fill_json(value: &Value, values: &BTreeMap<String, String>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(fill(text, values)?),
        Value::Array(items) => items.iter().map(|item| fill_json(item, values)).collect::<Result<_, _>>()?,
        Value::Object(fields) => {
            let filled = fields.iter().map(|(key, field)| Ok((key.clone(), fill_json(field, values)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_names_are_variables() {
        let values = BTreeMap::from([("user".to_string(), "7".to_string())]);
        let untouched = "{\"a\": {}, \"b\": {X}} {{{é";
        assert_eq!(fill(untouched, &values).unwrap(), untouched);
        assert_eq!(fill("u{user}, {{user}}", &values).unwrap(), "u7, {7}");
    }

    #[test]
    fn values_take_the_place_of_their_names_and_missing_ones_are_named() {
        let values = BTreeMap::from([("token".to_string(), "{user}".to_string())]);
        // What a server sent is not read again.
        assert_eq!(fill("a {token} {b", &values).unwrap(), "a {user} {b");
        assert_eq!(fill("{other}", &values).unwrap_err(), "nothing was saved as other");
        let body = json!({ "t": ["{token}", 1], "n": null });
        assert_eq!(fill_json(&body, &values).unwrap(), json!({ "t": ["{user}", 1], "n": null }));
    }
}
