//! The two text formats, line by line. Both have `name{labels} value [timestamp]`; OpenMetrics counts timestamps in
//! seconds instead of milliseconds, may add an exemplar after ` # `, and ends with `# EOF`.

use std::borrow::Cow;

/// A page holds some thousands at most; beyond this it is not metrics.
const MAX_SAMPLES: usize = 200_000;

/// One sample line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// Between the braces, as written; empty when there were none.
    pub labels: &'a str,
    /// May be NaN or infinite, which the formats allow.
    pub value: f64,
    /// As written: milliseconds since 1970 in the Prometheus format, seconds in OpenMetrics.
    pub timestamp: Option<f64>,
}

impl<'a> Sample<'a> {
    /// The label's value, its escapes undone.
    pub fn label(&self, name: &str) -> Option<Cow<'a, str>> {
        self.pairs().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Every label with its value, in order, up to the first that is not one.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        let mut rest = self.labels;
        std::iter::from_fn(move || {
            let (pair, after) = pair(rest)?;
            rest = after;
            Some(pair)
        })
    }
}

/// Every sample of a page, in order, up to `# EOF`. Comments, HELP, TYPE, UNIT, blank and broken lines are left out, and
/// exemplars are ignored.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().take_while(|line| line.trim_end() != "# EOF").filter_map(sample).take(MAX_SAMPLES)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = name(line.trim())?;
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => inside.split_at_checked(closing_brace(inside)?).map(|(l, r)| (l, &r[1..]))?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    // Rust reads "NaN", "+Inf", "-Inf" and exponents as the formats mean them.
    let value = words.next()?.parse().ok()?;
    let timestamp = words.next().filter(|word| !word.starts_with('#')).and_then(|word| word.parse().ok());
    Some(Sample { name, labels, value, timestamp })
}

/// A metric's or label's name at the start of `text`, and what follows it.
fn name(text: &str) -> Option<(&str, &str)> {
    let end =
        text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let usable = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
    usable.then_some((name, rest))
}

/// Where the label set ends: the first brace outside quotes.
fn closing_brace(inside: &str) -> Option<usize> {
    quoted(inside).find_map(|(i, byte, quoted)| (byte == b'}' && !quoted).then_some(i))
}

/// `name="value"` at the start of `text` and what follows it and its comma.
fn pair(text: &str) -> Option<((&str, Cow<'_, str>), &str)> {
    let (name, rest) = name(text.trim_start())?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    // The quote that closes is the first one after the opening one that is outside quotes.
    let end = quoted(value).find_map(|(i, byte, quoted)| (i > 0 && byte == b'"' && !quoted).then_some(i))?;
    let inside = value[..end].strip_prefix('"')?;
    let rest = value[end + 1..].trim_start();
    Some(((name, unescaped(inside)), rest.strip_prefix(',').unwrap_or(rest)))
}

/// The bytes of `text` with their places and whether each is inside quotes; a closing quote is not.
fn quoted(text: &str) -> impl Iterator<Item = (usize, u8, bool)> {
    let (mut inside, mut escaped) = (false, false);
    text.bytes().enumerate().map(move |(i, byte)| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
        (i, byte, inside)
    })
}

/// `\\`, `\"` and `\n` undone; another character after a backslash stays as written.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, false) => plain.push(c),
            (_, true) => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(escaped @ ('\\' | '"')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
        }
    }
    Cow::Owned(plain)
}
