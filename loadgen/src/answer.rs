//! The body of one streamed answer, without its connection: bytes and their times in, the request's record filled.

use std::time::Duration;

use llmlab_results::record::Outcome;
use serde_json::Value;

use crate::driver::Observer;
use crate::framing::{FrameReader, Framing};
use crate::issuer::At;
use crate::protocols::{Mask, StreamEvent, Wire};
use crate::sse::{Flow, text};
use crate::tally::{Failure, Tally, ns};

/// An event of a token stream has a few hundred bytes; this much is only ever junk.
pub(crate) const MAX_EVENT_BYTES: usize = 16 << 20;

pub(crate) struct Answer<'a> {
    wire: &'static Wire,
    observer: &'a dyn Observer,
    reader: FrameReader,
    mask: Mask,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(wire: &'static Wire, observer: &'a dyn Observer) -> Self {
        Answer {
            wire,
            observer,
            reader: FrameReader::new(wire.framing, MAX_EVENT_BYTES),
            mask: Mask::default(),
        }
    }

    /// Takes bytes that arrived together: all their events share one time. True when the stream's terminator was among
    /// them; what follows it is not looked at.
    pub(crate) fn push(&mut self, tally: &mut Tally, at: At, bytes: &[u8]) -> Result<bool, Failure> {
        let (wire, mask, tokens_before) = (self.wire, &mut self.mask, tally.tokens());
        let mut last = Ok(false);
        let read = self.reader.visit(bytes, |data| {
            last = take(wire, mask, tally, at, data);
            if matches!(last, Ok(false)) { Flow::Continue(()) } else { Flow::Break(()) }
        });
        self.tell(tally, at, tokens_before);
        if last? {
            return Ok(true);
        }
        read.map_err(|e| Failure::new(Outcome::TooLarge, e.to_string()))?;
        Ok(false)
    }

    /// Takes an event that came whole, as a frame. True when it was the terminator.
    pub(crate) fn message(&mut self, tally: &mut Tally, at: At, data: &str) -> Result<bool, Failure> {
        let tokens_before = tally.tokens();
        let last = take(self.wire, &mut self.mask, tally, at, data.as_bytes());
        self.tell(tally, at, tokens_before);
        last
    }

    /// Tells the observer once of the tokens that arrived together.
    fn tell(&self, tally: &Tally, at: At, tokens_before: u32) {
        let tokens = tally.tokens().saturating_sub(tokens_before);
        if tokens == 0 {
            return;
        }
        if tokens_before == 0 {
            let ttft = at.saturating_sub(Duration::from_nanos(tally.record.scheduled_ns));
            self.observer.first_token(tally.record.index, ttft);
        }
        self.observer.tokens(tokens);
    }

    /// The body ended without an error. Servers may leave out the last blank line, but not the terminator, unless the
    /// protocol has none.
    pub(crate) fn finish(mut self, tally: &mut Tally, at: At) -> Result<(), Failure> {
        let mut events = Vec::new();
        self.reader.finish(&mut events);
        for data in events {
            match self.message(tally, at, &data) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Half an event at the end is a cut stream, not another protocol; half a body has been told by its length.
                Err(failure)
                    if self.wire.framing == Framing::Json || serde_json::from_str::<Value>(&data).is_ok() =>
                {
                    return Err(failure);
                }
                Err(_) => return Err(Failure::new(Outcome::StreamCut, "stream ended inside an event")),
            }
        }
        let (outcome, words) = match (self.wire.end_mark, &tally.record.finish_reason) {
            (None, _) if !tally.record.events.is_empty() => {
                tally.record.done_ns = Some(ns(at));
                return Ok(());
            }
            (None, _) => (Outcome::StreamCut, "stream ended without a token".to_owned()),
            (Some(mark), Some(reason)) => {
                (Outcome::NoTerminator, format!("stream ended without {mark}, after finish_reason {reason}"))
            }
            (Some(mark), None) => (Outcome::NoTerminator, format!("stream ended without {mark}")),
        };
        Err(Failure::new(outcome, words))
    }
}

/// True when the event was the terminator.
fn take(wire: &Wire, mask: &mut Mask, tally: &mut Tally, at: At, data: &[u8]) -> Result<bool, Failure> {
    let by_parts = !tally.keeps_text();
    if by_parts && let Some(delta) = mask.fits(data) {
        tally.on_delta(at, delta)?;
        return Ok(false);
    }
    let data = &*text(data);
    let scanned = if by_parts { (wire.scan)(data, mask) } else { None };
    let event = match scanned {
        Some(delta) => StreamEvent::Delta(delta),
        None => (wire.parse)(data).map_err(|why| {
            let start: String = data.chars().take(200).collect();
            Failure::new(Outcome::Malformed, format!("event is not {}: {why}: {start}", wire.name))
        })?,
    };
    let last = match event {
        StreamEvent::Done => true,
        StreamEvent::Error(words) => {
            return Err(Failure::new(Outcome::Malformed, format!("error inside the stream: {words}")));
        }
        StreamEvent::Delta(mut delta) => {
            tally.on_delta(at, &mut delta)?;
            delta.last
        }
    };
    if last {
        tally.record.done_ns = Some(ns(at));
    }
    Ok(last)
}
