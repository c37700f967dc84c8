//! The dialects of the two OpenAI protocols.

use llmlab_results::record::{CountSource, Outcome};

use super::{check, end_of_event, ok, sse, told};
use crate::endpoint::Protocol::{OpenAiChat, OpenAiCompletions};

const ROLE: &str =
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const FINISH: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#;

fn delta(delta: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#)
}

fn usage(completion_tokens: u32) -> String {
    format!(r#"{{"choices":[],"usage":{{"prompt_tokens":7,"completion_tokens":{completion_tokens}}}}}"#)
}

#[test]
fn reasoning_in_both_spellings() {
    for field in ["reasoning", "reasoning_content"] {
        let thought = delta(&format!(r#"{{"{field}":"hm"}}"#));
        let empty = delta(&format!(r#"{{"{field}":"","content":null}}"#));
        let text = delta(r#"{"content":"a"}"#);
        let body = sse(&[ROLE, &empty, &thought, &text, FINISH, &usage(2), "[DONE]"]);
        let record = check(OpenAiChat, &body, 2);
        assert_eq!(told(&record), ok(&[1, 1], 2, "length"), "{field}");
        assert_eq!(record.role_ns, Some(end_of_event(&body, 0)));
        assert_eq!(record.first_reasoning_ns, Some(end_of_event(&body, 2)));
        assert_eq!(record.first_token_ns(), record.first_reasoning_ns, "{field}");
        assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (7, CountSource::Usage));
    }
}

#[test]
fn tool_calls_are_tokens() {
    let body = sse(&[
        ROLE,
        &delta(r#"{"tool_calls":[{"index":0,"id":"c1","type":"function"}]}"#),
        &delta(r#"{"tool_calls":[{"index":0,"function":{"name":"weather","arguments":""}}]}"#),
        &delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}"#),
        &delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"Bonn\"}"}}]}"#),
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        &usage(9),
        "[DONE]",
    ]);
    let record = check(OpenAiChat, &body, 9);
    assert_eq!(told(&record), ok(&[1, 1, 1], 9, "tool_calls"));
    assert_eq!(
        record.first_token_ns(),
        Some(end_of_event(&body, 2)),
        "an id is the server's, a name the model's"
    );
}

/// vLLM with `continuous_usage_stats`.
#[test]
fn running_usage_counts_several_tokens_an_event() {
    let event = |text: &str, so_far: u32| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}],"usage":{{"prompt_tokens":7,"completion_tokens":{so_far}}}}}"#
        )
    };
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":7,"completion_tokens":0}}"#;
    let body = sse(&[role, &event("a", 3), &event("b", 4), &event("cd", 9), FINISH, &usage(9), "[DONE]"]);
    assert_eq!(told(&check(OpenAiChat, &body, 9)), ok(&[3, 1, 5], 9, "length"));
}

#[test]
fn a_role_chunk_is_no_token_whatever_its_usage_says() {
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#;
    let text = r#"{"choices":[{"index":0,"delta":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    let body = sse(&[role, text, FINISH, &usage(2), "[DONE]"]);
    let record = check(OpenAiChat, &body, 2);
    assert_eq!(told(&record), ok(&[2], 2, "length"));
    assert_eq!(record.first_token_ns(), Some(end_of_event(&body, 1)));
}

/// Some servers fill the object in every event and its numbers only in the last.
#[test]
fn usage_of_zero_is_no_running_count() {
    let text = r#"{"choices":[{"text":"a","finish_reason":null}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
    let body = sse(&[text, text, text, &usage(3), "[DONE]"]);
    let record = check(OpenAiCompletions, &body, 3);
    assert_eq!(record.events.len(), 3);
    assert_eq!((record.outcome, record.output_tokens, record.prompt_tokens), (Outcome::Ok, 3, 7));

    let never = check(OpenAiCompletions, &sse(&[text, text, text, "[DONE]"]), 3);
    assert_eq!((never.output_tokens, never.output_tokens_source), (3, CountSource::ChunkCount));
}

#[test]
fn a_count_from_before_the_last_tokens_is_not_the_total() {
    let first = r#"{"choices":[{"text":"a","finish_reason":null}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#;
    let next = r#"{"choices":[{"text":"a","finish_reason":null}]}"#;
    let record = check(OpenAiCompletions, &sse(&[first, next, next, "[DONE]"]), 3);
    assert_eq!((record.outcome, record.output_tokens), (Outcome::Ok, 3));
    assert_eq!(record.output_tokens_source, CountSource::ChunkCount);
}

#[test]
fn token_ids_count_where_usage_is_missing() {
    let event = r#"{"choices":[{"text":"ab","token_ids":[5,6],"finish_reason":null}]}"#;
    let last = r#"{"choices":[{"text":"","token_ids":[],"finish_reason":"length"}]}"#;
    let record = check(OpenAiCompletions, &sse(&[event, event, last, "[DONE]"]), 4);
    assert_eq!(told(&record), ok(&[2, 2], 4, "length"));
    assert_eq!(record.output_tokens_source, CountSource::TokenIds);
}

#[test]
fn without_usage_events_are_counted_and_marked_so() {
    let text = delta(r#"{"content":"a"}"#);
    let record =
        check(OpenAiChat, &sse(&[ROLE, &text, &delta(r#"{"content":""}"#), &text, FINISH, "[DONE]"]), 5);
    assert_eq!(told(&record), ok(&[1, 1], 2, "length"));
    assert_eq!(record.output_tokens_source, CountSource::ChunkCount);
    assert_eq!(record.prompt_tokens_source, CountSource::ChunkCount);
}

#[test]
fn a_missing_terminator_is_told_whatever_came_before() {
    let text = delta(r#"{"content":"a"}"#);
    let record = check(OpenAiChat, &sse(&[ROLE, &text, FINISH, &usage(1)]), 1);
    assert_eq!((record.outcome, record.output_tokens, record.events.len()), (Outcome::NoTerminator, 1, 1));
    assert_eq!(record.error.unwrap(), "stream ended without [DONE], after finish_reason length");
    let inside = check(OpenAiChat, b"data: {\"choices\":[{\"del", 1);
    assert_eq!(inside.error.unwrap(), "stream ended inside an event");
}

#[test]
fn errors_inside_the_stream() {
    let text = delta(r#"{"content":"a"}"#);
    // vLLM says [DONE] after it, llama.cpp does not.
    for (error, tail) in [
        (
            r#"{"error":{"message":"out of memory","type":"InternalServerError","param":null,"code":500}}"#,
            Some("[DONE]"),
        ),
        (r#"{"error":{"code":500,"message":"out of memory","type":"server_error"}}"#, None),
        (r#"{"object":"error","message":"out of memory","code":500}"#, None),
        (r#"{"error":"out of memory"}"#, None),
    ] {
        let events: Vec<&str> = [ROLE, &text, error].into_iter().chain(tail).collect();
        let record = check(OpenAiChat, &sse(&events), 4);
        assert_eq!((record.outcome, record.events.len()), (Outcome::Malformed, 1), "{error}");
        assert_eq!(record.error.unwrap(), "error inside the stream: out of memory");
    }
    let abort = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}"#;
    assert_eq!(check(OpenAiChat, &sse(&[&text, abort, "[DONE]"]), 4).outcome, Outcome::Malformed);
}

#[test]
fn null_members_are_absent_ones() {
    let event = r#"{"error":null,"usage":null,"choices":[{"index":0,"delta":{"role":"assistant","content":"a","tool_calls":null,"reasoning":null},"finish_reason":null}]}"#;
    let record = check(OpenAiChat, &sse(&[event, FINISH, &usage(1), "[DONE]"]), 1);
    assert_eq!(told(&record), ok(&[1], 1, "length"));
    assert_eq!(record.role_ns, None, "a role beside text announces nothing");
}
