//! The form of [`TokenEvent`]s in a journal: `{"after_ns":[..],"tokens":[..]}`. A time counts from the event before it, the
//! first from the start of the trial. `tokens` is left out where every event has one. Written while requests are timed, and
//! most of a line, so short.
//!
//! Lists of `{"at_ns":..,"tokens":..}`, as journals had them before, are read too.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserializer, Serializer};

use crate::record::TokenEvent;

pub(crate) fn serialize<S: Serializer>(events: &[TokenEvent], serializer: S) -> Result<S::Ok, S::Error> {
    let all_single = events.iter().all(|event| event.tokens == 1);
    let mut form = serializer.serialize_struct("TokenEvents", 1 + usize::from(!all_single))?;
    form.serialize_field("after_ns", &Listed(|| after_ns(events)))?;
    match all_single {
        true => form.skip_field("tokens")?,
        false => form.serialize_field("tokens", &Listed(|| events.iter().map(|event| event.tokens)))?,
    }
    form.end()
}

/// Wraps around where a clock went back, and back again when it is read.
fn after_ns(events: &[TokenEvent]) -> impl Iterator<Item = u64> {
    let mut before_ns = 0;
    events.iter().map(move |event| {
        let before_ns = std::mem::replace(&mut before_ns, event.at_ns);
        event.at_ns.wrapping_sub(before_ns)
    })
}

/// A list that is made while it is written.
struct Listed<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: serde::Serialize>> serde::Serialize for Listed<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TokenEvent>, D::Error> {
    deserializer.deserialize_any(EitherForm)
}

struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Vec<TokenEvent>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("token events: after_ns and tokens, or a list of at_ns and tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(event) = list.next_element()? {
            events.push(event);
        }
        Ok(events)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error;
        let (mut after_ns, mut tokens) = (None::<Vec<u64>>, None::<Vec<u32>>);
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match &*name {
                "after_ns" => after_ns = Some(map.next_value()?),
                "tokens" => tokens = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let after_ns = after_ns.ok_or_else(|| A::Error::missing_field("after_ns"))?;
        if let Some(tokens) = &tokens
            && tokens.len() != after_ns.len()
        {
            return Err(A::Error::invalid_length(tokens.len(), &"as many tokens as after_ns"));
        }
        let mut at_ns = 0u64;
        let events = after_ns.iter().enumerate().map(|(place, after_ns)| {
            at_ns = at_ns.wrapping_add(*after_ns);
            TokenEvent { at_ns, tokens: tokens.as_ref().map_or(1, |tokens| tokens[place]) }
        });
        Ok(events.collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(events: &[TokenEvent]) -> String {
        let mut text = Vec::new();
        serialize(events, &mut serde_json::Serializer::new(&mut text)).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn read(text: &str) -> Result<Vec<TokenEvent>, String> {
        deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())
    }

    fn event(at_ns: u64, tokens: u32) -> TokenEvent {
        TokenEvent { at_ns, tokens }
    }

    #[test]
    fn both_forms() {
        let events = [event(20, 1), event(23, 1), event(23, 1)];
        assert_eq!(written(&events), r#"{"after_ns":[20,3,0]}"#);
        assert_eq!(
            read(r#"[{"at_ns":20,"tokens":1},{"at_ns":23,"tokens":1},{"at_ns":23,"tokens":1}]"#).unwrap(),
            events
        );
        assert_eq!(written(&[event(20, 1), event(23, 4)]), r#"{"after_ns":[20,3],"tokens":[1,4]}"#);
        assert_eq!(written(&[]), r#"{"after_ns":[]}"#);
    }

    #[test]
    fn lengths_that_differ_are_an_error() {
        assert!(read(r#"{"after_ns":[1,2],"tokens":[1]}"#).unwrap_err().contains("as many tokens"));
        assert!(read(r#"{"tokens":[1]}"#).unwrap_err().contains("after_ns"));
        assert!(read("7").unwrap_err().contains("token events"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in prop::collection::vec((any::<u64>(), any::<u32>()), 0..9)) {
            let events: Vec<_> = events.into_iter().map(|(at_ns, tokens)| event(at_ns, tokens)).collect();
            prop_assert_eq!(read(&written(&events)).unwrap(), events);
        }
    }
}
