//! The truth: what was done for each request, and when, on the machine's monotonic clock.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// One line of the log. All times are CLOCK_MONOTONIC, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// The request's `X-Request-Id`.
    pub id: Option<String>,
    /// When its last byte had been read.
    pub read_ns: u64,
    /// When each event with tokens was due.
    pub due_ns: Vec<u64>,
    /// When each was handed to the socket: read just before the write.
    pub sent_ns: Vec<u64>,
    /// The same for what ends the stream. `None`: it was not sent.
    pub done_ns: Option<u64>,
    pub fault: Option<Fault>,
}

/// Writes one JSON line per request until all senders are gone. For a thread of its own.
pub fn write(mut out: impl Write, served: &Receiver<Served>) -> io::Result<()> {
    // The serving thread may be on the same core and must not wait for this one; a refusal changes no result.
    let _ = rustix::process::nice(19);
    loop {
        match served.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                serde_json::to_writer(&mut out, &line)?;
                out.write_all(b"\n")?;
            }
            Err(RecvTimeoutError::Timeout) => out.flush()?,
            Err(RecvTimeoutError::Disconnected) => return out.flush(),
        }
    }
}

/// Reads a log back. A last line that is torn, as a killed server leaves it, is left out.
pub fn read(text: &str) -> Result<Vec<Served>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line)| {
        serde_json::from_str(line)
            .map_err(|error| format!("line {}: not a line of this log: {error}", number + 1))
    };
    whole.lines().enumerate().map(parse).collect()
}

/// A line under way. It is sent when this is dropped, so a request whose client went away has one too.
#[derive(Debug)]
pub(crate) struct Entry {
    pub served: Served,
    log: Option<Sender<Served>>,
}

impl Entry {
    pub(crate) fn new(
        id: Option<String>,
        read_ns: u64,
        fault: Option<Fault>,
        log: Option<Sender<Served>>,
    ) -> Self {
        let served = Served { id, read_ns, due_ns: Vec::new(), sent_ns: Vec::new(), done_ns: None, fault };
        Entry { served, log }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            let empty = Served { due_ns: Vec::new(), sent_ns: Vec::new(), id: None, ..self.served };
            // Without a reader there is nobody to tell.
            let _ = log.send(std::mem::replace(&mut self.served, empty));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_but_for_a_torn_line() {
        let (send, receive) = std::sync::mpsc::channel();
        drop(Entry::new(Some("a".into()), 5, Some(Fault::Http429), Some(send)));
        let mut bytes = Vec::new();
        write(&mut bytes, &receive).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let lines = read(&format!("{text}{}", &text[..20])).unwrap();
        assert_eq!((lines.len(), lines[0].read_ns, lines[0].fault), (1, 5, Some(Fault::Http429)));
        assert!(read("{}\n").unwrap_err().starts_with("line 1: "));
    }
}
