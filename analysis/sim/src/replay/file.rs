//! Recordings as files: a header, then a call a line.

use std::io::{self, BufRead, Read};

use llmlab_core::recording::Header;
use llmlab_core::stats::Stats;
use serde::de::DeserializeOwned;

use super::calls::{CallError, Replay};

/// A line has a prompt of token ids or a step at most; a longer one is no recording.
const MOST_LINE_BYTES: u64 = 256 << 20;

/// A recording that was gone through to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    pub header: Header,
    pub calls: u64,
    /// Plans that were as recorded.
    pub steps: u64,
    /// The scheduler in the end.
    pub stats: Stats,
    /// For each draft of a step, the share that was accepted where all before it were; empty without drafts.
    pub acceptance: Vec<f64>,
    /// Decodes, and those of them that had drafts to verify.
    pub decodes: (u64, u64),
    /// A step that was planned and, where the recording ends, not committed.
    pub uncommitted: Option<u64>,
    /// The last line is not whole: its writer was killed.
    pub cut_off: bool,
}

/// Where a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("line {line}: {words}")]
    NotARecording { line: u64, words: String },
    #[error("line {line}: {words}")]
    Different { line: u64, words: String },
    #[error("line {line}: {source}")]
    Read { line: u64, source: io::Error },
}

/// Leads a fresh scheduler through a recording. Holds one line at a time.
pub fn replay(input: &mut dyn BufRead) -> Result<Replayed, ReplayError> {
    let mut lines = Lines { input, number: 0, bytes: Vec::new() };
    let header: Header = match lines.next()? {
        Line::Whole(header) => header,
        Line::Cut | Line::End => return Err(lines.wrong("the file ends before the header is whole")),
    };
    let mut replay = Replay::new(&header).map_err(|error| lines.wrong(error))?;
    let mut calls = 0;
    let cut_off = loop {
        match lines.next()? {
            Line::Whole(call) => replay.call(call).map_err(|error| lines.failed(error))?,
            Line::Cut => break true,
            Line::End => break false,
        }
        calls += 1;
    };
    Ok(Replayed {
        header,
        calls,
        steps: replay.steps(),
        stats: replay.stats(),
        acceptance: replay.acceptance(),
        decodes: replay.decodes(),
        uncommitted: replay.uncommitted(),
        cut_off,
    })
}

struct Lines<'a> {
    input: &'a mut dyn BufRead,
    /// Of the line that was read last, from 1.
    number: u64,
    bytes: Vec<u8>,
}

enum Line<T> {
    Whole(T),
    /// The last one, without its end.
    Cut,
    End,
}

impl Lines<'_> {
    fn next<T: DeserializeOwned>(&mut self) -> Result<Line<T>, ReplayError> {
        self.number += 1;
        self.bytes.clear();
        let mut limited = (&mut *self.input).take(MOST_LINE_BYTES);
        let read = limited.read_until(b'\n', &mut self.bytes);
        read.map_err(|source| ReplayError::Read { line: self.number, source })?;
        let ended = self.bytes.ends_with(b"\n");
        if self.bytes.is_empty() {
            return Ok(Line::End);
        }
        if !ended && self.bytes.len() as u64 == MOST_LINE_BYTES {
            return Err(self.wrong(format!("longer than {MOST_LINE_BYTES} bytes")));
        }
        match serde_json::from_slice(&self.bytes) {
            Ok(line) => Ok(Line::Whole(line)),
            Err(error) if !ended && error.is_eof() => Ok(Line::Cut),
            Err(error) => {
                let words = error.to_string();
                let words = words.split(" at line ").next().unwrap_or_default();
                Err(self.wrong(format!("not a line of a recording: {words} (column {})", error.column())))
            }
        }
    }

    fn wrong(&self, words: impl ToString) -> ReplayError {
        ReplayError::NotARecording { line: self.number, words: words.to_string() }
    }

    fn failed(&self, error: CallError) -> ReplayError {
        let (line, words) = (self.number, error.to_string());
        match error {
            CallError::Impossible(_) => ReplayError::NotARecording { line, words },
            CallError::Different(_) => ReplayError::Different { line, words },
        }
    }
}
