//! Wire protocols as pure functions: a planned request to a JSON body, the data of one event to a [`StreamEvent`].
//!
//! An event is not a token: it may carry none (role, usage, ping, finish) or many (speculative decoding, proxies). The
//! parsers only say what an event holds; `tally` turns that into counts. Each protocol is one [`Wire`] in a file of its
//! own; docs/protocols.md says what each sends, counts and cannot do.

mod anthropic;
mod embeddings;
mod kserve;
mod llamacpp;
mod mask;
mod ollama;
mod openai_chat;
mod openai_common;
mod openai_completions;
mod openai_scan;
mod sglang;
#[cfg(test)]
mod tests;
mod tgi;
mod triton;
mod websocket;

use llmlab_results::record::CountSource;
use serde_json::Value;

pub(crate) use mask::Mask;
pub(crate) use openai_common::error_words;

use crate::endpoint::Protocol;
use crate::framing::Framing;
use crate::workload::{PlannedRequest, Prompt};

/// One protocol: what is sent, how the answer is framed, read and counted.
#[derive(Debug)]
pub(crate) struct Wire {
    pub name: &'static str,
    /// Below the server's base URL. [`MODEL`] in it stands for the model's name.
    pub path: &'static str,
    pub key: KeyHeader,
    pub framing: Framing,
    /// What ends a stream, in words for errors. `None`: nothing but the end of the body.
    pub end_mark: Option<&'static str>,
    /// What the server's own counts are called in a record.
    pub counts: CountSource,
    pub generates: Generates,
    /// Prompts may be token ids, else only text.
    pub takes_token_ids: bool,
    /// A request can name an adapter.
    pub takes_adapters: bool,
    /// Requests name the model.
    pub names_model: bool,
    pub body: fn(model: &str, &PlannedRequest) -> Vec<u8>,
    /// `Err` says why the data is not this protocol.
    pub parse: fn(data: &str) -> Result<StreamEvent, String>,
    /// What `parse` says of an event of the usual shape, without content and token ids, for a fraction of the time; `None`:
    /// ask `parse`.
    pub scan: fn(data: &str, &mut Mask) -> Option<Delta>,
}

/// For protocols whose every event is parsed.
fn not_scanned(_data: &str, _mask: &mut Mask) -> Option<Delta> {
    None
}

/// In [`Wire::path`].
pub(crate) const MODEL: &str = "{model}";

/// Where an API key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyHeader {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `x-api-key: KEY`, with `anthropic-version`.
    Anthropic,
}

/// What an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generates {
    Tokens,
    /// The model only reads: no output tokens are asked for.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamEvent {
    Delta(Delta),
    /// The terminator, with nothing else in it.
    Done,
    /// The server reported an error inside the stream; its words.
    Error(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// The event announces a role and holds no text.
    pub role_only: bool,
    /// Non-empty text in the reasoning channel.
    pub reasoning: bool,
    /// Non-empty text in any channel (content, reasoning, tool call).
    pub text: bool,
    /// The text of the answer itself, without reasoning and tool calls.
    pub content: Content,
    /// Tokens in this very event, where the server says: their ids, or a number.
    pub tokens: Option<u32>,
    /// Their ids, where the server names them.
    pub token_ids: Vec<u32>,
    /// Counts of the whole request so far, where the event carries them.
    pub usage: Option<Usage>,
    /// False for an event that is not about output: ping, final usage.
    pub has_choice: bool,
    /// In the server's own words; empty counts as none.
    pub finish_reason: Option<String>,
    /// The event is also the terminator.
    pub last: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Content {
    #[default]
    None,
    /// What is new.
    New(String),
    /// All of it so far.
    SoFar(String),
}

impl Content {
    fn new(text: Option<String>) -> Content {
        text.map_or(Content::None, Content::New)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub prompt_tokens: Option<u32>,
    pub completion_tokens: Option<u32>,
}

impl Protocol {
    pub(crate) fn wire(self) -> &'static Wire {
        match self {
            Protocol::OpenAiCompletions => &openai_completions::WIRE,
            Protocol::OpenAiChat => &openai_chat::WIRE,
            Protocol::Tgi => &tgi::WIRE,
            Protocol::OllamaGenerate => &ollama::GENERATE,
            Protocol::OllamaChat => &ollama::CHAT,
            Protocol::LlamaCpp => &llamacpp::WIRE,
            Protocol::SgLang => &sglang::WIRE,
            Protocol::Triton => &triton::WIRE,
            Protocol::Anthropic => &anthropic::WIRE,
            Protocol::KServe => &kserve::WIRE,
            Protocol::OpenAiEmbeddings => &embeddings::OPENAI,
            Protocol::TeiEmbed => &embeddings::TEI,
            Protocol::OllamaEmbed => &embeddings::OLLAMA,
            Protocol::WebSocket => &websocket::WIRE,
        }
    }

    /// Reads the events of a stream both ways that there are. Of each: `None` where the quick one left it to the other; else
    /// whether they say the same, which they must.
    pub fn scans_as_it_parses(self, events: &[&str]) -> Vec<Option<bool>> {
        let mut mask = Mask::default();
        let same = |data: &&str| {
            let scanned = match mask.fits(data.as_bytes()) {
                Some(delta) => delta.clone(),
                None => (self.wire().scan)(data, &mut mask)?,
            };
            Some(match (self.wire().parse)(data) {
                Ok(StreamEvent::Delta(parsed)) => {
                    scanned == Delta { content: Content::None, token_ids: Vec::new(), ..parsed }
                }
                Ok(StreamEvent::Done | StreamEvent::Error(_)) | Err(_) => false,
            })
        };
        events.iter().map(same).collect()
    }

    /// A conversation is a list of messages; else it is one prompt.
    pub(crate) fn takes_messages(self) -> bool {
        matches!(self, Protocol::OpenAiChat | Protocol::OllamaChat | Protocol::Anthropic)
    }

    /// `model` is asked for unless the request has an adapter, which servers offer as a model of its own.
    pub(crate) fn body(self, model: &str, request: &PlannedRequest) -> Vec<u8> {
        let model = request.adapter.as_ref().map_or(model, |adapter| &adapter.name);
        (self.wire().body)(model, request)
    }
}

/// The prompt in words. One of token ids cannot be said in a protocol that takes text only and becomes empty; `drive`
/// refuses it beforehand. Messages are made for protocols that take them.
fn text(prompt: &Prompt) -> &str {
    match prompt {
        Prompt::Text(text) => text,
        Prompt::Tokens(_) | Prompt::Messages(_) => "",
    }
}

/// Ids where the prompt has them, else its text.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum IdsOrText<'a> {
    Ids(&'a [u32]),
    Text(&'a str),
}

impl<'a> IdsOrText<'a> {
    fn of(prompt: &'a Prompt) -> Self {
        match prompt {
            Prompt::Tokens(ids) => IdsOrText::Ids(ids),
            other => IdsOrText::Text(text(other)),
        }
    }
}

/// As chat protocols have it.
#[derive(serde::Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

fn messages(prompt: &Prompt) -> Vec<Message<'_>> {
    match prompt {
        Prompt::Messages(texts) => {
            let roles = ["user", "assistant"].into_iter().cycle();
            texts.iter().zip(roles).map(|(text, role)| Message { role, content: text }).collect()
        }
        other => vec![Message { role: "user", content: text(other) }],
    }
}

fn json(body: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and numbers always serialise")
}

fn filled(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

/// `{"error": ...}` in the middle of a stream; `null` is none.
fn error_in(error: Option<&Value>) -> Option<StreamEvent> {
    error.filter(|error| !error.is_null()).map(|error| StreamEvent::Error(error_words(error)))
}
