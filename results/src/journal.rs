//! A file of checksummed JSON lines: `crc32hex json\n`, appended with one write(2) each.
//!
//! Once `append` has returned, killing the process loses nothing: the line is in the kernel. Against power loss the
//! file is flushed with fdatasync, at most once per second and from a thread of its own, because a flush can take many
//! milliseconds and the caller is the loop that times requests.
//!
//! A line counts only when it is whole (newline included) and its checksum matches; the hexadecimal digits are compared
//! as text, so that a flip between `a` and `A` is damage too.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ResultsError;

const SYNC_INTERVAL: Duration = Duration::from_secs(1);
const CHECKSUM_DIGITS: usize = 8;

/// Appends to one journal. After a failed append every later one fails too: a line may be torn, and a torn line in the
/// middle of a file would swallow its successor.
pub struct Journal {
    path: PathBuf,
    file: Arc<File>,
    line: Vec<u8>,
    failed: bool,
    syncer: Syncer,
}

impl Journal {
    /// Creates the file; one that exists is an error, never overwritten.
    pub fn create(path: &Path) -> Result<Journal, ResultsError> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(ResultsError::io("create", path))?;
        Journal::on(file, path)
    }

    fn on(file: File, path: &Path) -> Result<Journal, ResultsError> {
        let file = Arc::new(file);
        let syncer = Syncer::start(Arc::clone(&file)).map_err(ResultsError::io("start flushing", path))?;
        Ok(Journal { path: path.to_path_buf(), file, line: Vec::with_capacity(4096), failed: false, syncer })
    }

    /// Writes one line. Also reports an earlier flush that failed, since what it covered may be lost.
    pub fn append<T: Serialize>(&mut self, value: &T) -> Result<(), ResultsError> {
        if self.failed {
            let earlier = io::Error::other("an earlier write to this file failed");
            return Err(ResultsError::io("append to", &self.path)(earlier));
        }
        encode_line(value, &mut self.line)?;
        let written = (&*self.file).write_all(&self.line).and_then(|()| self.syncer.request());
        written.map_err(|source| {
            self.failed = true;
            ResultsError::io("append to", &self.path)(source)
        })
    }

    /// Flushes to the device and closes.
    pub fn finish(mut self) -> Result<(), ResultsError> {
        let flushed = self.syncer.stop().and_then(|()| self.file.sync_data());
        flushed.map_err(ResultsError::io("flush", &self.path))
    }
}

/// Replaces `line` with the journal line of `value`.
pub fn encode_line<T: Serialize>(value: &T, line: &mut Vec<u8>) -> Result<(), ResultsError> {
    line.clear();
    line.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut *line, value)
        .map_err(|source| ResultsError::Encode { what: "a journal line", source })?;
    let checksum = format!("{:08x}", crc32fast::hash(&line[CHECKSUM_DIGITS + 1..]));
    line[..CHECKSUM_DIGITS].copy_from_slice(checksum.as_bytes());
    line.push(b'\n');
    Ok(())
}

/// Reads every whole, undamaged line. Damage becomes a warning that names `file` and the line, and the line is skipped.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], file: &str, warnings: &mut Vec<String>) -> Vec<T> {
    let mut values = Vec::new();
    for (number, line) in whole_lines(bytes, file, warnings) {
        match decode_line(line) {
            Ok(value) => values.push(value),
            Err(damage) => warnings.push(format!("{file} line {number}: {damage}; line skipped")),
        }
    }
    values
}

/// Lines with their 1-based numbers. Bytes after the last newline are what a crash tore off: reported and dropped.
pub(crate) fn whole_lines<'a>(
    bytes: &'a [u8],
    file: &str,
    warnings: &mut Vec<String>,
) -> Vec<(usize, &'a [u8])> {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
    let lines: Vec<_> = match end {
        0 => Vec::new(),
        _ => bytes[..end - 1].split(|&b| b == b'\n').enumerate().map(|(i, line)| (i + 1, line)).collect(),
    };
    if end < bytes.len() {
        let torn = bytes.len() - end;
        warnings.push(format!("{file} line {}: torn last line of {torn} bytes dropped", lines.len() + 1));
    }
    lines
}

fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    if line.len() <= CHECKSUM_DIGITS || line[CHECKSUM_DIGITS] != b' ' {
        return Err("no checksum".into());
    }
    let (stored, json) = (&line[..CHECKSUM_DIGITS], &line[CHECKSUM_DIGITS + 1..]);
    let computed = format!("{:08x}", crc32fast::hash(json));
    if stored != computed.as_bytes() {
        let stored = String::from_utf8_lossy(stored);
        return Err(format!("checksum is {stored:?} but the content has \"{computed}\""));
    }
    serde_json::from_slice(json).map_err(|e| format!("not a record this version knows ({e})"))
}

/// The thread that calls fdatasync after a write, then rests for a second.
struct Syncer {
    shared: Arc<(Mutex<SyncState>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct SyncState {
    dirty: bool,
    stopping: bool,
    error: Option<io::Error>,
}

impl Syncer {
    fn start(file: Arc<File>) -> io::Result<Syncer> {
        let shared = Arc::new((Mutex::new(SyncState::default()), Condvar::new()));
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("journal-sync".into())
            .spawn(move || sync_loop(&file, &for_thread.0, &for_thread.1))?;
        Ok(Syncer { shared, thread: Some(thread) })
    }

    /// Asks for a flush soon; returns the error of an earlier one, once.
    fn request(&self) -> io::Result<()> {
        let mut state = lock(&self.shared.0);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        // Waking it at every line would cost the loop that times requests a switch of threads.
        if !std::mem::replace(&mut state.dirty, true) {
            self.shared.1.notify_one();
        }
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        lock(&self.shared.0).stopping = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(io::Error::other("the flushing thread panicked"));
        }
        lock(&self.shared.0).error.take().map_or(Ok(()), Err)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        // A dropped journal belongs to a run that failed elsewhere; that error is the one to report.
        let _ = self.stop();
    }
}

fn sync_loop(file: &File, state: &Mutex<SyncState>, changed: &Condvar) {
    let mut guard = lock(state);
    loop {
        guard =
            changed.wait_while(guard, |s| !s.dirty && !s.stopping).unwrap_or_else(PoisonError::into_inner);
        if guard.stopping {
            return;
        }
        guard.dirty = false;
        drop(guard);
        let synced = file.sync_data();
        guard = lock(state);
        if let Err(error) = synced {
            guard.error = Some(error);
        }
        let rested = changed.wait_timeout_while(guard, SYNC_INTERVAL, |s| !s.stopping);
        guard = rested.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// The state is three plain fields, valid at every moment, so a poisoned lock is still usable.
fn lock(state: &Mutex<SyncState>) -> MutexGuard<'_, SyncState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error_with_the_path_and_stays_one() {
        let path = Path::new("/dev/full");
        let Ok(file) = OpenOptions::new().append(true).open(path) else { return };
        let mut journal = Journal::on(file, path).unwrap();
        let first = journal.append(&1).unwrap_err();
        assert!(
            matches!(&first, ResultsError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
        );
        assert!(first.to_string().contains("/dev/full"), "{first}");
        assert!(journal.append(&2).is_err());
        assert_eq!(io::Error::from(first).kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_line_is_checksum_space_json_newline() {
        let mut line = Vec::new();
        encode_line(&[1, 2], &mut line).unwrap();
        // CRC-32 (IEEE) of the five bytes "[1,2]", from Python's zlib.crc32.
        assert_eq!(String::from_utf8(line).unwrap(), "088b50bf [1,2]\n");
    }
}
