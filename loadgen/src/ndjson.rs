//! Incremental reader for newline-delimited JSON: one value a line. The bytes may be cut anywhere.
//!
//! A line ends with LF; a CR before it and blank lines are no content. [`NdjsonReader::finish`] gives out a last line
//! without a line end.

use crate::sse::{EventTooLarge, Flow, text};

#[derive(Debug)]
pub struct NdjsonReader {
    limit_bytes: usize,
    /// Bytes of the line that has not ended yet.
    line: Vec<u8>,
}

impl NdjsonReader {
    /// `limit_bytes` bounds what one line may hold in memory.
    pub fn new(limit_bytes: usize) -> Self {
        NdjsonReader { limit_bytes, line: Vec::new() }
    }

    /// Takes the next bytes of the stream and appends every line they complete to `lines`. Invalid UTF-8 becomes
    /// U+FFFD.
    pub fn push(&mut self, bytes: &[u8], lines: &mut Vec<String>) -> Result<(), EventTooLarge> {
        let mut collect = |line: &[u8]| {
            lines.push(text(line).into_owned());
            Flow::Continue(())
        };
        self.visit(bytes, &mut collect).map(drop)
    }

    /// Takes the next bytes of the stream and shows every line they complete, where it lies. After a break the rest is not
    /// looked at, and nothing may be pushed any more.
    pub fn visit(
        &mut self,
        mut bytes: &[u8],
        visitor: &mut impl FnMut(&[u8]) -> Flow,
    ) -> Result<Flow, EventTooLarge> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.has_room(end)?;
            let flow = match self.line.is_empty() {
                true => show(&bytes[..end], visitor),
                false => {
                    self.line.extend_from_slice(&bytes[..end]);
                    let flow = show(&self.line, visitor);
                    self.line.clear();
                    flow
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
            bytes = &bytes[end + 1..];
        }
        self.has_room(bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(Flow::Continue(()))
    }

    /// The stream ended cleanly: what is pending counts as a line.
    pub fn finish(&mut self, lines: &mut Vec<String>) {
        let rest = std::mem::take(&mut self.line);
        let _ = show(&rest, &mut |line: &[u8]| {
            lines.push(text(line).into_owned());
            Flow::Continue(())
        });
    }

    fn has_room(&self, bytes: usize) -> Result<(), EventTooLarge> {
        match self.line.len() + bytes > self.limit_bytes {
            true => Err(EventTooLarge { limit_bytes: self.limit_bytes }),
            false => Ok(()),
        }
    }
}

fn show(line: &[u8], visitor: &mut impl FnMut(&[u8]) -> Flow) -> Flow {
    let content = line.trim_ascii();
    if content.is_empty() { Flow::Continue(()) } else { visitor(content) }
}
