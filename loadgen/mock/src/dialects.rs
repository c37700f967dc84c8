//! The protocols of other servers than OpenAI's, streamed: what was asked, and the bytes of the answer. Fields that no client
//! of docs/protocols.md reads are there where they make an event as long as the server's own is.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::answering::{Answering, Asked, asked_tokens, words};
use crate::http::{Request, chunk, stream_head};

/// Where a request to one of these servers goes. Triton's has the model's name in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Tgi,
    OllamaGenerate,
    OllamaChat,
    Anthropic,
    LlamaCpp,
    SgLang,
    Triton,
}

impl Dialect {
    pub(crate) fn of_path(path: &str) -> Option<Dialect> {
        let of_triton = || path.strip_prefix("/v2/models/")?.strip_suffix("/generate_stream");
        Some(match path {
            "/generate_stream" => Dialect::Tgi,
            "/api/generate" => Dialect::OllamaGenerate,
            "/api/chat" => Dialect::OllamaChat,
            "/v1/messages" => Dialect::Anthropic,
            "/completion" => Dialect::LlamaCpp,
            "/generate" => Dialect::SgLang,
            _ if of_triton().is_some_and(|model| !model.is_empty() && !model.contains('/')) => {
                Dialect::Triton
            }
            _ => return None,
        })
    }

    /// `Err` says what is wrong with the request.
    pub(crate) fn read(self, request: &Request) -> Result<Asked, String> {
        let body: Body = serde_json::from_slice(&request.body)
            .map_err(|error| format!("the body is not a request: {error}"))?;
        let (name, prompt_tokens) = match self {
            Dialect::Tgi => ("inputs", body.inputs.map(|text| words(&text))),
            Dialect::OllamaGenerate | Dialect::LlamaCpp => ("prompt", body.prompt.map(|p| p.tokens())),
            Dialect::OllamaChat | Dialect::Anthropic => {
                ("messages", body.messages.map(|all| all.iter().map(Message::words).sum()))
            }
            Dialect::SgLang => {
                let ids = body.input_ids.map(|ids| ids.len() as u64);
                ("text or input_ids", ids.or(body.text.map(|text| words(&text))))
            }
            Dialect::Triton => ("text_input", body.text_input.map(|text| words(&text))),
        };
        let prompt_tokens = prompt_tokens.ok_or_else(|| format!("{name} is missing"))?;
        let (name, most) = match self {
            Dialect::Tgi => ("parameters.max_new_tokens", body.parameters.max_new_tokens),
            Dialect::OllamaGenerate | Dialect::OllamaChat => {
                ("options.num_predict", body.options.num_predict)
            }
            Dialect::Anthropic | Dialect::Triton => ("max_tokens", body.max_tokens),
            Dialect::LlamaCpp => ("n_predict", body.n_predict),
            Dialect::SgLang => ("sampling_params.max_new_tokens", body.sampling_params.max_new_tokens),
        };
        let streams_unless_told = matches!(self, Dialect::OllamaGenerate | Dialect::OllamaChat);
        let stream = match self {
            Dialect::Tgi | Dialect::Triton => true,
            _ => body.stream.unwrap_or(streams_unless_told),
        };
        Ok(Asked { stream, prompt_tokens, tokens: asked_tokens(name, most)? })
    }
}

/// Of all of them; each has its own words for the same.
#[derive(Deserialize)]
struct Body {
    inputs: Option<String>,
    #[serde(default)]
    parameters: Limits,
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    options: Limits,
    max_tokens: Option<u32>,
    n_predict: Option<u32>,
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    #[serde(default)]
    sampling_params: Limits,
    text_input: Option<String>,
    stream: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Limits {
    max_new_tokens: Option<u32>,
    num_predict: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Ids(Vec<u32>),
    Text(String),
}

impl Prompt {
    fn tokens(&self) -> u64 {
        match self {
            Prompt::Ids(ids) => ids.len() as u64,
            Prompt::Text(text) => words(text),
        }
    }
}

#[derive(Deserialize)]
struct Message {
    content: Option<Value>,
}

impl Message {
    fn words(&self) -> u64 {
        self.content.as_ref().and_then(Value::as_str).map_or(0, words)
    }
}

/// One answer.
pub(crate) struct Answer<'a> {
    pub dialect: Dialect,
    pub asked: &'a Asked,
    /// A string of JSON.
    pub model: String,
    /// False: what ends the stream is left out.
    pub ends: bool,
}

impl Answer<'_> {
    /// One frame of the stream as one chunk.
    fn put(&self, json: &str, out: &mut Vec<u8>) {
        let frame = match self.dialect {
            Dialect::OllamaGenerate | Dialect::OllamaChat => format!("{json}\n"),
            Dialect::Tgi => format!("data:{json}\n\n"),
            Dialect::Anthropic | Dialect::LlamaCpp | Dialect::SgLang | Dialect::Triton => {
                format!("data: {json}\n\n")
            }
        };
        chunk(out, frame.as_bytes());
    }

    /// Anthropic's events have their type before their data too.
    fn put_named(&self, json: &str, out: &mut Vec<u8>) {
        let name = json.split('"').nth(3).unwrap_or_default();
        chunk(out, format!("event: {name}\ndata: {json}\n\n").as_bytes());
    }

    /// What Ollama begins every line with, `text` in the place where the answer goes.
    fn ollama(&self, text: &str) -> String {
        let said = match self.dialect {
            Dialect::OllamaChat => format!(r#""message":{{"role":"assistant","content":"{text}"}}"#),
            _ => format!(r#""response":"{text}""#),
        };
        format!(r#"{{"model":{},"created_at":"2026-01-01T00:00:00.000000000Z",{said}"#, self.model)
    }

    fn ollama_end(&self, text: &str) -> String {
        let Asked { prompt_tokens, tokens, .. } = self.asked;
        let counts = format!(r#""prompt_eval_count":{prompt_tokens},"eval_count":{tokens}"#);
        format!(r#"{},"done":true,"done_reason":"length",{counts}}}"#, self.ollama(text))
    }

    /// One token of TGI, which puts no two in an event.
    fn tgi(&self, number: u32) -> String {
        let Asked { prompt_tokens, tokens, .. } = self.asked;
        let end = match number == *tokens && self.ends {
            true => format!(
                r#""{}","details":{{"finish_reason":"length","generated_tokens":{tokens},"seed":null,"input_length":{prompt_tokens}}}"#,
                tok(*tokens)
            ),
            false => r#"null,"details":null"#.into(),
        };
        format!(
            r#"{{"index":{number},"token":{{"id":13,"text":" tok","logprob":-0.5,"special":false}},"generated_text":{end}}}"#
        )
    }

    fn llamacpp(&self, text: &str, so_far: u32, stop: bool) -> String {
        let prompt_tokens = self.asked.prompt_tokens;
        let counts = format!(r#""tokens_predicted":{so_far},"tokens_evaluated":{prompt_tokens}"#);
        let end = if stop { r#","stop_type":"limit","truncated":false"# } else { "" };
        format!(r#"{{"index":0,"content":"{text}","tokens":[13],"stop":{stop},"id_slot":-1,{counts}{end}}}"#)
    }

    fn sglang(&self, so_far: u32) -> String {
        let Asked { prompt_tokens, tokens, .. } = self.asked;
        let reason = match so_far == *tokens {
            true => format!(r#"{{"type":"length","length":{tokens}}}"#),
            false => "null".into(),
        };
        let text = tok(so_far);
        format!(
            r#"{{"text":"{text}","meta_info":{{"finish_reason":{reason},"prompt_tokens":{prompt_tokens},"completion_tokens":{so_far},"cached_tokens":0}}}}"#
        )
    }

    fn anthropic_counts(&self) -> String {
        let Asked { prompt_tokens, tokens, .. } = self.asked;
        format!(r#"{{"input_tokens":{prompt_tokens},"output_tokens":{tokens}}}"#)
    }
}

/// As many tokens as that.
fn tok(tokens: u32) -> String {
    " tok".repeat(tokens as usize)
}

impl Answering for Answer<'_> {
    fn head(&self) -> Vec<u8> {
        stream_head(match self.dialect {
            Dialect::OllamaGenerate | Dialect::OllamaChat => "application/x-ndjson",
            _ => "text/event-stream",
        })
    }

    fn opening(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.dialect == Dialect::Anthropic {
            let (model, counts) = (&self.model, self.anthropic_counts());
            self.put_named(
                &format!(
                    r#"{{"type":"message_start","message":{{"type":"message","role":"assistant","content":[],"model":{model},"stop_reason":null,"usage":{counts}}}}}"#
                ),
                &mut out,
            );
            let block =
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
            self.put_named(block, &mut out);
        }
        out
    }

    fn event(&self, tokens: u32, so_far: u32, out: &mut Vec<u8>) {
        match self.dialect {
            Dialect::Tgi => {
                for number in so_far - tokens + 1..=so_far {
                    self.put(&self.tgi(number), out);
                }
            }
            Dialect::OllamaGenerate | Dialect::OllamaChat => {
                self.put(&format!(r#"{},"done":false}}"#, self.ollama(&tok(tokens))), out);
            }
            Dialect::Anthropic => {
                let text = tok(tokens);
                self.put_named(
                    &format!(
                        r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}"#
                    ),
                    out,
                );
            }
            Dialect::LlamaCpp => self.put(&self.llamacpp(&tok(tokens), so_far, false), out),
            Dialect::SgLang => self.put(&self.sglang(so_far), out),
            Dialect::Triton => {
                let (model, prompt_tokens, text) = (&self.model, self.asked.prompt_tokens, tok(tokens));
                self.put(
                    &format!(
                        r#"{{"model_name":{model},"model_version":"1","num_input_tokens":{prompt_tokens},"num_output_tokens":{tokens},"text_output":"{text}"}}"#
                    ),
                    out,
                );
            }
        }
    }

    fn closing(&self, out: &mut Vec<u8>) {
        if !self.ends {
            return;
        }
        match self.dialect {
            // The last token's event says that it is, and Triton's streams just end.
            Dialect::Tgi | Dialect::Triton => {}
            Dialect::OllamaGenerate | Dialect::OllamaChat => self.put(&self.ollama_end(""), out),
            Dialect::Anthropic => {
                self.put_named(r#"{"type":"content_block_stop","index":0}"#, out);
                let counts = self.anthropic_counts();
                self.put_named(
                    &format!(
                        r#"{{"type":"message_delta","delta":{{"stop_reason":"max_tokens","stop_sequence":null}},"usage":{counts}}}"#
                    ),
                    out,
                );
                self.put_named(r#"{"type":"message_stop"}"#, out);
            }
            Dialect::LlamaCpp => self.put(&self.llamacpp("", self.asked.tokens, true), out),
            Dialect::SgLang => self.put("[DONE]", out),
        }
    }

    fn frame(&self, json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(json, &mut out);
        out
    }

    fn whole(&self) -> String {
        let text = tok(self.asked.tokens);
        match self.dialect {
            Dialect::OllamaGenerate | Dialect::OllamaChat => self.ollama_end(&text),
            Dialect::LlamaCpp => self.llamacpp(&text, self.asked.tokens, true),
            Dialect::SgLang => self.sglang(self.asked.tokens),
            Dialect::Anthropic => format!(
                r#"{{"type":"message","role":"assistant","content":[{{"type":"text","text":"{text}"}}],"model":{},"stop_reason":"max_tokens","usage":{}}}"#,
                self.model,
                self.anthropic_counts()
            ),
            // They have no other form here.
            Dialect::Tgi | Dialect::Triton => json!({ "generated_text": text }).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_dialect() {
        for (path, dialect) in [
            ("/generate_stream", Some(Dialect::Tgi)),
            ("/generate", Some(Dialect::SgLang)),
            ("/v2/models/my.model/generate_stream", Some(Dialect::Triton)),
            ("/v2/models//generate_stream", None),
            ("/v2/models/a/b/generate_stream", None),
            ("/v1/completions", None),
        ] {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (path, body, words) in [
            ("/generate_stream", "[]", "not a request"),
            ("/generate_stream", "{}", "inputs is missing"),
            ("/api/chat", r#"{"prompt":"a"}"#, "messages is missing"),
            ("/completion", r#"{"prompt":"a","n_predict":0}"#, "n_predict must be 1 to 1000000, got 0"),
            (
                "/api/generate",
                r#"{"prompt":"a","options":{"num_predict":4000000000}}"#,
                "options.num_predict must be 1 to 1000000, got 4000000000",
            ),
        ] {
            let request = Request { body: body.as_bytes().to_vec(), ..Request::default() };
            let said = Dialect::of_path(path).unwrap().read(&request).unwrap_err();
            assert!(said.contains(words), "{path}: {said}");
        }
    }
}
