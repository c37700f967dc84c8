//! Latency by place in a conversation: later turns have longer prompts, most of which a prefix cache may hold.

use llmlab_results::record::RequestRecord;
use serde::Serialize;

use crate::frame;
use crate::latency::{Distribution, Samples};

/// Measured requests at a turn, or at some turns that follow each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TurnGroup {
    /// Counted from 1, both included; the last group has no end.
    pub first: u32,
    pub last: Option<u32>,
    pub requests: u64,
    pub prompt_tokens_mean: f64,
    pub ttft: Option<Distribution>,
    /// Answers of earlier turns that are stand-ins, summed over these requests.
    pub stand_ins: u64,
}

/// The turns that are shown together: few conversations are long, so later groups are wider.
const GROUPS: [(u32, Option<u32>); 6] =
    [(1, Some(1)), (2, Some(2)), (3, Some(4)), (5, Some(8)), (9, Some(16)), (17, None)];

impl TurnGroup {
    /// "turn 1", "turns 3–4", "turns 17+".
    pub fn label(&self) -> String {
        match self.last {
            Some(last) if last == self.first => format!("turn {last}"),
            Some(last) => format!("turns {}–{last}", self.first),
            None => format!("turns {}+", self.first),
        }
    }
}

/// Those that somebody reached.
pub fn turn_groups(records: &[RequestRecord], warmup: u64) -> Vec<TurnGroup> {
    GROUPS.into_iter().filter_map(|(first, last)| group(records, warmup, first, last)).collect()
}

fn group(records: &[RequestRecord], warmup: u64, first: u32, last: Option<u32>) -> Option<TurnGroup> {
    let inside = |turn: u32| turn + 1 >= first && last.is_none_or(|last| turn < last);
    let in_group = |r: &&RequestRecord| r.index >= warmup && r.turn.is_some_and(|t| inside(t.turn));
    let members: Vec<&RequestRecord> = records.iter().filter(in_group).collect();
    if members.is_empty() {
        return None;
    }
    let ttft = members.iter().filter(|r| r.outcome.is_success()).filter_map(|r| frame::ttft_ns(r)).collect();
    let failures = members.iter().filter(|r| r.outcome.is_failure()).count() as u64;
    let prompt_tokens: u64 = members.iter().map(|r| u64::from(r.prompt_tokens)).sum();
    Some(TurnGroup {
        first,
        last,
        requests: members.len() as u64,
        prompt_tokens_mean: prompt_tokens as f64 / members.len() as f64,
        ttft: Samples::new(ttft, failures).distribution(),
        stand_ins: members.iter().filter_map(|r| r.turn).map(|t| u64::from(t.stand_ins)).sum(),
    })
}
