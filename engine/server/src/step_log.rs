//! The step log: one JSON line per scheduler step.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::line_log::{LineLog, LineLogWriter};

/// Rows on their way to the writer.
const QUEUED_ROWS: usize = 65_536;

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
    /// Of the sequences' drafts, how many were right.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted_drafts: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempted: Vec<u64>,
    /// (request id, nanoseconds from enqueue to first scheduling) for requests first scheduled in this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admitted: Vec<(u64, u64)>,
}

/// Appends to `path`.
pub(crate) fn open(path: &Path) -> io::Result<(LineLog<StepRow>, LineLogWriter)> {
    LineLog::start("step-log", OpenOptions::new().create(true).append(true).open(path)?, QUEUED_ROWS)
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
            accepted_drafts: 0,
            preempted: vec![],
            admitted: vec![(3, 8)],
        }
    }

    #[test]
    fn every_row_is_in_the_file_once_the_log_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let (mut log, writer) = open(&path).unwrap();
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
        let (mut log, writer) = open(Path::new("/dev/full")).unwrap();
        log.push(row(1));
        drop(log);
        assert_eq!(writer.join().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
