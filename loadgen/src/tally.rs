//! Builds one [`RequestRecord`] from what the stream says: which events carried tokens, how many, and whether the
//! request ended as asked.
//!
//! Tokens per event, best source first: the growth of the server's running count, what the event itself says it holds,
//! one per event with text. The total comes from the server's last count, the sum of what the events said, or the number
//! of events, in that order.

use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent, TurnFacts};

use crate::conversations::Said;
use crate::framing::Framing;
use crate::issuer::At;
use crate::protocols::{Content, Delta, Generates, Wire};
use crate::workload::{PlannedRequest, Prompt};

/// Why a request did not end well.
#[derive(Debug)]
pub struct Failure {
    pub outcome: Outcome,
    pub words: String,
}

impl Failure {
    pub fn new(outcome: Outcome, words: impl Into<String>) -> Self {
        Failure { outcome, words: words.into() }
    }
}

/// Events for which a record has room from the start, so that none waits for memory to be moved; 64 KiB.
const MOST_EVENTS_AHEAD: usize = 4096;

#[derive(Debug)]
pub(crate) struct Tally {
    pub record: RequestRecord,
    /// What the protocol's own counts are called.
    source: CountSource,
    /// Events have times; else the answer comes whole, and no token has one.
    streamed: bool,
    /// The last counts the server gave.
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    /// Tokens attributed to events so far.
    counted: u32,
    /// Every event with tokens so far had a count of all tokens: the server keeps a running one, and growth is exact.
    running: bool,
    /// Every event with tokens so far said how many are in it.
    itemised: bool,
    /// The answer itself, where a later turn will need it.
    said: Option<Said>,
}

pub(crate) fn ns(at: At) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl Tally {
    pub(crate) fn new(request: &PlannedRequest, scheduled: At, wire: &Wire) -> Self {
        let prompt_tokens_source = match request.prompt {
            Prompt::Tokens(_) => CountSource::TokenIds,
            // Until usage says better, the wanted length: the weakest source there is a name for.
            Prompt::Text(_) | Prompt::Messages(_) => CountSource::ChunkCount,
        };
        let output_tokens_requested = match wire.generates {
            Generates::Tokens => request.max_tokens,
            Generates::Nothing => 0,
        };
        let events_expected = (output_tokens_requested as usize).min(MOST_EVENTS_AHEAD);
        let record = RequestRecord {
            index: request.index,
            scheduled_ns: ns(scheduled),
            sent_ns: None,
            connect_ns: None,
            resends: 0,
            headers_ns: None,
            first_byte_ns: None,
            role_ns: None,
            first_reasoning_ns: None,
            events: Vec::with_capacity(events_expected),
            done_ns: None,
            prompt_tokens_requested: request.prompt_tokens,
            prompt_tokens: request.prompt_tokens,
            prompt_tokens_source,
            output_tokens_requested,
            output_tokens: 0,
            output_tokens_source: CountSource::ChunkCount,
            outcome: Outcome::Ok,
            turn: None,
            http_status: None,
            finish_reason: None,
            error: None,
        };
        Tally {
            record,
            source: wire.counts,
            streamed: wire.framing != Framing::Json,
            prompt_tokens: None,
            completion_tokens: None,
            counted: 0,
            running: true,
            itemised: true,
            said: request.is_followed().then(Said::default),
        }
    }

    /// Where the request is a turn: what its prompt came to.
    pub(crate) fn with_turn(mut self, turn: Option<(TurnFacts, u32)>) -> Self {
        if let Some((facts, prompt_tokens)) = turn {
            self.record.turn = Some(facts);
            self.record.prompt_tokens_requested = prompt_tokens;
            self.record.prompt_tokens = prompt_tokens;
        }
        self
    }

    /// The answer itself is wanted, not only its counts.
    pub(crate) fn keeps_text(&self) -> bool {
        self.said.is_some()
    }

    /// Output tokens so far.
    pub(crate) fn tokens(&self) -> u32 {
        self.counted
    }

    /// Takes one event, and out of it what is kept; returns the tokens it carried.
    pub(crate) fn on_delta(&mut self, at: At, delta: &mut Delta) -> Result<u32, Failure> {
        let tokens = self.tokens_in(delta);
        if let Some(said) = &mut self.said {
            said.ids.append(&mut delta.token_ids);
            match std::mem::take(&mut delta.content) {
                Content::None => {}
                Content::New(text) => said.text.push_str(&text),
                Content::SoFar(text) => said.text = text,
            }
        }
        let usage = delta.usage.unwrap_or_default();
        // Zero is how servers say that they did not count.
        self.prompt_tokens = usage.prompt_tokens.filter(|n| *n > 0).or(self.prompt_tokens);
        self.completion_tokens = usage.completion_tokens.or(self.completion_tokens);
        let first_role = self.record.role_ns.is_none() && self.record.events.is_empty();
        if delta.role_only && tokens == 0 && first_role {
            self.record.role_ns = Some(ns(at));
        }
        if tokens > 0 {
            self.running &= usage.completion_tokens.is_some_and(|n| n > 0);
            self.itemised &= delta.tokens.is_some();
            if usage.completion_tokens.is_none() {
                // What the server said earlier does not hold these tokens.
                self.completion_tokens = None;
            }
            self.counted = self.counted.saturating_add(tokens);
            self.record.events.push(TokenEvent { at_ns: ns(at), tokens });
            if delta.reasoning && self.record.first_reasoning_ns.is_none() {
                self.record.first_reasoning_ns = Some(ns(at));
            }
        }
        if let Some(reason) = delta.finish_reason.take().filter(|reason| !reason.is_empty()) {
            if matches!(reason.as_str(), "error" | "abort") {
                return Err(Failure::new(
                    Outcome::Malformed,
                    format!("server ended with finish_reason {reason}"),
                ));
            }
            self.record.finish_reason = Some(reason);
        }
        self.runaway()?;
        Ok(tokens)
    }

    fn tokens_in(&self, delta: &Delta) -> u32 {
        // Whatever its counts say, an announcement of a role is not the first token.
        let opening = delta.role_only && self.counted == 0;
        if !delta.has_choice || opening || !self.streamed {
            return 0;
        }
        self.growth(delta).or(delta.tokens).unwrap_or(u32::from(delta.text))
    }

    /// By how much the server's running count grew. `None` where there is none: once an event with tokens came without
    /// a count, or with one of zero, a later count is the total and not this event's share.
    fn growth(&self, delta: &Delta) -> Option<u32> {
        let so_far = delta.usage?.completion_tokens?;
        let running = self.running && !(delta.text && so_far == 0);
        running.then(|| so_far.saturating_sub(self.counted))
    }

    /// A server that ignores the length limit would otherwise feed us until the total timeout.
    fn runaway(&self) -> Result<(), Failure> {
        let asked = self.record.output_tokens_requested;
        if self.counted > asked.saturating_mul(2).saturating_add(1000) {
            let words =
                format!("server keeps generating: {} tokens though {asked} were asked for", self.counted);
            return Err(Failure::new(Outcome::Malformed, words));
        }
        Ok(())
    }

    /// Closes the record with how the exchange ended, and says what was answered where somebody will ask.
    pub(crate) fn finish(mut self, end: Result<(), Failure>) -> (RequestRecord, Option<Said>) {
        self.settle_counts();
        let wrong_length = self.wrong_length();
        let said = self.said.take();
        let mut record = self.record;
        match end {
            Err(failure) => {
                record.outcome = failure.outcome;
                record.error = Some(failure.words);
            }
            Ok(()) if wrong_length => {
                record.outcome = Outcome::WrongLength;
                record.error = Some(format!(
                    "{} output tokens instead of {} (finish_reason {})",
                    record.output_tokens,
                    record.output_tokens_requested,
                    record.finish_reason.as_deref().unwrap_or("missing")
                ));
            }
            Ok(()) => record.outcome = Outcome::Ok,
        }
        // Room was made for the answer that was asked for.
        if record.events.capacity() > 2 * record.events.len() {
            record.events.shrink_to_fit();
        }
        let abandoned = record.outcome == Outcome::Abandoned;
        let said = said.map(|said| Said { tokens: record.output_tokens, abandoned, ..said });
        (record, said)
    }

    fn settle_counts(&mut self) {
        let record = &mut self.record;
        let itemised = match self.source {
            CountSource::ServerDetail => CountSource::ServerDetail,
            _ => CountSource::TokenIds,
        };
        (record.output_tokens, record.output_tokens_source) = match self.completion_tokens {
            Some(total) if total > 0 || self.counted == 0 => (total, self.source),
            _ if self.itemised && self.counted > 0 => (self.counted, itemised),
            _ => (self.counted, CountSource::ChunkCount),
        };
        if let Some(prompt_tokens) = self.prompt_tokens {
            record.prompt_tokens = prompt_tokens;
            record.prompt_tokens_source = self.source;
        }
    }

    /// A chunk count may be low only because the server coalesced, so there the finish reason decides.
    fn wrong_length(&self) -> bool {
        let record = &self.record;
        let differs = record.output_tokens != record.output_tokens_requested;
        match record.output_tokens_source {
            // Nobody knows, and nothing says otherwise.
            CountSource::ChunkCount if !self.streamed => false,
            CountSource::ChunkCount => {
                let at_limit =
                    matches!(record.finish_reason.as_deref(), Some("length" | "limit" | "max_tokens"));
                differs && !at_limit
            }
            _ => differs,
        }
    }
}
