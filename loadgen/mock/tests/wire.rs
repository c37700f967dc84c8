//! The mock as other clients meet it: plain bytes over a socket.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use llmlab_loadgen::{Endpoint, PromptStyle, Protocol};
use llmlab_mock::{Accuracy, Certificate, Fault, Faults, Mock, MockConfig, compare};
use llmlab_results::record::{CountSource, Outcome, RequestRecord};
use support::*;

/// What the server says to one request on a connection of its own.
fn ask(mock: &Mock, method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    said(
        mock,
        &format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ),
    )
}

fn said(mock: &Mock, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(mock.addr).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_string())
}

#[test]
fn the_small_endpoints() {
    let mock = Mock::start(MockConfig::new(quick())).unwrap();
    assert_eq!(ask(&mock, "GET", "/health", "").0, 200);
    let (status, models) = ask(&mock, "GET", "/v1/models", "");
    assert!(status == 200 && models.contains(r#""id":"mock""#), "{models}");
    assert_eq!(ask(&mock, "GET", "/v1/completions", "").0, 405);
    assert_eq!(ask(&mock, "GET", "/nothing", "").0, 404);
    ask(&mock, "POST", "/v1/completions", r#"{"prompt":[1,2],"max_tokens":3}"#);
    let (_, metrics) = ask(&mock, "GET", "/metrics", "");
    for line in
        ["vllm:num_requests_running 0", "vllm:prompt_tokens_total 2", "vllm:generation_tokens_total 3"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
}

#[test]
fn an_answer_without_streaming_comes_whole() {
    let mock = Mock::start(MockConfig::new(quick())).unwrap();
    let (status, body) = ask(
        &mock,
        "POST",
        "/v1/chat/completions",
        r#"{"messages":[{"role":"user","content":"a b"}],"max_tokens":4}"#,
    );
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["usage"]["total_tokens"]), (200, &serde_json::json!(6)));
    assert_eq!(body["choices"][0]["message"]["content"], " tok tok tok tok");
    let log = mock.finish().unwrap();
    // 5 ms to the first token and three gaps of 1 ms.
    assert!(log[0].sent_ns[0] >= log[0].read_ns + 8_000_000, "{log:?}");
}

#[test]
fn tokens_have_ids_where_they_are_asked_for() {
    let mock = Mock::start(MockConfig::new(quick())).unwrap();
    let ids = |more: &str| {
        let body = format!(r#"{{"prompt":[1,2],"max_tokens":3,"stream":true{more}}}"#);
        ask(&mock, "POST", "/v1/completions", &body).1.matches(r#""token_ids":[1000]"#).count()
    };
    assert_eq!((ids(""), ids(r#","return_token_ids":true"#)), (0, 3));
}

#[test]
fn bad_requests_have_answers() {
    let mock = Mock::start(MockConfig::new(quick())).unwrap();
    let (status, body) = ask(&mock, "POST", "/v1/completions", r#"{"prompt":"a","max_tokens":0}"#);
    assert!(status == 400 && body.contains("1 to 1000000"), "{body}");
    assert_eq!(ask(&mock, "POST", "/v1/completions", "{").0, 400);
    assert_eq!(said(&mock, "nonsense\r\n\r\n").0, 400);
    assert_eq!(said(&mock, "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").0, 411);
}

#[test]
fn a_request_whose_client_left_has_its_line() {
    let faults = Faults::always(Fault::SlowDrip);
    let mock = Mock::start(MockConfig { faults, ..MockConfig::new(quick()) }).unwrap();
    let body = r#"{"prompt":[1],"max_tokens":4,"stream":true}"#;
    let mut stream = TcpStream::connect(mock.addr).unwrap();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nx-request-id: gone\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    // The head has come, so the request is under way.
    stream.read_exact(&mut [0; 12]).unwrap();
    drop(stream);
    let log = mock.finish().unwrap();
    assert_eq!((log.len(), log[0].id.as_deref(), log[0].done_ns), (1, Some("gone"), None));
}

/// The client's own protocols, so that what one sends the other reads.
fn driven(config: MockConfig, protocol: Protocol) -> Vec<RequestRecord> {
    let mock = Mock::start(config).unwrap();
    let endpoint = Endpoint { protocol, ..endpoint(&mock) };
    let (records, _) = run(&endpoint, &workload(3, 4, users(1)));
    records
}

/// Protocols over HTTP whose tokens come one by one.
const STREAMED: [Protocol; 9] = [
    Protocol::OpenAiCompletions,
    Protocol::OpenAiChat,
    Protocol::Tgi,
    Protocol::OllamaGenerate,
    Protocol::OllamaChat,
    Protocol::LlamaCpp,
    Protocol::SgLang,
    Protocol::Triton,
    Protocol::Anthropic,
];

/// As `driven`, with the prompt in words, which all take; the log beside the records.
fn driven_in_words(config: MockConfig, protocol: Protocol) -> (Vec<RequestRecord>, Accuracy) {
    let certificate = config.tls.clone();
    let mock = Mock::start(config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = certificate.map(|certificate| {
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, certificate.pem()).unwrap();
        file
    });
    let endpoint = Endpoint { protocol, ca_file, ..endpoint(&mock) };
    let prompts = PromptStyle::Words { tokens_per_word: 1.0 };
    let (records, facts) = run(&endpoint, &workload_of(3, 4, users(1), prompts));
    let log = mock.finish().unwrap();
    let accuracy = compare(facts.start_monotonic_ns, &records, &log);
    (records, accuracy)
}

#[test]
fn every_streamed_protocol_is_spoken_as_its_client_reads_it() {
    let tls = Certificate::make([127, 0, 0, 1].into()).unwrap();
    for (protocol, tls) in
        STREAMED.into_iter().flat_map(|protocol| [(protocol, None), (protocol, Some(tls.clone()))])
    {
        let config = MockConfig { tls, ..MockConfig::new(quick()) };
        let (records, accuracy) = driven_in_words(config, protocol);
        for record in &records {
            assert_eq!(
                (record.outcome, record.output_tokens, record.events.len()),
                (Outcome::Ok, 4, 4),
                "{protocol:?}: {record:?}"
            );
            assert_eq!(record.prompt_tokens, record.prompt_tokens_requested, "{protocol:?}");
            let counted =
                matches!(record.prompt_tokens_source, CountSource::Usage | CountSource::ServerDetail);
            assert!(counted, "{protocol:?}: {record:?}");
        }
        assert_eq!((accuracy.compared, accuracy.itl.samples), (3, 9), "{protocol:?}");
    }
}

#[test]
fn every_streamed_protocol_can_break() {
    for protocol in STREAMED {
        // Nothing marks the end of Triton's streams but their end.
        let unended = if protocol == Protocol::Triton { Outcome::Ok } else { Outcome::NoTerminator };
        for (fault, outcome) in [
            (Fault::NoDone, unended),
            (Fault::CutMidEvent, Outcome::StreamCut),
            (Fault::MalformedJson, Outcome::Malformed),
            (Fault::Http500, Outcome::Http),
        ] {
            let config = MockConfig { faults: Faults::always(fault), ..MockConfig::new(quick()) };
            for record in driven_in_words(config, protocol).0 {
                assert_eq!(record.outcome, outcome, "{protocol:?}, {fault:?}: {record:?}");
            }
        }
    }
}

#[test]
fn who_does_not_trust_the_certificate_gets_nothing() {
    let tls = Some(Certificate::make([127, 0, 0, 1].into()).unwrap());
    let mock = Mock::start(MockConfig { tls, ..MockConfig::new(quick()) }).unwrap();
    let (records, _) = run(&endpoint(&mock), &workload(2, 4, users(1)));
    assert!(records.iter().all(|record| record.outcome == Outcome::Connect), "{records:?}");
    assert!(mock.finish().unwrap().is_empty());
}

#[test]
fn other_protocols_have_whole_answers_too() {
    let mock = Mock::start(MockConfig::new(quick())).unwrap();
    for (path, body, pointer) in [
        ("/api/generate", r#"{"prompt":"a b","stream":false,"options":{"num_predict":2}}"#, "/response"),
        (
            "/api/chat",
            r#"{"messages":[{"content":"a b"}],"stream":false,"options":{"num_predict":2}}"#,
            "/message/content",
        ),
        ("/v1/messages", r#"{"messages":[{"content":"a b"}],"max_tokens":2}"#, "/content/0/text"),
        ("/completion", r#"{"prompt":[1,2],"n_predict":2}"#, "/content"),
        ("/generate", r#"{"input_ids":[1,2],"sampling_params":{"max_new_tokens":2}}"#, "/text"),
    ] {
        let (status, answer) = ask(&mock, "POST", path, body);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((status, answer.pointer(pointer).unwrap().as_str()), (200, Some(" tok tok")), "{path}");
    }
    assert_eq!(ask(&mock, "GET", "/api/chat", "").0, 405);
    assert_eq!(ask(&mock, "POST", "/v2/models/a/b/generate_stream", "{}").0, 404);
}

#[test]
fn a_websocket_streams_as_http_does() {
    for record in driven(MockConfig::new(quick()), Protocol::WebSocket) {
        assert_eq!(
            (record.outcome, record.output_tokens, record.events.len()),
            (Outcome::Ok, 4, 4),
            "{record:?}"
        );
        assert_eq!(record.prompt_tokens, record.prompt_tokens_requested);
    }
    for (fault, outcome) in [
        (Fault::Http429, Outcome::StreamCut),
        (Fault::Http500, Outcome::StreamCut),
        (Fault::ResetBeforeHeaders, Outcome::NoResponse),
        (Fault::CutMidEvent, Outcome::StreamCut),
        (Fault::NoDone, Outcome::StreamCut),
        (Fault::MalformedJson, Outcome::Malformed),
        (Fault::HugeEvent, Outcome::TooLarge),
    ] {
        let config = MockConfig { faults: Faults::always(fault), ..MockConfig::new(quick()) };
        for record in driven(config, Protocol::WebSocket) {
            assert_eq!(record.outcome, outcome, "{fault:?}: {record:?}");
        }
    }
    let config = MockConfig { faults: Faults::always(Fault::CloseReused), ..MockConfig::new(quick()) };
    let resends: Vec<u32> = driven(config, Protocol::WebSocket).iter().map(|r| r.resends).collect();
    assert_eq!(resends, [0, 1, 1]);
}

#[test]
fn embeddings_come_whole() {
    for record in driven(MockConfig::new(quick()), Protocol::OpenAiEmbeddings) {
        assert_eq!(
            (record.outcome, record.output_tokens, record.events.len()),
            (Outcome::Ok, 0, 0),
            "{record:?}"
        );
        assert_eq!(record.prompt_tokens, record.prompt_tokens_requested);
    }
    for (fault, outcome) in [
        (Fault::Http429, Outcome::Http),
        (Fault::Http500, Outcome::Http),
        (Fault::ResetBeforeHeaders, Outcome::NoResponse),
    ] {
        let config = MockConfig { faults: Faults::always(fault), ..MockConfig::new(quick()) };
        for record in driven(config, Protocol::OpenAiEmbeddings) {
            assert_eq!(record.outcome, outcome, "{fault:?}: {record:?}");
        }
    }
}
