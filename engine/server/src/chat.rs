//! The `messages` of a chat request, checked and rendered to a prompt by the model's own template.

use llmlab_models::{ChatMessage, ChatTemplate};
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::{Fields, text, wrong};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Takes `messages` out of the body; their text, templated.
pub(crate) fn prompt(f: &mut Fields, template: Option<&ChatTemplate>) -> Result<String, ApiError> {
    let messages = messages(f)?;
    let template = template.ok_or_else(|| {
        ApiError::field(
            "messages",
            "messages cannot be used: this model has no chat template; use /v1/completions",
        )
    })?;
    template.render(&messages, true).map_err(|error| {
        ApiError::field("messages", format!("messages do not fit the chat template: {error}"))
    })
}

fn messages(f: &mut Fields) -> Result<Vec<ChatMessage>, ApiError> {
    const ACCEPTED: &str = "a non-empty array of objects with role and content";
    match f.take("messages") {
        None => Err(ApiError::field("messages", format!("messages is required: {ACCEPTED}"))),
        Some(Value::Array(list)) if !list.is_empty() => {
            list.into_iter().enumerate().map(|(index, item)| message(index, item)).collect()
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
