//! What is sent: the length forced wherever the server can, and adapters by name.

use serde_json::{Value, json};

use super::request;
use crate::endpoint::Protocol;
use crate::workload::{Adapter, Prompt};

fn sent(protocol: Protocol, prompt: Prompt) -> Value {
    serde_json::from_slice(&protocol.body("m", &request(prompt, 16))).unwrap()
}

fn words(protocol: Protocol) -> Value {
    sent(protocol, Prompt::Text("a b".into()))
}

#[test]
fn names_are_unique_and_read_back() {
    for protocol in Protocol::ALL {
        assert_eq!(protocol.name().parse(), Ok(protocol));
    }
    let error = "grpc".parse::<Protocol>().unwrap_err();
    assert!(error.contains("openai-chat, tgi, ollama-generate"), "{error}");
}

#[test]
fn openai_asks_for_an_exact_length_and_counts() {
    let body = words(Protocol::OpenAiChat);
    assert_eq!(body["messages"], json!([{ "role": "user", "content": "a b" }]));
    assert_eq!((&body["max_tokens"], &body["min_tokens"]), (&json!(16), &json!(16)));
    assert_eq!(body["ignore_eos"], true);
    assert_eq!(body["stream_options"], json!({ "include_usage": true, "continuous_usage_stats": true }));
}

#[test]
fn tgi() {
    assert_eq!(
        words(Protocol::Tgi),
        json!({ "inputs": "a b", "parameters": { "max_new_tokens": 16, "do_sample": false, "details": true } })
    );
}

#[test]
fn ollama() {
    let common = |mut body: Value| {
        body["stream"] = true.into();
        body["truncate"] = false.into();
        body["shift"] = false.into();
        body["options"] = json!({ "num_predict": 16, "temperature": 0.0 });
        body
    };
    assert_eq!(
        words(Protocol::OllamaGenerate),
        common(json!({ "model": "m", "prompt": "a b", "raw": true }))
    );
    let messages = json!([{ "role": "user", "content": "a b" }]);
    assert_eq!(words(Protocol::OllamaChat), common(json!({ "model": "m", "messages": messages })));
}

#[test]
fn llamacpp_and_sglang_take_ids() {
    let ids = Prompt::Tokens(vec![4, 5]);
    assert_eq!(
        sent(Protocol::LlamaCpp, ids.clone()),
        json!({ "prompt": [4, 5], "n_predict": 16, "ignore_eos": true, "temperature": 0.0, "stream": true })
    );
    let sampling =
        json!({ "max_new_tokens": 16, "min_new_tokens": 16, "ignore_eos": true, "temperature": 0.0 });
    assert_eq!(
        sent(Protocol::SgLang, ids),
        json!({ "input_ids": [4, 5], "sampling_params": sampling, "stream": true })
    );
    assert_eq!(words(Protocol::SgLang)["text"], "a b");
    assert_eq!(words(Protocol::LlamaCpp)["prompt"], "a b");
}

#[test]
fn triton() {
    let body = words(Protocol::Triton);
    assert_eq!((&body["text_input"], &body["end_id"]), (&json!("a b"), &json!(-1)));
    assert_eq!((&body["max_tokens"], &body["min_tokens"]), (&json!(16), &json!(16)));
    for key in ["stream", "exclude_input_in_output", "return_num_input_tokens", "return_num_output_tokens"] {
        assert_eq!(body[key], true, "{key}");
    }
}

#[test]
fn anthropic() {
    let messages = json!([{ "role": "user", "content": "a b" }]);
    assert_eq!(
        words(Protocol::Anthropic),
        json!({ "model": "m", "max_tokens": 16, "messages": messages, "temperature": 0.0, "stream": true })
    );
}

#[test]
fn adapters_go_where_each_server_looks_for_them() {
    let mut request = request(Prompt::Text("a".into()), 4);
    request.adapter = Some(Adapter { index: 0, name: "lora-1".into() });
    for (protocol, pointer) in [
        (Protocol::OpenAiChat, "/model"),
        (Protocol::OllamaGenerate, "/model"),
        (Protocol::Anthropic, "/model"),
        (Protocol::Tgi, "/parameters/adapter_id"),
        (Protocol::SgLang, "/lora_path"),
    ] {
        assert!(protocol.wire().takes_adapters);
        let body: Value = serde_json::from_slice(&protocol.body("m", &request)).unwrap();
        assert_eq!(body.pointer(pointer), Some(&json!("lora-1")), "{protocol:?}");
    }
}
