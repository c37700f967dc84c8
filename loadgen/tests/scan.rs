//! The quick reading of an event against the full one, on events as servers write them and on what chance makes of them.

use llmlab_loadgen::Protocol;
use proptest::prelude::*;

const PROTOCOLS: [Protocol; 2] = [Protocol::OpenAiCompletions, Protocol::OpenAiChat];

/// As vLLM, SGLang, llama.cpp and TensorRT-LLM write them.
const USUAL: [&str; 8] = [
    r#"{"id":"cmpl-1","object":"text_completion","created":1764000000,"model":"m","choices":[{"index":0,"text":" tok","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":null,"prompt_token_ids":null}],"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1}}"#,
    r#"{"id":"cmpl-1","choices":[{"index":0,"text":"é","finish_reason":"length"}],"usage":null}"#,
    r#"{"id": "c", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}}"#,
    r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#,
    r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" hi","reasoning_content":null,"tool_calls":null},"finish_reason":null,"matched_stop":null}],"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}"#,
    r#"{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"system_fingerprint":"b1"}"#,
    r#"{"choices":null,"usage":{"prompt_tokens":1,"completion_tokens":null}}"#,
];

/// For serde to judge.
const UNUSUAL: [&str; 14] = [
    "",
    "[DONE]",
    r#"{"choices":[]"#,
    r#"{"choices":[{"text":"a\n"}]}"#,
    r#"{"choices":[{"text":"a"}],"choices":[]}"#,
    r#"{"choices":[{"finish_reason":null,"finish_reason":null}]}"#,
    r#"{"choices":[{"text":"a"},{"text":"b"}]}"#,
    r#"{"choices":[{"text":5,"delta":5}]}"#,
    r#"{"error":{"message":"oom"}}"#,
    r#"{"object":"error","message":"too long"}"#,
    r#"{"object":"a","object":"b","choices":[]}"#,
    r#"{"ping":1}"#,
    r#"{"usage":{"completion_tokens":4294967296}}"#,
    r#"{"usage":[1,2]}"#,
];

#[test]
fn usual_events_are_read_quickly_and_others_not() {
    for event in USUAL {
        for protocol in PROTOCOLS {
            assert_eq!(protocol.scans_as_it_parses(&[event]), [Some(true)], "{} {event}", protocol.name());
        }
    }
    for event in UNUSUAL {
        for protocol in PROTOCOLS {
            assert_eq!(protocol.scans_as_it_parses(&[event]), [None], "{} {event}", protocol.name());
        }
    }
}

/// An event with some of its bytes cut out, doubled or replaced by pieces of JSON.
fn changed() -> impl Strategy<Value = String> {
    followed().prop_map(|(_, changed)| changed)
}

/// An event, and one made of it.
fn followed() -> impl Strategy<Value = (&'static str, String)> {
    let pieces = [
        "",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "null",
        "0",
        "01",
        "1.5",
        "-1",
        "4294967296",
        "\"a\"",
        "\"text\":\"b\",",
        "\"error\":null,",
        "\"object\":\"error\",",
        "\"usage\":null,",
        "\"choices\":[],",
        "\u{1}",
        "é",
    ];
    let change = (any::<prop::sample::Index>(), 0..12usize, prop::sample::select(pieces.to_vec()));
    (prop::sample::select([USUAL.as_slice(), &UNUSUAL].concat()), prop::collection::vec(change, 1..4))
        .prop_map(|(event, changes)| {
            let changed = changes.into_iter().fold(event.to_owned(), |event, (place, length, piece)| {
                let places: Vec<usize> =
                    event.char_indices().map(|(at, _)| at).chain([event.len()]).collect();
                let from = place.index(places.len());
                let to = (from + length).min(places.len() - 1);
                format!("{}{piece}{}", &event[..places[from]], &event[places[to]..])
            });
            (event, changed)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn both_readings_agree(event in changed()) {
        for protocol in PROTOCOLS {
            prop_assert_ne!(protocol.scans_as_it_parses(&[&event]), [Some(false)], "{}: {}", protocol.name(), event);
        }
    }

    /// An event leaves its layout behind for those after it.
    #[test]
    fn both_readings_agree_along_a_stream((event, changed) in followed()) {
        for protocol in PROTOCOLS {
            let read = protocol.scans_as_it_parses(&[event, &changed, event]);
            prop_assert!(!read.contains(&Some(false)), "{}: {} then {}", protocol.name(), event, changed);
        }
    }
}
