//! Incremental reader for newline-delimited JSON: one value a line. The bytes may be cut anywhere.
//!
//! A line ends with LF; a CR before it and blank lines are no content. [`NdjsonReader::finish`] gives out a last line
//! without a line end.

use crate::sse::EventTooLarge;

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
    pub fn push(&mut self, mut bytes: &[u8], lines: &mut Vec<String>) -> Result<(), EventTooLarge> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&bytes[..end])?;
            self.end_line(lines);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes)
    }

    /// The stream ended cleanly: what is pending counts as a line.
    pub fn finish(&mut self, lines: &mut Vec<String>) {
        self.end_line(lines);
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), EventTooLarge> {
        if self.line.len() + bytes.len() > self.limit_bytes {
            return Err(EventTooLarge { limit_bytes: self.limit_bytes });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, lines: &mut Vec<String>) {
        let text = self.line.trim_ascii();
        if !text.is_empty() {
            lines.push(String::from_utf8_lossy(text).into_owned());
        }
        self.line.clear();
    }
}
