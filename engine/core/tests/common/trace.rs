//! Runs a little workload step by step and writes down what happened, in the notation of the worked tables: `A:3@8` is
//! three tokens of A with eight already in the cache.

use std::collections::BTreeMap;

use llmlab_core::config::EngineConfig;
use llmlab_core::request::{Event, Request, RequestId};
use llmlab_core::step::StepPlan;
use llmlab_core::{Planned, Scheduler};

use super::{at, outcome, request};

/// A request that arrives before step `step` is planned.
pub struct Arrival {
    pub name: &'static str,
    pub step: u64,
    pub request: Request,
}

/// `prompt` distinct tokens in, `max_tokens` out, there from the start.
pub fn arrival(name: &'static str, prompt: u32, max_tokens: u32) -> Arrival {
    let first = name.bytes().map(u32::from).sum::<u32>() * 1000;
    arrival_of(name, (first..first + prompt).collect(), max_tokens)
}

pub fn arrival_of(name: &'static str, prompt: Vec<u32>, max_tokens: u32) -> Arrival {
    Arrival { name, step: 1, request: request(0, prompt, max_tokens) }
}

impl Arrival {
    pub fn at_step(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    pub fn priority(mut self, priority: i32) -> Self {
        self.request.priority = priority;
        self
    }
}

/// One step in words. Lists are comma-joined, `-` when empty.
pub struct Row {
    pub step: u64,
    pub scheduled: String,
    pub preempted: String,
    /// Block tables of all running requests, and of those admitted in this step.
    pub tables: String,
    pub new_tables: String,
    pub waiting: String,
    pub free_planned: usize,
    pub free_committed: usize,
    /// Rows the executor computes, padding included, and those that carry a token.
    pub width: usize,
    pub useful: usize,
    pub emits: String,
    pub finished: String,
}

/// The rows, and the free blocks at the end.
pub fn trace(config: EngineConfig, arrivals: Vec<Arrival>) -> (Vec<Row>, Vec<u32>) {
    let mut scheduler = Scheduler::new(config).unwrap();
    let names: BTreeMap<RequestId, &str> =
        arrivals.iter().enumerate().map(|(i, a)| (RequestId(i as u64), a.name)).collect();
    let mut coming: Vec<(u64, Request)> = arrivals
        .into_iter()
        .enumerate()
        .map(|(i, a)| (a.step, Request { id: RequestId(i as u64), ..a.request }))
        .collect();
    let mut rows = Vec::new();
    for step in 1..200 {
        for (_, request) in coming.extract_if(.., |(when, _)| *when == step) {
            scheduler.enqueue(at(step), request).unwrap();
        }
        match scheduler.plan(at(step)) {
            Planned::Step(plan) => rows.push(run(&mut scheduler, &plan, step, &names)),
            Planned::Idle if coming.is_empty() => break,
            Planned::Idle | Planned::WaitUntil(_) => {}
        }
    }
    (rows, scheduler.free_order().iter().map(|b| b.0).collect())
}

fn run(scheduler: &mut Scheduler, plan: &StepPlan, step: u64, names: &BTreeMap<RequestId, &str>) -> Row {
    let name = |id: &RequestId| names[id].to_string();
    let table = |id: &RequestId| {
        let blocks: Vec<String> = scheduler.block_table(*id).iter().map(|b| b.0.to_string()).collect();
        format!("{}=[{}]", names[id], blocks.join(","))
    };
    let scheduled = plan.seqs.iter().filter(|s| !s.tokens.is_empty());
    let mut row = Row {
        step,
        scheduled: join(" ", scheduled.map(|s| format!("{}:{}@{}", names[&s.id], s.tokens.len(), s.context))),
        preempted: join(",", plan.preempted.iter().map(name)),
        tables: join(" ", scheduler.running().iter().map(table)),
        new_tables: join(" ", plan.admitted.iter().map(|(id, _)| table(id))),
        waiting: join(",", scheduler.waiting().iter().map(name)),
        free_planned: scheduler.stats().free_blocks,
        free_committed: 0,
        width: plan.seqs.iter().map(|s| s.tokens.len() + s.padding as usize).sum(),
        useful: plan.new_tokens(),
        emits: String::new(),
        finished: String::new(),
    };
    // Tokens no prompt contains.
    let events = scheduler.commit(at(step), plan, &outcome(plan, |i| 900_000 + step as u32 * 100 + i as u32));
    row.free_committed = scheduler.stats().free_blocks;
    let (tokens, ends): (Vec<&Event>, Vec<&Event>) =
        events.iter().partition(|e| matches!(e, Event::Token { .. }));
    row.emits = join(",", tokens.into_iter().map(|e| name(&id_of(e))));
    row.finished = join(",", ends.into_iter().map(|e| name(&id_of(e))));
    row
}

fn id_of(event: &Event) -> RequestId {
    match event {
        Event::Token { id, .. } | Event::Finished { id, .. } => *id,
    }
}

fn join(separator: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "-".into() } else { items.join(separator) }
}
