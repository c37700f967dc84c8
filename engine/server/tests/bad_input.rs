//! Requests that must be refused: status, and a message that names the field and what is accepted.

mod common;

use common::*;
use serde_json::{Value, json};

/// Sends `body` as it is and checks status, error shape, and that the message contains every part.
async fn refused(server: &Server, path: &str, body: &[u8], status: u16, parts: &[&str]) {
    let request = server.client.post(server.url(path)).header("content-type", "application/json");
    let response = request.body(body.to_vec()).send().await.unwrap();
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    let got = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{shown}: {text}");
    assert!(text.len() < 1000, "{shown}: an error of {} bytes", text.len());
    let error = &common::json(&text)["error"];
    assert_eq!(error["code"], status, "{shown}");
    assert!(error["type"].is_string() && error.get("param").is_some(), "{shown}: {error}");
    let message = error["message"].as_str().unwrap();
    for part in parts {
        assert!(message.contains(part), "{shown}: {part:?} is not in {message:?}");
    }
}

async fn server() -> Server {
    Setup::new(FakeExecutor::text("abc")).start().await
}

#[tokio::test]
async fn fields_of_a_completion() {
    let server = server().await;
    let many: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    let bias: serde_json::Map<String, Value> = (0..10_000).map(|i| (i.to_string(), json!(1))).collect();
    #[rustfmt::skip]
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"n": 2_147_483_648_u64}), &["n ", "only 1", "2147483648"]),
        (json!({"n": -1}), &["n ", "only 1"]),
        (json!({"n": 0}), &["n ", "only 1"]),
        (json!({"n": 1.5}), &["n ", "only 1", "1.5"]),
        (json!({"n": "1"}), &["n ", "only 1", "\"1\""]),
        (json!({"best_of": 1_000_000}), &["best_of", "only 1"]),
        (json!({"max_tokens": 0}), &["max_tokens", "between 1 and"]),
        (json!({"max_tokens": -5}), &["max_tokens", "between 1 and", "-5"]),
        (json!({"max_tokens": 9_223_372_036_854_775_808_u64}), &["max_tokens", "9223372036854775808"]),
        (json!({"max_tokens": 256}), &["max_tokens is 256", "1 tokens", "255", "256"]),
        (json!({"max_tokens": "5"}), &["max_tokens", "an integer"]),
        (json!({"max_tokens": true}), &["max_tokens", "an integer"]),
        (json!({"min_tokens": -1}), &["min_tokens"]),
        (json!({"min_tokens": 20, "max_tokens": 10}), &["min_tokens", "10", "20"]),
        (json!({"temperature": -1}), &["temperature", "between 0 and 2", "-1"]),
        (json!({"temperature": 1e308}), &["temperature", "between 0 and 2"]),
        (json!({"temperature": "hot"}), &["temperature", "between 0 and 2"]),
        (json!({"top_p": 0}), &["top_p", "above 0 and at most 1"]),
        (json!({"top_p": -1}), &["top_p"]),
        (json!({"top_p": 2}), &["top_p"]),
        (json!({"top_k": -5}), &["top_k", "-1 or 0", "-5"]),
        (json!({"top_k": 1.5}), &["top_k"]),
        (json!({"seed": 1.5}), &["seed", "64-bit integer"]),
        (json!({"logprobs": 1_000_000}), &["logprobs"]),
        (json!({"prompt_logprobs": 1}), &["prompt_logprobs"]),
        (json!({"logit_bias": bias}), &["logit_bias"]),
        (json!({"echo": true}), &["echo", "only false"]),
        (json!({"suffix": "x"}), &["suffix"]),
        (json!({"presence_penalty": 0.5}), &["presence_penalty", "only 0"]),
        (json!({"repetition_penalty": 1.1}), &["repetition_penalty", "only 1"]),
        (json!({"response_format": {"type": "json_schema", "json_schema": {}}}), &["response_format"]),
        (json!({"structured_outputs": {"regex": "(a+)+$"}}), &["structured_outputs"]),
        (json!({"prompt_embeds": "AAAA"}), &["prompt_embeds"]),
        (json!({"stop": many}), &["stop", "at most 4"]),
        (json!({"stop": "x".repeat(1 << 20)}), &["stop", "1024 bytes"]),
        (json!({"stop": ""}), &["stop", "1 to 1024"]),
        (json!({"stop": [1]}), &["stop"]),
        (json!({"stop": {"a": 1}}), &["stop"]),
        (json!({"stop_token_ids": [512]}), &["stop_token_ids[0]", "between 0 and 511", "512"]),
        (json!({"stop_token_ids": vec![1; 65]}), &["stop_token_ids", "65", "64"]),
        (json!({"ignore_eos": 1}), &["ignore_eos", "true or false"]),
        (json!({"stream": "yes"}), &["stream", "true or false"]),
        (json!({"stream_options": {"include_usage": true}}), &["stream_options", "stream is true"]),
        (json!({"stream": true, "stream_options": 1}), &["stream_options", "an object"]),
        (json!({"priority": 1e20}), &["priority"]),
        (json!({"prompt": null}), &["prompt is required"]),
        (json!({"prompt": ""}), &["prompt", "empty"]),
        (json!({"prompt": []}), &["prompt", "empty"]),
        (json!({"prompt": [[]]}), &["prompt", "empty"]),
        (json!({"prompt": [""]}), &["prompt", "empty"]),
        (json!({"prompt": ["a", "b"]}), &["prompt", "one prompt", "2"]),
        (json!({"prompt": [1, "b"]}), &["prompt", "one prompt"]),
        (json!({"prompt": 7}), &["prompt must be", "7"]),
        (json!({"prompt": {"text": "a"}}), &["prompt must be"]),
        (json!({"prompt": [65, 512]}), &["prompt[1]", "between 0 and 511", "512"]),
        (json!({"prompt": [-1]}), &["prompt[0]", "-1"]),
        (json!({"prompt": [1.5]}), &["prompt[0]", "1.5"]),
        (json!({"prompt": "a\u{0}b"}), &["prompt", "NUL"]),
        (json!({"prompt": "x".repeat(256)}), &["256 tokens", "context of 256"]),
        (json!({"prompt": "x".repeat(100_000)}), &["100000 tokens", "context of 256"]),
    ];
    for (fields, parts) in cases {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        refused(&server, "/v1/completions", body.to_string().as_bytes(), 400, parts).await;
    }
    // None of them reached the engine, and it still works.
    assert_eq!(server.metric("vllm:prompt_tokens_total", "").await, 0.0);
    server.ok("/v1/completions", &json!({"prompt": "x"})).await;
}

#[tokio::test]
async fn neutral_values_of_unsupported_fields_pass() {
    let server = server().await;
    let body = json!({
        "prompt": "x", "n": 1, "best_of": 1, "echo": false, "logprobs": null, "logit_bias": {}, "presence_penalty": 0,
        "frequency_penalty": 0.0, "repetition_penalty": 1.0, "min_p": 0, "response_format": {"type": "text"},
        "tools": [], "top_k": -1, "user": "ignored", "some_future_field": [1],
    });
    server.ok("/v1/completions", &body).await;
}

#[tokio::test]
async fn messages_of_a_chat() {
    let server = server().await;
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &["messages is required"]),
        (json!({"messages": []}), &["messages must be", "non-empty"]),
        (json!({"messages": "hi"}), &["messages must be"]),
        (json!({"messages": ["hi"]}), &["messages[0]", "an object"]),
        (json!({"messages": [{"content": "hi"}]}), &["messages[0].role"]),
        (json!({"messages": [{"role": "root", "content": "hi"}]}), &["messages[0].role", "user", "root"]),
        (json!({"messages": [{"role": "user"}]}), &["messages[0].content is required"]),
        (user(json!(5)), &["messages[0].content must be"]),
        (
            user(json!([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}])),
            &["content[0]", "image_url"],
        ),
        (user(json!("a\u{0}")), &["NUL"]),
        (user(json!("x".repeat(300))), &["context of 256"]),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "chat_template": "{{ 1 }}"}),
            &["chat_template"],
        ),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}),
            &["tools"],
        ),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"a": 1}}),
            &["chat_template_kwargs"],
        ),
    ];
    for (body, parts) in cases {
        refused(&server, "/v1/chat/completions", body.to_string().as_bytes(), 400, parts).await;
    }
    let plain = Setup { chat: false, ..Setup::new(FakeExecutor::text("abc")) }.start().await;
    let body = user(json!("hi")).to_string();
    refused(&plain, "/v1/chat/completions", body.as_bytes(), 400, &["no chat template"]).await;
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let server = server().await;
    let mut deep = br#"{"prompt": "#.to_vec();
    deep.extend(std::iter::repeat_n(b'[', 100_000));
    let cases: Vec<(&[u8], &[&str])> = vec![
        (b"", &["invalid JSON"]),
        (b"[]", &["invalid JSON", "object"]),
        (b"{\"prompt\": \"x\"", &["invalid JSON"]),
        (b"{\"prompt\": \"x\", \"temperature\": NaN}", &["temperature"]),
        (b"{\"prompt\": \"x\", \"temperature\": 1e999}", &["temperature"]),
        (b"{\"prompt\": \"x\", \"prompt\": \"y\"}", &["duplicate key \"prompt\""]),
        (b"{\"prompt\": \"\xff\xfe\"}", &["prompt"]),
        (b"{\"prompt\": \"\\ud800\"}", &["prompt"]),
        (b"{\"prompt\": \"a\x00b\"}", &["prompt"]),
        (&deep, &["recursion limit"]),
    ];
    for (body, parts) in cases {
        refused(&server, "/v1/completions", body, 400, parts).await;
    }
}

#[tokio::test]
async fn wrong_model_endpoint_method_and_content_type() {
    let server = server().await;
    let body = br#"{"model": "other", "prompt": "x"}"#;
    refused(&server, "/v1/completions", body, 404, &["`other`"]).await;
    refused(&server, "/v1/nothing", b"{}", 404, &["endpoint"]).await;
    refused(&server, "/health", b"{}", 405, &["method"]).await;
    assert_eq!(server.get("/v1/completions").await.status(), 405);
    let form = server.client.post(server.url("/v1/completions")).header("content-type", "text/plain");
    assert_eq!(form.body(r#"{"prompt": "x"}"#).send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn token_endpoints() {
    let server = server().await;
    refused(&server, "/detokenize", br#"{"tokens": [99999]}"#, 400, &["tokens[0]", "99999"]).await;
    refused(&server, "/detokenize", br#"{}"#, 400, &["tokens is required"]).await;
    refused(&server, "/tokenize", br#"{"prompt": 5}"#, 400, &["prompt must be a string"]).await;
    refused(&server, "/tokenize", br#"{}"#, 400, &["messages is required"]).await;
}

#[tokio::test]
async fn a_request_that_can_never_fit_the_kv_pool_is_refused_by_the_scheduler() {
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    setup.engine.num_blocks = 5;
    let server = setup.start().await;
    let body = json!({"prompt": "x".repeat(100), "max_tokens": 50}).to_string();
    refused(&server, "/v1/completions", body.as_bytes(), 400, &["KV blocks"]).await;
    server.ok("/v1/completions", &json!({"prompt": "x", "max_tokens": 5})).await;
}
