//! Embeddings: OpenAI's `POST /v1/embeddings`, `POST /embed` of text-embeddings-inference and Ollama's `POST /api/embed`.
//! One answer in one piece and no output tokens; what is measured is the time to the whole answer.

use llmlab_results::record::CountSource;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Delta, Generates, IdsOrText, KeyHeader, StreamEvent, Usage, Wire, error_in, json, not_scanned, text,
};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const OPENAI: Wire = Wire {
    name: "openai-embeddings",
    path: "/v1/embeddings",
    key: KeyHeader::Bearer,
    framing: Framing::Json,
    end_mark: None,
    counts: CountSource::Usage,
    generates: Generates::Nothing,
    takes_token_ids: true,
    takes_adapters: true,
    names_model: true,
    body: openai_body,
    parse: openai,
    scan: not_scanned,
};

pub(super) const TEI: Wire = Wire {
    name: "tei-embed",
    path: "/embed",
    counts: CountSource::ServerDetail,
    takes_token_ids: false,
    takes_adapters: false,
    names_model: false,
    body: tei_body,
    parse: tei,
    ..OPENAI
};

pub(super) const OLLAMA: Wire = Wire {
    name: "ollama-embed",
    path: "/api/embed",
    counts: CountSource::ServerDetail,
    takes_token_ids: false,
    takes_adapters: false,
    body: ollama_body,
    parse: ollama,
    ..OPENAI
};

#[derive(Serialize)]
struct OpenAiBody<'a> {
    model: &'a str,
    input: IdsOrText<'a>,
    encoding_format: &'static str,
}

fn openai_body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    json(&OpenAiBody { model, input: IdsOrText::of(&request.prompt), encoding_format: "float" })
}

#[derive(Serialize)]
struct TeiBody<'a> {
    inputs: &'a str,
    /// A text that does not fit shall be an error, not silently a shorter one.
    truncate: bool,
}

fn tei_body(_model: &str, request: &PlannedRequest) -> Vec<u8> {
    json(&TeiBody { inputs: text(&request.prompt), truncate: false })
}

#[derive(Serialize)]
struct OllamaBody<'a> {
    model: &'a str,
    input: &'a str,
    truncate: bool,
}

fn ollama_body(model: &str, request: &PlannedRequest) -> Vec<u8> {
    json(&OllamaBody { model, input: text(&request.prompt), truncate: false })
}

#[derive(Deserialize)]
struct OpenAi {
    data: Option<Vec<Embedding>>,
    usage: Option<OpenAiUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Embedding {
    embedding: Vector,
}

/// Only that there is one matters; base64 is what some servers send whatever was asked.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<IgnoredAny>),
    Base64(String),
}

impl Vector {
    fn is_empty(&self) -> bool {
        match self {
            Vector::Numbers(numbers) => numbers.is_empty(),
            Vector::Base64(text) => text.is_empty(),
        }
    }
}

#[derive(Deserialize)]
struct OpenAiUsage {
    prompt_tokens: Option<u32>,
}

fn openai(data: &str) -> Result<StreamEvent, String> {
    let answer: OpenAi = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(answer.error.as_ref()) {
        return Ok(error);
    }
    let vectors = answer.data.ok_or("neither data nor error in the answer")?;
    let filled = vectors.first().is_some_and(|first| !first.embedding.is_empty());
    embedded(filled, answer.usage.and_then(|usage| usage.prompt_tokens))
}

fn tei(data: &str) -> Result<StreamEvent, String> {
    let answer: Value = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(answer.get("error")) {
        return Ok(error);
    }
    let first = answer.as_array().ok_or("not a list of embeddings")?.first();
    embedded(first.and_then(Value::as_array).is_some_and(|numbers| !numbers.is_empty()), None)
}

#[derive(Deserialize)]
struct Ollama {
    embeddings: Option<Vec<Vec<IgnoredAny>>>,
    prompt_eval_count: Option<u32>,
    error: Option<Value>,
}

fn ollama(data: &str) -> Result<StreamEvent, String> {
    let answer: Ollama = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(answer.error.as_ref()) {
        return Ok(error);
    }
    let vectors = answer.embeddings.ok_or("neither embeddings nor error in the answer")?;
    embedded(vectors.first().is_some_and(|first| !first.is_empty()), answer.prompt_eval_count)
}

fn embedded(filled: bool, prompt_tokens: Option<u32>) -> Result<StreamEvent, String> {
    if !filled {
        return Err("the embedding is empty".into());
    }
    let usage = Usage { prompt_tokens, completion_tokens: None };
    Ok(StreamEvent::Delta(Delta { usage: Some(usage), last: true, ..Delta::default() }))
}
