//! Ollama's own `POST /api/generate` and `POST /api/chat`: lines of JSON, the counts in the last one. Takes text only
//! and cannot force a length. `/api/generate` is asked for raw prompts, without the model's template.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Content, Delta, Generates, KeyHeader, Message, StreamEvent, Usage, Wire, error_in, filled, json,
    messages, not_scanned, text,
};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const GENERATE: Wire = Wire {
    name: "ollama-generate",
    path: "/api/generate",
    key: KeyHeader::Bearer,
    framing: Framing::Ndjson,
    end_mark: Some("\"done\":true"),
    counts: CountSource::ServerDetail,
    generates: Generates::Tokens,
    takes_token_ids: false,
    takes_adapters: true,
    names_model: true,
    body: generate_body,
    parse,
    scan: not_scanned,
};

pub(super) const CHAT: Wire = Wire { name: "ollama-chat", path: "/api/chat", body: chat_body, ..GENERATE };

#[derive(Serialize)]
struct GenerateBody<'a> {
    model: &'a str,
    prompt: &'a str,
    raw: bool,
    #[serde(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct ChatBody<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Common {
    stream: bool,
    /// A prompt that does not fit shall be an error, not silently a shorter one.
    truncate: bool,
    /// The same for output beyond the context.
    shift: bool,
    options: Options,
}

#[derive(Serialize)]
struct Options {
    num_predict: u32,
    temperature: f32,
}

impl Common {
    fn new(max_tokens: u32) -> Self {
        let options = Options { num_predict: max_tokens, temperature: 0.0 };
        Common { stream: true, truncate: false, shift: false, options }
    }
}

fn generate_body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    let common = Common::new(request.max_tokens);
    json(&GenerateBody { model, prompt: text(&request.prompt), raw: true, common })
}

fn chat_body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    let messages = messages(&request.prompt);
    json(&ChatBody { model, messages, common: Common::new(request.max_tokens) })
}

#[derive(Deserialize)]
struct Line {
    response: Option<String>,
    thinking: Option<String>,
    message: Option<WireMessage>,
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u32>,
    eval_count: Option<u32>,
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
struct WireMessage {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<Value>>,
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    let line: Line = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(line.error.as_ref()) {
        return Ok(error);
    }
    let Some(last) = line.done else { return Err("neither done nor error in the line".into()) };
    let message = line.message.unwrap_or_default();
    let reasoning = filled(line.thinking.as_ref()) || filled(message.thinking.as_ref());
    let text = reasoning
        || filled(line.response.as_ref())
        || filled(message.content.as_ref())
        || message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    let usage = Usage { prompt_tokens: line.prompt_eval_count, completion_tokens: line.eval_count };
    Ok(StreamEvent::Delta(Delta {
        // The last line is about the whole request; without text it carries no token of its own.
        has_choice: text,
        text,
        reasoning,
        content: Content::new(line.response.or(message.content)),
        usage: last.then_some(usage),
        finish_reason: line.done_reason,
        last,
        ..Delta::default()
    }))
}
