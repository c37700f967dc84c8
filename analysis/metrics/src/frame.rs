//! Records as polars columns: one row per request, per token event, per engine step. Metrics are filters and sums over them.
//!
//! Times are `f64` nanoseconds since the start of the trial; a value that a request does not have is null, never zero.

use std::collections::HashMap;

use llmlab_results::record::{Outcome, RequestRecord};
use llmlab_results::step::{StepRow, StepSeq};
use polars::prelude::{BooleanChunked, Column, DataFrame};

/// One row per record. Columns: `index`, `measured`, `success`, `failure`, `abandoned`, `scheduled_ns`, `completed_ns`, `ttft_ns`, `tpot_ns`,
/// `e2e_last_ns`, `e2e_done_ns`, `send_lag_ns`, `undelivered`.
///
/// `failure` is false for a request cancelled because the run was interrupted, or abandoned by its client: the server never
/// had its chance.
/// `undelivered` is the number of token gaps a failed request owes (for adjusted inter-token latency).
pub fn requests(records: &[RequestRecord], warmup: u64) -> DataFrame {
    let bools = |name: &str, f: &dyn Fn(&RequestRecord) -> bool| {
        Column::new(name.into(), records.iter().map(f).collect::<Vec<bool>>())
    };
    let floats = |name: &str, f: &dyn Fn(&RequestRecord) -> Option<f64>| {
        Column::new(name.into(), records.iter().map(f).collect::<Vec<Option<f64>>>())
    };
    let columns = vec![
        Column::new("index".into(), records.iter().map(|r| r.index).collect::<Vec<u64>>()),
        bools("measured", &|r| r.index >= warmup),
        bools("success", &|r| r.outcome.is_success()),
        bools("failure", &|r| r.outcome.is_failure()),
        bools("abandoned", &|r| r.outcome == Outcome::Abandoned),
        floats("scheduled_ns", &|r| Some(r.scheduled_ns as f64)),
        floats("completed_ns", &|r| completed_ns(r).map(|t| t as f64)),
        floats("ttft_ns", &ttft_ns),
        floats("tpot_ns", &tpot_ns),
        floats("e2e_last_ns", &e2e_last_ns),
        floats("e2e_done_ns", &|r| since(r.done_ns?, r.scheduled_ns)),
        floats("send_lag_ns", &|r| since(r.sent_ns?, r.scheduled_ns)),
        floats("undelivered", &|r| Some(f64::from(r.output_tokens_requested.saturating_sub(1)))),
    ];
    DataFrame::new(records.len(), columns).expect("columns are built from the same records")
}

/// One row per token event. Columns: `index`, `measured`, `success`, `at_ns`, `gap_ns` (null for the first event of a request),
/// `tokens` (as the event said), `share` (tokens scaled so that a request's events add up to its token count).
///
/// The scaling matters only where the server's own count differs from what the stream showed; the total is then right and
/// spread over the stream in proportion.
pub fn token_events(records: &[RequestRecord], warmup: u64) -> DataFrame {
    let n: usize = records.iter().map(|r| r.events.len()).sum();
    let (mut index, mut measured, mut success) =
        (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut at, mut gap) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut tokens, mut share) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for r in records {
        let seen: f64 = r.events.iter().map(|e| f64::from(e.tokens)).sum();
        let scale = if seen > 0.0 { f64::from(r.output_tokens) / seen } else { 0.0 };
        let mut previous = None;
        for e in &r.events {
            index.push(r.index);
            measured.push(r.index >= warmup);
            success.push(r.outcome.is_success());
            at.push(e.at_ns as f64);
            gap.push(previous.and_then(|p| since(e.at_ns, p)));
            tokens.push(e.tokens);
            share.push(f64::from(e.tokens) * scale);
            previous = Some(e.at_ns);
        }
    }
    let columns = vec![
        Column::new("index".into(), index),
        Column::new("measured".into(), measured),
        Column::new("success".into(), success),
        Column::new("at_ns".into(), at),
        Column::new("gap_ns".into(), gap),
        Column::new("tokens".into(), tokens),
        Column::new("share".into(), share),
    ];
    DataFrame::new(n, columns).expect("columns grow together")
}

/// One row per engine step. Columns: `start_ns` (since the start of the trial, may be negative for a step before it),
/// `elapsed_ns`, `batch` (sequences in the step), `new_tokens`, `prefill_tokens`, `padding`, `context` (cached tokens read, summed over
/// sequences), `attended` (query-key pairs), `waiting`, `kv_use`, `internal_fragmentation`, `external_fragmentation`, `preempted`,
/// `recomputed` (tokens that were computed before a preemption already).
pub fn steps(rows: &[StepRow], trial_start_monotonic_ns: u64) -> DataFrame {
    let floats = |name: &str, f: &dyn Fn(&StepRow) -> Option<f64>| {
        Column::new(name.into(), rows.iter().map(f).collect::<Vec<Option<f64>>>())
    };
    let sum = |r: &StepRow, f: &dyn Fn(f64, f64) -> f64| -> Option<f64> {
        Some(r.seqs.iter().map(|s| f(f64::from(s.new_tokens), f64::from(s.context))).sum())
    };
    let columns = vec![
        floats("start_ns", &|r| Some(r.start_monotonic_ns as f64 - trial_start_monotonic_ns as f64)),
        floats("elapsed_ns", &|r| Some(r.elapsed_ns as f64)),
        floats("batch", &|r| Some(r.seqs.len() as f64)),
        // A sequence without new tokens only holds its place in a rectangular batch.
        floats("at_work", &|r| Some(r.seqs.iter().filter(|s| s.new_tokens > 0).count() as f64)),
        floats("new_tokens", &|r| sum(r, &|new, _| new)),
        // A sequence that computes one token on top of cached ones, drafts aside, is decoding (or a one-token prompt tail: same
        // work).
        floats("prefill_tokens", &|r| {
            let prompt = |s: &&StepSeq| s.new_tokens.saturating_sub(s.drafts) != 1 || s.context == 0;
            Some(r.seqs.iter().filter(prompt).map(|s| f64::from(s.new_tokens)).sum())
        }),
        floats("drafts", &|r| Some(r.seqs.iter().map(|s| f64::from(s.drafts)).sum())),
        floats("drafting", &|r| Some(r.seqs.iter().filter(|s| s.drafts > 0).count() as f64)),
        floats("accepted_drafts", &|r| {
            let drafts = r.seqs.iter().map(|s| u64::from(s.drafts)).sum::<u64>();
            Some(u64::from(r.accepted_drafts).min(drafts) as f64)
        }),
        floats("padding", &|r| Some(r.seqs.iter().map(|s| f64::from(s.padding)).sum())),
        floats("context", &|r| sum(r, &|_, context| context)),
        // Causal: new token i (from 0) attends to context + i + 1 positions.
        floats("attended", &|r| sum(r, &|new, context| new * (context + (new + 1.0) / 2.0))),
        floats("waiting", &|r| Some(f64::from(r.waiting))),
        floats("kv_use", &|r| share(used_blocks(r), f64::from(r.total_blocks))),
        floats("internal_fragmentation", &internal_fragmentation),
        floats("external_fragmentation", &|r| {
            r.external_fragmentation.filter(|share| (0.0..=1.0).contains(share))
        }),
        floats("preempted", &|r| Some(r.preempted.len() as f64)),
        Column::new("recomputed".into(), recomputed(rows)),
    ];
    DataFrame::new(rows.len(), columns).expect("columns are built from the same rows")
}

/// The rows for which every named boolean column is true.
pub fn rows_where(frame: &DataFrame, flags: &[&str]) -> DataFrame {
    let mut kept = frame.clone();
    for flag in flags {
        let mask = kept.column(flag).and_then(|c| c.bool()).expect("a boolean column of this frame").clone();
        kept = kept.filter(&mask).expect("mask and frame have the same height");
    }
    kept
}

/// The rows whose float column `name` lies in `[from, to]`; null never does.
pub fn rows_between(frame: &DataFrame, name: &str, from: f64, to: f64) -> DataFrame {
    let mask: BooleanChunked =
        optional(frame, name).into_iter().map(|v| Some(v.is_some_and(|v| v >= from && v <= to))).collect();
    frame.filter(&mask).expect("mask and frame have the same height")
}

/// A float column with its nulls.
pub fn optional(frame: &DataFrame, name: &str) -> Vec<Option<f64>> {
    frame.column(name).and_then(|c| c.f64()).expect("a float column of this frame").iter().collect()
}

/// A float column without its nulls.
pub fn values(frame: &DataFrame, name: &str) -> Vec<f64> {
    optional(frame, name).into_iter().flatten().collect()
}

/// A count column.
pub fn counts(frame: &DataFrame, name: &str) -> Vec<u32> {
    frame.column(name).and_then(|c| c.u32()).expect("a count column of this frame").iter().flatten().collect()
}

/// How many rows have every named flag set.
pub fn count_where(frame: &DataFrame, flags: &[&str]) -> u64 {
    rows_where(frame, flags).height() as u64
}

/// The last thing the client saw of a request.
pub fn completed_ns(r: &RequestRecord) -> Option<u64> {
    r.done_ns.or(r.last_token_ns()).or(r.first_byte_ns).or(r.headers_ns).or(r.sent_ns)
}

/// Scheduled time to the first event that carried a generated token.
pub fn ttft_ns(r: &RequestRecord) -> Option<f64> {
    since(r.first_token_ns()?, r.scheduled_ns)
}

/// Scheduled time to the last event that carried a generated token; of an answer that came whole, to its end.
pub fn e2e_last_ns(r: &RequestRecord) -> Option<f64> {
    since(r.last_token_ns().or(whole_ns(r))?, r.scheduled_ns)
}

/// When a good answer without events ended: one that came whole, an embedding for example.
pub fn whole_ns(r: &RequestRecord) -> Option<u64> {
    r.done_ns.filter(|_| r.events.is_empty() && r.outcome.is_success())
}

/// (t_last - t_first) / (n - k) with k tokens in the first event; missing when n <= k.
pub fn tpot_ns(r: &RequestRecord) -> Option<f64> {
    let first = r.events.first()?;
    let later = r.output_tokens.checked_sub(first.tokens).filter(|n| *n > 0)?;
    // All tokens after the first event must have come in later events; otherwise the time is not known.
    if r.events.len() < 2 {
        return None;
    }
    Some(since(r.last_token_ns()?, first.at_ns)? / f64::from(later))
}

/// `None` where the clock would run backwards: such a record is reported, not averaged in.
fn since(later: u64, earlier: u64) -> Option<f64> {
    later.checked_sub(earlier).map(|ns| ns as f64)
}

/// Room held without a token in it. Logs from before sharing was written down have no better answer than that nothing is
/// shared and used blocks are held by sequences.
fn internal_fragmentation(r: &StepRow) -> Option<f64> {
    let stored = r.kv_tokens.saturating_sub(r.kv_shared_tokens.unwrap_or(0));
    let held = r.kv_held_tokens.map_or(used_blocks(r) * f64::from(r.block_size), |held| held as f64);
    share(stored as f64, held).map(|filled| (1.0 - filled).max(0.0))
}

/// For each step, its tokens at positions that their sequence had computed when it was last preempted.
fn recomputed(rows: &[StepRow]) -> Vec<f64> {
    // By request: the end of what it has computed, and of what it had when it was thrown out.
    let mut known: HashMap<u64, (u64, u64)> = HashMap::new();
    rows.iter()
        .map(|row| {
            for id in &row.preempted {
                if let Some((computed, lost)) = known.get_mut(id) {
                    *lost = *computed;
                }
            }
            let again = row.seqs.iter().map(|seq| {
                let (from, new) = (u64::from(seq.context), u64::from(seq.new_tokens));
                let (computed, lost) = known.entry(seq.id).or_default();
                *computed = from + new;
                lost.saturating_sub(from).min(new)
            });
            again.sum::<u64>() as f64
        })
        .collect()
}

fn used_blocks(r: &StepRow) -> f64 {
    f64::from(r.total_blocks.saturating_sub(r.free_blocks))
}

fn share(part: f64, whole: f64) -> Option<f64> {
    if whole > 0.0 { Some(part / whole) } else { None }
}
