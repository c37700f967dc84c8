//! The clients of a simulation: what each has sent, seen and still waits for, and its record in the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::Duration;

use llmlab_core::request::{At, FinishReason};
use llmlab_loadgen::workload::PlannedRequest;
use llmlab_loadgen::{Issuer, Observer, Timeouts};
use llmlab_results::record::{CountSource, Outcome, RecordSink, RequestRecord, TokenEvent};
use rustc_hash::FxHashMap;

pub(super) struct Clients<'w, 's> {
    issuer: Issuer<'w>,
    timeouts: Timeouts,
    sink: &'s mut dyn RecordSink,
    observer: &'s dyn Observer,
    waiting: FxHashMap<u64, Client>,
    /// One entry a client. It may be early, because tokens move a deadline; then it is set again.
    deadlines: BinaryHeap<Reverse<(At, u64)>>,
    last_end: At,
}

/// Events that a record has memory for from the start.
const MOST_RESERVED: usize = 1024;

struct Client {
    record: RequestRecord,
    /// At the scheduler and not scheduled yet.
    queued: bool,
}

/// A client that gave up.
pub(super) struct Left {
    pub id: u64,
    pub was_queued: bool,
}

pub(super) fn ns(at: At) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl<'w, 's> Clients<'w, 's> {
    pub fn new(
        issuer: Issuer<'w>,
        timeouts: Timeouts,
        sink: &'s mut dyn RecordSink,
        observer: &'s dyn Observer,
    ) -> Self {
        Clients {
            issuer,
            timeouts,
            sink,
            observer,
            waiting: FxHashMap::default(),
            deadlines: BinaryHeap::new(),
            last_end: At::ZERO,
        }
    }

    pub fn next_due(&self) -> Option<At> {
        self.issuer.next_due()
    }

    pub fn remaining(&self) -> usize {
        self.issuer.remaining()
    }

    pub fn issued(&self) -> u64 {
        self.issuer.issued() as u64
    }

    /// When the last request ended.
    pub fn last_end(&self) -> At {
        self.last_end
    }

    /// Sends the next request, exactly when it is due: a virtual client is never late.
    pub fn issue(&mut self) -> Option<&'w PlannedRequest> {
        let (due, request) = self.issuer.issue()?;
        let mut client = Client { record: new_record(request, due), queued: false };
        client.record.events.reserve((request.max_tokens as usize).min(MOST_RESERVED));
        let deadline = self.deadline(&client.record);
        self.deadlines.push(Reverse((deadline, request.index)));
        self.waiting.insert(request.index, client);
        self.observer.sent(request.index);
        Some(request)
    }

    pub fn waits_for(&self, id: u64) -> bool {
        self.waiting.contains_key(&id)
    }

    /// The server took it, and says so.
    pub fn accepted(&mut self, id: u64, at: At) {
        if let Some(client) = self.waiting.get_mut(&id) {
            client.queued = true;
            client.record.headers_ns = Some(ns(at));
            client.record.http_status = Some(200);
        }
    }

    /// Whether it was queued until now: who gave up while a plan was under way is in it all the same.
    pub fn scheduled(&mut self, id: u64) -> bool {
        self.waiting.get_mut(&id).is_some_and(|client| std::mem::take(&mut client.queued))
    }

    pub fn refused(&mut self, id: u64, at: At, status: u16, words: String) -> io::Result<()> {
        let Some(mut client) = self.waiting.remove(&id) else { return Ok(()) };
        client.record.headers_ns = Some(ns(at));
        client.record.http_status = Some(status);
        self.end(client.record, at, Outcome::Http, Some(words))
    }

    pub fn token(&mut self, id: u64, at: At) {
        let Some(client) = self.waiting.get_mut(&id) else { return };
        let record = &mut client.record;
        if record.events.is_empty() {
            record.first_byte_ns = Some(ns(at));
            self.observer.first_token(id, at.saturating_sub(Duration::from_nanos(record.scheduled_ns)));
        }
        record.events.push(TokenEvent { at_ns: ns(at), tokens: 1 });
        record.output_tokens += 1;
    }

    /// A token at each of these times, after its first.
    pub fn tokens(&mut self, id: u64, at_ns: &[u64]) {
        let Some(client) = self.waiting.get_mut(&id) else { return };
        let record = &mut client.record;
        record.events.extend(at_ns.iter().map(|&at_ns| TokenEvent { at_ns, tokens: 1 }));
        record.output_tokens += at_ns.len() as u32;
    }

    /// So many tokens were delivered by one step.
    pub fn told(&mut self, tokens: usize) {
        self.observer.tokens(tokens as u32);
    }

    pub fn finished(&mut self, id: u64, at: At, reason: FinishReason) -> io::Result<()> {
        let Some(mut client) = self.waiting.remove(&id) else { return Ok(()) };
        let record = &mut client.record;
        record.done_ns = Some(ns(at));
        let reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::Error => "error",
        };
        record.finish_reason = Some(reason.into());
        if record.output_tokens == record.output_tokens_requested {
            return self.end(client.record, at, Outcome::Ok, None);
        }
        let words = format!(
            "{} output tokens instead of {} (finish_reason {reason})",
            record.output_tokens, record.output_tokens_requested
        );
        self.end(client.record, at, Outcome::WrongLength, Some(words))
    }

    /// The next moment at which somebody may give up.
    pub fn next_deadline(&mut self) -> Option<At> {
        while let Some(Reverse((at, id))) = self.deadlines.peek() {
            if self.waiting.contains_key(id) {
                return Some(*at);
            }
            self.deadlines.pop();
        }
        None
    }

    /// Ends the next client whose patience is over at `now`, and says who it was.
    pub fn next_to_give_up(&mut self, now: At) -> io::Result<Option<Left>> {
        while let Some(&Reverse((at, id))) = self.deadlines.peek() {
            if at > now {
                return Ok(None);
            }
            self.deadlines.pop();
            let Some(client) = self.waiting.get(&id) else { continue };
            let deadline = self.deadline(&client.record);
            if deadline > now {
                self.deadlines.push(Reverse((deadline, id)));
                continue;
            }
            let words = self.reason(&client.record, deadline);
            let Some(client) = self.waiting.remove(&id) else { continue };
            let left = Left { id, was_queued: client.queued };
            self.end(client.record, deadline, Outcome::Timeout, Some(words))?;
            return Ok(Some(left));
        }
        Ok(None)
    }

    /// Everybody still waiting is cut off.
    pub fn cancel_all(&mut self, at: At) -> io::Result<()> {
        let mut left: Vec<RequestRecord> = self.waiting.drain().map(|(_, client)| client.record).collect();
        // Maps have no order, records must have one.
        left.sort_by_key(|record| record.index);
        for record in left {
            self.end(record, at, Outcome::Cancelled, Some("run ended while in flight".into()))?;
        }
        Ok(())
    }

    /// The same limits as a live client's: for the first token, between tokens, and in all.
    fn deadline(&self, record: &RequestRecord) -> At {
        let in_all = Duration::from_nanos(record.scheduled_ns).saturating_add(self.timeouts.total);
        in_all.min(self.token_deadline(record))
    }

    fn token_deadline(&self, record: &RequestRecord) -> At {
        let (since_ns, wait) = match record.last_token_ns() {
            None => (record.scheduled_ns, self.timeouts.first_token),
            Some(at_ns) => (at_ns, self.timeouts.inter_token),
        };
        Duration::from_nanos(since_ns).saturating_add(wait)
    }

    fn reason(&self, record: &RequestRecord, deadline: At) -> String {
        let Timeouts { first_token, inter_token, total, .. } = self.timeouts;
        match record.last_token_ns() {
            _ if deadline < self.token_deadline(record) => {
                format!("total timeout: not finished within {total:?}")
            }
            None => format!("first-token timeout: none within {first_token:?} of sending"),
            Some(_) => format!("inter-token timeout: no token within {inter_token:?} of the last one"),
        }
    }

    fn end(
        &mut self,
        mut record: RequestRecord,
        at: At,
        outcome: Outcome,
        error: Option<String>,
    ) -> io::Result<()> {
        record.outcome = outcome;
        record.error = error;
        self.issuer.on_finished(at, record.index);
        self.last_end = self.last_end.max(at);
        self.sink.record(&record)?;
        self.observer.finished(&record);
        Ok(())
    }
}

fn new_record(request: &PlannedRequest, due: At) -> RequestRecord {
    RequestRecord {
        index: request.index,
        scheduled_ns: ns(due),
        sent_ns: Some(ns(due)),
        connect_ns: None,
        resends: 0,
        headers_ns: None,
        first_byte_ns: None,
        role_ns: None,
        first_reasoning_ns: None,
        events: Vec::new(),
        done_ns: None,
        prompt_tokens_requested: request.prompt_tokens,
        prompt_tokens: request.prompt_tokens,
        prompt_tokens_source: CountSource::Usage,
        output_tokens_requested: request.max_tokens,
        output_tokens: 0,
        output_tokens_source: CountSource::Usage,
        outcome: Outcome::Ok,
        http_status: None,
        finish_reason: None,
        error: None,
    }
}
