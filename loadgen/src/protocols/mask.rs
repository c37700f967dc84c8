//! The layout of an event, laid over the next one. Events of a stream repeat each other but for a piece of text and the
//! counts, so that comparing the bytes between says of the next event what reading the last one said.

use super::Delta;
use crate::json_scan::Scanner;

/// The last event of a stream that carried text and could be read quickly; of none at first.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    event: Vec<u8>,
    holes: Vec<Hole>,
    delta: Delta,
}

/// A part of the event that another event has otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    start: usize,
    end: usize,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A string with something in it.
    Text,
    PromptTokens,
    CompletionTokens,
    /// A number that does not matter.
    Number,
}

impl Mask {
    /// What an event of the same layout says, which is not the last of its stream; `None` of any other.
    pub(crate) fn fits(&mut self, data: &[u8]) -> Option<&mut Delta> {
        if self.holes.is_empty() {
            return None;
        }
        let mut scanner = Scanner::new(data);
        let (mut usage, mut from) = (self.delta.usage, 0);
        for hole in &self.holes {
            scanner.literal(&self.event[from..hole.start])?;
            match hole.holds {
                Holds::Text if scanner.string()?.is_empty() => return None,
                Holds::Text => {}
                Holds::PromptTokens => usage.as_mut()?.prompt_tokens = Some(scanner.u32()?),
                Holds::CompletionTokens => usage.as_mut()?.completion_tokens = Some(scanner.u32()?),
                Holds::Number => drop(scanner.u32()?),
            }
            from = hole.end;
        }
        scanner.literal(&self.event[from..])?;
        if !scanner.is_over() {
            return None;
        }
        self.delta.usage = usage;
        Some(&mut self.delta)
    }

    /// Forgets the layout; an event is about to be read.
    pub(super) fn clear(&mut self) {
        self.holes.clear();
    }

    /// The value that was just read from `start` on.
    pub(super) fn note(&mut self, start: usize, scanner: &Scanner<'_>, holds: Holds) {
        self.holes.push(Hole { start, end: scanner.at(), holds });
    }

    /// The event was read to its end. Only one like those that follow it makes a mask: with one text and no last words.
    pub(super) fn keep(&mut self, data: &str, delta: &Delta) {
        let texts = self.holes.iter().filter(|hole| hole.holds == Holds::Text).count();
        if texts != 1 || !delta.text || delta.finish_reason.is_some() || delta.last {
            return self.clear();
        }
        self.event.clear();
        self.event.extend_from_slice(data.as_bytes());
        self.delta.clone_from(delta);
    }
}

#[cfg(test)]
mod tests {
    use crate::endpoint::Protocol;
    use crate::sse::text;

    use super::*;

    /// Bytes that are no UTF-8 count as text, as they do where they are replaced and parsed.
    #[test]
    fn broken_text_is_text() {
        let event = |text: &[u8]| {
            [br#"{"choices":[{"index":0,"text":""#, text, br#"","finish_reason":null}]}"#].concat()
        };
        let wire = Protocol::OpenAiCompletions.wire();
        let mut mask = Mask::default();
        let known = event(b" a");
        assert!(mask.fits(&known).is_none());
        let read = (wire.scan)(&text(&known), &mut mask).unwrap();
        for words in [&b" b"[..], b"\xff", b"\xe2\x82"] {
            assert_eq!(mask.fits(&event(words)), Some(&mut read.clone()), "{words:?}");
            assert_eq!((wire.scan)(&text(&event(words)), &mut Mask::default()), Some(read.clone()));
        }
        assert!(mask.fits(&event(b"")).is_none() && mask.fits(&known[1..]).is_none());
    }
}
