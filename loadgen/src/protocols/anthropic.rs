//! Anthropic's `POST /v1/messages`, which vLLM, SGLang, llama.cpp and Ollama speak too. Takes text only and cannot force
//! a length. A delta may hold several tokens and nothing says how many; the total is in `message_delta`.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Content, Delta, Generates, KeyHeader, Message, StreamEvent, Usage, Wire, error_words, filled, json,
    messages, not_scanned,
};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const WIRE: Wire = Wire {
    name: "anthropic",
    path: "/v1/messages",
    key: KeyHeader::Anthropic,
    framing: Framing::Sse,
    end_mark: Some("message_stop"),
    counts: CountSource::Usage,
    generates: Generates::Tokens,
    takes_token_ids: false,
    takes_adapters: true,
    names_model: true,
    body,
    parse,
    scan: not_scanned,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    messages: Vec<Message<'a>>,
    temperature: f32,
    stream: bool,
}

fn body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    let messages = messages(&request.prompt);
    json(&Body { model, max_tokens: request.max_tokens, messages, temperature: 0.0, stream: true })
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    message: Option<MessageStart>,
    content_block: Option<ContentBlock>,
    delta: Option<WireDelta>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct MessageStart {
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct ContentBlock {
    /// Of a tool; the model wrote it.
    name: Option<String>,
}

/// `signature` is the server's and no token.
#[derive(Default, Deserialize)]
struct WireDelta {
    text: Option<String>,
    thinking: Option<String>,
    partial_json: Option<String>,
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct WireUsage {
    input_tokens: Option<u32>,
    cache_creation_input_tokens: Option<u32>,
    cache_read_input_tokens: Option<u32>,
    output_tokens: Option<u32>,
}

impl WireUsage {
    /// `input_tokens` leaves out what went into the prompt cache or came from it.
    fn prompt_tokens(&self) -> Option<u32> {
        let cached = [self.cache_creation_input_tokens, self.cache_read_input_tokens];
        let cached = cached.into_iter().flatten().fold(0, u32::saturating_add);
        self.input_tokens.map(|tokens| tokens.saturating_add(cached))
    }
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    let event: Event = serde_json::from_str(data).map_err(|e| e.to_string())?;
    let usage = event.usage.as_ref();
    let delta = match event.r#type.as_str() {
        "error" => return Ok(StreamEvent::Error(error_words(&event.error.unwrap_or_default()))),
        "message_stop" => return Ok(StreamEvent::Done),
        // Its `output_tokens` is a small number from before the answer and no count.
        "message_start" => {
            let prompt_tokens = event.message.and_then(|m| m.usage).and_then(|u| u.prompt_tokens());
            let usage = Usage { prompt_tokens, completion_tokens: None };
            Delta { role_only: true, usage: Some(usage), ..Delta::default() }
        }
        "content_block_start" => {
            let text = event.content_block.is_some_and(|block| filled(block.name.as_ref()));
            Delta { has_choice: true, text, ..Delta::default() }
        }
        "content_block_delta" => {
            let wire = event.delta.unwrap_or_default();
            let reasoning = filled(wire.thinking.as_ref());
            let text = reasoning || filled(wire.text.as_ref()) || filled(wire.partial_json.as_ref());
            Delta { has_choice: true, reasoning, text, content: Content::new(wire.text), ..Delta::default() }
        }
        "message_delta" => Delta {
            usage: usage
                .map(|u| Usage { prompt_tokens: u.prompt_tokens(), completion_tokens: u.output_tokens }),
            finish_reason: event.delta.and_then(|delta| delta.stop_reason),
            ..Delta::default()
        },
        // `ping`, `content_block_stop`, and whatever later versions add, as the protocol asks of its clients.
        _ => Delta::default(),
    };
    Ok(StreamEvent::Delta(delta))
}
