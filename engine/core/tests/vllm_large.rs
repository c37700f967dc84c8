//! Policy `vllm` under load, against a recording of 50 to 200 requests a scenario: thousands of steps with batches of up to
//! 157 and more than a hundred preemptions.

mod common;

use common::vllm::{array, config, int};
use common::{at, golden_lines, outcome, request};
use llmlab_core::request::{Event, TokenId};
use llmlab_core::{Planned, Scheduler};
use serde_json::{Value, json};

#[test]
fn every_recorded_iteration_is_reproduced() {
    let lines = golden_lines("vllm_scheduler_large.jsonl");
    let synchronous = lines.iter().filter(|line| line["scenario"]["async"] == false);
    let steps: usize = synchronous.map(replay).sum();
    assert!(steps > 0, "no synchronous scenario in the recording");
    println!("{steps} steps agree");
}

/// A request row is `[arrive_step, prompt_len, group, shared_len, max_tokens, priority]`.
fn prompt(index: usize, row: &[Value]) -> Vec<TokenId> {
    let group = row[2].as_i64().unwrap_or(-1);
    let shared = if group >= 0 { int(&row[3]) } else { 0 };
    let token = |i: u64| {
        if i < shared { 1_000_000 * (group as u64 + 1) + i } else { 10_000_000 + 10_000 * index as u64 + i }
    };
    (0..int(&row[1])).map(|i| token(i) as TokenId).collect()
}

fn replay(line: &Value) -> usize {
    let scenario = &line["scenario"];
    let requests: Vec<&[Value]> = array(&scenario["requests"]).iter().map(array).collect();
    let mut arrivals: Vec<usize> = (0..requests.len()).collect();
    arrivals.sort_by_key(|i| int(&requests[*i][0]));
    let mut arrivals = arrivals.into_iter().peekable();
    let mut scheduler = Scheduler::new(config(scenario)).unwrap();
    let mut generated = vec![0_u32; requests.len()];
    let mut last = Value::Null;
    for row in array(&line["rows"]) {
        let place = format!("scenario {} iteration {}", scenario["id"], row[0]);
        let now = at(100_000 + int(&row[0]));
        while let Some(i) = arrivals.next_if(|i| int(&requests[*i][0]) <= int(&row[0])) {
            let mut request = request(i as u64, prompt(i, requests[i]), int(&requests[i][4]) as u32);
            request.priority = int(&requests[i][5]) as i32;
            scheduler.enqueue_arrived(now, at(i as u64), request).unwrap();
        }
        if row[1] != "=" {
            last = row[1].clone();
        }
        let Planned::Step(plan) = scheduler.plan(now) else {
            assert!(last == json!([]) || last.is_null(), "{place}: nothing planned, recorded {last}");
            continue;
        };
        let item = |id: u64, n: usize| if n == 1 { json!(id) } else { json!([id, n]) };
        let scheduled: Value = plan.seqs.iter().map(|s| item(s.id.0, s.tokens.len())).collect();
        assert_eq!(scheduled, last, "{place}");
        assert_eq!(json!(scheduler.stats().free_blocks), row[2], "{place}");
        let preempted: Value = plan.preempted.iter().map(|id| id.0).collect();
        assert_eq!(preempted, row[3], "{place}");
        let token = |i: usize| {
            let index = plan.seqs[i].id.0 as usize;
            20_000_000 + 1000 * index as u32 + generated[index]
        };
        let events = scheduler.commit(now, &plan, &outcome(&plan, token));
        let mut finished = Vec::new();
        for event in events {
            match event {
                Event::Token { id, .. } => generated[id.0 as usize] += 1,
                Event::Finished { id, .. } => finished.push(id.0),
            }
        }
        assert_eq!(json!(finished), row[5], "{place}");
    }
    assert!(scheduler.running().is_empty() && scheduler.waiting().is_empty());
    scheduler.stats().steps_total as usize
}
