//! Incremental reader for server-sent events (WHATWG HTML, section 9.2). The bytes may be cut anywhere.
//!
//! Differs from the standard in one point: [`SseReader::finish`] gives out a last event that has no blank line after
//! it, because several servers end `data: [DONE]` that way.

use std::borrow::Cow;
use std::ops::ControlFlow;

use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event:` field; empty when there was none.
    pub name: String,
    /// The `data:` lines joined by newlines. Invalid UTF-8 becomes U+FFFD, as the standard says.
    pub data: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an event is larger than {limit_bytes} bytes")]
pub struct EventTooLarge {
    pub limit_bytes: usize,
}

#[derive(Debug)]
pub struct SseReader {
    limit_bytes: usize,
    /// Bytes of the line that has not ended yet.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    name: Vec<u8>,
    /// The last byte was a CR that ended a line: a LF right after it belongs to the same line end.
    after_cr: bool,
    /// Nothing of the stream was consumed yet, so a byte order mark may come.
    at_start: bool,
}

impl SseReader {
    /// `limit_bytes` bounds what one event may hold in memory.
    pub fn new(limit_bytes: usize) -> Self {
        SseReader {
            limit_bytes,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            name: Vec::new(),
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes the next bytes of the stream and appends every event they complete to `events`.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), EventTooLarge> {
        self.visit(bytes, &mut collect(events)).map(drop)
    }

    /// Takes the next bytes of the stream and shows name and data of every event they complete, where they lie. After a
    /// break the rest is not looked at, and nothing may be pushed any more.
    pub fn visit(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor) -> Result<Flow, EventTooLarge> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            if self.is_between_events()
                && let Some(WholeEvent { data, line_bytes, length }) = whole_event(bytes)
            {
                self.has_room(line_bytes)?;
                self.at_start = false;
                if visitor(b"", data).is_break() {
                    return Ok(Flow::Break(()));
                }
                bytes = &bytes[length..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.extend_line(bytes)?;
                break;
            };
            let flow = if self.line.is_empty() {
                self.has_room(end)?;
                self.end_line(&bytes[..end], visitor)
            } else {
                self.extend_line(&bytes[..end])?;
                self.end_pending_line(visitor)
            };
            if flow.is_break() {
                return Ok(flow);
            }
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        Ok(Flow::Continue(()))
    }

    /// The stream ended cleanly: what is pending counts as complete.
    pub fn finish(&mut self, events: &mut Vec<SseEvent>) {
        let mut visitor = collect(events);
        if !self.line.is_empty() {
            let _ = self.end_pending_line(&mut visitor);
        }
        let _ = self.dispatch(&mut visitor);
    }

    fn is_between_events(&self) -> bool {
        self.line.is_empty() && !self.has_data && self.name.is_empty()
    }

    fn has_room(&self, bytes: usize) -> Result<(), EventTooLarge> {
        match self.line.len() + self.data.len() + self.name.len() + bytes > self.limit_bytes {
            true => Err(EventTooLarge { limit_bytes: self.limit_bytes }),
            false => Ok(()),
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), EventTooLarge> {
        self.has_room(bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_pending_line(&mut self, visitor: &mut impl Visitor) -> Flow {
        let mut line = std::mem::take(&mut self.line);
        let flow = self.end_line(&line, visitor);
        line.clear();
        self.line = line;
        flow
    }

    fn end_line(&mut self, mut line: &[u8], visitor: &mut impl Visitor) -> Flow {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(visitor);
        }
        self.field(line);
        Flow::Continue(())
    }

    fn field(&mut self, line: &[u8]) {
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = match colon {
            // A comment, used as keep-alive.
            Some(0) => return,
            Some(i) => (&line[..i], &line[i + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // `id` and `retry` concern reconnecting, which a load generator never does.
            _ => {}
        }
    }

    fn dispatch(&mut self, visitor: &mut impl Visitor) -> Flow {
        let flow = match std::mem::take(&mut self.has_data) {
            true => visitor(&self.name, &self.data),
            false => Flow::Continue(()),
        };
        self.data.clear();
        self.name.clear();
        flow
    }
}

/// Whether a visitor wants to see more.
pub type Flow = ControlFlow<()>;

/// Takes name and data of an event.
pub trait Visitor: FnMut(&[u8], &[u8]) -> Flow {}

impl<F: FnMut(&[u8], &[u8]) -> Flow> Visitor for F {}

fn collect(events: &mut Vec<SseEvent>) -> impl Visitor {
    |name, data| {
        events.push(SseEvent { name: text(name).into_owned(), data: text(data).into_owned() });
        Flow::Continue(())
    }
}

struct WholeEvent<'b> {
    data: &'b [u8],
    line_bytes: usize,
    length: usize,
}

/// An event of one line of data and a blank line, all of it at the front of `bytes`. That is how most servers write, and
/// it needs no copy.
fn whole_event(bytes: &[u8]) -> Option<WholeEvent<'_>> {
    let value = bytes.strip_prefix(b"data:")?;
    let value = value.strip_prefix(b" ").unwrap_or(value);
    let end = memchr::memchr2(b'\n', b'\r', value)?;
    let (data, rest) = value.split_at(end);
    let after = rest.strip_prefix(b"\n\n").or_else(|| rest.strip_prefix(b"\r\n\r\n"))?;
    let line_bytes = bytes.len() - rest.len();
    Some(WholeEvent { data, line_bytes, length: bytes.len() - after.len() })
}

/// Invalid UTF-8 becomes U+FFFD.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    // The plain check first: it is several times faster than the lossy one.
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}
