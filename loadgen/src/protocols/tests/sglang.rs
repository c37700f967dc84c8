use llmlab_results::record::{CountSource, Outcome};

use super::{check, ok, sse, told};
use crate::endpoint::Protocol::SgLang;

fn event(text: &str, so_far: u32, finish: &str) -> String {
    format!(
        r#"{{"text":"{text}","output_ids":[],"meta_info":{{"id":"r","finish_reason":{finish},"prompt_tokens":9,"completion_tokens":{so_far},"cached_tokens":0,"weight_version":"default"}}}}"#
    )
}

#[test]
fn the_text_is_cumulative_and_the_count_is_what_grows() {
    let length = r#"{"type":"length","length":6}"#;
    let body = sse(&[
        &event("a", 1, "null"),
        &event("a", 1, "null"),
        &event("a bcd", 4, "null"),
        &event("a bcd ef", 6, length),
        "[DONE]",
    ]);
    let record = check(SgLang, &body, 6);
    assert_eq!(told(&record), ok(&[1, 3, 2], 6, "length"));
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (9, CountSource::ServerDetail));
}

#[test]
fn failures() {
    let error = r#"{"error":{"message":"KV cache is full","type":"InternalServerError","code":500,"retryable":true}}"#;
    let failed = check(SgLang, &sse(&[&event("a", 1, "null"), error, "[DONE]"]), 6);
    assert_eq!((failed.outcome, failed.events.len()), (Outcome::Malformed, 1));
    assert_eq!(failed.error.unwrap(), "error inside the stream: KV cache is full");

    let abort = event("", 1, r#"{"type":"abort","message":"request is too long","status_code":400}"#);
    let aborted = check(SgLang, &sse(&[&abort, "[DONE]"]), 6);
    assert_eq!(aborted.error.unwrap(), "error inside the stream: aborted: request is too long");
    let bare = event("", 1, r#"{"type":"abort"}"#);
    assert_eq!(check(SgLang, &sse(&[&bare, "[DONE]"]), 6).outcome, Outcome::Malformed);

    assert_eq!(check(SgLang, &sse(&[&event("a", 1, "null")]), 1).outcome, Outcome::NoTerminator);
    // Without counts the cumulative text would be counted again and again.
    assert_eq!(
        check(SgLang, &sse(&[r#"{"text":"a","meta_info":{"id":"r"}}"#]), 6).outcome,
        Outcome::Malformed
    );
}
