//! TGI's own `POST /generate_stream`: one event a token, as `text-generation-router` 3.3.6 sends it. Takes text only and
//! cannot force a length: a model that ends early makes a request of the wrong length.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Content, Delta, Generates, KeyHeader, StreamEvent, Usage, Wire, json, not_scanned, text};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const WIRE: Wire = Wire {
    name: "tgi",
    path: "/generate_stream",
    key: KeyHeader::Bearer,
    framing: Framing::Sse,
    end_mark: Some("generated_text"),
    counts: CountSource::ServerDetail,
    generates: Generates::Tokens,
    takes_token_ids: false,
    takes_adapters: true,
    names_model: false,
    body,
    parse,
    scan: not_scanned,
};

#[derive(Serialize)]
struct Body<'a> {
    inputs: &'a str,
    parameters: Parameters<'a>,
}

#[derive(Serialize)]
struct Parameters<'a> {
    max_new_tokens: u32,
    do_sample: bool,
    /// Without it the last event has no counts.
    details: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_id: Option<&'a str>,
}

fn body(_model: &str, request: &PlannedRequest) -> Vec<u8> {
    let adapter_id = request.adapter.as_ref().map(|adapter| &*adapter.name);
    let parameters =
        Parameters { max_new_tokens: request.max_tokens, do_sample: false, details: true, adapter_id };
    json(&Body { inputs: text(&request.prompt), parameters })
}

#[derive(Deserialize)]
struct Event {
    token: Option<Value>,
    generated_text: Option<String>,
    details: Option<Details>,
    error: Option<String>,
    error_type: Option<String>,
}

#[derive(Deserialize)]
struct Details {
    finish_reason: Option<String>,
    generated_tokens: Option<u32>,
    input_length: Option<u32>,
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    let event: Event = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(words) = event.error {
        let kind = event.error_type.map_or(String::new(), |kind| format!(" ({kind})"));
        return Ok(StreamEvent::Error(words + &kind));
    }
    if event.token.is_none() && event.generated_text.is_none() {
        return Err("neither token, generated_text nor error in the event".into());
    }
    let details = event.details.as_ref();
    Ok(StreamEvent::Delta(Delta {
        has_choice: event.token.is_some(),
        // Also the end-of-sequence token, which has no text of its own but was generated and is counted.
        text: event.token.is_some(),
        content: Content::new(event.token.as_ref().and_then(|t| Some(t.get("text")?.as_str()?.to_owned()))),
        tokens: event.token.is_some().then_some(1),
        usage: details
            .map(|d| Usage { prompt_tokens: d.input_length, completion_tokens: d.generated_tokens }),
        finish_reason: event.details.and_then(|d| d.finish_reason),
        last: event.generated_text.is_some(),
        ..Delta::default()
    }))
}
