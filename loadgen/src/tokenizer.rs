//! A server's own tokenizer at `/tokenize`, in the three forms that servers have.

use std::time::Duration;

use serde_json::{Value, json};

use crate::control::Asker;
use crate::endpoint::Endpoint;

const PATH: &str = "/tokenize";
const TIMEOUT: Duration = Duration::from_secs(5);

/// How the text is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// vLLM, SGLang, our server: `prompt` to `count`.
    Prompt,
    /// llama.cpp: `content` to a list under `tokens`.
    Content,
    /// TGI: `inputs` to a list.
    Inputs,
}

pub(crate) struct Tokenizer {
    asker: Asker,
    form: Form,
    model: String,
}

impl Tokenizer {
    /// `None` where the server has none that counts `example`.
    pub(crate) fn find(endpoint: &Endpoint, example: &str) -> Option<Tokenizer> {
        let asker = Asker::new(endpoint, TIMEOUT).ok()?;
        let mut tokenizer = Tokenizer { asker, form: Form::Prompt, model: endpoint.model.clone() };
        [Form::Prompt, Form::Content, Form::Inputs].into_iter().find(|form| {
            tokenizer.form = *form;
            tokenizer.count(example).is_some()
        })?;
        Some(tokenizer)
    }

    /// Tokens of the text, special ones that the server adds to any prompt included.
    pub(crate) fn count(&self, text: &str) -> Option<u32> {
        let question = match self.form {
            Form::Prompt if self.model.is_empty() => json!({ "prompt": text }),
            Form::Prompt => json!({ "model": self.model, "prompt": text }),
            Form::Content => json!({ "content": text, "add_special": true }),
            Form::Inputs => json!({ "inputs": text }),
        };
        let (status, body) = self.asker.post(PATH, &question)?;
        if status != 200 {
            return None;
        }
        counted(&serde_json::from_slice(&body).ok()?)
    }
}

/// A server that did not understand the question may answer that nothing has no tokens.
fn counted(answer: &Value) -> Option<u32> {
    let list = answer.as_array().or_else(|| answer.get("tokens")?.as_array());
    let count = answer.get("count").and_then(Value::as_u64).or(list.map(|tokens| tokens.len() as u64))?;
    u32::try_from(count).ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_an_answer_is_a_number() {
        let read = |text: &str| counted(&serde_json::from_str(text).unwrap());
        assert_eq!(read(r#"{"count":3,"max_model_len":4096,"tokens":[1,2,3]}"#), Some(3));
        assert_eq!(read(r#"{"tokens":[1,{"id":2,"piece":"a"}]}"#), Some(2));
        assert_eq!(read(r#"[{"id":1,"text":"a","start":0,"stop":1}]"#), Some(1));
        for none in [r#"{"tokens":[]}"#, r#"{"error":"x"}"#, "[]", "7", r#"{"count":-1}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
