//! `llmlab run URL` against a tiny server of each kind: it finds out which one it is, and its own protocol works.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use common::*;
use serde_json::{Value, json};

/// Pages that answer GET, by path, and what a POST to the generating path streams.
struct Kind {
    pages: HashMap<&'static str, String>,
    path: &'static str,
    content_type: &'static str,
    /// The stream for a request body.
    stream: fn(&Value) -> String,
}

/// Serves on a thread of its own until the test's process ends.
fn start(kind: Kind) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let kind = std::sync::Arc::new(kind);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let kind = kind.clone();
            std::thread::spawn(move || answer(stream, &kind));
        }
    });
    url
}

/// One request a connection.
fn answer(stream: TcpStream, kind: &Kind) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let (status, content_type, text) = match (method, kind.pages.get(path)) {
        ("GET", Some(page)) => ("200 OK", "application/json", page.clone()),
        ("GET", None) if path == kind.path => ("405 Method Not Allowed", "text/plain", String::new()),
        ("POST", _) if path == kind.path => {
            ("200 OK", kind.content_type, (kind.stream)(&serde_json::from_slice(&body).ok()?))
        }
        _ => ("404 Not Found", "text/plain", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all((head + &text).as_bytes()).ok()
}

fn sse(events: impl Iterator<Item = Value>) -> String {
    events.map(|event| format!("data: {event}\n\n")).collect()
}

fn tokens(body: &Value, pointer: &str) -> u64 {
    body.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn kinds() -> Vec<(&'static str, Kind)> {
    let models = json!({ "object": "list", "data": [{ "id": "m", "object": "model", "owned_by": "vllm" }] });
    let models = models.to_string();
    let tgi = Kind {
        pages: HashMap::from([
            ("/v1/models", models.clone()),
            ("/info", r#"{"model_id":"m","max_total_tokens":4096,"version":"3.3.6"}"#.into()),
        ]),
        path: "/generate_stream",
        content_type: "text/event-stream",
        stream: |body| {
            let n = tokens(body, "/parameters/max_new_tokens");
            sse((1..=n).map(|i| {
                let details = json!({ "finish_reason": "length", "generated_tokens": n, "input_length": 5 });
                let (text, details) = if i == n { (json!("t"), details) } else { (Value::Null, Value::Null) };
                json!({ "index": i, "token": { "id": 1, "text": "t" }, "generated_text": text, "details": details })
            }))
        },
    };
    let ollama = Kind {
        pages: HashMap::from([
            ("/v1/models", models.clone()),
            ("/api/version", r#"{"version":"0.12.0"}"#.into()),
            ("/api/tags", r#"{"models":[{"name":"m:latest"}]}"#.into()),
        ]),
        path: "/api/generate",
        content_type: "application/x-ndjson",
        stream: |body| {
            let n = tokens(body, "/options/num_predict");
            let line = json!({ "model": body["model"], "response": "t", "done": false });
            let last = json!({ "response": "", "done": true, "done_reason": "length", "eval_count": n, "prompt_eval_count": 5 });
            format!("{}{last}\n", format!("{line}\n").repeat(n as usize))
        },
    };
    let llamacpp = Kind {
        pages: HashMap::from([
            ("/v1/models", models.clone()),
            ("/props", r#"{"default_generation_settings":{},"total_slots":1,"build_info":"b6000"}"#.into()),
        ]),
        path: "/completion",
        content_type: "text/event-stream",
        stream: |body| {
            let n = tokens(body, "/n_predict");
            sse((1..=n + 1).map(|i| {
                let (content, stop) = if i > n { ("", true) } else { ("t", false) };
                json!({ "content": content, "stop": stop, "stop_type": "limit", "tokens_predicted": i.min(n), "tokens_evaluated": 5 })
            }))
        },
    };
    let sglang = Kind {
        pages: HashMap::from([
            ("/v1/models", models.clone()),
            ("/get_server_info", r#"{"version":"0.5.23","model_path":"m","internal_states":[]}"#.into()),
        ]),
        path: "/generate",
        content_type: "text/event-stream",
        stream: |body| {
            let n = tokens(body, "/sampling_params/max_new_tokens");
            let events = (1..=n).map(|i| {
                let end = if i == n { json!({ "type": "length", "length": n }) } else { Value::Null };
                json!({ "text": "t".repeat(i as usize), "meta_info": { "completion_tokens": i, "prompt_tokens": 5, "finish_reason": end } })
            });
            sse(events) + "data: [DONE]\n\n"
        },
    };
    let vllm = Kind {
        pages: HashMap::from([("/v1/models", models), ("/version", r#"{"version":"0.33.0"}"#.into())]),
        path: "/v1/completions",
        content_type: "text/event-stream",
        stream: |body| {
            let n = tokens(body, "/max_tokens");
            let text = (0..n).map(|_| json!({ "choices": [{ "text": "t" }] }));
            let usage = json!({ "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": n } });
            sse(text.chain([usage])) + "data: [DONE]\n\n"
        },
    };
    vec![
        ("TGI 3.3.6 (by /info), protocol tgi, model m", tgi),
        ("Ollama 0.12.0 (by /api/version), protocol ollama-generate, model m:latest", ollama),
        ("llama.cpp b6000 (by /props), protocol llamacpp, model m", llamacpp),
        ("SGLang 0.5.23 (by /get_server_info), protocol sglang, model m", sglang),
        ("vLLM 0.33.0 (by /v1/models), protocol openai-completions, model m", vllm),
    ]
}

/// The records of the only trial of the only run, as they stand in its journal.
fn records(dir: &Path) -> Vec<String> {
    let run = std::fs::read_dir(dir.join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let journal = std::fs::read_to_string(run.join("server-r1/journal.jsonl")).unwrap();
    journal.lines().filter(|line| line.contains("\"outcome\"")).map(str::to_owned).collect()
}

/// Without what drawing an error puts between its words.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '│').collect()
}

#[test]
fn every_kind_of_server_is_found_and_driven() {
    for (found, kind) in kinds() {
        let url = start(kind);
        let dir = tempfile::tempdir().unwrap();
        let output = llmlab(dir.path())
            .args(["run", &url, "--requests", "4", "--no-client-calibration"])
            .output()
            .unwrap();
        assert!(stderr(&output).contains(found), "{found}: {}", stderr(&output));
        let records = records(dir.path());
        assert_eq!(records.len(), 4, "{found}");
        for record in records {
            assert!(record.contains(r#""outcome":"ok""#), "{found}: {record}");
        }
    }
}

fn nothing() -> Kind {
    Kind { pages: HashMap::new(), path: "/none", content_type: "text/plain", stream: |_| String::new() }
}

#[test]
fn a_server_nobody_knows_is_an_error_that_says_what_was_tried() {
    let url = start(nothing());
    let dir = tempfile::tempdir().unwrap();
    let output = llmlab(dir.path()).args(["run", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let words = squeezed(&stderr(&output));
    for part in ["/v1/models(HTTP404)", "/api/version(HTTP404)", "/props(HTTP404)", "openai-completions"] {
        assert!(words.contains(part), "{part}: {}", stderr(&output));
    }
}

#[test]
fn triton_needs_the_name_of_a_model() {
    let mut kind = nothing();
    kind.pages.insert("/v2/health/ready", String::new());
    kind.pages.insert("/v2", r#"{"name":"triton","version":"2.60.0","extensions":["generate"]}"#.into());
    let url = start(kind);
    let dir = tempfile::tempdir().unwrap();
    let output = llmlab(dir.path()).args(["run", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(squeezed(&stderr(&output)).contains("Triton2.60.0"), "{}", stderr(&output));
}

#[test]
fn explain_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let output = llmlab(dir.path()).args(["run", "http://127.0.0.1:9", "--explain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("protocol auto"), "{}", stdout(&output));
}
