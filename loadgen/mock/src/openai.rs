//! Completions and chat completions of the OpenAI protocol: what was asked, and the bytes of the answer.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::answering::{Answering, Asked, asked_tokens, words};
use crate::http::{self, chunk, chunk_size, stream_head};

pub(crate) const COMPLETIONS: &str = "/v1/completions";
pub(crate) const CHAT: &str = "/v1/chat/completions";
/// Of every token.
const TOKEN_ID: u32 = 1000;

/// A request in the OpenAI protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub asked: Asked,
    chat: bool,
    usage_at_end: bool,
    usage_in_events: bool,
    /// vLLM's extension for completions.
    token_ids: bool,
}

#[derive(Deserialize)]
struct Body {
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    return_token_ids: bool,
}

/// How many tokens a prompt has, of which nothing else matters here.
struct Prompt {
    tokens: u64,
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptForm)
    }
}

/// A text, or token ids.
struct PromptForm;

impl<'de> Visitor<'de> for PromptForm {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of token ids")
    }

    fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt { tokens: words(text) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<Prompt, A::Error> {
        let mut tokens = 0;
        while ids.next_element::<u32>()?.is_some() {
            tokens += 1;
        }
        Ok(Prompt { tokens })
    }
}

#[derive(Deserialize)]
struct Message {
    content: Option<Value>,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
    #[serde(default)]
    continuous_usage_stats: bool,
}

impl Request {
    /// `Err` says what is wrong with the request.
    pub(crate) fn read(request: &http::Request) -> Result<Request, String> {
        let body: Body = serde_json::from_slice(&request.body)
            .map_err(|error| format!("the body is not a request: {error}"))?;
        let chat = request.path == CHAT;
        let prompt_tokens = match (body.prompt, body.messages) {
            (Some(prompt), None) if !chat => prompt.tokens,
            (None, Some(messages)) if chat => {
                messages.iter().filter_map(|m| m.content.as_ref()?.as_str()).map(words).sum()
            }
            _ if chat => return Err("messages are missing, or prompt is given".into()),
            _ => return Err("prompt is missing, or messages are given".into()),
        };
        let tokens = asked_tokens("max_tokens", body.max_completion_tokens.or(body.max_tokens))?;
        let options = body.stream_options.unwrap_or_default();
        Ok(Request {
            asked: Asked { stream: body.stream, prompt_tokens, tokens },
            chat,
            usage_at_end: options.include_usage,
            usage_in_events: options.continuous_usage_stats,
            token_ids: body.return_token_ids,
        })
    }
}

/// One answer.
pub(crate) struct Answer<'a> {
    request: &'a Request,
    id: String,
    model: &'a str,
    mould: Mould,
    ends: bool,
}

impl<'a> Answer<'a> {
    /// Events hold `each` tokens, but for the last. Without `ends`, what ends the stream is left out.
    pub(crate) fn new(request: &'a Request, number: u64, model: &'a str, each: u32, ends: bool) -> Self {
        let id = format!("{}-{number}", if request.chat { "chatcmpl" } else { "cmpl" });
        let answer = Answer { request, id, model, mould: Mould::default(), ends };
        Answer { mould: answer.mould(each), ..answer }
    }

    fn tokens(&self, tokens: u32, so_far: u32) -> Vec<u8> {
        data(&self.tokens_json(tokens, so_far))
    }

    /// Its events of `tokens`, but for the last, made once: only the counts in them differ.
    fn mould(&self, tokens: u32) -> Mould {
        let json = self.tokens_json(tokens, 0);
        // The counts are the last of an event, so that no text can be taken for them.
        let open = |name: &str| json.rfind(name).map(|at| at + name.len());
        let places = [open("\"completion_tokens\":"), open("\"total_tokens\":")];
        let [Some(completion), Some(total)] = places else {
            return Mould { whole: Some(data(&json)), ..Mould::default() };
        };
        let after = |at: usize| at + json[at..].bytes().take_while(u8::is_ascii_digit).count();
        Mould {
            whole: None,
            before: format!("data: {}", &json[..completion]),
            between: json[after(completion)..total].to_owned(),
            after: format!("{}\n\n", &json[after(total)..]),
            prompt_tokens: self.request.asked.prompt_tokens,
        }
    }

    pub(crate) fn tokens_json(&self, tokens: u32, so_far: u32) -> String {
        let text = " tok".repeat(tokens as usize);
        let choice = Choice {
            index: 0,
            delta: self.request.chat.then_some(Content { content: &text }),
            text: (!self.request.chat).then_some(&text),
            token_ids: self.request.token_ids.then(|| vec![TOKEN_ID; tokens as usize]),
            finish_reason: (so_far == self.request.asked.tokens).then_some("length"),
        };
        let usage = self.request.usage_in_events.then(|| Usage::new(&self.request.asked, so_far));
        let chunk = Chunk {
            id: &self.id,
            object: self.kind(true),
            created: 0,
            model: self.model,
            choices: [choice],
            usage,
        };
        serde_json::to_string(&chunk).expect("text and numbers always serialise")
    }

    /// The event with the counts alone, where it was asked for.
    pub(crate) fn usage_json(&self) -> Option<String> {
        let asked = &self.request.asked;
        let usage = || Some(Usage::new(asked, asked.tokens));
        self.request.usage_at_end.then(|| self.object(true, json!([]), usage()).to_string())
    }

    /// What an object is called, as a part of a stream or alone.
    fn kind(&self, part: bool) -> &'static str {
        match (self.request.chat, part) {
            (true, true) => "chat.completion.chunk",
            (true, false) => "chat.completion",
            (false, _) => "text_completion",
        }
    }

    fn object(&self, part: bool, choices: Value, usage: Option<Usage>) -> Value {
        let mut object = json!({
            "id": self.id, "object": self.kind(part), "created": 0, "model": self.model, "choices": choices
        });
        if let Some(usage) = usage {
            object["usage"] = json!(usage);
        }
        object
    }
}

impl Answering for Answer<'_> {
    fn head(&self) -> Vec<u8> {
        stream_head("text/event-stream")
    }

    /// What chat begins with: a role and no token.
    fn opening(&self) -> Vec<u8> {
        let choice =
            json!({ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null });
        match self.request.chat {
            true => data(&self.object(true, json!([choice]), None).to_string()),
            false => Vec::new(),
        }
    }

    fn event(&self, tokens: u32, so_far: u32, out: &mut Vec<u8>) {
        match so_far < self.request.asked.tokens {
            true => self.mould.cast(so_far, out),
            false => out.extend(self.tokens(tokens, so_far)),
        }
    }

    fn closing(&self, out: &mut Vec<u8>) {
        out.extend(self.usage_json().map(|json| data(&json)).unwrap_or_default());
        if self.ends {
            out.extend(data("[DONE]"));
        }
    }

    fn frame(&self, json: &str) -> Vec<u8> {
        data(json)
    }

    fn whole(&self) -> String {
        let asked = &self.request.asked;
        let text = " tok".repeat(asked.tokens as usize);
        let choice = match self.request.chat {
            true => json!({
                "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "length"
            }),
            false => json!({ "index": 0, "text": text, "finish_reason": "length" }),
        };
        self.object(false, json!([choice]), Some(Usage::new(asked, asked.tokens))).to_string()
    }
}

/// An event as a chunk, but for its running counts.
#[derive(Debug, Default)]
pub(crate) struct Mould {
    /// The chunk, where there are no counts in it.
    whole: Option<Vec<u8>>,
    before: String,
    between: String,
    after: String,
    prompt_tokens: u64,
}

impl Mould {
    /// Appends the event whose last token is number `so_far`.
    pub(crate) fn cast(&self, so_far: u32, out: &mut Vec<u8>) {
        if let Some(whole) = &self.whole {
            return out.extend_from_slice(whole);
        }
        let (mut completion, mut both) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (total, so_far) =
            (both.format(self.prompt_tokens + u64::from(so_far)), completion.format(so_far));
        let parts = [&*self.before, so_far, &self.between, total, &self.after];
        chunk_size(out, parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.extend_from_slice(b"\r\n");
    }
}

/// An event with tokens: typed, because a value tree for each token would limit how many a core can send.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u32,
    model: &'a str,
    choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Content<'a> {
    content: &'a str,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u32,
    total_tokens: u64,
}

impl Usage {
    fn new(asked: &Asked, completion_tokens: u32) -> Usage {
        let prompt_tokens = asked.prompt_tokens;
        Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + u64::from(completion_tokens) }
    }
}

/// One server-sent event as one chunk.
pub(crate) fn data(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 24);
    chunk(&mut out, format!("data: {text}\n\n").as_bytes());
    out
}

pub(crate) fn error(words: &str, code: u16) -> String {
    json!({ "error": { "message": words, "type": "mock", "code": code } }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, body: &str) -> Result<Request, String> {
        let body = body.as_bytes().to_vec();
        Request::read(&http::Request { path: path.into(), body, ..http::Request::default() })
    }

    #[test]
    fn lengths_and_counts_are_as_asked() {
        let completion = asked(COMPLETIONS, r#"{"prompt":[1,2,3],"max_tokens":5,"stream":true}"#).unwrap();
        assert_eq!(completion.asked, Asked { prompt_tokens: 3, tokens: 5, stream: true });
        let chat = asked(CHAT, r#"{"messages":[{"role":"user","content":"a b"}]}"#).unwrap();
        assert_eq!(chat.asked, Asked { prompt_tokens: 2, tokens: 16, stream: false });
        let whole: Value = serde_json::from_str(&Answer::new(&chat, 1, "m\"", 1, true).whole()).unwrap();
        assert_eq!((&whole["usage"]["completion_tokens"], &whole["model"]), (&json!(16), &json!("m\"")));
    }

    #[test]
    fn a_cast_event_is_the_one_that_serde_writes() {
        let counts = r#","stream_options":{"continuous_usage_stats":true}"#;
        for options in ["", counts, &format!(r#"{counts},"return_token_ids":true"#)] {
            let bodies = [
                (COMPLETIONS, format!(r#"{{"prompt":[1,2,3],"max_tokens":2000{options}}}"#)),
                (CHAT, format!(r#"{{"messages":[{{"content":"a"}}],"max_tokens":2000{options}}}"#)),
            ];
            for (path, body) in bodies {
                let asked = asked(path, &body).unwrap();
                for (tokens, so_far) in [(1, 1), (1, 9), (3, 99), (2, 1998)] {
                    let response = Answer::new(&asked, 7, "\"total_tokens\":1", tokens, true);
                    let mut cast = Vec::new();
                    response.event(tokens, so_far, &mut cast);
                    assert_eq!(cast, response.tokens(tokens, so_far), "{body} {tokens} {so_far}");
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (path, body, words) in [
            (COMPLETIONS, "{", "not a request"),
            (COMPLETIONS, "{}", "prompt is missing"),
            (CHAT, r#"{"prompt":"a"}"#, "messages are missing"),
            (COMPLETIONS, r#"{"prompt":"a","max_tokens":0}"#, "1 to 1000000, got 0"),
            (COMPLETIONS, r#"{"prompt":"a","max_tokens":4000000000}"#, "got 4000000000"),
        ] {
            let said = asked(path, body).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
