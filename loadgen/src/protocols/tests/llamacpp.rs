use llmlab_results::record::{CountSource, Outcome};

use super::{check, ok, sse, told};
use crate::endpoint::Protocol::LlamaCpp;

fn event(content: &str, so_far: u32) -> String {
    format!(
        r#"{{"index":0,"content":"{content}","tokens":[],"stop":false,"id_slot":-1,"tokens_predicted":{so_far},"tokens_evaluated":12}}"#
    )
}

fn last(so_far: u32) -> String {
    format!(
        r#"{{"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"model":"m","tokens_predicted":{so_far},"tokens_evaluated":12,"generation_settings":{{"n_predict":5}},"prompt":"a","has_new_line":false,"truncated":false,"stop_type":"limit","stopping_word":"","tokens_cached":16,"timings":{{"cache_n":0,"prompt_n":12,"predicted_n":{so_far}}}}}"#
    )
}

#[test]
fn every_event_says_how_many_tokens_there_are() {
    // Two held back for an unfinished character, then a speculated step.
    let record = check(LlamaCpp, &sse(&[&event("a", 1), &event("é", 3), &event("bc", 5), &last(5)]), 5);
    assert_eq!(told(&record), ok(&[1, 2, 2], 5, "limit"));
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (12, CountSource::ServerDetail));
    assert!(record.done_ns.is_some());
}

#[test]
fn an_event_without_growth_is_no_token() {
    let record = check(LlamaCpp, &sse(&[&event("a", 1), &event("", 1), &event("b", 2), &last(2)]), 2);
    assert_eq!(told(&record), ok(&[1, 1], 2, "limit"));
}

#[test]
fn failures() {
    let error = r#"{"error":{"code":500,"message":"context shift is disabled","type":"server_error"}}"#;
    let failed = check(LlamaCpp, &sse(&[&event("a", 1), error]), 5);
    assert_eq!((failed.outcome, failed.events.len()), (Outcome::Malformed, 1));
    assert_eq!(failed.error.unwrap(), "error inside the stream: context shift is disabled");
    let cut = check(LlamaCpp, &sse(&[&event("a", 1)]), 5);
    assert_eq!(cut.error.unwrap(), "stream ended without \"stop\":true");
    let other = check(LlamaCpp, &sse(&[r#"{"choices":[]}"#]), 5);
    assert_eq!(other.outcome, Outcome::Malformed);
}
