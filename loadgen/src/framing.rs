//! How a response is cut into events: the data of server-sent events, lines of JSON, or one piece of JSON as a whole.

use crate::ndjson::NdjsonReader;
use crate::sse::{EventTooLarge, Flow, SseReader};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Sse,
    Ndjson,
    /// The whole body is one event, which says nothing of when its tokens were made.
    Json,
    /// Each text frame is one event; not over HTTP, see `websocket`.
    WebSocket,
}

impl Framing {
    /// What is asked for in `accept`, and what a stream of this kind calls itself.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Framing::Sse => "text/event-stream",
            Framing::Ndjson => "application/x-ndjson",
            Framing::Json | Framing::WebSocket => "application/json",
        }
    }
}

/// The reader of one response.
#[derive(Debug)]
pub(crate) enum FrameReader {
    Sse(SseReader),
    Ndjson(NdjsonReader),
    Json { body: Vec<u8>, limit_bytes: usize },
}

impl FrameReader {
    /// `limit_bytes` bounds what one event may hold in memory.
    pub(crate) fn new(framing: Framing, limit_bytes: usize) -> Self {
        match framing {
            Framing::Sse => FrameReader::Sse(SseReader::new(limit_bytes)),
            Framing::Ndjson => FrameReader::Ndjson(NdjsonReader::new(limit_bytes)),
            // Frames need no reader: they come whole.
            Framing::Json | Framing::WebSocket => FrameReader::Json { body: Vec::new(), limit_bytes },
        }
    }

    /// Takes the next bytes and shows the data of every event they complete, which should be UTF-8, also when it then fails. After a break
    /// nothing may be pushed any more.
    pub(crate) fn visit(
        &mut self,
        bytes: &[u8],
        mut visitor: impl FnMut(&[u8]) -> Flow,
    ) -> Result<(), EventTooLarge> {
        match self {
            FrameReader::Sse(reader) => {
                reader.visit(bytes, &mut |_: &[u8], data: &[u8]| visitor(data)).map(drop)
            }
            FrameReader::Ndjson(reader) => reader.visit(bytes, &mut visitor).map(drop),
            FrameReader::Json { body, limit_bytes } if body.len() + bytes.len() > *limit_bytes => {
                Err(EventTooLarge { limit_bytes: *limit_bytes })
            }
            FrameReader::Json { body, .. } => {
                body.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The stream ended cleanly: what is pending counts as complete.
    pub(crate) fn finish(&mut self, data: &mut Vec<String>) {
        match self {
            FrameReader::Sse(reader) => {
                let mut events = Vec::new();
                reader.finish(&mut events);
                data.extend(events.into_iter().map(|event| event.data));
            }
            FrameReader::Ndjson(reader) => reader.finish(data),
            FrameReader::Json { body, .. } => data.push(String::from_utf8_lossy(body).into_owned()),
        }
    }
}
