//! Triton's `POST /v2/models/MODEL/generate_stream` with the inputs of the TensorRT-LLM backend. Keys that are no input
//! of the model become parameters of the request, which is where the vLLM backend looks for them.
//!
//! Nothing marks the end but the end of the body, so a server that closes cleanly too early shows only by its length.

use llmlab_results::record::CountSource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Content, Delta, Generates, KeyHeader, StreamEvent, Usage, Wire, error_in, filled, json, not_scanned, text,
};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const WIRE: Wire = Wire {
    name: "triton",
    path: "/v2/models/{model}/generate_stream",
    key: KeyHeader::Bearer,
    framing: Framing::Sse,
    end_mark: None,
    counts: CountSource::ServerDetail,
    generates: Generates::Tokens,
    takes_token_ids: false,
    // The TensorRT-LLM backend takes weights and numbers of adapters, not names.
    takes_adapters: false,
    names_model: true,
    body,
    parse,
    scan: not_scanned,
};

#[derive(Serialize)]
struct Body<'a> {
    text_input: &'a str,
    max_tokens: u32,
    min_tokens: u32,
    /// No token has this id, so none ends the output.
    end_id: i32,
    /// The same for vLLM.
    ignore_eos: bool,
    stream: bool,
    exclude_input_in_output: bool,
    return_num_input_tokens: bool,
    return_num_output_tokens: bool,
}

fn body(_model: &str, request: &PlannedRequest) -> Vec<u8> {
    json(&Body {
        text_input: text(&request.prompt),
        max_tokens: request.max_tokens,
        min_tokens: request.max_tokens,
        end_id: -1,
        ignore_eos: true,
        stream: true,
        exclude_input_in_output: true,
        return_num_input_tokens: true,
        return_num_output_tokens: true,
    })
}

#[derive(Deserialize)]
struct Event {
    text_output: Option<Strings>,
    num_input_tokens: Option<Numbers>,
    /// In this response; both backends count anew in each.
    num_output_tokens: Option<Numbers>,
    error: Option<Value>,
}

/// A tensor of one element is written without brackets.
#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    One(u32),
    Many(Vec<u32>),
}

impl Numbers {
    fn first(self) -> Option<u32> {
        match self {
            Numbers::One(number) => Some(number),
            Numbers::Many(numbers) => numbers.first().copied(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Strings {
    One(String),
    Many(Vec<String>),
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    let event: Event = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(event.error.as_ref()) {
        return Ok(error);
    }
    let Some(text_output) = event.text_output else {
        return Err("neither text_output nor error in the event".into());
    };
    let prompt_tokens = event.num_input_tokens.and_then(Numbers::first);
    let text = match text_output {
        Strings::One(text) => Some(text),
        Strings::Many(texts) => texts.into_iter().next(),
    };
    Ok(StreamEvent::Delta(Delta {
        has_choice: true,
        text: filled(text.as_ref()),
        content: Content::new(text),
        tokens: event.num_output_tokens.and_then(Numbers::first),
        usage: Some(Usage { prompt_tokens, completion_tokens: None }),
        ..Delta::default()
    }))
}
