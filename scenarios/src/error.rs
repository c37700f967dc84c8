//! One mistake, one error: what is wrong, where (file, line, caret) and what would be accepted.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use miette::{Diagnostic, NamedSource, SourceSpan};

#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ScenarioError {
    #[error("cannot read scenario {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(Box<Mistake>),
}

/// A mistake in the text, for miette to draw.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct Mistake {
    message: String,
    #[source_code]
    source_code: NamedSource<String>,
    #[label("{label}")]
    span: SourceSpan,
    label: String,
    #[help]
    help: Option<String>,
    line: usize,
}

impl Mistake {
    /// 1-based line of the caret.
    pub fn line(&self) -> usize {
        self.line
    }
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

/// A mistake before its file is attached. Validation code makes these; [`Source::error`] completes them.
#[derive(Debug)]
pub struct Finding {
    pub span: Range<usize>,
    pub message: String,
    pub label: String,
    pub help: Option<String>,
}

impl Finding {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Finding {
        Finding { span, message: message.into(), label: "here".into(), help: None }
    }
    /// For errors that are one sentence: what follows "; " is advice.
    pub fn sentence(span: Range<usize>, sentence: &str) -> Finding {
        match sentence.split_once("; ") {
            Some((message, help)) => Finding::new(span, message).help(help),
            None => Finding::new(span, sentence),
        }
    }
    pub fn label(self, label: impl Into<String>) -> Finding {
        Finding { label: label.into(), ..self }
    }
    pub fn help(self, help: impl Into<String>) -> Finding {
        Finding { help: Some(help.into()), ..self }
    }
}

/// The text being read and the name shown for it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl Source<'_> {
    pub fn error(&self, finding: Finding) -> ScenarioError {
        let span = self.one_line(finding.span);
        let line = self.text[..span.start].matches('\n').count() + 1;
        ScenarioError::Invalid(Box::new(Mistake {
            message: finding.message,
            source_code: NamedSource::new(self.name, self.text.to_owned()).with_language("TOML"),
            span: span.into(),
            label: finding.label,
            help: finding.help,
            line,
        }))
    }

    /// What serde and the TOML parser found, in words a person who never saw Rust understands.
    pub fn toml_error(&self, error: &toml::de::Error) -> ScenarioError {
        let span = error.span().unwrap_or(0..0);
        if let Some((key, accepted)) = unknown_field(error.message()) {
            return self.error(unknown_key(span, &key, "", &accepted));
        }
        let message = error.message().trim().replace('\n', "; ");
        self.error(Finding::sentence(span, &plain_words(&message)))
    }

    /// Tables span many lines; a caret under the first says enough. Also keeps the span on character boundaries.
    fn one_line(&self, span: Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let end = self.text.ceil_char_boundary(span.end.clamp(start, self.text.len()));
        let covered = &self.text[start..end];
        start..start + covered.find('\n').unwrap_or(covered.len())
    }
}

/// `place` is "" or says of what, e.g. " of policy tgi".
pub fn unknown_key(span: Range<usize>, key: &str, place: &str, accepted: &[&str]) -> Finding {
    let list = format!("accepted keys{place}: {}", accepted.join(", "));
    let help = match did_you_mean(key, accepted) {
        Some(close) => format!("did you mean `{close}`? {list}"),
        None => list,
    };
    Finding::new(span, format!("unknown key `{key}`")).label("not a key of this table").help(help)
}

pub fn unknown_value(span: Range<usize>, what: &str, value: &str, accepted: &[&str]) -> Finding {
    let list = format!("accepted: {}", accepted.join(", "));
    let help = match did_you_mean(value, accepted) {
        Some(close) => format!("did you mean \"{close}\"? {list}"),
        None => list,
    };
    Finding::new(span, format!("unknown {what} \"{value}\"")).label("not accepted").help(help)
}

fn did_you_mean<'a>(typed: &str, accepted: &[&'a str]) -> Option<&'a str> {
    let similar = |c: &&str| strsim::jaro_winkler(typed, c);
    let best = accepted.iter().copied().max_by(|a, b| similar(a).total_cmp(&similar(b)))?;
    (similar(&best) >= 0.8).then_some(best)
}

/// Takes apart serde's "unknown field `x`, expected one of `a`, `b`", the only form in which it tells the key.
fn unknown_field(message: &str) -> Option<(String, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once("`, expected ")?;
    let accepted = rest.split('`').skip(1).step_by(2).collect();
    Some((key.to_owned(), accepted))
}

fn plain_words(message: &str) -> String {
    let mut text = message.to_owned();
    for (rust, plain) in [
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list"),
        ("expected a tuple of size 2", "expected a list of two numbers"),
        ("expected an array of length 2", "expected a list of two numbers"),
        ("sequence", "list"),
        ("map", "table"),
    ] {
        text = text.replace(rust, plain);
    }
    // "expected struct WorkloadTable" names a type of ours.
    match text.find("expected struct ") {
        Some(at) => format!("{}expected a table", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_messages_are_taken_apart() {
        let (key, accepted) = unknown_field("unknown field `seeds`, expected one of `name`, `seed`").unwrap();
        assert_eq!((key.as_str(), accepted), ("seeds", vec!["name", "seed"]));
        let (key, accepted) = unknown_field("unknown field `x`, expected `y`").unwrap();
        assert_eq!((key.as_str(), accepted), ("x", vec!["y"]));
        assert!(unknown_field("missing field `x`").is_none());
    }

    #[test]
    fn spans_stay_inside_the_text_and_on_one_line() {
        let source = Source { name: "t", text: "a\u{e9}\nbc" };
        assert_eq!(source.one_line(0..6), 0..3);
        assert_eq!(source.one_line(2..2), 1..3);
        assert_eq!(source.one_line(90..99), 6..6);
    }
}
