//! Anthropic's messages.

use llmlab_results::record::{CountSource, Outcome};

use super::{check, ok, told};
use crate::endpoint::Protocol::Anthropic;

/// Every event has a name besides its type, as on the wire.
fn named(events: &[(&str, &str)]) -> Vec<u8> {
    let event =
        |(name, rest): &(&str, &str)| format!("event: {name}\ndata: {{\"type\":\"{name}\"{rest}}}\n\n");
    events.iter().map(event).collect::<String>().into_bytes()
}

const START: (&str, &str) = (
    "message_start",
    r#","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":20,"output_tokens":1}}"#,
);
const TEXT_BLOCK: (&str, &str) =
    ("content_block_start", r#","index":0,"content_block":{"type":"text","text":""}"#);
const PING: (&str, &str) = ("ping", "");
const STOP: (&str, &str) = ("message_stop", "");

fn delta(inside: &'static str) -> (&'static str, &'static str) {
    ("content_block_delta", inside)
}

fn end(tokens: &'static str) -> [(&'static str, &'static str); 3] {
    [("content_block_stop", r#","index":0"#), ("message_delta", tokens), STOP]
}

#[test]
fn several_tokens_a_delta_and_the_total_at_the_end() {
    let mut events = vec![START, TEXT_BLOCK, PING];
    events.push(delta(r#","index":0,"delta":{"type":"text_delta","text":"The sky"}"#));
    events.push(PING);
    events.push(delta(r#","index":0,"delta":{"type":"text_delta","text":""}"#));
    events.push(delta(r#","index":0,"delta":{"type":"text_delta","text":" is blue today"}"#));
    events.extend(end(
        r#","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"output_tokens":6}"#,
    ));
    let record = check(Anthropic, &named(&events), 6);
    assert_eq!(told(&record), ok(&[1, 1], 6, "max_tokens"), "pings and empty deltas are no tokens");
    assert_eq!(record.output_tokens_source, CountSource::Usage);
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (25, CountSource::Usage));
    assert!(record.role_ns.unwrap() < record.first_token_ns().unwrap());
}

#[test]
fn thinking_and_tools_are_tokens_and_signatures_are_not() {
    let mut events = vec![START];
    events.push(("content_block_start", r#","index":0,"content_block":{"type":"thinking","thinking":""}"#));
    events.push(delta(r#","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}"#));
    events.push(delta(r#","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}"#));
    events.push((
        "content_block_start",
        r#","index":1,"content_block":{"type":"tool_use","id":"t1","name":"weather","input":{}}"#,
    ));
    events.push(delta(r#","index":1,"delta":{"type":"input_json_delta","partial_json":""}"#));
    events.push(delta(r#","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"city\":"}"#));
    events.extend(end(r#","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9}"#));
    let record = check(Anthropic, &named(&events), 9);
    assert_eq!(told(&record), ok(&[1, 1, 1], 9, "tool_use"));
    assert_eq!(record.first_reasoning_ns, record.first_token_ns());
}

#[test]
fn failures() {
    let text = delta(r#","index":0,"delta":{"type":"text_delta","text":"a"}"#);
    let overloaded = ("error", r#","error":{"type":"overloaded_error","message":"Overloaded"}"#);
    let failed = check(Anthropic, &named(&[START, TEXT_BLOCK, text, overloaded]), 6);
    assert_eq!((failed.outcome, failed.events.len()), (Outcome::Malformed, 1));
    assert_eq!(failed.error.unwrap(), "error inside the stream: Overloaded");

    let cut = check(Anthropic, &named(&[START, TEXT_BLOCK, text]), 6);
    assert_eq!(cut.outcome, Outcome::NoTerminator);
    assert_eq!(
        (cut.output_tokens, cut.output_tokens_source),
        (1, CountSource::ChunkCount),
        "not the 1 of the start"
    );
    assert_eq!(check(Anthropic, b"data: {\"choices\":[]}\n\n", 6).outcome, Outcome::Malformed);
}

#[test]
fn events_of_later_versions_are_passed_over() {
    let text = delta(r#","index":0,"delta":{"type":"text_delta","text":"a"}"#);
    let mut events = vec![START, ("weather_report", r#","delta":{"mood":"sunny"}"#), TEXT_BLOCK, text];
    events.extend(end(r#","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}"#));
    assert_eq!(told(&check(Anthropic, &named(&events), 1)), ok(&[1], 1, "end_turn"));
}
