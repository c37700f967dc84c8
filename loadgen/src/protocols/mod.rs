//! Wire protocols as pure functions: a planned request to a JSON body, the data of one event to a [`StreamEvent`].
//!
//! An event is not a token: it may carry none (role, usage, finish) or many (speculative decoding, proxies). The
//! parsers only say what an event holds; `tally` turns that into counts.

pub mod openai_chat;
mod openai_common;
pub mod openai_completions;

pub(crate) use openai_common::error_words;

use crate::endpoint::Protocol;
use crate::workload::{PlannedRequest, Prompt};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    Delta(Delta),
    /// The terminator.
    Done,
    /// The server reported an error inside the stream; its words.
    Error(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The event announces a role and holds no text: not a token.
    pub role_only: bool,
    /// Non-empty text in the reasoning channel.
    pub reasoning: bool,
    /// Non-empty text in any channel (content, reasoning, tool call arguments).
    pub text: bool,
    /// Token ids in the event, where the server sends them.
    pub token_ids: Option<u32>,
    /// Token counts so far, where the event carries them.
    pub usage: Option<Usage>,
    /// False for an event without choices, i.e. the final usage event.
    pub has_choice: bool,
    pub finish_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
}

impl Protocol {
    /// Path below the server's base URL.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Protocol::OpenAiCompletions => openai_completions::PATH,
            Protocol::OpenAiChat => openai_chat::PATH,
        }
    }

    pub(crate) fn accepts(self, prompt: &Prompt) -> bool {
        match self {
            Protocol::OpenAiCompletions => true,
            Protocol::OpenAiChat => matches!(prompt, Prompt::Text(_)),
        }
    }

    /// `model` is asked for unless the request has an adapter, which servers offer as a model of its own.
    pub(crate) fn body(self, model: &str, request: &PlannedRequest) -> Vec<u8> {
        let model = request.adapter.as_ref().map_or(model, |adapter| &adapter.name);
        match self {
            Protocol::OpenAiCompletions => openai_completions::body(model, request),
            Protocol::OpenAiChat => openai_chat::body(model, request),
        }
    }

    /// `Err` says why the data is not this protocol.
    pub(crate) fn parse(self, data: &str) -> Result<StreamEvent, String> {
        match self {
            Protocol::OpenAiCompletions => openai_completions::parse(data),
            Protocol::OpenAiChat => openai_chat::parse(data),
        }
    }
}
