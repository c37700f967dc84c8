//! Streams as servers send them, recorded or written out after their sources, read byte by byte and cut in two at every
//! place: the record must always be the same.

mod bodies;
mod llamacpp;
mod messages;
mod ollama;
mod openai;
mod sglang;
mod tgi;
mod triton;
mod whole;

use std::time::Duration;

use llmlab_results::record::{Outcome, RequestRecord};

use crate::answer::Answer;
use crate::driver::Silent;
use crate::endpoint::Protocol;
use crate::tally::Tally;
use crate::workload::{PlannedRequest, Prompt};

/// What a record says of the answer's tokens.
#[derive(Debug, PartialEq)]
struct Told<'a> {
    outcome: Outcome,
    /// Tokens of each event.
    events: Vec<u32>,
    output_tokens: u32,
    finish_reason: Option<&'a str>,
}

fn told(record: &RequestRecord) -> Told<'_> {
    Told {
        outcome: record.outcome,
        events: record.events.iter().map(|event| event.tokens).collect(),
        output_tokens: record.output_tokens,
        finish_reason: record.finish_reason.as_deref(),
    }
}

fn ok(events: &[u32], output_tokens: u32, finish_reason: &'static str) -> Told<'static> {
    Told { outcome: Outcome::Ok, events: events.to_vec(), output_tokens, finish_reason: Some(finish_reason) }
}

fn request(prompt: Prompt, max_tokens: u32) -> PlannedRequest {
    PlannedRequest {
        index: 0,
        at: Duration::ZERO,
        prompt,
        prompt_tokens: 3,
        max_tokens,
        adapter: None,
        turn: None,
        hang_up: None,
    }
}

/// Reads `body` in pieces that end at `cuts`. Times are the number of bytes that had arrived.
fn read(protocol: Protocol, body: &[u8], cuts: &[usize], max_tokens: u32) -> RequestRecord {
    let request = request(Prompt::Text("a b c".into()), max_tokens);
    let mut tally = Tally::new(&request, Duration::ZERO, protocol.wire());
    let mut answer = Answer::new(protocol.wire(), &Silent);
    let mut start = 0;
    for &cut in cuts.iter().chain([&body.len()]) {
        let at = Duration::from_nanos(cut as u64);
        match answer.push(&mut tally, at, &body[start..cut]) {
            Ok(false) => start = cut,
            Ok(true) => return tally.finish(Ok(())).0,
            Err(failure) => return tally.finish(Err(failure)).0,
        }
    }
    let end = answer.finish(&mut tally, Duration::from_nanos(body.len() as u64));
    tally.finish(end).0
}

fn without_times(mut record: RequestRecord) -> RequestRecord {
    record.events.iter_mut().for_each(|event| event.at_ns = 0);
    for time in [&mut record.role_ns, &mut record.first_reasoning_ns, &mut record.done_ns] {
        *time = time.map(|_| 0);
    }
    record
}

/// The record of the byte-by-byte reading, after checking that no other cut leads to another one.
fn check(protocol: Protocol, body: &[u8], max_tokens: u32) -> RequestRecord {
    let every: Vec<usize> = (0..body.len()).collect();
    let record = read(protocol, body, &every, max_tokens);
    for cut in 0..=body.len() {
        let cut_once = read(protocol, body, &[cut], max_tokens);
        assert_eq!(without_times(cut_once), without_times(record.clone()), "cut at {cut}");
    }
    record
}

fn sse(events: &[&str]) -> Vec<u8> {
    events.iter().flat_map(|event| format!("data: {event}\n\n").into_bytes()).collect()
}

fn lines(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// When the last byte of event number `index` of `body` had arrived, blank line included.
fn end_of_event(body: &[u8], index: usize) -> u64 {
    let mut ends = body.windows(2).enumerate().filter(|(_, pair)| *pair == b"\n\n").map(|(at, _)| at + 2);
    ends.nth(index).expect("the event is there") as u64
}
