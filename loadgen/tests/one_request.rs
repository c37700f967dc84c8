//! What becomes of one request, for every way a server can behave.

mod support;

use std::time::Duration;

use llmlab_loadgen::{PromptStyle, Protocol, Secret, generate};
use llmlab_results::record::{CountSource, Outcome};
use support::*;

#[test]
fn normal_stream() {
    let r = one(normal(4), 4);
    assert_eq!(r.outcome, Outcome::Ok);
    assert_eq!(r.events.iter().map(|e| e.tokens).collect::<Vec<_>>(), [1, 1, 1, 1]);
    assert_eq!((r.output_tokens, r.output_tokens_source), (4, CountSource::Usage));
    assert_eq!((r.prompt_tokens, r.prompt_tokens_requested), (8, 8));
    assert_eq!(r.http_status, Some(200));
    assert!(r.done_ns.is_some() && r.connect_ns.is_some() && r.first_byte_ns.is_some());
}

#[test]
fn request_asks_for_the_exact_length() {
    let server = FakeServer::always(normal(4));
    let mut endpoint = endpoint(server.url() + "/v1/");
    endpoint.api_key = Some(Secret::new("k-1"));
    run(&endpoint, &closed(1, 1, 4));
    let seen = server.seen.lock().unwrap();
    let (head, body) = seen.requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer k-1"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["prompt"].as_array().unwrap().len(), 8);
    for (key, value) in [("max_tokens", 4), ("min_tokens", 4)] {
        assert_eq!(body[key], value);
    }
    assert_eq!(body["ignore_eos"], true);
    assert_eq!(body["stream_options"]["continuous_usage_stats"], true);
}

#[test]
fn running_usage_says_how_many_tokens_an_event_carries() {
    let mut acts = vec![head()];
    acts.extend([3, 4, 9].map(|n| event(&token(Some(n)))));
    acts.extend([event(&final_usage(9)), event("[DONE]"), end()]);
    let r = one(acts, 9);
    assert_eq!(r.events.iter().map(|e| e.tokens).collect::<Vec<_>>(), [3, 1, 5]);
    assert_eq!(r.outcome, Outcome::Ok);
}

#[test]
fn the_role_chunk_is_not_the_first_token() {
    let chat = |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#);
    let server = FakeServer::always(vec![
        head(),
        event(&chat(r#"{"role":"assistant","content":""}"#)),
        pause_ms(20),
        event(&chat(r#"{"reasoning":"hm"}"#)),
        pause_ms(20),
        event(&chat(r#"{"content":"a"}"#)),
        event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#),
        event(&final_usage(2)),
        event("[DONE]"),
        end(),
    ]);
    let mut endpoint = endpoint(server.url());
    endpoint.protocol = Protocol::OpenAiChat;
    let mut config = config(1, 2, llmlab_loadgen::Arrivals::Constant { rate_rps: 1.0 });
    config.prompts = PromptStyle::Words { tokens_per_word: 1.0 };
    let (records, _) = run(&endpoint, &generate(&config).unwrap());
    let r = &records[0];
    assert_eq!(r.outcome, Outcome::Ok, "{r:?}");
    assert_eq!(r.events.len(), 2);
    // The pause lies between the role and the first token, so the two cannot share a time.
    assert!(r.role_ns.unwrap() < r.first_token_ns().unwrap());
    assert_eq!(r.first_reasoning_ns, r.first_token_ns());
    assert_eq!(r.finish_reason.as_deref(), Some("length"));
    assert!(server.seen.lock().unwrap().requests[0].starts_with("POST /v1/chat/completions "));
}

#[test]
fn a_request_with_an_adapter_names_it_as_its_model() {
    let server = FakeServer::always(normal(2));
    let mut config = config(1, 2, llmlab_loadgen::Arrivals::Constant { rate_rps: 1.0 });
    let names = vec!["lora-1".to_string()];
    config.adapters =
        Some(llmlab_loadgen::Adapters { names, popularity: llmlab_loadgen::Popularity::Uniform });
    let (records, _) = run(&endpoint(server.url()), &generate(&config).unwrap());
    assert_eq!(records[0].outcome, Outcome::Ok, "{:?}", records[0]);
    let sent = &server.seen.lock().unwrap().requests[0];
    assert!(sent.contains(r#""model":"lora-1""#), "{sent}");
}

#[test]
fn framing_does_not_matter() {
    let text: String = completion_events(3).iter().map(|e| format!("data: {e}\r\n\r\n")).collect();
    let mut bytewise = vec![head()];
    bytewise.extend(text.chars().map(|c| chunk(&c.to_string())));
    bytewise.push(end());
    let split = one(bytewise, 3);
    let together = one(vec![head(), chunk(&text), end()], 3);
    for r in [&split, &together] {
        assert_eq!(r.outcome, Outcome::Ok, "{r:?}");
        assert_eq!((r.events.len(), r.output_tokens), (3, 3));
    }
    assert!(together.events.iter().all(|e| e.at_ns == together.events[0].at_ns), "one frame, one time");
}

#[test]
fn a_stream_without_its_terminator_is_cut() {
    let mut acts = normal(3);
    acts.remove(acts.len() - 2);
    let r = one(acts, 3);
    assert_eq!(r.outcome, Outcome::NoTerminator);
    assert_eq!(r.events.len(), 3, "what arrived is kept");
    assert!(r.error.unwrap().contains("without [DONE]"));
}

#[test]
fn terminator_without_a_blank_line_counts() {
    let r = one(vec![head(), event(&token(Some(1))), chunk("data: [DONE]"), end()], 1);
    assert_eq!(r.outcome, Outcome::Ok, "{r:?}");
}

#[test]
fn broken_connections() {
    let mid_event =
        |end: Act| vec![head(), event(&token(Some(1))), pause_ms(5), chunk("data: {\"cho"), pause_ms(5), end];
    for script in [
        mid_event(Act::Reset),
        mid_event(Act::Close),
        mid_event(end()),
        vec![head(), Act::Close],
        vec![head(), Act::Send(b"40\r\ndata: ".to_vec()), Act::Close],
    ] {
        let r = one(script.clone(), 3);
        assert_eq!(r.outcome, Outcome::StreamCut, "{script:?} gave {r:?}");
    }
    for script in [vec![Act::Close], vec![pause_ms(5), Act::Reset]] {
        let r = one(script.clone(), 3);
        assert_eq!((r.outcome, r.resends), (Outcome::NoResponse, 0), "{script:?} gave {r:?}");
    }
}

#[test]
fn error_statuses_keep_the_servers_words() {
    let r =
        one(plain("429 Too Many Requests", "retry-after: 3\r\n", r#"{"error":{"message":"queue full"}}"#), 3);
    assert_eq!((r.outcome, r.http_status), (Outcome::Http, Some(429)));
    let words = r.error.unwrap();
    assert!(words.contains("queue full") && words.contains("retry-after 3"), "{words}");

    let r = one(plain("500 Oops", "", &"x".repeat(100_000)), 3);
    assert_eq!((r.outcome, r.http_status), (Outcome::Http, Some(500)));
    assert_eq!(r.error.unwrap().chars().count(), 500, "the snippet is capped");

    let r = one(plain("302 Found", "location: http://elsewhere.invalid/\r\n", ""), 3);
    assert_eq!((r.outcome, r.http_status), (Outcome::Http, Some(302)));
}

#[test]
fn answers_that_are_no_token_stream() {
    let cases = [
        (plain("200 OK", "content-type: text/html\r\n", "<h1>Bad gateway\x1b[31m</h1>"), "text/html"),
        (
            plain("200 OK", "content-type: application/json\r\n", r#"{"error":"no such model"}"#),
            "no such model",
        ),
        (plain("200 OK", "content-encoding: gzip\r\n", "\x1f"), "gzip"),
        (vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())], "204"),
        (vec![Act::Send(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec())], "headers"),
        (vec![head(), event("<html>")], "not openai-completions"),
        (vec![head(), event(r#"{"choices":5}"#)], "not openai-completions"),
        (vec![head(), event(r#"{"ping":1}"#)], "neither choices"),
        (vec![head(), event(&token(None)), event(r#"{"error":{"message":"oom","code":500}}"#)], "oom"),
        (vec![head(), event(r#"{"object":"error","message":"too long"}"#)], "too long"),
        (vec![head(), event(r#"{"choices":[{"text":"","finish_reason":"abort"}]}"#)], "abort"),
        (vec![head(), Act::Send(b"zz\r\n".to_vec())], "mid-stream"),
    ];
    for (script, words) in cases {
        let r = one(script, 3);
        assert_eq!(r.outcome, Outcome::Malformed, "{words}: {r:?}");
        let error = r.error.unwrap();
        assert!(error.contains(words), "{error} does not say {words}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}

#[test]
fn memory_is_bounded() {
    let mut huge = vec![head(), chunk("data: ")];
    huge.extend((0..17).map(|_| chunk(&"x".repeat(1 << 20))));
    let r = one(huge, 3);
    assert_eq!(r.outcome, Outcome::TooLarge);
    assert!(r.error.unwrap().contains("larger than"));

    let mut endless = vec![head()];
    endless.extend((1..1100).map(|n| event(&token(Some(n)))));
    let r = one(endless, 3);
    assert_eq!(r.outcome, Outcome::Malformed);
    assert!(r.error.unwrap().contains("keeps generating"));
}

#[test]
fn wrong_length() {
    let r = one(normal(3), 5);
    assert_eq!((r.outcome, r.output_tokens), (Outcome::WrongLength, 3));

    // Without usage a low count may only mean that the server coalesced; its finish reason tells.
    let counted = |reason: &str| {
        let last = format!(r#"{{"choices":[{{"text":"a","finish_reason":"{reason}"}}]}}"#);
        one(vec![head(), event(&token(None)), event(&last), event("[DONE]"), end()], 5)
    };
    let (stop, length) = (counted("stop"), counted("length"));
    assert_eq!((stop.outcome, stop.output_tokens_source), (Outcome::WrongLength, CountSource::ChunkCount));
    assert_eq!(length.outcome, Outcome::Ok);
}

#[test]
fn each_timeout_has_its_own_words() {
    let ms = Duration::from_millis;
    let timed = |script: Vec<Act>, change: &dyn Fn(&mut llmlab_loadgen::Timeouts)| {
        let server = FakeServer::always(script);
        let mut endpoint = endpoint(server.url());
        change(&mut endpoint.timeouts);
        let (mut records, _) = run(&endpoint, &closed(1, 1, 3));
        let r = records.remove(0);
        assert_eq!(r.outcome, Outcome::Timeout, "{r:?}");
        r
    };
    // A drip of comments shows that the server is alive, not that it generates.
    let drip = |start: Vec<Act>| {
        let comments = (0..100).flat_map(|_| [chunk(": ping\n\n"), pause_ms(20)]);
        start.into_iter().chain(comments).collect::<Vec<_>>()
    };
    let r = timed(vec![Act::Hang], &|t| t.first_token = ms(50));
    assert!(r.error.unwrap().starts_with("first-token timeout"));
    let r = timed(drip(vec![head()]), &|t| t.first_token = ms(100));
    assert!(r.error.unwrap().starts_with("first-token timeout"));
    let r = timed(drip(vec![head(), event(&token(Some(1)))]), &|t| t.inter_token = ms(100));
    assert!(r.error.unwrap().starts_with("inter-token timeout"));
    assert_eq!(r.events.len(), 1);
    let r = timed(drip(vec![head(), event(&token(Some(1)))]), &|t| t.total = ms(150));
    assert!(r.error.unwrap().starts_with("total timeout"));
}

#[test]
fn the_key_never_reaches_a_record() {
    let server = FakeServer::always(plain("401 Unauthorized", "", "Incorrect API key provided: sk-secret"));
    let mut endpoint = endpoint(server.url());
    endpoint.api_key = Some(Secret::new("sk-secret"));
    let (records, _) = run(&endpoint, &closed(1, 1, 3));
    let words = records[0].error.clone().unwrap();
    assert!(words.contains("[redacted]") && !words.contains("sk-secret"), "{words}");
    assert!(!format!("{endpoint:?}").contains("sk-secret"));
}
