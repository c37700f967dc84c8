//! The protocols over real connections: paths, headers, framing, and recorded bytes as they came off the wire.

mod support;

use std::time::Duration;

use llmlab_loadgen::{
    Adapters, Arrivals, DriveError, DriveOptions, Mode, Popularity, PromptStyle, Protocol, Secret, Workload,
    generate,
};
use llmlab_results::record::{CountSource, Outcome, RequestRecord};
use support::*;
use tokio_util::sync::CancellationToken;

fn words(output: u32) -> Workload {
    let mut config = config(1, output, Arrivals::Constant { rate_rps: 1.0 });
    config.prompts = PromptStyle::Words { tokens_per_word: 1.0 };
    generate(&config).unwrap()
}

/// The record of one request in words, and the request as the server saw it.
fn one_with(protocol: Protocol, script: Vec<Act>, output: u32) -> (RequestRecord, String) {
    let server = FakeServer::always(script);
    let mut endpoint = endpoint(server.url());
    endpoint.protocol = protocol;
    endpoint.api_key = Some(Secret::new("k-1"));
    let (mut records, _) = run(&endpoint, &words(output));
    let request = server.seen.lock().unwrap().requests.remove(0);
    (records.remove(0), request)
}

fn stream_of(kind: &str, chunks: &[&str]) -> Vec<Act> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut acts = vec![Act::Send(head.into_bytes())];
    acts.extend(chunks.iter().map(|data| chunk(data)));
    acts.push(end());
    acts
}

#[test]
fn recorded_responses_of_tgi() {
    let replayed = |name: &str, output| {
        let path = format!("{}/tests/fixtures/tgi/{name}.response.http", env!("CARGO_MANIFEST_DIR"));
        one_with(Protocol::Tgi, vec![Act::Send(std::fs::read(path).unwrap())], output)
    };
    let (r, request) = replayed("generate_stream_details", 3);
    assert_eq!((r.outcome, r.events.len(), r.output_tokens), (Outcome::Ok, 3, 3), "{r:?}");
    assert_eq!((r.output_tokens_source, r.prompt_tokens), (CountSource::ServerDetail, 4));
    assert!(request.starts_with("POST /generate_stream HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer k-1\r\n"), "{request}");
    assert!(request.contains("accept: text/event-stream\r\n"), "{request}");

    let (r, _) = replayed("fail_midstream_generate_stream", 3);
    assert_eq!((r.outcome, r.http_status, r.events.len()), (Outcome::Malformed, Some(200), 2), "{r:?}");
}

#[test]
fn ollama_streams_lines() {
    let lines = [
        "{\"response\":\"a\",\"done\":false}\n{\"resp",
        "onse\":\"b\",\"done\":false}\n",
        "{\"response\":\"\",\"done\":true,\"done_reason\":\"length\",\"eval_count\":2,\"prompt_eval_count\":9}\n",
    ];
    let (r, request) = one_with(Protocol::OllamaGenerate, stream_of("application/x-ndjson", &lines), 2);
    assert_eq!((r.outcome, r.events.len(), r.output_tokens), (Outcome::Ok, 2, 2), "{r:?}");
    assert_eq!((r.output_tokens_source, r.prompt_tokens), (CountSource::ServerDetail, 9));
    assert!(request.starts_with("POST /api/generate HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("accept: application/x-ndjson\r\n"), "{request}");

    let (r, _) = one_with(Protocol::OllamaChat, stream_of("text/event-stream", &["data: {}\n\n"]), 2);
    assert_eq!(r.outcome, Outcome::Malformed);
    assert!(r.error.unwrap().contains("instead of application/x-ndjson"));
    let busy = plain("503 Service Unavailable", "", r#"{"error":"server busy, please try again."}"#);
    let (r, _) = one_with(Protocol::OllamaChat, busy, 2);
    assert_eq!((r.outcome, r.http_status), (Outcome::Http, Some(503)));
    assert!(r.error.unwrap().contains("server busy"));
}

#[test]
fn a_line_without_end_does_not_fill_the_memory() {
    let piece = "x".repeat(1 << 20);
    let pieces = vec![piece.as_str(); 17];
    let (r, _) = one_with(Protocol::OllamaGenerate, stream_of("application/x-ndjson", &pieces), 2);
    assert_eq!(r.outcome, Outcome::TooLarge);
    assert!(r.error.unwrap().contains("larger than"));
}

#[test]
fn triton_has_its_model_in_the_path_and_ends_with_the_body() {
    let event = "data: {\"text_output\":\"a\",\"num_input_tokens\":6,\"num_output_tokens\":2}\n\n";
    let script = stream_of("text/event-stream; charset=utf-8", &[event, event]);
    let (r, request) = one_with(Protocol::Triton, script.clone(), 4);
    assert_eq!((r.outcome, r.output_tokens), (Outcome::Ok, 4), "{r:?}");
    assert!(r.done_ns.is_some());
    assert!(request.starts_with("POST /v2/models/m/generate_stream HTTP/1.1\r\n"), "{request}");

    let server = FakeServer::always(script.clone());
    let mut again = endpoint(server.url());
    again.protocol = Protocol::Triton;
    let mut two = words(4);
    two.requests.push(two.requests[0].clone());
    two.requests[1].index = 1;
    two.mode = Mode::Closed { users: 1, think_time: Duration::from_millis(50) };
    let (records, _) = run(&again, &two);
    assert!(records.iter().all(|r| r.outcome == Outcome::Ok), "{records:?}");
    assert_eq!(server.seen.lock().unwrap().connections, 1, "the connection is kept");

    // A connection that breaks is a cut stream all the same.
    let mut cut = script;
    *cut.last_mut().unwrap() = Act::Close;
    assert_eq!(one_with(Protocol::Triton, cut, 4).0.outcome, Outcome::StreamCut);

    let mut endpoint = endpoint("http://127.0.0.1:1".into());
    endpoint.protocol = Protocol::Triton;
    for model in ["", "..", "a/../../b", "a b", "a?b"] {
        endpoint.model = model.into();
        let (records, facts) =
            run_with(&endpoint, &words(1), DriveOptions::default(), &CancellationToken::new());
        assert!(records.is_empty());
        assert!(matches!(facts.unwrap_err(), DriveError::ModelInPath { .. }), "{model}");
    }
}

#[test]
fn anthropic_takes_its_key_in_a_header_of_its_own() {
    let events = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":8}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"ab\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":2}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ];
    let (r, request) = one_with(Protocol::Anthropic, stream_of("text/event-stream", &events), 2);
    assert_eq!((r.outcome, r.output_tokens, r.prompt_tokens), (Outcome::Ok, 2, 8), "{r:?}");
    assert!(request.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("x-api-key: k-1\r\n"), "{request}");
    assert!(request.contains("anthropic-version: 2023-06-01\r\n"), "{request}");
    assert!(!request.contains("authorization"), "{request}");
}

#[test]
fn llamacpp_and_sglang_take_token_ids() {
    let llamacpp = [
        "data: {\"content\":\"a\",\"stop\":false,\"tokens_predicted\":1,\"tokens_evaluated\":8}\n\n",
        "data: {\"content\":\"\",\"stop\":true,\"tokens_predicted\":1,\"tokens_evaluated\":8,\"stop_type\":\"limit\"}\n\n",
    ];
    let sglang = [
        "data: {\"text\":\"a\",\"meta_info\":{\"completion_tokens\":1,\"prompt_tokens\":8,\"finish_reason\":{\"type\":\"length\",\"length\":1}}}\n\n",
        "data: [DONE]\n\n",
    ];
    for (protocol, events, path, ids) in [
        (Protocol::LlamaCpp, llamacpp, "POST /completion HTTP/1.1", "\"prompt\":["),
        (Protocol::SgLang, sglang, "POST /generate HTTP/1.1", "\"input_ids\":["),
    ] {
        let server = FakeServer::always(stream_of("text/event-stream", &events));
        let mut endpoint = endpoint(server.url());
        endpoint.protocol = protocol;
        let (records, _) = run(&endpoint, &closed(1, 1, 1));
        assert_eq!((records[0].outcome, records[0].output_tokens), (Outcome::Ok, 1), "{:?}", records[0]);
        let request = &server.seen.lock().unwrap().requests[0];
        assert!(request.starts_with(path) && request.contains(ids), "{request}");
    }
}

#[test]
fn adapters_that_have_no_name_on_the_server_are_refused_beforehand() {
    let mut config = config(1, 2, Arrivals::Constant { rate_rps: 1.0 });
    config.prompts = PromptStyle::Words { tokens_per_word: 1.0 };
    config.adapters = Some(Adapters { names: vec!["lora-1".into()], popularity: Popularity::Uniform });
    let workload = generate(&config).unwrap();
    for protocol in [Protocol::LlamaCpp, Protocol::Triton] {
        let mut endpoint = endpoint("http://127.0.0.1:1".into());
        endpoint.protocol = protocol;
        let (_, facts) = run_with(&endpoint, &workload, DriveOptions::default(), &CancellationToken::new());
        assert!(matches!(facts.unwrap_err(), DriveError::AdapterName { index: 0, .. }), "{protocol:?}");
    }
}
