//! `POST /v1/chat/completions`, streamed. Takes text only; the server's chat template adds tokens, so the prompt is
//! longer than planned and its length is known from usage.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openai_common::{DONE, Forced, WireUsage, error_event};
use super::{Delta, StreamEvent};
use crate::workload::{PlannedRequest, Prompt};

pub const PATH: &str = "/v1/chat/completions";

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    #[serde(flatten)]
    forced: Forced,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// A prompt of token ids cannot be said in this protocol and becomes an empty message; `drive` refuses it beforehand.
pub fn body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    let content = match &request.prompt {
        Prompt::Text(text) => text.as_str(),
        Prompt::Tokens(_) => "",
    };
    let messages = [Message { role: "user", content }];
    let body = Body { model, messages, forced: Forced::new(request.max_tokens) };
    serde_json::to_vec(&body).expect("strings and numbers always serialise")
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
    tool_calls: Option<Vec<Value>>,
}

/// Reads the data of one event. `Err` says why it is not this protocol.
pub fn parse(data: &str) -> Result<StreamEvent, String> {
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
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
        delta.has_choice = true;
        delta.reasoning = filled(&wire.reasoning) || filled(&wire.reasoning_content);
        delta.text =
            delta.reasoning || filled(&wire.content) || wire.tool_calls.is_some_and(|c| !c.is_empty());
        delta.role_only = wire.role.is_some() && !delta.text;
        delta.token_ids = choice.token_ids.map(|ids| ids.len() as u32);
        delta.finish_reason = choice.finish_reason;
    }
    Ok(StreamEvent::Delta(delta))
}
