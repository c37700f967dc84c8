//! One request that another HTTP client carries: what it is to send, and the record of what that client saw come back.
//! The record is the one that `client` would have written of the same bytes at the same times.

use http::{HeaderMap, StatusCode};
use llmlab_results::record::RequestRecord;

use crate::answer::Answer;
use crate::client::{MAX_SNIPPET_BYTES, not_a_stream, patience, presentable, said, within_limit};
use crate::driver::Observer;
use crate::endpoint::Endpoint;
use crate::issuer::At;
use crate::tally::{Failure, Tally, ns};
use crate::transcript::Transcript;
use crate::workload::{PlannedRequest, Prompt};

/// From the step that wants it to its record. Calls come in the order of the methods.
pub struct Exchange<'a> {
    endpoint: &'a Endpoint,
    observer: &'a dyn Observer,
    tally: Tally,
    answer: Answer<'a>,
    received_bytes: u64,
}

impl<'a> Exchange<'a> {
    pub fn new(
        endpoint: &'a Endpoint,
        request: &PlannedRequest,
        scheduled: At,
        observer: &'a dyn Observer,
    ) -> Self {
        let wire = endpoint.protocol.wire();
        Exchange {
            endpoint,
            observer,
            tally: Tally::new(request, scheduled, wire),
            answer: Answer::new(wire, observer),
            received_bytes: 0,
        }
    }

    pub fn sent(&mut self, at: At) {
        self.tally.record.sent_ns = Some(ns(at));
        self.observer.sent(self.tally.record.index);
    }

    /// An error where what follows is not the stream that was asked for; [`Exchange::failed_with`] then takes its body.
    pub fn head(&mut self, at: At, status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
        self.tally.record.headers_ns = Some(ns(at));
        self.tally.record.http_status = Some(status.as_u16());
        not_a_stream(status, headers, self.endpoint.protocol.wire().framing).map_or(Ok(()), Err)
    }

    /// `failure` with the server's own words, as far as they are read.
    pub fn failed_with(failure: Failure, body: &[u8]) -> Failure {
        match said(&body[..body.len().min(MAX_SNIPPET_BYTES)]) {
            words if words.is_empty() => failure,
            words => Failure { words: format!("{}: {words}", failure.words), ..failure },
        }
    }

    /// Bytes that arrived together. True when the stream's terminator was among them.
    pub fn push(&mut self, at: At, bytes: &[u8]) -> Result<bool, Failure> {
        self.received_bytes += bytes.len() as u64;
        self.tally.record.first_byte_ns.get_or_insert(ns(at));
        let last = self.answer.push(&mut self.tally, at, bytes)?;
        within_limit(self.received_bytes)?;
        Ok(last)
    }

    /// Until when the next bytes may take, and what it means when they do not come.
    pub fn patience(&self) -> (At, impl FnOnce() -> Failure + use<>) {
        patience(self.endpoint.timeouts, &self.tally.record)
    }

    /// The body ended before its terminator, without an error.
    pub fn body_ended(&mut self, at: At) -> Result<(), Failure> {
        let wire = self.endpoint.protocol.wire();
        let answer = std::mem::replace(&mut self.answer, Answer::new(wire, self.observer));
        answer.finish(&mut self.tally, at)
    }

    /// The record, with how the exchange ended.
    pub fn finish(self, end: Result<(), Failure>) -> Box<RequestRecord> {
        let (mut record, _) = self.tally.finish(end);
        record.error = record.error.take().map(|words| presentable(self.endpoint, &words));
        Box::new(record)
    }
}

impl Endpoint {
    /// The body of a request that ends a conversation: `history` is what was said before, and where the protocol has no
    /// roles, all of it is one text. The request's prompt must be text.
    pub fn conversation_body(&self, request: &PlannedRequest, history: &Transcript) -> Vec<u8> {
        let prompt = match &request.prompt {
            Prompt::Text(words) if self.protocol.takes_messages() => {
                Prompt::Messages(history.as_messages(words))
            }
            Prompt::Text(words) => Prompt::Text(history.as_text(words)),
            other => other.clone(),
        };
        self.protocol.body(&self.model, &PlannedRequest { prompt, ..request.clone() })
    }

    /// `words` fit for a report: without the key and without control characters, bounded.
    pub fn presentable(&self, words: &str) -> String {
        presentable(self, words)
    }
}
