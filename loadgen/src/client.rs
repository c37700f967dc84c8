//! One request, from its issue to its record. A request that fails is not retried: a retry would hide the failure and
//! count its load twice.
//!
//! The single exception is a kept-alive connection that the server closed in the meantime. Where no byte of an answer
//! came on it, the request goes out on a new connection, once; the time to open that is recorded as `connect_ns`. If
//! the first connection had taken the request's bytes, the record counts a resend and keeps the time they were first
//! sent at, because the wait is the server's doing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use llmlab_results::record::{Outcome, RequestRecord, TurnFacts};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::abandon::HangUp;
use crate::answer::Answer;
use crate::clock::Clock;
use crate::connection::{Arrived, Connection, NoHead, Reading};
use crate::conversations::Said;
use crate::driver::Observer;
use crate::endpoint::{Endpoint, RequestTemplate, Timeouts, request_id};
use crate::framing::Framing;
use crate::http::Pool;
use crate::http1::Head;
use crate::issuer::At;
use crate::protocols::error_words;
use crate::tally::{Failure, Tally, ns};
use crate::websocket::Sockets;
use crate::workload::PlannedRequest;

/// More than any stream of tokens; see also the limit of a single event in `answer`.
pub(crate) const MAX_RESPONSE_BYTES: u64 = 1 << 30;
/// How much of an error page is read for its words.
pub(crate) const MAX_SNIPPET_BYTES: usize = 4096;
/// How long the rest of an error page, or of a stream after its terminator, may take before the connection is dropped.
const MAX_REST: Duration = Duration::from_secs(1);
/// Characters of `RequestRecord::error`.
const MAX_ERROR_CHARS: usize = 500;

/// A request ready to be sent: its body and, of a turn, the record's words on its prompt with the prompt's length in tokens.
#[derive(Debug)]
pub(crate) struct Built {
    pub body: Vec<u8>,
    pub turn: Option<(TurnFacts, u32)>,
}

/// A request that ended: its record, and the answer where a later turn needs it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub record: Box<RequestRecord>,
    pub said: Option<Said>,
}

/// What all requests of a trial share.
pub(crate) struct Client<'a> {
    pub endpoint: &'a Endpoint,
    pub template: RequestTemplate,
    pub pool: Arc<Pool<Connection>>,
    pub reading: Reading,
    /// In place of the pool's, for a protocol over WebSocket.
    pub sockets: Sockets,
    pub clock: Clock,
    pub observer: &'a dyn Observer,
    /// Fires when requests in flight are given up.
    pub abandon: CancellationToken,
}

impl Client<'_> {
    /// Sends the request and reads its stream; whatever happens, there is a record.
    pub(crate) async fn run(
        &self,
        request: &PlannedRequest,
        scheduled: At,
        Built { body, turn }: Built,
    ) -> Ended {
        let mut tally = Tally::new(request, scheduled, self.endpoint.protocol.wire()).with_turn(turn);
        let total = self.endpoint.timeouts.total;
        let leave_at = match request.hang_up {
            Some(HangUp::After(time)) => Some(self.clock.deadline(scheduled.saturating_add(time))),
            Some(HangUp::AfterTokens(_)) | None => None,
        };
        let end = tokio::select! {
            biased;
            end = self.either_exchange(&mut tally, &body, request.hang_up) => end,
            () = until(leave_at) => Err(hung_up(request.hang_up)),
            () = self.abandon.cancelled() => Err(Failure::new(Outcome::Cancelled, "run ended while in flight")),
            () = tokio::time::sleep(total) => {
                Err(Failure::new(Outcome::Timeout, format!("total timeout: not finished within {total:?}")))
            }
        };
        let (mut record, said) = tally.finish(end);
        record.error = record.error.take().map(|words| presentable(self.endpoint, &words));
        Ended { record: Box::new(record), said }
    }

    async fn either_exchange(
        &self,
        tally: &mut Tally,
        body: &[u8],
        hang_up: Option<HangUp>,
    ) -> Result<(), Failure> {
        match self.endpoint.protocol.wire().framing {
            Framing::WebSocket => self.converse(tally, body, hang_up).await,
            Framing::Sse | Framing::Ndjson | Framing::Json => self.exchange(tally, body, hang_up).await,
        }
    }

    async fn exchange(&self, tally: &mut Tally, body: &[u8], hang_up: Option<HangUp>) -> Result<(), Failure> {
        let (connection, head) = self.send(tally, body).await?;
        tally.record.headers_ns = Some(ns(connection.read_at()));
        tally.record.http_status = Some(head.status.as_u16());
        let framing = self.endpoint.protocol.wire().framing;
        match not_a_stream(head.status, &head.headers, framing) {
            None => self.read_stream(tally, connection, hang_up).await,
            Some(mut failure) => {
                let snippet = self.read_snippet(tally, connection).await;
                if !snippet.is_empty() {
                    failure.words = format!("{}: {snippet}", failure.words);
                }
                Err(failure)
            }
        }
    }

    /// Hands the request to a connection and waits for the response's headers.
    async fn send(&self, tally: &mut Tally, body: &[u8]) -> Result<(Connection, Head), Failure> {
        let mut idle = self.pool.take_idle();
        loop {
            let reused = idle.is_some();
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => self.connect(tally).await?,
            };
            let head = self.template.head(&self.id(&tally.record), body.len());
            let sent = self.clock.now();
            if tally.record.resends == 0 && tally.record.sent_ns.replace(ns(sent)).is_none() {
                self.observer.sent(tally.record.index);
            }
            let wait = self.endpoint.timeouts.first_token;
            let deadline = self.clock.deadline(sent.saturating_add(wait));
            let asking = connection.ask(&head, body, &self.reading);
            let Ok(answer) = tokio::time::timeout_at(deadline, asking).await else {
                return Err(first_token_timeout(wait));
            };
            match answer {
                Ok(head) => return Ok((connection, head)),
                Err(NoHead::NeverLeft(_)) if reused => {}
                Err(NoHead::Silent(_)) if reused => tally.record.resends = 1,
                Err(NoHead::NeverLeft(error)) => {
                    let words = format!("connection closed before the request was sent: {}", chain(&error));
                    return Err(Failure::new(Outcome::Connect, words));
                }
                Err(NoHead::Silent(failure) | NoHead::Broken(failure)) => return Err(failure),
            }
        }
    }

    /// Two sendings are two requests to the server, and it may still be at work on the first.
    fn id(&self, record: &RequestRecord) -> String {
        let id = request_id(self.clock.start_monotonic_ns, record.index);
        if record.resends > 0 { format!("{id}-again") } else { id }
    }

    async fn connect(&self, tally: &mut Tally) -> Result<Connection, Failure> {
        let start = self.clock.now();
        let connection = self.pool.connect().await?;
        tally.record.connect_ns = Some(ns(self.clock.now().saturating_sub(start)));
        Ok(connection)
    }

    async fn read_stream(
        &self,
        tally: &mut Tally,
        mut connection: Connection,
        hang_up: Option<HangUp>,
    ) -> Result<(), Failure> {
        let mut answer = Answer::new(self.endpoint.protocol.wire(), self.observer);
        let mut received_bytes = 0;
        let (mut timer_until, _) = patience(self.endpoint.timeouts, &tally.record);
        let mut timer = pin!(tokio::time::sleep_until(self.clock.deadline(timer_until)));
        loop {
            let mut take = |at: At, bytes: &[u8]| {
                received_bytes += bytes.len() as u64;
                tally.record.first_byte_ns.get_or_insert(ns(at));
                if answer.push(tally, at, bytes)? {
                    return Ok(Some(()));
                }
                had_enough(tally, hang_up)?;
                within_limit(received_bytes)?;
                Ok(None)
            };
            let arrived = poll_fn(|context| match connection.poll_body(context, &self.reading, &mut take) {
                Poll::Ready(arrived) => Poll::Ready(Some(arrived)),
                // What may lie in the socket is read first, in the next turn.
                Poll::Pending if self.reading.turn_is_over() => Poll::Pending,
                Poll::Pending => timer.as_mut().poll(context).map(|()| None),
            });
            let arrived = arrived.await.transpose()?;
            let expired = arrived.is_none();
            match arrived {
                Some(Arrived::Bytes) | None => {}
                Some(Arrived::Found(())) => break,
                Some(Arrived::End(at)) => {
                    answer.finish(tally, at)?;
                    break;
                }
            }
            // A timer that rings too early is set again then, and not at every token; one that would ring too late, now.
            let (until, on_expiry) = patience(self.endpoint.timeouts, &tally.record);
            if expired && until <= self.clock.now() {
                return Err(on_expiry());
            }
            if expired || until < timer_until {
                timer_until = until;
                timer.as_mut().reset(self.clock.deadline(until));
            }
        }
        self.recycle(connection);
        Ok(())
    }

    /// Keeps the connection; what follows the terminator is read in the background, if that is soon over.
    fn recycle(&self, mut connection: Connection) {
        if connection.is_over() {
            return self.pool.put_back(connection);
        }
        let pool = Arc::clone(&self.pool);
        tokio::spawn(tokio::time::timeout(MAX_REST, async move {
            connection.read_off().await;
            pool.put_back(connection);
        }));
    }

    /// The start of a body that is not a stream; the server's own words where it is a JSON error.
    async fn read_snippet(&self, tally: &mut Tally, mut connection: Connection) -> String {
        let mut bytes = Vec::new();
        let mut take = |at: At, data: &[u8]| {
            tally.record.first_byte_ns.get_or_insert(ns(at));
            bytes.extend_from_slice(&data[..data.len().min(MAX_SNIPPET_BYTES - bytes.len())]);
            Ok((bytes.len() == MAX_SNIPPET_BYTES).then_some(()))
        };
        let reading = async {
            let mut next =
                async || poll_fn(|context| connection.poll_body(context, &self.reading, &mut take)).await;
            while let Ok(Arrived::Bytes) = next().await {}
        };
        // Partial words are better than none.
        let _ = tokio::time::timeout(MAX_REST, reading).await;
        said(&bytes)
    }
}

/// `words` fit for a record: no key, no control characters (a terminal would obey them), bounded.
pub(crate) fn presentable(endpoint: &Endpoint, words: &str) -> String {
    let words = match &endpoint.api_key {
        Some(key) => key.redact(words),
        None => words.to_owned(),
    };
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_CHARS).collect()
}

/// A server's own words where the body is a JSON error, else the body.
pub(crate) fn said(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(json) => error_words(json.get("error").unwrap_or(&json)),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

fn hung_up(how: Option<HangUp>) -> Failure {
    Failure::new(Outcome::Abandoned, how.map_or_else(String::new, HangUp::words))
}

/// Never, without a deadline.
pub(crate) async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Why a response is not the stream that was asked for.
pub(crate) fn not_a_stream(status: StatusCode, headers: &HeaderMap, framing: Framing) -> Option<Failure> {
    let text = |name| headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    if status.is_redirection() {
        return Some(Failure::new(Outcome::Http, format!("HTTP {status}; redirects are not followed")));
    }
    if !status.is_success() {
        let words = match text(header::RETRY_AFTER) {
            Some(after) => format!("HTTP {status} (retry-after {after})"),
            None => format!("HTTP {status}"),
        };
        return Some(Failure::new(Outcome::Http, words));
    }
    if status == StatusCode::NO_CONTENT {
        return Some(Failure::new(Outcome::Malformed, "HTTP 204: no content instead of a stream"));
    }
    if let Some(encoding) = text(header::CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Some(Failure::new(
            Outcome::Malformed,
            format!("response is compressed ({encoding}) unasked"),
        ));
    }
    // A missing content type gets the benefit of the doubt.
    let wanted = framing.media_type();
    match text(header::CONTENT_TYPE) {
        Some(kind) if !kind.trim_start().to_ascii_lowercase().starts_with(wanted) => {
            Some(Failure::new(Outcome::Malformed, format!("HTTP {status} with {kind} instead of {wanted}")))
        }
        _ => None,
    }
}

/// Until when the next frame may take, and what it means when it does not come.
pub(crate) fn patience(timeouts: Timeouts, record: &RequestRecord) -> (At, impl FnOnce() -> Failure + use<>) {
    let last_token = record.last_token_ns();
    let (since_ns, wait) = match last_token {
        None => (record.sent_ns.unwrap_or(0), timeouts.first_token),
        Some(at_ns) => (at_ns, timeouts.inter_token),
    };
    let expired = move || match last_token {
        None => first_token_timeout(wait),
        Some(_) => {
            let words = format!("inter-token timeout: no token within {wait:?} of the last one");
            Failure::new(Outcome::Timeout, words)
        }
    };
    (Duration::from_nanos(since_ns).saturating_add(wait), expired)
}

pub(crate) fn first_token_timeout(wait: Duration) -> Failure {
    Failure::new(Outcome::Timeout, format!("first-token timeout: none within {wait:?} of sending"))
}

/// Leaves where a client has as many tokens as it stays for. Dropping the connection is how the server hears of it.
pub(crate) fn had_enough(tally: &Tally, hang_up: Option<HangUp>) -> Result<(), Failure> {
    match hang_up {
        Some(HangUp::AfterTokens(tokens)) if tally.tokens() >= tokens => Err(hung_up(hang_up)),
        _ => Ok(()),
    }
}

pub(crate) fn within_limit(received_bytes: u64) -> Result<(), Failure> {
    if received_bytes > MAX_RESPONSE_BYTES {
        let words = format!("response is larger than {MAX_RESPONSE_BYTES} bytes");
        return Err(Failure::new(Outcome::TooLarge, words));
    }
    Ok(())
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
