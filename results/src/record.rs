//! What happened to one request, as raw timestamps. Nothing here is derived: TTFT, TPOT, goodput and the rest are
//! functions of these records and live in `llmlab-metrics`.
//!
//! All `*_ns` fields count nanoseconds since the start of the trial ([`crate::manifest::TrialFacts::start_monotonic_ns`]).

use serde::{Deserialize, Serialize};

/// One network event that carried generated tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEvent {
    pub at_ns: u64,
    /// Generated tokens in the event; at least 1. More than one when the server coalesces.
    pub tokens: u32,
}

/// Where a token count came from, best source first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountSource {
    /// The server's own `usage` object.
    Usage,
    /// A server-specific detail (`details.generated_tokens`, `eval_count`, ...).
    ServerDetail,
    /// Exact because the prompt was sent as token ids.
    TokenIds,
    /// Counted with a tokenizer on the client.
    ClientTokenizer,
    /// One token per content event assumed.
    ChunkCount,
}

/// The place of a request in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnFacts {
    /// Counted from 0 in order of arrival.
    pub session: u64,
    /// Counted from 0.
    pub turn: u32,
    /// Tokens of the prompt that come from earlier turns and their answers, as far as the client can count them.
    pub context_tokens: u32,
    /// Answers in the prompt that are not what the server said but planned tokens of the same number: its ids or its text
    /// were not known, or there was no answer.
    pub stand_ins: u32,
}

/// How a request ended, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    /// Finished cleanly but with another number of output tokens than was forced.
    WrongLength,
    /// TCP connect refused, reset before a request could be sent, or timed out.
    Connect,
    /// A timeout fired (connect, first token, inter-token or total); `error` says which.
    Timeout,
    /// The server answered with an HTTP error status.
    Http,
    /// The connection failed or closed after the request was sent and before the response's headers.
    NoResponse,
    /// The connection failed or the body ended inside the response.
    StreamCut,
    /// The body ended properly, between two events, without the terminator.
    NoTerminator,
    /// Bytes that are not the protocol (bad JSON, error object inside a 200 stream, wrong content type).
    Malformed,
    /// More bytes in an event or a response than the client takes.
    TooLarge,
    /// The run was interrupted while the request was in flight.
    Cancelled,
    /// The client hung up before the end because the workload wanted it so.
    Abandoned,
    /// The client itself failed (out of file descriptors or ports). Makes the trial invalid.
    Client,
}

impl Outcome {
    /// True for requests whose latency is meaningful.
    pub fn is_success(self) -> bool {
        matches!(self, Outcome::Ok | Outcome::WrongLength)
    }

    /// True where the answer did not come and nobody but the server or the client program is to blame.
    pub fn is_failure(self) -> bool {
        self.is_judged() && !self.is_success()
    }

    /// False where nothing can be said of the server: the run or the client gave up.
    pub fn is_judged(self) -> bool {
        !matches!(self, Outcome::Cancelled | Outcome::Abandoned)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Index in the workload; the same index is the same prompt in every trial of a run.
    pub index: u64,
    /// When the schedule said to send. Latencies count from here (no coordinated omission).
    pub scheduled_ns: u64,
    /// When the request's bytes were handed to the connection, the first time where there were two.
    pub sent_ns: Option<u64>,
    /// Time spent opening a connection inside this request; `None` when a kept-alive one was reused.
    pub connect_ns: Option<u64>,
    /// 1 when the server closed a kept-alive connection without a byte in answer and the request went out again on a
    /// fresh one; else 0. A second failure is the request's outcome.
    #[serde(default)]
    pub resends: u32,
    pub headers_ns: Option<u64>,
    pub first_byte_ns: Option<u64>,
    /// A chunk that carried only a role, no generated token.
    pub role_ns: Option<u64>,
    pub first_reasoning_ns: Option<u64>,
    /// Every event with generated tokens, any channel, in order of arrival.
    #[serde(with = "crate::token_events")]
    pub events: Vec<TokenEvent>,
    /// Stream terminator seen, or body complete.
    pub done_ns: Option<u64>,
    pub prompt_tokens_requested: u32,
    pub prompt_tokens: u32,
    pub prompt_tokens_source: CountSource,
    pub output_tokens_requested: u32,
    pub output_tokens: u32,
    pub output_tokens_source: CountSource,
    pub outcome: Outcome,
    /// `None` for a request that stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnFacts>,
    pub http_status: Option<u16>,
    pub finish_reason: Option<String>,
    /// Plain words, capped at 500 characters; never holds a secret.
    pub error: Option<String>,
}

impl RequestRecord {
    pub fn first_token_ns(&self) -> Option<u64> {
        self.events.first().map(|e| e.at_ns)
    }
    pub fn last_token_ns(&self) -> Option<u64> {
        self.events.last().map(|e| e.at_ns)
    }
}

/// Takes records as they finish. An error stops the run: a result that cannot be saved is not a result.
pub trait RecordSink: Send {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()>;
}

/// Keeps them in memory.
impl RecordSink for Vec<RequestRecord> {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()> {
        self.push(record.clone());
        Ok(())
    }
}
