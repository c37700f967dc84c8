//! Answers in one piece: embeddings and KServe's infer. No event has a time, so there is no first token.

use llmlab_results::record::{CountSource, Outcome};
use serde_json::{Value, json};

use super::{check, request};
use crate::endpoint::Protocol::{self, KServe, OllamaEmbed, OpenAiEmbeddings, TeiEmbed};
use crate::workload::Prompt;

#[test]
fn an_embedding_has_a_prompt_and_an_end() {
    let openai = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-3]}],
        "model":"m","usage":{"prompt_tokens":5,"total_tokens":5}}"#;
    let base64 = r#"{"data":[{"index":0,"embedding":"zczMPQ=="}],"usage":{"prompt_tokens":5}}"#;
    let ollama =
        r#"{"model":"m","embeddings":[[0.5,1]],"total_duration":9,"load_duration":1,"prompt_eval_count":5}"#;
    for (protocol, body, source) in [
        (OpenAiEmbeddings, openai, CountSource::Usage),
        (OpenAiEmbeddings, base64, CountSource::Usage),
        (OllamaEmbed, ollama, CountSource::ServerDetail),
    ] {
        let record = check(protocol, body.as_bytes(), 7);
        assert_eq!((record.outcome, record.error.as_deref()), (Outcome::Ok, None));
        assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (5, source));
        assert_eq!((record.output_tokens_requested, record.output_tokens), (0, 0), "nothing is generated");
        assert!(record.events.is_empty() && record.done_ns.is_some());
    }
}

#[test]
fn tei_says_nothing_of_tokens_in_its_body() {
    let record = check(TeiEmbed, b"[[0.25,0.5]]", 7);
    assert_eq!((record.outcome, record.prompt_tokens), (Outcome::Ok, 3));
    assert_eq!(record.prompt_tokens_source, CountSource::ChunkCount);
}

#[test]
fn infer_has_counts_and_no_first_token() {
    let body = br#"{"model_name":"ensemble","model_version":"1","outputs":[
        {"name":"num_output_tokens","datatype":"INT32","shape":[1,1],"data":[7]},
        {"name":"num_input_tokens","datatype":"INT32","shape":[1,1],"data":[[3]]},
        {"name":"text_output","datatype":"BYTES","shape":[1],"data":["a b"]}]}"#;
    let record = check(KServe, body, 7);
    assert_eq!((record.outcome, record.output_tokens, record.prompt_tokens), (Outcome::Ok, 7, 3));
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert!(record.events.is_empty() && record.done_ns.is_some());
    let short = check(KServe, body, 9);
    assert_eq!(short.outcome, Outcome::WrongLength);
    // The vLLM backend and older ensembles do not count.
    let silent = check(KServe, br#"{"outputs":[{"name":"text_output","data":["a"]}]}"#, 9);
    assert_eq!((silent.outcome, silent.output_tokens_source), (Outcome::Ok, CountSource::ChunkCount));
}

#[test]
fn what_is_no_answer_says_why() {
    for (protocol, body, words) in [
        (OpenAiEmbeddings, r#"{"error":{"message":"too long","code":400}}"#, "too long"),
        (OpenAiEmbeddings, r#"{"data":[]}"#, "embedding is empty"),
        (OpenAiEmbeddings, r#"{"data":[{"emb"#, "EOF"),
        (OpenAiEmbeddings, "", "EOF"),
        (TeiEmbed, r#"{"error":"overloaded","error_type":"overloaded"}"#, "overloaded"),
        (TeiEmbed, "[[]]", "embedding is empty"),
        (OllamaEmbed, r#"{"embeddings":[]}"#, "embedding is empty"),
        (KServe, r#"{"error":"unexpected inference input 'end_id'"}"#, "end_id"),
        (KServe, r#"{"outputs":[]}"#, "no text_output"),
    ] {
        let record = check(protocol, body.as_bytes(), 4);
        assert_eq!(record.outcome, Outcome::Malformed, "{body}");
        let said = record.error.unwrap_or_default();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn bodies_are_as_each_server_has_them() {
    let sent = |protocol: Protocol, prompt| -> Value {
        serde_json::from_slice(&protocol.body("m", &request(prompt, 16))).unwrap()
    };
    let words = || Prompt::Text("a b".into());
    let ids = sent(OpenAiEmbeddings, Prompt::Tokens(vec![4, 5]));
    assert_eq!(ids, json!({ "model": "m", "input": [4, 5], "encoding_format": "float" }));
    assert_eq!(sent(TeiEmbed, words()), json!({ "inputs": "a b", "truncate": false }));
    assert_eq!(sent(OllamaEmbed, words()), json!({ "model": "m", "input": "a b", "truncate": false }));
    let infer = sent(KServe, words());
    let input =
        |name: &str| infer["inputs"].as_array().unwrap().iter().find(|i| i["name"] == name).unwrap().clone();
    assert_eq!(
        input("text_input"),
        json!({ "name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a b"] })
    );
    assert_eq!((&input("max_tokens")["data"], &input("end_id")["data"]), (&json!([16]), &json!([-1])));
}
