//! The body of one streamed answer, without its connection: bytes and their times in, the request's record filled.

use std::time::Duration;

use llmlab_results::record::Outcome;
use serde_json::Value;

use crate::driver::Observer;
use crate::framing::{FrameReader, Framing};
use crate::issuer::At;
use crate::protocols::{StreamEvent, Wire};
use crate::tally::{Failure, Tally, ns};

/// An event of a token stream has a few hundred bytes; this much is only ever junk.
pub(crate) const MAX_EVENT_BYTES: usize = 16 << 20;

pub(crate) struct Answer<'a> {
    wire: &'static Wire,
    observer: &'a dyn Observer,
    reader: FrameReader,
    events: Vec<String>,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(wire: &'static Wire, observer: &'a dyn Observer) -> Self {
        let reader = FrameReader::new(wire.framing, MAX_EVENT_BYTES);
        Answer { wire, observer, reader, events: Vec::new() }
    }

    /// Takes bytes that arrived together: all their events share one time. True when the stream's terminator was among
    /// them; what follows it is not looked at.
    pub(crate) fn push(&mut self, tally: &mut Tally, at: At, bytes: &[u8]) -> Result<bool, Failure> {
        let mut events = std::mem::take(&mut self.events);
        let read = self.reader.push(bytes, &mut events);
        for data in events.drain(..) {
            if self.take(tally, at, &data)? {
                return Ok(true);
            }
        }
        self.events = events;
        read.map_err(|e| Failure::new(Outcome::TooLarge, e.to_string()))?;
        Ok(false)
    }

    /// Takes an event that came whole, as a frame. True when it was the terminator.
    pub(crate) fn message(&self, tally: &mut Tally, at: At, data: &str) -> Result<bool, Failure> {
        self.take(tally, at, data)
    }

    /// The body ended without an error. Servers may leave out the last blank line, but not the terminator, unless the
    /// protocol has none.
    pub(crate) fn finish(mut self, tally: &mut Tally, at: At) -> Result<(), Failure> {
        self.reader.finish(&mut self.events);
        for data in std::mem::take(&mut self.events) {
            match self.take(tally, at, &data) {
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

    /// True when the event was the terminator.
    fn take(&self, tally: &mut Tally, at: At, data: &str) -> Result<bool, Failure> {
        let event = (self.wire.parse)(data).map_err(|why| {
            let start: String = data.chars().take(200).collect();
            Failure::new(Outcome::Malformed, format!("event is not {}: {why}: {start}", self.wire.name))
        })?;
        let last = match event {
            StreamEvent::Done => true,
            StreamEvent::Error(words) => {
                return Err(Failure::new(Outcome::Malformed, format!("error inside the stream: {words}")));
            }
            StreamEvent::Delta(delta) => {
                let last = delta.last;
                let first = tally.record.events.is_empty();
                let tokens = tally.on_delta(at, delta)?;
                if tokens > 0 {
                    if first {
                        let ttft = at.saturating_sub(Duration::from_nanos(tally.record.scheduled_ns));
                        self.observer.first_token(tally.record.index, ttft);
                    }
                    self.observer.tokens(tokens);
                }
                last
            }
        };
        if last {
            tally.record.done_ns = Some(ns(at));
        }
        Ok(last)
    }
}
