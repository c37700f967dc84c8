//! What a client gets for a good request: the bodies and events of both endpoints, field for field.

mod common;

use common::*;
use serde_json::{Value, json};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

async fn server() -> Server {
    Setup::new(FakeExecutor::text(ALPHABET)).start().await
}

/// Replaces what differs between runs, after checking its shape.
fn fixed(mut body: Value, prefix: &str) -> Value {
    let id = body["id"].as_str().unwrap();
    assert!(id.strip_prefix(prefix).is_some_and(|number| number.parse::<u64>().is_ok()), "{id}");
    assert!(body["created"].as_u64().unwrap() > 1_600_000_000);
    body["id"] = json!("ID");
    body["created"] = json!(0);
    body
}

#[tokio::test]
async fn a_completion() {
    let server = server().await;
    let body =
        server.ok("/v1/completions", &json!({"model": MODEL, "prompt": "hello", "max_tokens": 5})).await;
    assert_eq!(
        fixed(body, "cmpl-"),
        json!({
            "id": "ID", "object": "text_completion", "created": 0, "model": MODEL,
            "choices": [{
                "index": 0, "text": "abcde", "logprobs": null, "finish_reason": "length", "stop_reason": null,
            }],
            "usage": {"prompt_tokens": 5, "total_tokens": 10, "completion_tokens": 5},
        })
    );
}

#[tokio::test]
async fn a_streamed_completion_has_one_event_per_token_and_ends_with_done() {
    let server = server().await;
    let request = json!({"prompt": "hello", "max_tokens": 3, "stream": true});
    let events = server.events("/v1/completions", &request).await;
    let chunk = |text, finish: Value| {
        json!({
            "id": "ID", "object": "text_completion", "created": 0, "model": MODEL,
            "choices": [{
                "index": 0, "text": text, "logprobs": null, "finish_reason": finish, "stop_reason": null,
            }],
        })
    };
    assert_eq!(events.len(), 4);
    assert_eq!(fixed(common::json(&events[0]), "cmpl-"), chunk("a", Value::Null));
    assert_eq!(fixed(common::json(&events[1]), "cmpl-"), chunk("b", Value::Null));
    assert_eq!(fixed(common::json(&events[2]), "cmpl-"), chunk("c", json!("length")));
    assert_eq!(events[3], "[DONE]");
}

#[tokio::test]
async fn a_chat_answer() {
    let server = server().await;
    let messages =
        json!([{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]);
    let body =
        server.ok("/v1/chat/completions", &json!({"messages": messages, "max_completion_tokens": 2})).await;
    let prompt_tokens = "[user]hi[assistant]".len();
    assert_eq!(
        fixed(body, "chatcmpl-"),
        json!({
            "id": "ID", "object": "chat.completion", "created": 0, "model": MODEL,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": "ab"}, "logprobs": null,
                "finish_reason": "length", "stop_reason": null,
            }],
            "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + 2, "completion_tokens": 2},
        })
    );
}

#[tokio::test]
async fn a_streamed_chat_begins_with_a_role_chunk_and_counts_on() {
    let server = server().await;
    let request = json!({
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
    });
    let events = server.events("/v1/chat/completions", &request).await;
    let chunks: Vec<Value> = events[..4].iter().map(|e| fixed(common::json(e), "chatcmpl-")).collect();
    let deltas: Vec<&Value> = chunks[..3].iter().map(|c| &c["choices"][0]["delta"]).collect();
    assert_eq!(
        deltas,
        [&json!({"role": "assistant", "content": ""}), &json!({"content": "a"}), &json!({"content": "b"})]
    );
    let finish: Vec<&Value> = chunks[..3].iter().map(|c| &c["choices"][0]["finish_reason"]).collect();
    assert_eq!(finish, [&Value::Null, &Value::Null, &json!("length")]);
    let counts: Vec<&Value> = chunks.iter().map(|c| &c["usage"]["completion_tokens"]).collect();
    assert_eq!(counts, [0, 1, 2, 2]);
    assert_eq!(
        chunks[3],
        json!({
            "id": "ID", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [],
            "usage": {"prompt_tokens": 19, "total_tokens": 21, "completion_tokens": 2},
        })
    );
    assert_eq!(events[4..], ["[DONE]"]);
}

#[tokio::test]
async fn usage_comes_only_when_asked_for() {
    let server = server().await;
    let request =
        json!({"prompt": "x", "max_tokens": 2, "stream": true, "stream_options": {"include_usage": true}});
    let events = server.events("/v1/completions", &request).await;
    assert_eq!(events.len(), 4);
    assert!(common::json(&events[0]).get("usage").is_none());
    assert_eq!(common::json(&events[2])["choices"], json!([]));
    assert_eq!(common::json(&events[2])["usage"]["completion_tokens"], 2);
    // As in vLLM, the running counts need include_usage.
    let alone = json!({"prompt": "x", "max_tokens": 2, "stream": true, "stream_options": {"continuous_usage_stats": true}});
    assert!(server.events("/v1/completions", &alone).await.iter().all(|e| !e.contains("usage")));
}

#[tokio::test]
async fn a_chat_without_max_tokens_may_use_the_rest_of_the_context() {
    let server = server().await;
    let body =
        server.ok("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(body["usage"]["total_tokens"], 256);
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_completion_without_max_tokens_gets_sixteen() {
    let server = server().await;
    let body = server.ok("/v1/completions", &json!({"prompt": "hi"})).await;
    assert_eq!(body["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn text_and_token_ids_are_the_same_prompt() {
    let server = server().await;
    for prompt in [json!("AB"), json!(["AB"]), json!([65, 66]), json!([[65, 66]])] {
        let request = json!({"prompt": prompt, "max_tokens": 2, "return_token_ids": true});
        let body = server.ok("/v1/completions", &request).await;
        let choice = &body["choices"][0];
        assert_eq!(choice["prompt_token_ids"], json!([65, 66]), "{prompt}");
        assert_eq!(choice["token_ids"], json!([97, 98]));
        assert_eq!(body["usage"]["prompt_tokens"], 2);
    }
    let request = json!({"prompt": "AB", "max_tokens": 2, "return_token_ids": true, "stream": true});
    let events = server.events("/v1/completions", &request).await;
    let choices: Vec<Value> = events[..2].iter().map(|e| common::json(e)["choices"][0].clone()).collect();
    assert_eq!((&choices[0]["prompt_token_ids"], &choices[0]["token_ids"]), (&json!([65, 66]), &json!([97])));
    assert_eq!((&choices[1]["prompt_token_ids"], &choices[1]["token_ids"]), (&Value::Null, &json!([98])));
}

#[tokio::test]
async fn stop_strings_split_over_tokens_end_the_text() {
    let server = server().await;
    let body =
        server.ok("/v1/completions", &json!({"prompt": "x", "max_tokens": 20, "stop": ["zz", "def"]})).await;
    let choice = &body["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("abc"), &json!("stop")));
    assert_eq!(choice["stop_reason"], "def");
    assert_eq!(body["usage"]["completion_tokens"], 6);

    let request = json!({"prompt": "x", "max_tokens": 20, "stop": "cdX", "stream": true});
    let events = server.events("/v1/completions", &request).await;
    let texts: Vec<String> = events[..6]
        .iter()
        .map(|e| common::json(e)["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    // "c" and "cd" may begin the stop string and are held back until "e" decides.
    assert_eq!(texts, ["a", "b", "", "", "cde", "f"]);

    // Text still held at the end belongs to the answer.
    let body = server.ok("/v1/completions", &json!({"prompt": "x", "max_tokens": 4, "stop": "cdX"})).await;
    assert_eq!(body["choices"][0]["text"], "abcd");
}

#[tokio::test]
async fn a_stop_string_frees_the_request_within_one_step_and_counts_as_stop() {
    let (executor, gate) = FakeExecutor::gated(ALPHABET);
    let server = Setup::new(executor).start().await;
    gate.allow(2);
    let body = server.ok("/v1/completions", &json!({"prompt": "x", "max_tokens": 200, "stop": "b"})).await;
    assert_eq!(body["choices"][0]["text"], "a");
    // At most one step more was begun when the stop string was seen; the rest of the 200 never runs.
    gate.open();
    eventually("the blocks are free", async || server.metric("vllm:kv_cache_usage_perc", "").await == 0.0)
        .await;
    assert_eq!(server.metric("vllm:request_success_total", "\"stop\"").await, 1.0);
    assert!(server.metric("vllm:generation_tokens_total", "").await <= 3.0);
}

#[tokio::test]
async fn characters_of_several_tokens_arrive_whole() {
    let server = Setup::new(FakeExecutor::text("aé€")).start().await;
    let request = json!({"prompt": "x", "max_tokens": 5, "stream": true});
    let events = server.events("/v1/completions", &request).await;
    let texts: Vec<Value> =
        events[..5].iter().map(|e| common::json(e)["choices"][0]["text"].clone()).collect();
    // Five of the six bytes: the last character stays incomplete and is shown as the replacement character.
    assert_eq!(texts, ["a", "", "é", "", "\u{fffd}"]);
}

#[tokio::test]
async fn eos_and_stop_ids_end_without_their_text() {
    let server = Setup::new(FakeExecutor::new(&[97, 98, EOS, 99])).start().await;
    let ask = async |extra: Value| {
        let mut request = json!({"prompt": "x", "max_tokens": 6});
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let body = server.ok("/v1/completions", &request).await;
        let choice = body["choices"][0].clone();
        (choice["text"].clone(), choice["finish_reason"].clone(), choice["stop_reason"].clone())
    };
    assert_eq!(ask(json!({})).await, (json!("ab"), json!("stop"), Value::Null));
    assert_eq!(ask(json!({"stop_token_ids": [98]})).await, (json!("a"), json!("stop"), json!(98)));
    assert_eq!(ask(json!({"ignore_eos": true})).await, (json!("abcab"), json!("length"), Value::Null));
    // Eos is banned until four tokens are there.
    assert_eq!(ask(json!({"min_tokens": 4})).await, (json!("ab?cab"), json!("length"), Value::Null));
}

#[tokio::test]
async fn models_version_tokenize_and_detokenize() {
    let server = server().await;
    let models = common::json(&server.get("/v1/models").await.text().await.unwrap());
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    assert_eq!(models["data"][0]["max_model_len"], 256);
    let version = common::json(&server.get("/version").await.text().await.unwrap());
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));

    let tokens = server.ok("/tokenize", &json!({"model": MODEL, "prompt": "AB"})).await;
    assert_eq!(tokens, json!({"count": 2, "max_model_len": 256, "tokens": [65, 66], "token_strs": null}));
    let strings = server.ok("/tokenize", &json!({"prompt": "AB", "return_token_strs": true})).await;
    assert_eq!(strings["token_strs"], json!(["A", "B"]));
    let chat = server.ok("/tokenize", &json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(chat["count"], 19);
    let text = server.ok("/detokenize", &json!({"tokens": [65, 66]})).await;
    assert_eq!(text, json!({"prompt": "AB"}));
}

#[tokio::test]
async fn many_requests_at_once_each_get_their_own_answer() {
    let server = server().await;
    let asks = (1..=20_usize).map(|n| {
        let server = &server;
        async move {
            let body = server.ok("/v1/completions", &json!({"prompt": "x".repeat(n), "max_tokens": n})).await;
            assert_eq!(body["choices"][0]["text"], ALPHABET[..n]);
            assert_eq!(body["usage"]["prompt_tokens"], n);
        }
    });
    futures_util::future::join_all(asks).await;
    assert_eq!(server.metric("vllm:request_success_total", "\"length\"").await, 20.0);
}
