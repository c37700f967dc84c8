//! The step log: one JSON line per scheduler step, written by a thread of its own so that a slow disk never delays a step.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Rows on their way to the writer. A disk that falls this far behind loses rows (counted), not engine time.
const QUEUED_ROWS: usize = 65_536;
/// Between two flushes; a row reaches the file within twice this time.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

/// The same fields as `llmlab_results::step::StepSeq`. Written down twice because the engine must not depend on the
/// results crate; the workspace has a test that reads one as the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSeq {
    pub id: u64,
    pub new_tokens: u32,
    pub context: u32,
    #[serde(default)]
    pub padding: u32,
    /// Left out where there is no speculation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drafts: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The same fields as `llmlab_results::step::StepRow`. Counts and blocks are those while the step ran: after planning,
/// before its results were settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    pub step: u64,
    /// CLOCK_MONOTONIC at the start of the step; comparable with a client's on the same machine.
    pub start_monotonic_ns: u64,
    pub elapsed_ns: u64,
    pub seqs: Vec<StepSeq>,
    pub running: u32,
    pub waiting: u32,
    pub free_blocks: u32,
    pub total_blocks: u32,
    /// Tokens whose keys and values are stored once the step is done, summed over running sequences.
    pub kv_tokens: u64,
    pub block_size: u32,
    /// What `kv_tokens` counts more than once, because running sequences share blocks.
    pub kv_shared_tokens: u64,
    /// Tokens that the blocks of running sequences have room for, each block once.
    pub kv_held_tokens: u64,
    /// Share of the free blocks in stretches too short for a request.
    pub external_fragmentation: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempted: Vec<u64>,
    /// (request id, nanoseconds from enqueue to first scheduling) for requests first scheduled in this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admitted: Vec<(u64, u64)>,
}

pub(crate) struct StepLog {
    rows: SyncSender<StepRow>,
    lost: Arc<AtomicU64>,
}

/// Waits for the writer; joined after the engine dropped its [`StepLog`].
pub(crate) struct StepLogWriter {
    thread: JoinHandle<io::Result<()>>,
    lost: Arc<AtomicU64>,
}

impl StepLog {
    /// Appends to `path`.
    pub fn open(path: &Path) -> io::Result<(StepLog, StepLogWriter)> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let (rows, queue) = sync_channel(QUEUED_ROWS);
        let thread =
            std::thread::Builder::new().name("step-log".to_owned()).spawn(move || write(file, &queue))?;
        let lost = Arc::new(AtomicU64::new(0));
        Ok((StepLog { rows, lost: lost.clone() }, StepLogWriter { thread, lost }))
    }

    /// Never blocks. Rows the writer cannot take (full queue, or it ended after a disk error) are counted instead.
    pub fn push(&mut self, row: StepRow) {
        if self.rows.try_send(row).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl StepLogWriter {
    /// An error when a write failed or rows were lost because the disk was too slow.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the step log writer panicked")))?;
        match self.lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(io::Error::other(format!("{lost} rows were lost because the disk was too slow"))),
        }
    }
}

/// Rows may come faster than any interval for ever, so flushing cannot wait for a gap between them: write what is
/// queued, flush, sleep, repeat.
fn write(file: File, queue: &Receiver<StepRow>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, file);
    while let Ok(first) = queue.recv() {
        put(&mut out, &first)?;
        for row in queue.try_iter().take(QUEUED_ROWS) {
            put(&mut out, &row)?;
        }
        out.flush()?;
        std::thread::sleep(FLUSH_PAUSE);
    }
    Ok(())
}

fn put(out: &mut impl Write, row: &StepRow) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> StepRow {
        StepRow {
            step,
            start_monotonic_ns: 1,
            elapsed_ns: 2,
            seqs: vec![StepSeq { id: 3, new_tokens: 4, context: 5, padding: 0, drafts: 0 }],
            running: 1,
            waiting: 0,
            free_blocks: 6,
            total_blocks: 7,
            kv_tokens: 9,
            block_size: 16,
            kv_shared_tokens: 0,
            kv_held_tokens: 16,
            external_fragmentation: 0.0,
            preempted: vec![],
            admitted: vec![(3, 8)],
        }
    }

    #[test]
    fn every_row_is_in_the_file_once_the_log_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let (mut log, writer) = StepLog::open(&path).unwrap();
        for step in 0..1000 {
            log.push(row(step));
        }
        drop(log);
        writer.join().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<StepRow> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows, (0..1000).map(row).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_disk_costs_rows_and_is_reported() {
        // Every write to /dev/full fails with ENOSPC.
        let (mut log, writer) = StepLog::open(Path::new("/dev/full")).unwrap();
        log.push(row(1));
        drop(log);
        assert_eq!(writer.join().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
