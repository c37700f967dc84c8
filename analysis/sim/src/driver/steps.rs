//! Rows of the step log, as the live server writes them.

use std::io::{self, Write};
use std::time::Duration;

use llmlab_core::request::At;
use llmlab_core::stats::Stats;
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_results::step::{StepRow, StepSeq};

/// Takes a row for each step, in order.
pub trait StepSink {
    fn step(&mut self, row: &StepRow) -> io::Result<()>;
}

/// JSON lines. The writer should be buffered; whoever owns it flushes it.
pub struct JsonSteps<W>(pub W);

impl<W: Write> StepSink for JsonSteps<W> {
    fn step(&mut self, row: &StepRow) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, row)?;
        self.0.write_all(b"\n")
    }
}

/// Keeps every row, for tests and short runs.
impl StepSink for Vec<StepRow> {
    fn step(&mut self, row: &StepRow) -> io::Result<()> {
        self.push(row.clone());
        Ok(())
    }
}

/// `planned` is the scheduler's state while the step runs. A trial in virtual time starts at zero on the monotonic clock.
pub(super) fn row(
    plan: &StepPlan,
    planned: &Stats,
    outcome: &StepOutcome,
    start: At,
    block_size: u32,
) -> StepRow {
    let ns = |at: Duration| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    StepRow {
        step: plan.step,
        start_monotonic_ns: ns(start),
        elapsed_ns: ns(outcome.elapsed),
        seqs: plan
            .seqs
            .iter()
            .map(|seq| StepSeq {
                id: seq.id.0,
                new_tokens: seq.tokens.len() as u32,
                context: seq.context,
                padding: seq.padding,
                drafts: seq.drafts,
            })
            .collect(),
        running: planned.running as u32,
        waiting: planned.waiting as u32,
        // Those that a policy only remembers are there for the asking.
        free_blocks: (planned.free_blocks + planned.cached_blocks) as u32,
        total_blocks: planned.total_blocks as u32,
        kv_tokens: planned.kv_tokens as u64,
        block_size,
        kv_shared_tokens: Some(planned.kv_shared_tokens as u64),
        kv_held_tokens: Some(planned.kv_held_tokens as u64),
        external_fragmentation: Some(planned.external_fragmentation),
        accepted_drafts: outcome.accepted_drafts(plan) as u32,
        preempted: plan.preempted.iter().map(|id| id.0).collect(),
        admitted: plan.admitted.iter().map(|(id, waited)| (id.0, ns(*waited))).collect(),
    }
}
