//! The response bodies of `/v1/completions` and `/v1/chat/completions`, field for field as vLLM 0.33 sends them, and the
//! stream of server-sent events made of them.
//!
//! Every token is an event of its own, also when its text is empty, so that a client's inter-token times are the
//! engine's. The finish reason travels with the last token. Request ids end in the engine's request number, which is
//! the `id` in the step log.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde::Serialize;

use crate::error::ApiError;
use crate::generation::{Finish, Generation, Piece, StopReason};
use crate::params::UsageMode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Completion,
    Chat,
}

/// What is the same in every body of one response.
pub(crate) struct Reply {
    pub kind: Kind,
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    pub model: String,
    pub usage: UsageMode,
    pub return_token_ids: bool,
}

#[derive(Serialize)]
struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: u32,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<&'a StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

/// `delta` in a stream, `message` otherwise.
#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<&'a StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: &'a str,
}

/// The part of a choice that differs between bodies.
struct Part<'a> {
    text: &'a str,
    tokens: &'a [u32],
    finish: Option<&'a Finish>,
    role: bool,
    /// The prompt's ids go out once.
    prompt: Option<&'a [u32]>,
}

impl Reply {
    /// Waits for the end and answers with one body. A client that leaves drops this future and with it the request.
    pub async fn whole(self, mut generation: Generation) -> Result<Response, ApiError> {
        let (mut text, mut tokens, mut finish) = (String::new(), Vec::new(), None);
        while let Some(piece) = generation.next().await {
            let piece = piece?;
            text.push_str(&piece.text);
            tokens.extend(piece.token);
            finish = piece.finish;
        }
        let prompt = generation.prompt.clone();
        let part =
            Part { text: &text, tokens: &tokens, finish: finish.as_ref(), role: true, prompt: Some(&prompt) };
        let body = self.encode(&part, Some(usage(&generation)), false);
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    pub fn stream(self, generation: Generation) -> Response {
        let events = Events { reply: self, generation, next: Next::First };
        let frames = futures_util::stream::unfold(events, |mut events| async move {
            let frame = events.next().await?;
            Some((Ok::<Bytes, std::convert::Infallible>(frame), events))
        });
        let headers =
            [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(frames)).into_response()
    }

    fn encode(&self, part: &Part<'_>, usage: Option<Usage>, streaming: bool) -> Vec<u8> {
        let finish_reason = part.finish.map(|f| f.reason);
        let stop_reason = part.finish.and_then(|f| f.stop_reason.as_ref());
        let token_ids = Some(part.tokens).filter(|ids| self.return_token_ids && !ids.is_empty());
        let prompt_token_ids = part.prompt.filter(|_| self.return_token_ids);
        match self.kind {
            Kind::Completion => {
                let choice = CompletionChoice {
                    index: 0,
                    text: part.text,
                    logprobs: None,
                    finish_reason,
                    stop_reason,
                    token_ids,
                    prompt_token_ids,
                };
                self.body("text_completion", &[choice], usage, None)
            }
            Kind::Chat => {
                let message = Message { role: part.role.then_some("assistant"), content: part.text };
                let (delta, message) = if streaming { (Some(message), None) } else { (None, Some(message)) };
                let choice = ChatChoice {
                    index: 0,
                    delta,
                    message,
                    logprobs: None,
                    finish_reason,
                    stop_reason,
                    token_ids,
                };
                self.body(self.chat_object(streaming), &[choice], usage, prompt_token_ids)
            }
        }
    }

    fn chat_object(&self, streaming: bool) -> &'static str {
        if streaming { "chat.completion.chunk" } else { "chat.completion" }
    }

    /// The last chunk under `include_usage`: no choices.
    fn encode_usage(&self, usage: Usage) -> Vec<u8> {
        let object = match self.kind {
            Kind::Completion => "text_completion",
            Kind::Chat => self.chat_object(true),
        };
        self.body::<CompletionChoice<'_>>(object, &[], Some(usage), None)
    }

    fn body<C: Serialize>(
        &self,
        object: &'static str,
        choices: &[C],
        usage: Option<Usage>,
        prompt_token_ids: Option<&[u32]>,
    ) -> Vec<u8> {
        let body = Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
            prompt_token_ids,
        };
        serde_json::to_vec(&body).expect("strings and numbers always encode")
    }
}

fn usage(generation: &Generation) -> Usage {
    let prompt_tokens = generation.prompt.len();
    let completion_tokens = generation.completion_tokens;
    Usage { prompt_tokens, total_tokens: prompt_tokens + completion_tokens as usize, completion_tokens }
}

/// The events of one streamed response. Dropped with the connection, which cancels the request.
struct Events {
    reply: Reply,
    generation: Generation,
    next: Next,
}

enum Next {
    /// Nothing was sent yet.
    First,
    /// The chat role chunk went out; this piece is due at once.
    Held(Piece),
    Piece,
    Usage,
    Done,
    End,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.next, Next::End) {
            Next::First => match self.generation.next().await {
                // As in vLLM, the role chunk waits for the first token.
                Some(Ok(piece)) if self.reply.kind == Kind::Chat => {
                    self.next = Next::Held(piece);
                    Some(self.role_event())
                }
                Some(Ok(piece)) => Some(self.piece_event(&piece, true)),
                Some(Err(error)) => Some(self.error_event(&error)),
                None => None,
            },
            Next::Held(piece) => Some(self.piece_event(&piece, false)),
            Next::Piece => match self.generation.next().await {
                Some(Ok(piece)) => Some(self.piece_event(&piece, false)),
                Some(Err(error)) => Some(self.error_event(&error)),
                None => None,
            },
            Next::Usage => {
                self.next = Next::Done;
                Some(event(&self.reply.encode_usage(usage(&self.generation))))
            }
            Next::Done => Some(Bytes::from_static(b"data: [DONE]\n\n")),
            Next::End => None,
        }
    }

    fn role_event(&self) -> Bytes {
        let none_yet = Usage {
            completion_tokens: 0,
            total_tokens: self.generation.prompt.len(),
            ..usage(&self.generation)
        };
        let part =
            Part { text: "", tokens: &[], finish: None, role: true, prompt: Some(&self.generation.prompt) };
        let running = (self.reply.usage == UsageMode::Continuous).then_some(none_yet);
        event(&self.reply.encode(&part, running, true))
    }

    fn piece_event(&mut self, piece: &Piece, first: bool) -> Bytes {
        self.next = match (&piece.finish, self.reply.usage) {
            (None, _) => Next::Piece,
            (Some(_), UsageMode::Never) => Next::Done,
            (Some(_), UsageMode::AtEnd | UsageMode::Continuous) => Next::Usage,
        };
        let part = Part {
            text: &piece.text,
            tokens: piece.token.as_slice(),
            finish: piece.finish.as_ref(),
            role: false,
            prompt: first.then_some(&*self.generation.prompt),
        };
        let running = (self.reply.usage == UsageMode::Continuous).then(|| usage(&self.generation));
        event(&self.reply.encode(&part, running, true))
    }

    /// The status line is long gone, so the error is an event, followed by the usual end.
    fn error_event(&mut self, error: &ApiError) -> Bytes {
        self.next = Next::Done;
        event(error.body().to_string().as_bytes())
    }
}

fn event(json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len() + 8);
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
    out.into()
}
