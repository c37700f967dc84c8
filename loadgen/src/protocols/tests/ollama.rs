use llmlab_results::record::{CountSource, Outcome};

use super::{check, lines, ok, told};
use crate::endpoint::Protocol::{OllamaChat, OllamaGenerate};

const GENERATE: [&str; 4] = [
    r#"{"model":"llama3.2","created_at":"2026-08-21T10:00:00.123456789Z","response":"The","done":false}"#,
    r#"{"model":"llama3.2","created_at":"2026-08-21T10:00:00.223456789Z","response":" sky é","done":false}"#,
    r#"{"model":"llama3.2","created_at":"2026-08-21T10:00:00.323456789Z","response":"","done":false}"#,
    r#"{"model":"llama3.2","created_at":"2026-08-21T10:00:00.423456789Z","response":"","done":true,"done_reason":"length","context":[1,2,3],"total_duration":5043500667,"load_duration":5025959,"prompt_eval_count":26,"prompt_eval_duration":325953000,"eval_count":3,"eval_duration":4709213000}"#,
];

#[test]
fn counts_come_in_the_last_line() {
    let record = check(OllamaGenerate, &lines(&GENERATE), 3);
    assert_eq!(
        told(&record),
        ok(&[1, 1], 3, "length"),
        "an empty response is no token, the total is the server's"
    );
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (26, CountSource::ServerDetail));
    assert!(record.done_ns.unwrap() > record.last_token_ns().unwrap());
}

#[test]
fn line_ends_do_not_matter() {
    let crlf = GENERATE.map(|line| format!("{line}\r\n\r\n")).concat();
    let bare = GENERATE.join("\n");
    for body in [crlf, bare] {
        assert_eq!(told(&check(OllamaGenerate, body.as_bytes(), 3)), ok(&[1, 1], 3, "length"));
    }
}

#[test]
fn chat_with_thinking_and_a_tool_call() {
    let body = lines(&[
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":false}"#,
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"a"},"done":false}"#,
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]},"done":false}"#,
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done_reason":"stop","done":true,"eval_count":11,"prompt_eval_count":5}"#,
    ]);
    let record = check(OllamaChat, &body, 11);
    assert_eq!(told(&record), ok(&[1, 1, 1], 11, "stop"));
    assert_eq!(record.first_reasoning_ns, record.first_token_ns());
}

/// A prompt that was cached whole has no `prompt_eval_count` in older versions.
#[test]
fn a_missing_prompt_count_stays_an_estimate() {
    let record = check(
        OllamaGenerate,
        &lines(&[GENERATE[0], r#"{"response":"","done":true,"done_reason":"length","eval_count":1}"#]),
        1,
    );
    assert_eq!(told(&record), ok(&[1], 1, "length"));
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (3, CountSource::ChunkCount));
}

#[test]
fn failures() {
    let error = check(OllamaGenerate, &lines(&[GENERATE[0], r#"{"error":"model runner has stopped"}"#]), 3);
    assert_eq!((error.outcome, error.events.len()), (Outcome::Malformed, 1));
    assert_eq!(error.error.unwrap(), "error inside the stream: model runner has stopped");

    let cut = check(OllamaGenerate, &lines(&GENERATE[..2]), 3);
    assert_eq!((cut.outcome, cut.events.len()), (Outcome::NoTerminator, 2));
    assert_eq!(cut.error.unwrap(), "stream ended without \"done\":true");

    let inside = check(OllamaGenerate, &lines(&GENERATE[..2])[..120], 3);
    assert_eq!(inside.error.unwrap(), "stream ended inside an event");

    assert_eq!(check(OllamaGenerate, b"{\"model\":\"m\"}\n", 3).outcome, Outcome::Malformed);
    assert_eq!(check(OllamaGenerate, b"<html>\n", 3).outcome, Outcome::Malformed);
}
