//! The prompt of a request: checked, templated if it is a chat, and turned into tokens.

use std::sync::Arc;

use llmlab_core::request::TokenId;
use llmlab_models::ChatMessage;
use serde_json::Value;

use crate::ModelInfo;
use crate::error::ApiError;
use crate::fields::{Fields, text, token_ids, wrong};
use crate::params::Bounds;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
/// Texts above this size are templated and tokenised off the I/O threads.
const INLINE_BYTES: usize = 4 << 10;

/// A prompt as it came in.
#[derive(Debug)]
pub(crate) enum Prompt {
    Tokens(Vec<TokenId>),
    Text { text: String, add_special_tokens: bool },
    Messages(Vec<ChatMessage>),
}

impl Prompt {
    pub async fn encode(self, model: &Arc<ModelInfo>) -> Result<Vec<TokenId>, ApiError> {
        let bytes = match &self {
            Prompt::Tokens(_) => 0,
            Prompt::Text { text, .. } => text.len(),
            // A template does some work for each message, however short.
            Prompt::Messages(messages) => messages.iter().map(|m| m.content.len() + 64).sum(),
        };
        if bytes <= INLINE_BYTES {
            return self.encode_now(model);
        }
        let model = model.clone();
        let encoding = tokio::task::spawn_blocking(move || self.encode_now(&model));
        encoding.await.map_err(|error| ApiError::internal(format!("tokenising failed: {error}")))?
    }

    fn encode_now(self, model: &ModelInfo) -> Result<Vec<TokenId>, ApiError> {
        let (field, text, add_special_tokens) = match self {
            Prompt::Tokens(ids) => return Ok(ids),
            Prompt::Text { text, add_special_tokens } => ("prompt", text, add_special_tokens),
            // The template writes the special tokens itself.
            Prompt::Messages(messages) => ("messages", render(model, &messages)?, false),
        };
        let encoded = model.tokenizer.try_encode(&text, add_special_tokens);
        let ids = encoded.map_err(|e| ApiError::field(field, format!("{field} cannot be tokenised: {e}")))?;
        // A tokenizer may know more ids than the model has embeddings.
        match ids.iter().find(|&&id| id >= model.spec.vocab_size) {
            Some(id) => Err(ApiError::field(
                field,
                format!("{field} contains token {id}, which the model does not have"),
            )),
            None => Ok(ids),
        }
    }
}

fn render(model: &ModelInfo, messages: &[ChatMessage]) -> Result<String, ApiError> {
    let template = model.chat_template.as_ref().ok_or_else(|| {
        ApiError::field(
            "messages",
            "messages cannot be used: this model has no chat template; use /v1/completions",
        )
    })?;
    let refused = |error: llmlab_models::ModelError| {
        let reason: String = error.to_string().chars().take(400).collect();
        ApiError::field("messages", format!("messages do not fit the chat template: {reason}"))
    };
    template.render(messages, true).map_err(refused)
}

/// The `prompt` of a completions request: text, token ids, or an array holding one of them.
pub(crate) fn completion(f: &mut Fields, bounds: &Bounds) -> Result<Prompt, ApiError> {
    const ACCEPTED: &str = "a string or an array of token ids (or an array holding exactly one of these)";
    let Some(value) = f.take("prompt") else {
        return Err(ApiError::field("prompt", format!("prompt is required: {ACCEPTED}")));
    };
    let value = match value {
        // One prompt wrapped in an array, as batch-minded clients send it.
        Value::Array(mut list) if list.len() == 1 && (list[0].is_string() || list[0].is_array()) => {
            list.remove(0)
        }
        Value::Array(list) if list.iter().any(|v| v.is_string() || v.is_array()) => {
            let message = format!("prompt may hold one prompt per request; got {}", list.len());
            return Err(ApiError::field("prompt", message));
        }
        other => other,
    };
    match value {
        Value::String(s) if s.is_empty() => Err(ApiError::field("prompt", "prompt must not be empty")),
        Value::String(s) => {
            let add_special_tokens = f.bool_or("add_special_tokens", true)?;
            Ok(Prompt::Text { text: text("prompt", s)?, add_special_tokens })
        }
        Value::Array(ids) if ids.is_empty() => Err(ApiError::field("prompt", "prompt must not be empty")),
        Value::Array(ids) => token_ids("prompt", &ids, bounds.vocab_size).map(Prompt::Tokens),
        other => Err(wrong("prompt", ACCEPTED, &other)),
    }
}

/// The `messages` of a chat request.
pub(crate) fn chat(f: &mut Fields) -> Result<Prompt, ApiError> {
    const ACCEPTED: &str = "a non-empty array of objects with role and content";
    match f.take("messages") {
        None => Err(ApiError::field("messages", format!("messages is required: {ACCEPTED}"))),
        Some(Value::Array(list)) if !list.is_empty() => {
            let messages = list.into_iter().enumerate().map(|(index, item)| message(index, item));
            messages.collect::<Result<_, _>>().map(Prompt::Messages)
        }
        Some(other) => Err(wrong("messages", ACCEPTED, &other)),
    }
}

fn message(index: usize, item: Value) -> Result<ChatMessage, ApiError> {
    let name = format!("messages[{index}]");
    let mut fields = Fields::nested(&name, item)?;
    let role = fields.string("role")?.unwrap_or_default();
    if !ROLES.contains(&role.as_str()) {
        let message = format!("{name}.role must be one of {}; got {:?}", ROLES.join(", "), short(&role));
        return Err(ApiError::field(&name, message));
    }
    for unsupported in ["tool_calls", "function_call", "audio"] {
        if fields.take(unsupported).is_some() {
            return Err(ApiError::field(&name, format!("{name}.{unsupported} is not supported")));
        }
    }
    let content = content(&format!("{name}.content"), fields.take("content"))?;
    Ok(ChatMessage { role, content })
}

/// A string, or OpenAI's list of parts of which only text is known here.
fn content(name: &str, value: Option<Value>) -> Result<String, ApiError> {
    const ACCEPTED: &str = "a string or an array of {\"type\": \"text\", \"text\": ...}";
    let parts = match value {
        Some(Value::String(s)) => return text(name, s),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong(name, ACCEPTED, &other)),
        None => return Err(ApiError::field(name, format!("{name} is required: {ACCEPTED}"))),
    };
    let mut joined = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let name = format!("{name}[{index}]");
        let mut part = Fields::nested(&name, part)?;
        let kind = part.string("type")?.unwrap_or_default();
        let piece = part.string("text")?;
        match (kind.as_str(), piece) {
            ("text", Some(piece)) => joined.push_str(&piece),
            _ => {
                let message = format!(
                    "{name} must be {{\"type\": \"text\", \"text\": ...}}; got type {:?}",
                    short(&kind)
                );
                return Err(ApiError::field(&name, message));
            }
        }
    }
    Ok(joined)
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
