//! The clients of a simulation: what each has sent, seen and still waits for, and its record in the end.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::Duration;

use llmlab_core::request::{At, FinishReason, TokenId};
use llmlab_loadgen::workload::PlannedRequest;
use llmlab_loadgen::{Conversations, HangUp, Issuer, Observer, Said, Timeouts};
use llmlab_results::record::{CountSource, Outcome, RecordSink, RequestRecord, TokenEvent};
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) struct Clients<'w, 's, L> {
    issuer: Issuer<'w>,
    conversations: Conversations,
    timeouts: Timeouts,
    pub ledger: L,
    observer: &'s dyn Observer,
    waiting: FxHashMap<u64, Client<'w>>,
    desks: Vec<Desk>,
    /// Requests follow from the ends of others: whoever runs ahead stops at each.
    pub ends_matter: bool,
    last_end: At,
}

/// The clients of one server. Servers in virtual time are not all at the same moment, so each looks after its own.
#[derive(Default)]
struct Desk {
    /// Clients that hang up after a number of tokens.
    counting: FxHashSet<u64>,
    /// One entry a client. It may be early, because tokens move a deadline; then it is set again.
    deadlines: BinaryHeap<Reverse<(At, u64)>>,
}

/// Where every request goes first.
pub(crate) const FRONT_DESK: usize = 0;

/// Who keeps what comes of requests.
pub(crate) trait Ledger {
    /// The issuer hears of ends later, from [`Clients::heard_of_end`], in the order of their times.
    const DEFERS_ENDS: bool;

    /// The first token of a request reaches its client.
    fn first_token(&mut self, _id: u64, _at: At) {}

    fn ended(&mut self, at: At, record: &RequestRecord) -> io::Result<()>;
}

impl Ledger for &mut dyn RecordSink {
    const DEFERS_ENDS: bool = false;

    fn ended(&mut self, _at: At, record: &RequestRecord) -> io::Result<()> {
        self.record(record)
    }
}

/// Events that a record has memory for from the start.
const MOST_RESERVED: usize = 1024;

struct Client<'w> {
    planned: &'w PlannedRequest,
    record: RequestRecord,
    /// The answer, where a turn follows.
    said: Option<Vec<TokenId>>,
    /// At the scheduler and not scheduled yet.
    queued: bool,
    desk: usize,
}

/// A client that gave up.
pub(crate) struct Left {
    pub id: u64,
    pub was_queued: bool,
}

pub(crate) fn ns(at: At) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl<'w, 's, L: Ledger> Clients<'w, 's, L> {
    pub fn new(issuer: Issuer<'w>, timeouts: Timeouts, ledger: L, observer: &'s dyn Observer) -> Self {
        Clients {
            issuer,
            conversations: Conversations::new(false),
            timeouts,
            ledger,
            observer,
            waiting: FxHashMap::default(),
            desks: vec![Desk::default()],
            ends_matter: false,
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
    pub fn issue(&mut self) -> Option<Cow<'w, PlannedRequest>> {
        let (due, planned) = self.issuer.issue()?;
        let composed = self.conversations.compose(planned);
        let turn = composed.as_ref().map(|(_, facts)| *facts);
        let request = composed.map_or(Cow::Borrowed(planned), |(request, _)| Cow::Owned(request));
        let record = RequestRecord { turn, ..new_record(&request, due) };
        let said = planned.is_followed().then(Vec::new);
        let mut client = Client { planned, record, said, queued: false, desk: FRONT_DESK };
        client.record.events.reserve((request.max_tokens as usize).min(MOST_RESERVED));
        self.waiting.insert(request.index, client);
        self.move_to(request.index, FRONT_DESK);
        self.observer.sent(request.index);
        Some(request)
    }

    /// A desk for a server of its own.
    pub fn new_desk(&mut self) -> usize {
        self.desks.push(Desk::default());
        self.desks.len() - 1
    }

    /// From now on this desk looks after the client.
    pub fn move_to(&mut self, id: u64, desk: usize) {
        let Some(client) = self.waiting.get_mut(&id) else { return };
        self.desks[client.desk].counting.remove(&id);
        client.desk = desk;
        let counts = matches!(client.planned.hang_up, Some(HangUp::AfterTokens(_)));
        let deadline = self.deadline(&self.waiting[&id]);
        self.desks[desk].deadlines.push(Reverse((deadline, id)));
        if counts {
            self.desks[desk].counting.insert(id);
        }
    }

    /// The server that had it is gone, the client does not know.
    pub fn forget_server(&mut self, id: u64) {
        if let Some(client) = self.waiting.get_mut(&id) {
            client.queued = false;
        }
    }

    /// Tokens that a client has; none where it waits no longer.
    pub fn has(&self, id: u64) -> Option<u32> {
        self.waiting.get(&id).map(|client| client.record.output_tokens)
    }

    /// The server is gone, and the request with it.
    pub fn lost(&mut self, id: u64, at: At, words: String) -> io::Result<()> {
        let Some(client) = self.take(id) else { return Ok(()) };
        let began = client.record.headers_ns.is_some();
        let outcome = if began { Outcome::StreamCut } else { Outcome::NoResponse };
        self.end(client, at, outcome, Some(words))
    }

    /// An end that [`Ledger::DEFERS_ENDS`] kept back.
    pub fn heard_of_end(&mut self, id: u64, at: At) {
        self.issuer.on_finished(at, id);
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
        let Some(mut client) = self.take(id) else { return Ok(()) };
        client.record.headers_ns = Some(ns(at));
        client.record.http_status = Some(status);
        self.end(client, at, Outcome::Http, Some(words))
    }

    /// A token arrives. Says whether the client has enough and hangs up.
    pub fn token(&mut self, id: u64, at: At, token: TokenId) -> bool {
        let Some(client) = self.waiting.get_mut(&id) else { return false };
        if let Some(said) = &mut client.said {
            said.push(token);
        }
        let enough = client.planned.hang_up;
        let record = &mut client.record;
        if record.events.is_empty() {
            record.first_byte_ns = Some(ns(at));
            self.ledger.first_token(id, at);
            self.observer.first_token(id, at.saturating_sub(Duration::from_nanos(record.scheduled_ns)));
        }
        record.events.push(TokenEvent { at_ns: ns(at), tokens: 1 });
        record.output_tokens += 1;
        matches!(enough, Some(HangUp::AfterTokens(tokens)) if record.output_tokens >= tokens)
    }

    /// A token at each of these times, after its first; `token` says which, counted from 0.
    pub fn tokens(&mut self, id: u64, at_ns: &[u64], token: impl Fn(u32) -> TokenId) {
        let Some(client) = self.waiting.get_mut(&id) else { return };
        let record = &mut client.record;
        if let Some(said) = &mut client.said {
            said.extend((record.output_tokens..).take(at_ns.len()).map(token));
        }
        record.events.extend(at_ns.iter().map(|&at_ns| TokenEvent { at_ns, tokens: 1 }));
        record.output_tokens += at_ns.len() as u32;
    }

    /// So many tokens were delivered by one step.
    pub fn told(&mut self, tokens: usize) {
        self.observer.tokens(tokens as u32);
    }

    /// Who has enough hangs up.
    pub fn hang_up(&mut self, id: u64, at: At) -> io::Result<()> {
        let Some(client) = self.take(id) else { return Ok(()) };
        let words = client.planned.hang_up.map(HangUp::words);
        self.end(client, at, Outcome::Abandoned, words)
    }

    /// Decode steps after which nobody has enough yet.
    pub fn steps_before_hang_up(&self, desk: usize) -> usize {
        let left = self.desks[desk].counting.iter().filter_map(|id| {
            let client = self.waiting.get(id)?;
            match client.planned.hang_up {
                Some(HangUp::AfterTokens(tokens)) => {
                    Some(tokens.saturating_sub(client.record.output_tokens + 1))
                }
                Some(HangUp::After(_)) | None => None,
            }
        });
        left.min().map_or(usize::MAX, |steps| steps as usize)
    }

    pub fn finished(&mut self, id: u64, at: At, reason: FinishReason) -> io::Result<()> {
        let Some(mut client) = self.take(id) else { return Ok(()) };
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
            return self.end(client, at, Outcome::Ok, None);
        }
        let words = format!(
            "{} output tokens instead of {} (finish_reason {reason})",
            record.output_tokens, record.output_tokens_requested
        );
        self.end(client, at, Outcome::WrongLength, Some(words))
    }

    /// The next moment at which somebody may give up.
    pub fn next_deadline(&mut self, desk: usize) -> Option<At> {
        let deadlines = &mut self.desks[desk].deadlines;
        while let Some(Reverse((at, id))) = deadlines.peek() {
            if self.waiting.get(id).is_some_and(|client| client.desk == desk) {
                return Some(*at);
            }
            deadlines.pop();
        }
        None
    }

    /// Ends the next client whose patience is over at `now`, and says who it was.
    pub fn next_to_give_up(&mut self, desk: usize, now: At) -> io::Result<Option<Left>> {
        while let Some(&Reverse((at, id))) = self.desks[desk].deadlines.peek() {
            if at > now {
                return Ok(None);
            }
            self.desks[desk].deadlines.pop();
            let Some(client) = self.waiting.get(&id).filter(|client| client.desk == desk) else { continue };
            let deadline = self.deadline(client);
            if deadline > now {
                self.desks[desk].deadlines.push(Reverse((deadline, id)));
                continue;
            }
            let (outcome, words) = match client.planned.hang_up {
                Some(how) if hangs_up_at(client).is_some_and(|at| at <= deadline) => {
                    (Outcome::Abandoned, how.words())
                }
                _ => (Outcome::Timeout, self.reason(&client.record, deadline)),
            };
            let Some(client) = self.take(id) else { continue };
            let left = Left { id, was_queued: client.queued };
            self.end(client, deadline, outcome, Some(words))?;
            return Ok(Some(left));
        }
        Ok(None)
    }

    /// Everybody still waiting is cut off.
    pub fn cancel_all(&mut self, at: At) -> io::Result<()> {
        let mut left: Vec<Client<'w>> = self.waiting.drain().map(|(_, client)| client).collect();
        // Maps have no order, records must have one.
        left.sort_by_key(|client| client.record.index);
        for client in left {
            self.end(client, at, Outcome::Cancelled, Some("run ended while in flight".into()))?;
        }
        Ok(())
    }

    fn take(&mut self, id: u64) -> Option<Client<'w>> {
        let client = self.waiting.remove(&id)?;
        self.desks[client.desk].counting.remove(&id);
        Some(client)
    }

    /// The same limits as a live client's: for the first token, between tokens, and in all; and the time at which it planned
    /// to hang up.
    fn deadline(&self, client: &Client<'_>) -> At {
        let record = &client.record;
        let in_all = Duration::from_nanos(record.scheduled_ns).saturating_add(self.timeouts.total);
        let deadline = in_all.min(self.token_deadline(record));
        hangs_up_at(client).map_or(deadline, |at| at.min(deadline))
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

    fn end(&mut self, client: Client<'w>, at: At, outcome: Outcome, error: Option<String>) -> io::Result<()> {
        let Client { planned, mut record, said, .. } = client;
        if let Some(ids) = said {
            let abandoned = outcome == Outcome::Abandoned;
            let said = Said { tokens: record.output_tokens, ids, text: String::new(), abandoned };
            self.conversations.answered(planned, said);
        }
        record.outcome = outcome;
        record.error = error;
        if !L::DEFERS_ENDS {
            self.issuer.on_finished(at, record.index);
        }
        self.last_end = self.last_end.max(at);
        self.ledger.ended(at, &record)?;
        self.observer.finished(&record);
        Ok(())
    }
}

fn hangs_up_at(client: &Client<'_>) -> Option<At> {
    match client.planned.hang_up? {
        HangUp::After(time) => Some(Duration::from_nanos(client.record.scheduled_ns).saturating_add(time)),
        HangUp::AfterTokens(_) => None,
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
        turn: None,
        http_status: None,
        finish_reason: None,
        error: None,
    }
}
