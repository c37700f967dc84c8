//! Events of the two OpenAI protocols in their usual shape, read for what they hold without building their text: most of
//! what a token costs a client is this. Whatever is not of that shape is `None` and goes to serde, which also finds the
//! words for what is wrong.

use super::mask::{Holds, Mask};
use super::{Delta, Usage};
use crate::json_scan::Scanner;

/// Where the text of a choice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextIn {
    /// `choices[0].text`
    Choice,
    /// `choices[0].delta`, by channel
    Delta,
}

/// The same as the protocol's `parse`, without content and token ids. Lays the mask for the events that follow.
pub(super) fn scan(data: &str, text_in: TextIn, mask: &mut Mask) -> Option<Delta> {
    mask.clear();
    let read = event(data, text_in, mask);
    match &read {
        Some(delta) => mask.keep(data, delta),
        None => mask.clear(),
    }
    read
}

fn event(data: &str, text_in: TextIn, mask: &mut Mask) -> Option<Delta> {
    let mut scanner = Scanner::new(data);
    let mut delta = Delta::default();
    let (mut choices, mut usage) = (None, None);
    let (mut object, mut error) = (None, None);
    scanner.object(|scanner, name| match name {
        b"choices" => {
            let first = scanner.nullable(|scanner| first_choice(scanner, text_in, &mut delta, mask))?;
            once(&mut choices, first)
        }
        b"usage" => once(&mut usage, scanner.nullable(|scanner| counts(scanner, mask))?),
        b"error" => once(&mut error, null(scanner)?),
        b"object" => once(&mut object, (scanner.string()? != b"error").then_some(())?),
        b"message" => None,
        _ => scanner.skip(),
    })?;
    let is_whole = scanner.is_over() && (choices.flatten().is_some() || usage.flatten().is_some());
    delta.usage = usage.flatten();
    is_whole.then_some(delta)
}

/// A field that comes twice is an error of the server.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn first_choice(
    scanner: &mut Scanner<'_>,
    text_in: TextIn,
    delta: &mut Delta,
    mask: &mut Mask,
) -> Option<()> {
    scanner.array(|scanner| {
        // One prompt and n = 1 are all that is ever asked for.
        if std::mem::replace(&mut delta.has_choice, true) {
            return None;
        }
        choice(scanner, text_in, delta, mask)
    })
}

fn choice(scanner: &mut Scanner<'_>, text_in: TextIn, delta: &mut Delta, mask: &mut Mask) -> Option<()> {
    let (mut text, mut finish_reason, mut token_ids) = (None, None, None);
    scanner.object(|scanner, name| match (name, text_in) {
        (b"text", TextIn::Choice) => once(&mut text, scanner.nullable(|scanner| filled(scanner, mask))?),
        (b"delta", TextIn::Delta) => {
            once(&mut text, scanner.nullable(|scanner| channels(scanner, delta, mask))?)
        }
        (b"finish_reason", _) => once(&mut finish_reason, scanner.nullable(words)?),
        (b"token_ids", _) => once(&mut token_ids, null(scanner)?),
        _ => scanner.skip(),
    })?;
    delta.text = text.flatten().unwrap_or(false);
    delta.finish_reason = finish_reason.flatten();
    Some(())
}

/// Whether there is text in any channel.
fn channels(scanner: &mut Scanner<'_>, delta: &mut Delta, mask: &mut Mask) -> Option<bool> {
    let (mut role, mut content, mut refusal) = (None, None, None);
    let (mut reasoning, mut reasoning_content, mut tool_calls) = (None, None, None);
    scanner.object(|scanner, name| {
        let place = match name {
            b"role" => &mut role,
            b"content" => &mut content,
            b"refusal" => &mut refusal,
            b"reasoning" => &mut reasoning,
            b"reasoning_content" => &mut reasoning_content,
            b"tool_calls" => return once(&mut tool_calls, null(scanner)?),
            _ => return scanner.skip(),
        };
        once(place, scanner.nullable(|scanner| filled(scanner, mask))?)
    })?;
    let says = |channel: Option<Option<bool>>| channel.flatten().unwrap_or(false);
    delta.reasoning = says(reasoning) || says(reasoning_content);
    let text = delta.reasoning || says(content) || says(refusal);
    delta.role_only = role.flatten().is_some() && !text;
    Some(text)
}

fn counts(scanner: &mut Scanner<'_>, mask: &mut Mask) -> Option<Usage> {
    let (mut prompt_tokens, mut completion_tokens) = (None, None);
    let mut number = |scanner: &mut Scanner<'_>, holds: Holds| {
        scanner.peek()?;
        let start = scanner.at();
        let number = scanner.u32()?;
        mask.note(start, scanner, holds);
        Some(number)
    };
    scanner.object(|scanner, name| match name {
        b"prompt_tokens" => {
            once(&mut prompt_tokens, scanner.nullable(|scanner| number(scanner, Holds::PromptTokens))?)
        }
        b"completion_tokens" => once(
            &mut completion_tokens,
            scanner.nullable(|scanner| number(scanner, Holds::CompletionTokens))?,
        ),
        b"total_tokens" => scanner.nullable(|scanner| number(scanner, Holds::Number)).map(drop),
        _ => scanner.skip(),
    })?;
    Some(Usage { prompt_tokens: prompt_tokens.flatten(), completion_tokens: completion_tokens.flatten() })
}

fn null(scanner: &mut Scanner<'_>) -> Option<()> {
    scanner.eats_null().then_some(())
}

/// Whether the string that comes has something in it.
fn filled(scanner: &mut Scanner<'_>, mask: &mut Mask) -> Option<bool> {
    scanner.peek()?;
    let start = scanner.at();
    let filled = !scanner.string()?.is_empty();
    if filled {
        mask.note(start, scanner, Holds::Text);
    }
    Some(filled)
}

fn words(scanner: &mut Scanner<'_>) -> Option<String> {
    String::from_utf8(scanner.string()?.to_vec()).ok()
}
