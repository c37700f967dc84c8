//! One request's tokens become text: detokenising, stop strings, the reason of the end. Runs in the request's own task,
//! never on the engine thread.

use std::sync::Arc;

use llmlab_core::request::{FinishReason, TokenId};
use llmlab_models::StreamDecoder;
use serde::Serialize;

use crate::engine::{Update, Updates};
use crate::error::ApiError;
use crate::stop_text::StopText;

/// One token and the text it released, which may be empty: an incomplete character or a possible stop string is held.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Absent when the end came without a token.
    pub token: Option<TokenId>,
    pub text: String,
    pub finish: Option<Finish>,
}

#[derive(Debug, Clone)]
pub(crate) struct Finish {
    /// `stop`, `length` or `abort`.
    pub reason: &'static str,
    /// What stopped it, if not eos or a limit.
    pub stop_reason: Option<StopReason>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Token(TokenId),
    Text(String),
}

pub(crate) struct Generation {
    updates: Updates,
    decoder: StreamDecoder,
    stop_text: StopText,
    stop_strings: Vec<String>,
    eos_ids: Arc<[TokenId]>,
    pub prompt: Arc<[TokenId]>,
    /// Tokens handed out, the one that ended the request included, as vLLM counts them.
    pub completion_tokens: u32,
    done: bool,
}

impl Generation {
    pub fn new(
        updates: Updates,
        decoder: StreamDecoder,
        stop_strings: Vec<String>,
        eos_ids: Arc<[TokenId]>,
        prompt: Arc<[TokenId]>,
    ) -> Self {
        let stop_text = StopText::new(stop_strings.clone());
        Generation {
            updates,
            decoder,
            stop_text,
            stop_strings,
            eos_ids,
            prompt,
            completion_tokens: 0,
            done: false,
        }
    }

    /// None after the piece with `finish` or after an error.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        if self.done {
            return None;
        }
        let piece = match self.updates.next().await {
            Update::Token { token, finished } => {
                self.completion_tokens += 1;
                Ok(self.token(token, finished))
            }
            Update::Finished(reason) => Ok(self.last(None, String::new(), reason)),
            Update::Failed(error) => Err(*error),
            other @ (Update::Accepted | Update::Refused(_)) => {
                panic!("{other:?} after the request was accepted")
            }
        };
        self.done = !matches!(piece, Ok(Piece { finish: None, .. }));
        Some(piece)
    }

    fn token(&mut self, token: TokenId, finished: Option<FinishReason>) -> Piece {
        // Eos and stop ids end the text; they are not part of it.
        if finished == Some(FinishReason::Stop) {
            return self.last(Some(token), String::new(), FinishReason::Stop);
        }
        let decoded = self.decoder.push(token);
        let released = self.stop_text.push(&decoded);
        if let Some(index) = released.stopped {
            self.updates.stop();
            return Piece { token: Some(token), text: released.text, finish: Some(self.stopped_by(index)) };
        }
        match finished {
            None => Piece { token: Some(token), text: released.text, finish: None },
            Some(reason) => self.last(Some(token), released.text, reason),
        }
    }

    /// Lets go of everything held back.
    fn last(&mut self, token: Option<TokenId>, mut text: String, reason: FinishReason) -> Piece {
        let flushed = self.decoder.finish();
        let released = self.stop_text.push(&flushed);
        text.push_str(&released.text);
        if let Some(index) = released.stopped {
            return Piece { token, text, finish: Some(self.stopped_by(index)) };
        }
        text.push_str(&self.stop_text.finish());
        let (reason, stop_reason) = match (reason, token) {
            (FinishReason::Stop, Some(id)) if !self.eos_ids.contains(&id) => {
                ("stop", Some(StopReason::Token(id)))
            }
            (FinishReason::Stop, _) => ("stop", None),
            (FinishReason::Length, _) => ("length", None),
            (FinishReason::Abort, _) => ("abort", None),
            (FinishReason::Error, _) => ("error", None),
        };
        Piece { token, text, finish: Some(Finish { reason, stop_reason }) }
    }

    fn stopped_by(&self, index: usize) -> Finish {
        Finish { reason: "stop", stop_reason: Some(StopReason::Text(self.stop_strings[index].clone())) }
    }
}
