//! `POST /v1/completions`, streamed, as vLLM and its relatives speak it. The protocol of choice: prompts go as token
//! ids, so the input length is exact.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openai_common::{DONE, Forced, WireUsage, error_event};
use super::{Delta, StreamEvent};
use crate::workload::{PlannedRequest, Prompt};

pub const PATH: &str = "/v1/completions";

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: WirePrompt<'a>,
    #[serde(flatten)]
    forced: Forced,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePrompt<'a> {
    Ids(&'a [u32]),
    Text(&'a str),
}

pub fn body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    let prompt = match &request.prompt {
        Prompt::Tokens(ids) => WirePrompt::Ids(ids),
        Prompt::Text(text) => WirePrompt::Text(text),
    };
    let body = Body { model, prompt, forced: Forced::new(request.max_tokens) };
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
    text: Option<String>,
    token_ids: Option<Vec<u32>>,
    finish_reason: Option<String>,
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
    // One prompt and n = 1 are all that is ever asked for.
    if let Some(choice) = chunk.choices.and_then(|c| c.into_iter().next()) {
        delta.has_choice = true;
        delta.text = choice.text.is_some_and(|t| !t.is_empty());
        delta.token_ids = choice.token_ids.map(|ids| ids.len() as u32);
        delta.finish_reason = choice.finish_reason;
    }
    Ok(StreamEvent::Delta(delta))
}
