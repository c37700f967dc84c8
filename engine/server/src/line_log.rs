//! A file of JSON lines, written by a thread of its own so that a slow disk never delays a step.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

/// Between two flushes; a line reaches the file within twice this time.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

/// The engine's end of it.
pub(crate) struct LineLog<T> {
    lines: SyncSender<T>,
    lost: Arc<AtomicU64>,
}

/// Waits for the writer; joined after the engine dropped its [`LineLog`].
pub(crate) struct LineLogWriter {
    thread: JoinHandle<io::Result<()>>,
    lost: Arc<AtomicU64>,
}

impl<T: Serialize + Send + 'static> LineLog<T> {
    /// Goes on where `file` stands. A disk that falls `queued` lines behind loses lines (counted), not engine time.
    pub fn start(name: &str, file: File, queued: usize) -> io::Result<(LineLog<T>, LineLogWriter)> {
        let (lines, queue) = sync_channel(queued);
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || write(file, &queue, queued))?;
        let lost = Arc::new(AtomicU64::new(0));
        Ok((LineLog { lines, lost: lost.clone() }, LineLogWriter { thread, lost }))
    }

    /// Never blocks. False when the writer cannot take the line (full queue, or it ended after a disk error).
    pub fn push(&mut self, line: T) -> bool {
        let taken = self.lines.try_send(line).is_ok();
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

impl LineLogWriter {
    /// An error when a write failed or lines were lost because the disk was too slow.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("its writer panicked")))?;
        match self.lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(io::Error::other(format!("{lost} lines were lost because the disk was too slow"))),
        }
    }
}

/// Lines may come faster than any interval for ever, so flushing cannot wait for a gap between them: write what is queued,
/// flush, sleep, repeat.
fn write<T: Serialize>(file: File, queue: &Receiver<T>, queued: usize) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, file);
    while let Ok(first) = queue.recv() {
        put(&mut out, &first)?;
        for line in queue.try_iter().take(queued) {
            put(&mut out, &line)?;
        }
        out.flush()?;
        std::thread::sleep(FLUSH_PAUSE);
    }
    Ok(())
}

/// One JSON line.
pub(crate) fn put(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
