//! Sessions and clients that hang up, over real connections.

mod support;

use std::time::Duration;

use llmlab_loadgen::{
    Abandonment, Arrivals, LengthDist, Patience, PromptStyle, Protocol, Sessions, TimeDist, TurnCount,
    Workload, generate,
};
use llmlab_results::record::Outcome;
use serde_json::{Value, json};
use support::*;

fn sessions(turns: u32, output: u32, prompts: PromptStyle) -> Workload {
    let think_time = TimeDist::Fixed { time: Duration::from_millis(30) };
    let mut config = config(u64::from(turns), output, Arrivals::Constant { rate_rps: 1.0 });
    config.prompts = prompts;
    config.sessions =
        Some(Sessions { turns: TurnCount::Fixed { turns }, think_time, max_context_tokens: 1000 });
    generate(&config).unwrap()
}

fn bodies(server: &FakeServer) -> Vec<Value> {
    let requests = server.seen.lock().unwrap().requests.clone();
    requests
        .iter()
        .map(|request| serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap())
        .collect()
}

const WORDS: PromptStyle = PromptStyle::Words { tokens_per_word: 1.0 };
const IDS: PromptStyle = PromptStyle::TokenIds { first: 3, end: 500 };

#[test]
fn the_answer_is_in_the_next_prompt_of_a_chat() {
    let events = [
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"good"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":" day"},"finish_reason":"length"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":3}}"#,
        "[DONE]",
    ];
    let mut script = vec![head()];
    script.extend(events.map(event));
    script.push(end());
    let server = FakeServer::always(script);
    let mut endpoint = endpoint(server.url());
    endpoint.protocol = Protocol::OpenAiChat;
    let (records, _) = run(&endpoint, &sessions(3, 3, WORDS));
    let bodies = bodies(&server);
    let messages = |place: usize| bodies[place]["messages"].as_array().unwrap().clone();
    assert_eq!([0, 1, 2].map(|turn| messages(turn).len()), [1, 3, 5]);
    assert_eq!(messages(2)[..3], messages(1)[..], "what was said stays said");
    assert_eq!(messages(1)[1], json!({ "role": "assistant", "content": "good day" }));
    for (record, turn) in records.iter().zip(0..) {
        let facts = record.turn.unwrap();
        assert_eq!((record.outcome, facts.session, facts.turn, facts.stand_ins), (Outcome::Ok, 0, turn, 0));
        // 8 new tokens and 3 of the answer a turn.
        assert_eq!((facts.context_tokens, record.prompt_tokens_requested), (11 * turn, 11 * turn + 8));
    }
    for pair in records.windows(2) {
        let thought = pair[1].scheduled_ns - pair[0].done_ns.unwrap();
        assert!(thought >= 30_000_000, "due {thought} ns after the answer");
    }
}

#[test]
fn the_ids_of_an_answer_are_in_the_next_prompt_where_the_server_names_them() {
    let named = |ids: &str| {
        let tokens = format!(r#"{{"choices":[{{"index":0,"text":"ab","token_ids":{ids}}}]}}"#);
        let mut script = vec![head(), event(&tokens), event(&final_usage(2)), event("[DONE]")];
        script.push(end());
        let server = FakeServer::always(script);
        let (records, _) = run(&endpoint(server.url()), &sessions(2, 2, IDS));
        (bodies(&server), records[1].turn.unwrap().stand_ins)
    };
    let (with, stand_ins) = named("[7,9]");
    assert_eq!((&with[0]["return_token_ids"], stand_ins), (&json!(true), 0));
    assert_eq!(with[1].get("return_token_ids"), None, "nobody needs the last answer");
    let prompt = with[1]["prompt"].as_array().unwrap();
    assert_eq!((prompt.len(), &prompt[8..10]), (18, &[json!(7), json!(9)][..]));
    assert_eq!(prompt[..8], with[0]["prompt"].as_array().unwrap()[..]);
    let (without, stand_ins) = named("null");
    assert_eq!((without[1]["prompt"].as_array().unwrap().len(), stand_ins), (18, 1));
}

#[test]
fn a_session_goes_on_after_a_failure() {
    let server = FakeServer::always(plain("503 Service Unavailable", "", "busy"));
    let (records, facts) = run(&endpoint(server.url()), &sessions(3, 4, IDS));
    assert_eq!((records.len(), facts.issued), (3, 3));
    assert!(records.iter().all(|r| r.outcome == Outcome::Http));
    let stand_ins = |place: usize| records[place].turn.unwrap().stand_ins;
    assert_eq!([0, 1, 2].map(stand_ins), [0, 1, 2]);
    assert_eq!(records[2].prompt_tokens_requested, 8 * 3 + 4 * 2);
}

fn abandoned(patience: Patience, script: Vec<Act>) -> llmlab_results::record::RequestRecord {
    let server = FakeServer::always(script);
    let mut config = config(1, 10, Arrivals::Constant { rate_rps: 1.0 });
    config.abandonment = Some(Abandonment { share: 1.0, patience });
    run(&endpoint(server.url()), &generate(&config).unwrap()).0.remove(0)
}

#[test]
fn a_client_hangs_up_with_the_tokens_it_wanted_or_when_its_time_is_over() {
    let two_and_silence = || vec![head(), event(&token(None)), event(&token(None)), Act::Hang];
    let tokens = |tokens| Patience::Tokens(LengthDist::Fixed { tokens });
    let record = abandoned(tokens(2), two_and_silence());
    assert_eq!((record.outcome, record.output_tokens, record.done_ns), (Outcome::Abandoned, 2, None));
    assert!(record.error.unwrap().contains("after 2 tokens"));
    let time = Patience::Time(TimeDist::Fixed { time: Duration::from_millis(200) });
    let record = abandoned(time.clone(), two_and_silence());
    assert_eq!(record.outcome, Outcome::Abandoned);
    assert!(record.error.unwrap().contains("200ms"));
    // Also before a single byte came.
    let record = abandoned(time, vec![Act::Hang]);
    assert_eq!((record.outcome, record.output_tokens), (Outcome::Abandoned, 0));
    // More tokens than the answer has, less one, are never waited for.
    let record = abandoned(tokens(100), normal(10));
    assert!(record.output_tokens >= 9 && matches!(record.outcome, Outcome::Abandoned | Outcome::Ok));
    let late = Patience::Time(TimeDist::Fixed { time: Duration::from_secs(30) });
    assert_eq!(abandoned(late, normal(10)).outcome, Outcome::Ok, "the answer is complete before");
}
