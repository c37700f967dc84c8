use llmlab_results::record::{CountSource, Outcome};

use super::{Told, check, sse, told};
use crate::endpoint::Protocol::Triton;

fn event(text: &str, tokens: &str) -> String {
    format!(
        r#"{{"model_name":"ensemble","model_version":"1","num_input_tokens":6,"num_output_tokens":{tokens},"sequence_end":false,"sequence_id":0,"text_output":{text}}}"#
    )
}

#[test]
fn each_response_counts_its_own_tokens_and_the_body_ends_the_stream() {
    let body =
        sse(&[&event("\"a\"", "1"), &event("\" bc\"", "3"), &event("[\" d\"]", "[1]"), &event("\"\"", "0")]);
    let record = check(Triton, &body, 5);
    assert_eq!(
        told(&record),
        Told { outcome: Outcome::Ok, events: vec![1, 3, 1], output_tokens: 5, finish_reason: None }
    );
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (6, CountSource::ServerDetail));
    assert!(record.done_ns.is_some());
}

#[test]
fn without_counts_events_with_text_are_counted() {
    let text = r#"{"model_name":"m","model_version":"1","text_output":"a"}"#;
    let empty = r#"{"model_name":"m","model_version":"1","text_output":""}"#;
    let record = check(Triton, &sse(&[text, empty, text]), 2);
    assert_eq!((record.output_tokens, record.output_tokens_source), (2, CountSource::ChunkCount));
}

#[test]
fn failures() {
    let failed = check(Triton, &sse(&[&event("\"a\"", "1"), r#"{"error":"Cannot process new request"}"#]), 5);
    assert_eq!((failed.outcome, failed.events.len()), (Outcome::Malformed, 1));
    assert_eq!(check(Triton, b"", 5).error.unwrap(), "stream ended without a token");
    assert_eq!(check(Triton, &sse(&[&event("\"a\"", "1")]), 5).outcome, Outcome::WrongLength);
    assert_eq!(check(Triton, b"data: {\"text_out", 5).outcome, Outcome::StreamCut);
    assert_eq!(check(Triton, &sse(&["{}"]), 5).outcome, Outcome::Malformed);
}
