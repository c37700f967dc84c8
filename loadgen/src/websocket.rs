//! The exchange of one request over a WebSocket: a text frame with JSON out, text frames with chunks in. Connections are
//! kept for the next request, one at a time as over HTTP. The convention is written down in docs/protocols.md.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{SinkExt, StreamExt};
use llmlab_results::record::{Outcome, RequestRecord};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::abandon::HangUp;
use crate::answer::{Answer, MAX_EVENT_BYTES};
use crate::client::{Client, first_token_timeout, had_enough, patience, within_limit};
use crate::endpoint::request_id;
use crate::http::{Duplex, MAX_IDLE};
use crate::issuer::At;
use crate::tally::{Failure, Tally, ns};

/// What client and server must agree on in the handshake.
pub(crate) const SUBPROTOCOL: &str = "llmlab.v1";

type Socket = WebSocketStream<Box<dyn Duplex>>;

/// Open connections that no request uses, most recently used last.
#[derive(Default)]
pub(crate) struct Sockets(Mutex<Vec<(At, Socket)>>);

impl Sockets {
    fn lock(&self) -> MutexGuard<'_, Vec<(At, Socket)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, now: At) -> Option<Socket> {
        let mut idle = self.lock();
        idle.retain(|(since, _)| now.saturating_sub(*since) <= MAX_IDLE);
        idle.pop().map(|(_, socket)| socket)
    }
}

/// Where an exchange ended.
enum End {
    Done,
    /// A kept connection was gone before anything came back.
    Stale,
}

impl Client<'_> {
    /// Sends the request in a frame and reads frames until the stream ends.
    pub(crate) async fn converse(
        &self,
        tally: &mut Tally,
        body: &[u8],
        hang_up: Option<HangUp>,
    ) -> Result<(), Failure> {
        let mut idle = self.sockets.take(self.clock.now());
        loop {
            let reused = idle.is_some();
            let socket = match idle.take() {
                Some(socket) => socket,
                None => self.open_socket(tally).await?,
            };
            tally.record.http_status = Some(101);
            match self.over(socket, reused, tally, body, hang_up).await? {
                End::Done => return Ok(()),
                End::Stale => tally.record.resends = 1,
            }
        }
    }

    /// Connects and shakes hands, which is recorded as the connection's time and no part of the answer.
    async fn open_socket(&self, tally: &mut Tally) -> Result<Socket, Failure> {
        let start = self.clock.now();
        let wait = self.endpoint.timeouts.connect;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_EVENT_BYTES))
            .max_frame_size(Some(MAX_EVENT_BYTES));
        let opening = async {
            let stream = self.pool.duplex().await?;
            let shaken = client_async_with_config(self.template.upgrade(), stream, Some(config)).await;
            shaken.map(|(socket, _)| socket).map_err(|error| refused(error, &mut tally.record))
        };
        let socket = tokio::time::timeout(wait, opening).await.map_err(|_| {
            Failure::new(Outcome::Timeout, format!("connect timeout: no WebSocket within {wait:?}"))
        })??;
        tally.record.connect_ns = Some(ns(self.clock.now().saturating_sub(start)));
        Ok(socket)
    }

    async fn over(
        &self,
        mut socket: Socket,
        reused: bool,
        tally: &mut Tally,
        body: &[u8],
        hang_up: Option<HangUp>,
    ) -> Result<End, Failure> {
        let frame = Message::text(self.frame(&tally.record, body));
        let sent = self.clock.now();
        if tally.record.resends == 0 && tally.record.sent_ns.replace(ns(sent)).is_none() {
            self.observer.sent(tally.record.index);
        }
        let wait = self.endpoint.timeouts.first_token;
        let deadline = self.clock.deadline(sent.saturating_add(wait));
        match tokio::time::timeout_at(deadline, socket.send(frame)).await {
            Err(_) => return Err(first_token_timeout(wait)),
            Ok(Err(_)) if reused => return Ok(End::Stale),
            Ok(Err(error)) => return Err(broken(&error, Outcome::NoResponse)),
            Ok(Ok(())) => {}
        }
        let mut answer = Answer::new(self.endpoint.protocol.wire(), self.observer);
        let mut received_bytes = 0;
        loop {
            let (until, on_expiry) = patience(self.endpoint.timeouts, &tally.record);
            let Ok(message) = tokio::time::timeout_at(self.clock.deadline(until), socket.next()).await else {
                return Err(on_expiry());
            };
            let at = self.clock.now();
            let silent = tally.record.first_byte_ns.is_none();
            match message {
                Some(Ok(Message::Text(text))) => {
                    tally.record.first_byte_ns.get_or_insert(ns(at));
                    received_bytes += text.len() as u64;
                    if answer.message(tally, at, &text)? {
                        self.sockets.lock().push((at, socket));
                        return Ok(End::Done);
                    }
                    had_enough(tally, hang_up)?;
                    within_limit(received_bytes)?;
                }
                Some(Ok(Message::Binary(_))) => {
                    return Err(Failure::new(Outcome::Malformed, "a binary frame instead of text"));
                }
                // The answer to a ping goes out by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) if reused && silent && is_idle_close(frame.as_ref()) => {
                    return Ok(End::Stale);
                }
                Some(Ok(Message::Close(frame))) => return closed(tally, at, frame.as_ref()),
                Some(Err(_)) | None if reused && silent => return Ok(End::Stale),
                Some(Err(error)) => {
                    let outcome = if silent { Outcome::NoResponse } else { Outcome::StreamCut };
                    return Err(broken(&error, outcome));
                }
                None => {
                    let outcome = if silent { Outcome::NoResponse } else { Outcome::StreamCut };
                    return Err(Failure::new(outcome, "connection closed without a close frame"));
                }
            }
        }
    }

    /// The request's body with its name in it, as headers cannot be sent any more.
    fn frame(&self, record: &RequestRecord, body: &[u8]) -> String {
        let id = request_id(self.clock.start_monotonic_ns, record.index);
        let again = if record.resends > 0 { "-again" } else { "" };
        let object = String::from_utf8_lossy(body);
        format!(r#"{{"id":"{id}{again}",{}"#, object.strip_prefix('{').unwrap_or(&object))
    }
}

/// A server that had enough of waiting, and not of this request.
fn is_idle_close(frame: Option<&CloseFrame>) -> bool {
    frame.is_none_or(|frame| matches!(frame.code, CloseCode::Normal | CloseCode::Away))
}

/// A close with code 1000 may stand for the terminator; any other code is the server giving up.
fn closed(tally: &mut Tally, at: At, frame: Option<&CloseFrame>) -> Result<End, Failure> {
    let code = frame.map(|frame| frame.code);
    match code {
        Some(CloseCode::Normal) if !tally.record.events.is_empty() => {
            tally.record.done_ns = Some(ns(at));
            Ok(End::Done)
        }
        Some(CloseCode::Normal) => {
            Err(Failure::new(Outcome::NoTerminator, "closed with code 1000 before any token"))
        }
        code => {
            let code = code.map_or_else(|| "no code".to_owned(), |code| format!("code {}", u16::from(code)));
            let reason = frame.map(|frame| frame.reason.as_str()).unwrap_or_default();
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            Err(Failure::new(Outcome::StreamCut, format!("server closed with {code}{reason}")))
        }
    }
}

/// A handshake that failed. A server that answers with a status has said why.
fn refused(error: Error, record: &mut RequestRecord) -> Failure {
    match error {
        Error::Http(response) => {
            let status = response.status();
            record.http_status = Some(status.as_u16());
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Failure::new(Outcome::Http, format!("HTTP {status} to the WebSocket handshake: {body}"))
        }
        Error::Io(error) => Failure::new(Outcome::Connect, format!("WebSocket handshake: {error}")),
        error => Failure::new(Outcome::Malformed, format!("WebSocket handshake: {error}")),
    }
}

/// A connection that failed; `outcome` unless what came is no WebSocket or too much.
fn broken(error: &Error, outcome: Outcome) -> Failure {
    let outcome = match error {
        Error::Capacity(_) => Outcome::TooLarge,
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => outcome,
        Error::Protocol(_) | Error::Utf8(_) | Error::AttackAttempt => Outcome::Malformed,
        _ => outcome,
    };
    Failure::new(outcome, format!("WebSocket: {error}"))
}
