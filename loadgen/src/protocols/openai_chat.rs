//! `POST /v1/chat/completions`, streamed. Takes text only; the server's chat template adds tokens, so the prompt is
//! longer than planned and its length is known from usage.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mask::Mask;
use super::openai_common::{DONE, Forced, WireUsage, error_event};
use super::openai_scan::{self, TextIn};
use super::{Content, Delta, Generates, KeyHeader, Message, StreamEvent, Wire, filled, json, messages};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const WIRE: Wire = Wire {
    name: "openai-chat",
    path: "/v1/chat/completions",
    key: KeyHeader::Bearer,
    framing: Framing::Sse,
    end_mark: Some(DONE),
    counts: CountSource::Usage,
    generates: Generates::Tokens,
    takes_token_ids: false,
    takes_adapters: true,
    names_model: true,
    body,
    parse,
    scan,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(flatten)]
    forced: Forced,
}

fn body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    json(&Body { model, messages: messages(&request.prompt), forced: Forced::new(request.max_tokens) })
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
    object: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<WireDelta>,
    token_ids: Option<Vec<u32>>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct WireDelta {
    role: Option<String>,
    content: Option<String>,
    /// vLLM since 0.11; everybody else still says `reasoning_content`.
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

impl ToolCall {
    /// The model wrote the name and the arguments; an event with neither only opens or closes the call.
    fn is_generated(&self) -> bool {
        self.function.as_ref().is_some_and(|f| filled(f.name.as_ref()) || filled(f.arguments.as_ref()))
    }
}

fn scan(data: &str, mask: &mut Mask) -> Option<Delta> {
    openai_scan::scan(data, TextIn::Delta, mask)
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    if data.trim() == DONE {
        return Ok(StreamEvent::Done);
    }
    let chunk: Chunk = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_event(chunk.error, chunk.object.as_deref(), chunk.message) {
        return Ok(error);
    }
    if chunk.choices.is_none() && chunk.usage.is_none() {
        return Err("neither choices, usage nor error in the event".into());
    }
    let mut delta = Delta { usage: chunk.usage.map(Into::into), ..Delta::default() };
    if let Some(choice) = chunk.choices.and_then(|c| c.into_iter().next()) {
        let wire = choice.delta.unwrap_or_default();
        delta.has_choice = true;
        delta.reasoning = filled(wire.reasoning.as_ref()) || filled(wire.reasoning_content.as_ref());
        delta.text = delta.reasoning
            || filled(wire.content.as_ref())
            || filled(wire.refusal.as_ref())
            || wire.tool_calls.is_some_and(|calls| calls.iter().any(ToolCall::is_generated));
        delta.role_only = wire.role.is_some() && !delta.text;
        delta.content = Content::new(wire.content);
        delta.tokens = choice.token_ids.map(|ids| ids.len() as u32);
        delta.finish_reason = choice.finish_reason;
    }
    Ok(StreamEvent::Delta(delta))
}
