//! What the two OpenAI protocols share: how a length is forced, the usage object, the error object.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{StreamEvent, Usage};

/// Request fields that make the output length exact and the token counts known. `ignore_eos` and `min_tokens` are
/// extensions of vLLM that SGLang, TensorRT-LLM and others copied.
#[derive(Debug, Serialize)]
pub(super) struct Forced {
    max_tokens: u32,
    min_tokens: u32,
    ignore_eos: bool,
    temperature: f32,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
    /// Running counts in every event, which is how many tokens an event carries; servers without it ignore it.
    continuous_usage_stats: bool,
}

impl Forced {
    pub(super) fn new(max_tokens: u32) -> Self {
        Forced {
            max_tokens,
            min_tokens: max_tokens,
            ignore_eos: true,
            temperature: 0.0,
            stream: true,
            stream_options: StreamOptions { include_usage: true, continuous_usage_stats: true },
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WireUsage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

impl From<WireUsage> for Usage {
    fn from(usage: WireUsage) -> Self {
        Usage { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens }
    }
}

/// The sentinel that ends a stream; it is not JSON.
pub(super) const DONE: &str = "[DONE]";

/// A server inside a 200 stream reports an error as `{"error": {"message": ...}}`, `{"error": "..."}` or, older ones,
/// `{"object": "error", "message": ...}`.
pub(super) fn error_event(
    error: Option<Value>,
    object: Option<&str>,
    message: Option<String>,
) -> Option<StreamEvent> {
    let words = match error {
        Some(Value::Null) | None if object == Some("error") => message.unwrap_or_else(|| "no message".into()),
        Some(Value::Null) | None => return None,
        Some(error) => error_words(&error),
    };
    Some(StreamEvent::Error(words))
}

pub(crate) fn error_words(error: &Value) -> String {
    match error {
        Value::String(words) => words.clone(),
        Value::Object(fields) => match fields.get("message") {
            Some(Value::String(words)) => words.clone(),
            _ => error.to_string(),
        },
        _ => error.to_string(),
    }
}
