//! Policy `vllm` under load, against recordings of 50 to 200 requests a scenario: thousands of steps with batches of up to
//! 157 and hundreds of preemptions. A row of the recording has the batch in short and a hash over everything.

mod common;

use std::collections::VecDeque;
use std::fmt::Display;

use common::vllm::{array, config, int};
use common::{at, golden_lines, outcome, request};
use llmlab_core::request::{Event, RequestId, TokenId};
use llmlab_core::step::StepPlan;
use llmlab_core::{Planned, Scheduler};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[test]
fn every_recorded_iteration_is_reproduced() {
    let lines = golden_lines("vllm_scheduler_large.jsonl");
    let mut failures = Vec::new();
    for line in &lines {
        if let Err(difference) = Replay::new(line).run() {
            failures.push(format!("scenario {}: {difference}", line["scenario"]["id"]));
        }
    }
    assert!(failures.is_empty(), "{} of {} differ:\n{}", failures.len(), lines.len(), failures.join("\n"));
    println!("{} scenarios agree", lines.len());
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

/// A schedule call whose outcome is still to come; the plan is none where there was nothing to schedule.
struct Scheduled {
    call: u64,
    plan: Option<StepPlan>,
}

struct Replay<'a> {
    line: &'a Value,
    requests: Vec<&'a [Value]>,
    /// Indices of requests, next to arrive last.
    arrivals: Vec<usize>,
    scheduler: Scheduler,
    generated: Vec<u32>,
    calls: u64,
    queue: VecDeque<Scheduled>,
    preempted_before: Vec<Value>,
    /// The recording says `=` for the batch of the row before.
    batch: Value,
}

impl<'a> Replay<'a> {
    fn new(line: &'a Value) -> Self {
        let requests: Vec<&[Value]> = array(&line["scenario"]["requests"]).iter().map(array).collect();
        let mut arrivals: Vec<usize> = (0..requests.len()).collect();
        arrivals.sort_by_key(|i| int(&requests[*i][0]));
        arrivals.reverse();
        Replay {
            line,
            arrivals,
            scheduler: Scheduler::new(config(&line["scenario"])).unwrap(),
            generated: vec![0; requests.len()],
            requests,
            calls: 0,
            queue: VecDeque::new(),
            preempted_before: Vec::new(),
            batch: Value::Null,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let mut all = Sha256::new();
        for row in array(&self.line["rows"]) {
            let record = self.iteration(row).map_err(|e| format!("iteration {}: {e}", row[0]))?;
            all.update(&record);
        }
        // The form of the record is known from synchronous recordings only.
        if self.line["scenario"]["async"] == false {
            same("hash over all iterations", &json!(hex(all)), &self.line["sha256"])?;
        }
        let free = Sha256::new_with_prefix(joined(self.scheduler.free_order().iter().map(|b| b.0), ","));
        same("free queue at the end", &json!(hex(free)), &self.line["final_free_queue_sha256"])?;
        let outputs: u32 = self.generated.iter().sum();
        same("output tokens", &json!(outputs), &self.line["total_outputs"])
    }

    /// Replays a row and returns the canonical record of what happened.
    fn iteration(&mut self, row: &Value) -> Result<String, String> {
        let it = int(&row[0]);
        let now = at(100_000 + it);
        let mut added = Vec::new();
        while let Some(&i) = self.arrivals.last().filter(|i| int(&self.requests[**i][0]) <= it) {
            self.arrivals.pop();
            let mut request =
                request(i as u64, prompt(i, self.requests[i]), int(&self.requests[i][4]) as u32);
            request.priority = int(&self.requests[i][5]) as i32;
            self.scheduler.enqueue_arrived(now, at(i as u64), request).map_err(|e| e.to_string())?;
            added.push(i);
        }
        let scheduled = if row[1].is_null() { "S-".into() } else { self.schedule(row)? };
        let applied = if row[4].is_null() { "A-".into() } else { self.apply(row)? };
        let record = format!("i{it}\n+{}\n{scheduled}\n{applied}\n", joined(added, ","));
        if self.line["scenario"]["async"] == false {
            let hash = hex(Sha256::new_with_prefix(&record))[..16].to_string();
            same(&format!("hash of {record:?}"), &json!(hash), &row[6])?;
        }
        Ok(record)
    }

    fn schedule(&mut self, row: &Value) -> Result<String, String> {
        self.calls += 1;
        let planned = self.scheduler.plan_one(at(100_000 + int(&row[0])));
        let plan = if let Planned::Step(plan) = planned { Some(plan) } else { None };
        if row[1] != "=" {
            self.batch = row[1].clone();
        }
        let item = |id: u64, n: usize| if n == 1 { json!(id) } else { json!([id, n]) };
        let seqs = || plan.iter().flat_map(|plan| &plan.seqs);
        let batch: Value = seqs().map(|s| item(s.id.0, s.tokens.len())).collect();
        same("batch", &batch, &self.batch)?;
        let free = self.scheduler.stats().free_blocks;
        same("free blocks", &json!(free), &row[2])?;
        self.preempted_before.extend_from_slice(array(&row[3]));
        if let Some(plan) = &plan {
            let preempted: Value = plan.preempted.iter().map(|id| id.0).collect();
            same("preempted", &preempted, &std::mem::take(&mut self.preempted_before).into())?;
        }
        let table = |id: &RequestId| {
            format!("{}:{}", id.0, joined(self.scheduler.block_table(*id).iter().map(|b| b.0), "."))
        };
        let text = format!(
            "S{}|{}|P{}|R{}|W{}|B{}|F{free}|E{}",
            self.calls,
            joined(seqs().map(|s| format!("{}:{}:{}", s.id.0, s.context, s.tokens.len())), ";"),
            joined(array(&row[3]), ","),
            joined(self.scheduler.running().iter().map(|id| id.0), ","),
            joined(self.scheduler.waiting().iter().map(|id| id.0), ","),
            joined(self.scheduler.running().iter().map(table), ";"),
            joined(seqs().filter(|s| s.sample).map(|s| s.id.0), ","),
        );
        self.queue.push_back(Scheduled { call: self.calls, plan });
        Ok(text)
    }

    fn apply(&mut self, row: &Value) -> Result<String, String> {
        let Scheduled { call, plan } = self.queue.pop_front().ok_or("an outcome without a schedule")?;
        same("call whose outcome is taken in", &json!(call), &row[4])?;
        let events = plan.map_or_else(Vec::new, |plan| {
            let token = |i: usize| {
                let index = plan.seqs[i].id.0 as usize;
                20_000_000 + 1000 * index as u32 + self.generated[index]
            };
            let outcome = outcome(&plan, token);
            self.scheduler.commit(at(100_000 + int(&row[0])), &plan, &outcome)
        });
        let (mut tokens, mut finished) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Token { id, token, .. } => {
                    self.generated[id.0 as usize] += 1;
                    tokens.push(format!("{}:{token}", id.0));
                }
                Event::Finished { id, .. } => finished.push(id.0),
            }
        }
        same("finished", &json!(finished), &row[5])?;
        let free = self.scheduler.stats().free_blocks;
        Ok(format!("A{call}|{}|D{}|f{free}", joined(tokens, ";"), joined(finished, ",")))
    }
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn same(what: &str, got: &Value, want: &Value) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}\n   want {want}\n   got  {got}")) }
}
