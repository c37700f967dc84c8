//! Completions over a WebSocket, by the convention in docs/protocols.md: the request in a text frame, its events in text
//! frames at their times, and the faults that such a connection can have.

use std::io;
use std::sync::atomic::Ordering;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::answering::Asked;
use crate::connection::{Running, Shared};
use crate::fault::Fault;
use crate::http::Request;
use crate::log::Entry;
use crate::openai::{self, Answer, COMPLETIONS};
use crate::sending::HUGE_EVENT_BYTES;
use crate::stream::Stream;
use crate::timing::Timetable;

pub(crate) const STREAM: &str = "/v1/stream";
/// What is agreed on in the handshake.
const SUBPROTOCOL: &str = "llmlab.v1";

type Socket<'a> = WebSocketStream<&'a mut Stream>;

/// Serves a connection whose handshake asked with `key`. `rest` is what had been read beyond it.
pub(crate) async fn serve(stream: &mut Stream, shared: &Shared, key: &str, rest: Vec<u8>) -> io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-protocol: {SUBPROTOCOL}\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut socket = WebSocketStream::from_partially_read(stream, rest, Role::Server, None).await;
    let mut reused = false;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        if !answer(&mut socket, shared, &text, reused).await? {
            return Ok(());
        }
        reused = true;
    }
    Ok(())
}

/// False when the connection is over.
async fn answer(socket: &mut Socket<'_>, shared: &Shared, frame: &str, reused: bool) -> io::Result<bool> {
    let read = shared.clock.now();
    let number = shared.next_number();
    let _running = Running::of(shared);
    let fault = shared.config.faults.draw(&mut shared.stream(number, 1), reused);
    let id =
        serde_json::from_str::<Value>(frame).ok().and_then(|body| body["id"].as_str().map(str::to_owned));
    let entry = Entry::new(id, shared.monotonic_ns(read), fault, shared.log.clone());
    let timetable = Timetable::new(&shared.config.timing, read, shared.stream(number, 0));
    shared.alarms.until(timetable.at_work()).await;
    match fault {
        Some(Fault::CloseReused) => return Ok(false),
        Some(Fault::ResetBeforeHeaders) => {
            socket.get_mut().tcp().set_zero_linger()?;
            return Ok(false);
        }
        Some(Fault::Http429) => return close(socket, CloseCode::Again, "too many requests").await,
        Some(Fault::Http500) => return close(socket, CloseCode::Error, "internal error").await,
        _ => {}
    }
    let request = Request { path: COMPLETIONS.into(), body: frame.as_bytes().to_vec(), ..Request::default() };
    let request = match openai::Request::read(&request) {
        Ok(request) => request,
        Err(words) => return close(socket, CloseCode::Policy, &words).await,
    };
    let asked = &request.asked;
    shared.counts.count_prompt(asked.prompt_tokens);
    let each = shared.config.timing.tokens_per_event.max(1);
    let response = Answer::new(&request, number, &shared.config.model, each, true);
    Sending { socket, shared, entry, timetable, fault }.stream(asked, &response).await
}

async fn close(socket: &mut Socket<'_>, code: CloseCode, reason: &str) -> io::Result<bool> {
    // A control frame holds 125 bytes, two of them for the code.
    let reason: String = reason.chars().take(40).collect();
    let frame = CloseFrame { code, reason: reason.into() };
    socket.close(Some(frame)).await.map_err(io::Error::other)?;
    // The other side's close, or its end.
    while let Some(Ok(_)) = socket.next().await {}
    Ok(false)
}

struct Sending<'a, 's> {
    socket: &'a mut Socket<'s>,
    shared: &'a Shared,
    entry: Entry,
    timetable: Timetable<'a>,
    fault: Option<Fault>,
}

impl Sending<'_, '_> {
    async fn stream(mut self, asked: &Asked, response: &Answer<'_>) -> io::Result<bool> {
        let per_event = self.shared.config.timing.tokens_per_event.max(1);
        let events = asked.tokens.div_ceil(per_event);
        let mut so_far = 0;
        for event in 0..events {
            let tokens = per_event.min(asked.tokens - so_far);
            so_far += tokens;
            let text = response.tokens_json(tokens, so_far);
            let due = self.timetable.next_event();
            self.shared.alarms.until(due).await;
            if event == events / 2 && !self.strike().await? {
                return Ok(false);
            }
            self.shared.counts.tokens.fetch_add(u64::from(tokens), Ordering::Relaxed);
            self.entry.served.due_ns.push(self.shared.monotonic_ns(due));
            self.entry.served.sent_ns.push(self.shared.monotonic_ns(self.shared.clock.now()));
            self.text(text).await?;
        }
        if let Some(usage) = response.usage_json() {
            self.text(usage).await?;
        }
        if self.fault == Some(Fault::NoDone) {
            return Ok(false);
        }
        self.entry.served.done_ns = Some(self.shared.monotonic_ns(self.shared.clock.now()));
        self.text("[DONE]".into()).await?;
        Ok(true)
    }

    async fn text(&mut self, text: String) -> io::Result<()> {
        self.socket.send(Message::text(text)).await.map_err(io::Error::other)
    }

    /// What happens in the middle of the stream. False when that is the end.
    async fn strike(&mut self) -> io::Result<bool> {
        match self.fault {
            Some(Fault::CutMidEvent) => return Ok(false),
            // Frames do not drip; silence is as slow.
            Some(Fault::SlowDrip) => {
                while let Some(Ok(_)) = self.socket.next().await {}
                return Ok(false);
            }
            Some(Fault::HugeEvent) => self.text("x".repeat(HUGE_EVENT_BYTES)).await?,
            Some(Fault::MalformedJson) => self.text(r#"{"choices":[{"index":0,"#.into()).await?,
            _ => {}
        }
        Ok(true)
    }
}
