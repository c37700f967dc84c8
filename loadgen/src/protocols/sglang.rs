//! SGLang's own `POST /generate`. The text of an event is all text so far, so only `meta_info.completion_tokens` says
//! what is new in it.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openai_common::DONE;
use super::{
    Content, Delta, Generates, KeyHeader, StreamEvent, Usage, Wire, error_in, filled, json, not_scanned, text,
};
use crate::framing::Framing;
use crate::workload::{PlannedRequest, Prompt};

pub(super) const WIRE: Wire = Wire {
    name: "sglang",
    path: "/generate",
    key: KeyHeader::Bearer,
    framing: Framing::Sse,
    end_mark: Some(DONE),
    counts: CountSource::ServerDetail,
    generates: Generates::Tokens,
    takes_token_ids: true,
    takes_adapters: true,
    names_model: false,
    body,
    parse,
    scan: not_scanned,
};

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    prompt: WirePrompt<'a>,
    sampling_params: SamplingParams,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_path: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum WirePrompt<'a> {
    InputIds(&'a [u32]),
    Text(&'a str),
}

#[derive(Serialize)]
struct SamplingParams {
    max_new_tokens: u32,
    min_new_tokens: u32,
    ignore_eos: bool,
    temperature: f32,
}

fn body(_model: &str, request: &PlannedRequest) -> Vec<u8> {
    let prompt = match &request.prompt {
        Prompt::Tokens(ids) => WirePrompt::InputIds(ids),
        other => WirePrompt::Text(text(other)),
    };
    let tokens = request.max_tokens;
    let sampling_params =
        SamplingParams { max_new_tokens: tokens, min_new_tokens: tokens, ignore_eos: true, temperature: 0.0 };
    let lora_path = request.adapter.as_ref().map(|adapter| &*adapter.name);
    json(&Body { prompt, sampling_params, stream: true, lora_path })
}

#[derive(Deserialize)]
struct Event {
    text: Option<String>,
    meta_info: Option<MetaInfo>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct MetaInfo {
    completion_tokens: u32,
    prompt_tokens: Option<u32>,
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize)]
struct FinishReason {
    r#type: String,
    message: Option<String>,
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    if data.trim() == DONE {
        return Ok(StreamEvent::Done);
    }
    let event: Event = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(event.error.as_ref()) {
        return Ok(error);
    }
    let Some(meta) = event.meta_info else { return Err("neither meta_info nor error in the event".into()) };
    if let Some(FinishReason { r#type, message: Some(words) }) = &meta.finish_reason
        && r#type == "abort"
    {
        return Ok(StreamEvent::Error(format!("aborted: {words}")));
    }
    Ok(StreamEvent::Delta(Delta {
        has_choice: true,
        text: filled(event.text.as_ref()),
        content: event.text.map_or(Content::None, Content::SoFar),
        usage: Some(Usage {
            prompt_tokens: meta.prompt_tokens,
            completion_tokens: Some(meta.completion_tokens),
        }),
        finish_reason: meta.finish_reason.map(|reason| reason.r#type),
        ..Delta::default()
    }))
}
