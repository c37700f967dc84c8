//! `POST /v1/completions`, streamed, as vLLM and its relatives speak it. The protocol of choice: prompts go as token
//! ids, so the input length is exact.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mask::Mask;
use super::openai_common::{DONE, Forced, WireUsage, error_event};
use super::openai_scan::{self, TextIn};
use super::{Content, Delta, Generates, IdsOrText, KeyHeader, StreamEvent, Wire, filled, json};
use crate::framing::Framing;
use crate::workload::{PlannedRequest, Prompt};

pub(super) const WIRE: Wire = Wire {
    name: "openai-completions",
    path: "/v1/completions",
    key: KeyHeader::Bearer,
    framing: Framing::Sse,
    end_mark: Some(DONE),
    counts: CountSource::Usage,
    generates: Generates::Tokens,
    takes_token_ids: true,
    takes_adapters: true,
    names_model: true,
    body,
    parse,
    scan,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: IdsOrText<'a>,
    #[serde(flatten)]
    forced: Forced,
    /// vLLM's extension: the answer's ids too, for the next turn of a session.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    return_token_ids: bool,
}

fn body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    let return_token_ids = request.is_followed() && matches!(request.prompt, Prompt::Tokens(_));
    let forced = Forced::new(request.max_tokens);
    json(&Body { model, prompt: IdsOrText::of(&request.prompt), forced, return_token_ids })
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

fn scan(data: &str, mask: &mut Mask) -> Option<Delta> {
    openai_scan::scan(data, TextIn::Choice, mask)
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
    // One prompt and n = 1 are all that is ever asked for.
    if let Some(choice) = chunk.choices.and_then(|c| c.into_iter().next()) {
        delta.has_choice = true;
        delta.text = filled(choice.text.as_ref());
        delta.content = Content::new(choice.text);
        delta.tokens = choice.token_ids.as_ref().map(|ids| ids.len() as u32);
        delta.token_ids = choice.token_ids.unwrap_or_default();
        delta.finish_reason = choice.finish_reason;
    }
    Ok(StreamEvent::Delta(delta))
}
