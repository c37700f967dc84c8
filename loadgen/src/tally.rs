//! Builds one [`RequestRecord`] from what the stream says: which events carried tokens, how many, and whether the
//! request ended as asked.
//!
//! Tokens per event, best source first: the growth of the running usage counts, the token ids in the event, one per
//! event with text. The total comes from usage, token ids, or the number of events, in that order.

use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent};

use crate::issuer::At;
use crate::protocols::{Delta, Usage};
use crate::workload::{PlannedRequest, Prompt};

/// Why a request did not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    pub outcome: Outcome,
    pub words: String,
}

impl Failure {
    pub(crate) fn new(outcome: Outcome, words: impl Into<String>) -> Self {
        Failure { outcome, words: words.into() }
    }
}

#[derive(Debug)]
pub(crate) struct Tally {
    pub record: RequestRecord,
    usage: Option<Usage>,
    /// Tokens attributed to events so far.
    counted: u32,
    /// Every event with tokens so far had usage: the server keeps running counts, and growth is exact.
    running_usage: bool,
    /// Every event with tokens so far had token ids.
    token_ids: bool,
}

pub(crate) fn ns(at: At) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl Tally {
    pub(crate) fn new(request: &PlannedRequest, scheduled: At) -> Self {
        let prompt_tokens_source = match request.prompt {
            Prompt::Tokens(_) => CountSource::TokenIds,
            // Until usage says better, the wanted length: the weakest source there is a name for.
            Prompt::Text(_) => CountSource::ChunkCount,
        };
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
            events: Vec::new(),
            done_ns: None,
            prompt_tokens_requested: request.prompt_tokens,
            prompt_tokens: request.prompt_tokens,
            prompt_tokens_source,
            output_tokens_requested: request.max_tokens,
            output_tokens: 0,
            output_tokens_source: CountSource::ChunkCount,
            outcome: Outcome::Ok,
            http_status: None,
            finish_reason: None,
            error: None,
        };
        Tally { record, usage: None, counted: 0, running_usage: true, token_ids: true }
    }

    /// Takes one event; returns the tokens it carried.
    pub(crate) fn on_delta(&mut self, at: At, delta: Delta) -> Result<u32, Failure> {
        let tokens = self.tokens_in(&delta);
        if let Some(usage) = delta.usage {
            self.usage = Some(usage);
        }
        if delta.role_only && tokens == 0 && self.record.role_ns.is_none() {
            self.record.role_ns = Some(ns(at));
        }
        if tokens > 0 {
            self.running_usage &= delta.usage.is_some();
            self.token_ids &= delta.token_ids.is_some();
            self.counted = self.counted.saturating_add(tokens);
            self.record.events.push(TokenEvent { at_ns: ns(at), tokens });
            if delta.reasoning && self.record.first_reasoning_ns.is_none() {
                self.record.first_reasoning_ns = Some(ns(at));
            }
        }
        if let Some(reason) = delta.finish_reason {
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
        if !delta.has_choice {
            return 0;
        }
        let by_text = u32::from(delta.text);
        match (delta.usage, delta.token_ids) {
            // Once an event with tokens came without usage, a later usage is the total, not this event's share.
            (Some(usage), _) if self.running_usage => usage.completion_tokens.saturating_sub(self.counted),
            (_, Some(ids)) => ids,
            _ => by_text,
        }
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

    /// Closes the record with how the exchange ended.
    pub(crate) fn finish(mut self, end: Result<(), Failure>) -> RequestRecord {
        self.settle_counts();
        let wrong_length = self.wrong_length();
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
        record
    }

    fn settle_counts(&mut self) {
        let record = &mut self.record;
        (record.output_tokens, record.output_tokens_source) = match self.usage {
            Some(usage) => (usage.completion_tokens, CountSource::Usage),
            None if self.token_ids && self.counted > 0 => (self.counted, CountSource::TokenIds),
            None => (self.counted, CountSource::ChunkCount),
        };
        if let Some(usage) = self.usage
            && usage.prompt_tokens > 0
        {
            record.prompt_tokens = usage.prompt_tokens;
            record.prompt_tokens_source = CountSource::Usage;
        }
    }

    /// A chunk count may be low only because the server coalesced, so there the finish reason decides.
    fn wrong_length(&self) -> bool {
        let record = &self.record;
        let differs = record.output_tokens != record.output_tokens_requested;
        match record.output_tokens_source {
            CountSource::ChunkCount => differs && record.finish_reason.as_deref() != Some("length"),
            _ => differs,
        }
    }
}
