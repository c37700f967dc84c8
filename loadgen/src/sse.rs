//! Incremental reader for server-sent events (WHATWG HTML, section 9.2). The bytes may be cut anywhere.
//!
//! Differs from the standard in one point: [`SseReader::finish`] gives out a last event that has no blank line after
//! it, because several servers end `data: [DONE]` that way.

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
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), EventTooLarge> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                return self.extend_line(bytes);
            };
            if self.line.is_empty() {
                self.has_room(end)?;
                self.end_line(&bytes[..end], events);
            } else {
                self.extend_line(&bytes[..end])?;
                self.end_pending_line(events);
            }
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The stream ended cleanly: what is pending counts as complete.
    pub fn finish(&mut self, events: &mut Vec<SseEvent>) {
        if !self.line.is_empty() {
            self.end_pending_line(events);
        }
        self.dispatch(events);
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

    fn end_pending_line(&mut self, events: &mut Vec<SseEvent>) {
        let mut line = std::mem::take(&mut self.line);
        self.end_line(&line, events);
        line.clear();
        self.line = line;
    }

    fn end_line(&mut self, mut line: &[u8], events: &mut Vec<SseEvent>) {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
        } else {
            self.field(line);
        }
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

    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        if std::mem::take(&mut self.has_data) {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            events.push(SseEvent { name: text(name), data: text(data) });
        }
        self.data.clear();
        self.name.clear();
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
