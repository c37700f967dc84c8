//! How a response is cut into events: the data of server-sent events, or lines of JSON.

use crate::ndjson::NdjsonReader;
use crate::sse::{EventTooLarge, SseEvent, SseReader};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Sse,
    Ndjson,
}

impl Framing {
    /// What is asked for in `accept`, and what a stream of this kind calls itself.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Framing::Sse => "text/event-stream",
            Framing::Ndjson => "application/x-ndjson",
        }
    }
}

/// The reader of one response.
#[derive(Debug)]
pub(crate) enum FrameReader {
    Sse { reader: SseReader, events: Vec<SseEvent> },
    Ndjson(NdjsonReader),
}

impl FrameReader {
    /// `limit_bytes` bounds what one event may hold in memory.
    pub(crate) fn new(framing: Framing, limit_bytes: usize) -> Self {
        match framing {
            Framing::Sse => FrameReader::Sse { reader: SseReader::new(limit_bytes), events: Vec::new() },
            Framing::Ndjson => FrameReader::Ndjson(NdjsonReader::new(limit_bytes)),
        }
    }

    /// Takes the next bytes and appends the data of every event they complete, also when it then fails.
    pub(crate) fn push(&mut self, bytes: &[u8], data: &mut Vec<String>) -> Result<(), EventTooLarge> {
        match self {
            FrameReader::Sse { reader, events } => {
                let result = reader.push(bytes, events);
                data.extend(events.drain(..).map(|event| event.data));
                result
            }
            FrameReader::Ndjson(reader) => reader.push(bytes, data),
        }
    }

    /// The stream ended cleanly: what is pending counts as complete.
    pub(crate) fn finish(&mut self, data: &mut Vec<String>) {
        match self {
            FrameReader::Sse { reader, events } => {
                reader.finish(events);
                data.extend(events.drain(..).map(|event| event.data));
            }
            FrameReader::Ndjson(reader) => reader.finish(data),
        }
    }
}
