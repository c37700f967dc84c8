//! What is known of requests: where each is, and what came of those that ended.
//!
//! Replicas compute whole steps, so their tokens are known before they reach anybody. Marks keep such news back until its time.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::Duration;

use llmlab_core::request::At;
use llmlab_loadgen::workload::PlannedRequest;
use llmlab_results::record::{Outcome, RecordSink, RequestRecord};
use rustc_hash::FxHashMap;

use super::Role;
use super::outcome::{RequestResult, ServedBy};
use crate::driver::clients::Ledger;

pub(super) struct Books<'w, 'r> {
    pub flights: FxHashMap<u64, Flight<'w>>,
    marks: BinaryHeap<Reverse<(At, u64, Mark)>>,
    made: u64,
    pub results: Vec<RequestResult>,
    pub records: Option<&'r mut dyn RecordSink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    FirstToken(u64),
    /// The prompt of a request is done, in this replica.
    Prefilled(u64, usize),
    End(u64),
}

/// A request from its sending to its end.
pub(super) struct Flight<'w> {
    /// As it would be sent again; none where it will not be.
    pub request: Option<Cow<'w, PlannedRequest>>,
    pub arrival: At,
    pub place: ServedBy,
    /// What it waits for or is in.
    pub part: Role,
    /// Of the prompt and of the answer as asked for.
    pub tokens: u64,
    /// Of the whole answer.
    pub max_tokens: u32,
    /// Times that it was sent to a replica.
    pub sent: u32,
    pub has_tokens: bool,
    /// It ended with its whole answer.
    pub answered: bool,
}

impl<'r> Books<'_, 'r> {
    pub fn new(records: Option<&'r mut dyn RecordSink>) -> Self {
        let (flights, marks) = (FxHashMap::default(), BinaryHeap::new());
        Books { flights, marks, made: 0, results: Vec::new(), records }
    }

    pub fn next_mark(&self) -> Option<At> {
        self.marks.peek().map(|Reverse((at, _, _))| *at)
    }

    pub fn take_mark(&mut self) -> Option<(At, Mark)> {
        self.marks.pop().map(|Reverse((at, _, mark))| (at, mark))
    }

    pub fn mark(&mut self, at: At, mark: Mark) {
        self.made += 1;
        self.marks.push(Reverse((at, self.made, mark)));
    }
}

impl Ledger for Books<'_, '_> {
    const DEFERS_ENDS: bool = true;

    fn first_token(&mut self, id: u64, at: At) {
        self.mark(at, Mark::FirstToken(id));
    }

    fn ended(&mut self, at: At, record: &RequestRecord) -> io::Result<()> {
        let Some(flight) = self.flights.get_mut(&record.index) else { return Ok(()) };
        flight.answered = record.outcome == Outcome::Ok;
        let of_ns = Duration::from_nanos;
        self.results.push(RequestResult {
            index: record.index,
            arrival: flight.arrival,
            first_token: record.events.first().map(|event| of_ns(event.at_ns)),
            last_token: record.last_token_ns().map(of_ns),
            end: at,
            prompt_tokens: record.prompt_tokens,
            output_tokens: record.output_tokens,
            outcome: record.outcome,
            status: record.http_status,
            served_by: flight.place,
            sent: flight.sent,
        });
        self.mark(at, Mark::End(record.index));
        self.records.as_mut().map_or(Ok(()), |records| records.record(record))
    }
}
