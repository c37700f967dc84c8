//! Bytes of a real router (3.3.6), its own protocol and its OpenAI one.

use llmlab_results::record::{CountSource, Outcome, RequestRecord};

use super::{check, ok, sse, told};
use crate::endpoint::Protocol::{self, OpenAiChat, OpenAiCompletions, Tgi};

/// The body of a recorded response, without its chunk framing.
fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/tgi/{name}.response.http", env!("CARGO_MANIFEST_DIR"));
    let response = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let text = String::from_utf8(response).unwrap();
    let (_, mut rest) = text.split_once("\r\n\r\n").unwrap();
    let mut body = Vec::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&after.as_bytes()[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
}

fn read(protocol: Protocol, name: &str, max_tokens: u32) -> RequestRecord {
    check(protocol, &recorded(name), max_tokens)
}

#[test]
fn one_event_is_one_token_and_details_have_the_total() {
    let record = read(Tgi, "generate_stream_details", 3);
    assert_eq!(told(&record), ok(&[1, 1, 1], 3, "length"));
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (4, CountSource::ServerDetail));
    assert!(record.done_ns.is_some() && record.role_ns.is_none());
}

#[test]
fn without_details_the_token_events_are_the_count() {
    let record = read(Tgi, "generate_stream", 3);
    assert_eq!((record.outcome, record.output_tokens), (Outcome::Ok, 3));
    assert_eq!(record.output_tokens_source, CountSource::ServerDetail);
    assert_eq!(record.prompt_tokens_source, CountSource::ChunkCount);
}

#[test]
fn the_end_of_sequence_is_a_token_too_and_comes_early() {
    let record = read(Tgi, "generate_stream_eos", 10);
    assert_eq!(record.outcome, Outcome::WrongLength);
    assert_eq!((record.events.len(), record.output_tokens), (4, 4));
    assert_eq!(record.error.unwrap(), "4 output tokens instead of 10 (finish_reason eos_token)");
}

#[test]
fn errors_come_with_status_200() {
    let failed = read(Tgi, "fail_midstream_generate_stream", 5);
    assert_eq!((failed.outcome, failed.events.len()), (Outcome::Malformed, 2));
    assert!(failed.error.unwrap().contains("CUDA out of memory (injected) (generation)"));
    for (name, words) in [
        ("err429_generate_stream", "Model is overloaded (overloaded)"),
        ("err422_input_too_long_stream", "must have less than 512 tokens. Given: 600 (validation)"),
    ] {
        let record = read(Tgi, name, 5);
        assert_eq!((record.outcome, record.events.len()), (Outcome::Malformed, 0), "{name}");
        assert!(record.error.unwrap().contains(words), "{name}");
    }
}

#[test]
fn a_stream_that_stops_before_its_text_has_no_end() {
    let mut body = recorded("generate_stream");
    let last = body.windows(5).rposition(|bytes| bytes == b"data:").unwrap();
    body.truncate(last);
    let record = check(Tgi, &body, 3);
    assert_eq!((record.outcome, record.events.len()), (Outcome::NoTerminator, 2));
    assert_eq!(record.error.unwrap(), "stream ended without generated_text");
}

#[test]
fn older_routers_write_no_blank_after_the_colon() {
    let body: Vec<u8> =
        String::from_utf8(recorded("generate_stream_details")).unwrap().replace("data: ", "data:").into();
    assert_eq!(told(&check(Tgi, &body, 3)), ok(&[1, 1, 1], 3, "length"));
}

#[test]
fn top_tokens_are_not_tokens() {
    let body = sse(&[
        r#"{"index":1,"token":{"id":141,"text":" a","logprob":-0.5,"special":false},"top_tokens":[{"id":1,"text":"x","logprob":-1.0,"special":false},{"id":2,"text":"y","logprob":-2.0,"special":false}],"generated_text":" a","details":{"finish_reason":"length","generated_tokens":1,"seed":null,"input_length":4}}"#,
    ]);
    assert_eq!(told(&check(Tgi, &body, 1)), ok(&[1], 1, "length"));
    assert_eq!(check(Tgi, &sse(&[r#"{"index":1}"#]), 1).outcome, Outcome::Malformed);
}

#[test]
fn its_openai_dialect() {
    // The role stands in every event, beside text.
    let chat = read(OpenAiChat, "chat_stream", 3);
    assert_eq!(told(&chat), ok(&[1, 1, 1], 3, "length"));
    assert_eq!((chat.output_tokens_source, chat.role_ns), (CountSource::ChunkCount, None));
    let usage = read(OpenAiChat, "chat_stream_usage", 3);
    assert_eq!(told(&usage), ok(&[1, 1, 1], 3, "length"));
    assert_eq!((usage.prompt_tokens, usage.output_tokens_source), (5, CountSource::Usage));
    // Comments keep the connection alive before the first token.
    assert_eq!(told(&read(OpenAiChat, "chat_stream_keepalive_16s", 3)), ok(&[1, 1, 1], 3, "length"));
    // The finish reason is an empty text until the last event.
    let completions = read(OpenAiCompletions, "completions_stream", 3);
    assert_eq!(told(&completions), ok(&[1, 1, 1], 3, "length"));
    assert_eq!((completions.prompt_tokens, completions.output_tokens_source), (4, CountSource::Usage));
    for (protocol, name, words, tokens) in [
        (OpenAiChat, "fail_midstream_chat", "CUDA out of memory", 2),
        (OpenAiCompletions, "err429_completions_stream", "Model is overloaded", 0),
    ] {
        let record = read(protocol, name, 5);
        assert_eq!((record.outcome, record.events.len()), (Outcome::Malformed, tokens), "{name}");
        assert!(record.error.unwrap().contains(words), "{name}");
    }
}

/// An end-of-sequence event has an empty content beside its role, after tokens.
#[test]
fn a_role_at_the_end_is_no_announcement() {
    let event = |content: &str, reason: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"role":"assistant","content":"{content}"}},"finish_reason":{reason}}}],"usage":null}}"#
        )
    };
    let record = check(OpenAiChat, &sse(&[&event("a", "null"), &event("", "\"stop\""), "[DONE]"]), 1);
    assert_eq!((record.events.len(), record.role_ns), (1, None));
}
