//! llama.cpp's own `POST /completion`. Every event carries the number of tokens generated so far, which is exact also
//! where speculation or held-back text puts several into one event.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Content, Delta, Generates, IdsOrText, KeyHeader, StreamEvent, Usage, Wire, error_in, filled, json,
    not_scanned,
};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const WIRE: Wire = Wire {
    name: "llamacpp",
    path: "/completion",
    key: KeyHeader::Bearer,
    framing: Framing::Sse,
    end_mark: Some("\"stop\":true"),
    counts: CountSource::ServerDetail,
    generates: Generates::Tokens,
    takes_token_ids: true,
    // Adapters are chosen by the number they got when the server started, not by name.
    takes_adapters: false,
    names_model: false,
    body,
    parse,
    scan: not_scanned,
};

#[derive(Serialize)]
struct Body<'a> {
    prompt: IdsOrText<'a>,
    n_predict: u32,
    ignore_eos: bool,
    temperature: f32,
    stream: bool,
}

fn body(_model: &str, request: &PlannedRequest) -> Vec<u8> {
    let prompt = IdsOrText::of(&request.prompt);
    json(&Body { prompt, n_predict: request.max_tokens, ignore_eos: true, temperature: 0.0, stream: true })
}

#[derive(Deserialize)]
struct Event {
    content: Option<String>,
    stop: Option<bool>,
    tokens_predicted: Option<u32>,
    tokens_evaluated: Option<u32>,
    stop_type: Option<String>,
    error: Option<Value>,
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    let event: Event = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(event.error.as_ref()) {
        return Ok(error);
    }
    let Some(last) = event.stop else { return Err("neither stop nor error in the event".into()) };
    Ok(StreamEvent::Delta(Delta {
        has_choice: true,
        text: filled(event.content.as_ref()),
        content: Content::new(event.content),
        usage: Some(Usage {
            prompt_tokens: event.tokens_evaluated,
            completion_tokens: event.tokens_predicted,
        }),
        finish_reason: event.stop_type.filter(|_| last),
        last,
        ..Delta::default()
    }))
}
