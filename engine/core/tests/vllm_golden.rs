//! Policy `vllm` against recordings of the real vLLM 0.33 scheduler, step for step: what is scheduled, who is new,
//! preempted, running and waiting, every block id, and the order of the free queue at the end.

mod common;

use common::vllm::{array, blocks, config, int, name, names, recorded_request};
use common::{at, golden_lines, outcome};
use llmlab_core::request::Event;
use llmlab_core::{Planned, Scheduler};
use serde_json::{Value, json};

#[test]
fn every_recorded_step_is_reproduced() {
    let scenarios = golden_lines("vllm_scheduler_golden.jsonl");
    let mut failures = Vec::new();
    for line in &scenarios {
        if let Err(difference) = replay(line) {
            failures.push(format!("scenario {}: {difference}", line["scenario"]["id"]));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), scenarios.len(), failures.join("\n"));
}

fn replay(line: &Value) -> Result<(), String> {
    let scenario = &line["scenario"];
    let steps = array(&line["steps"]);
    let mut scheduler = Scheduler::new(config(scenario)).map_err(|e| e.to_string())?;
    let mut recorded = steps.iter().peekable();
    let last_step = steps.last().map_or(0, |step| int(&step["step"]));
    for step in 1..=last_step {
        for (index, r) in array(&scenario["requests"]).iter().enumerate() {
            if int(&r["arrive_step"]) == step {
                let (arrived, request) = recorded_request(index, r);
                let now = at(1000 + step);
                scheduler.enqueue_arrived(now, arrived, request).map_err(|e| e.to_string())?;
            }
        }
        let Planned::Step(plan) = scheduler.plan(at(1000 + step)) else {
            match recorded.peek() {
                Some(next) if int(&next["step"]) == step => {
                    return Err(format!("step {step} was not planned"));
                }
                _ => continue,
            }
        };
        let Some(want) = recorded.next_if(|next| int(&next["step"]) == step) else {
            return Err(format!("step {step} was planned but not recorded: {plan:?}"));
        };
        let mut got = json!({
            "step": step,
            "scheduled": plan.seqs.iter().map(|s| json!([name(s.id), s.context, s.tokens.len()])).collect::<Vec<_>>(),
            "new": plan.admitted.iter().map(|(id, _)| name(*id)).collect::<Vec<_>>(),
            "preempted": names(&plan.preempted),
            "running": names(scheduler.running()),
            "waiting": names(&scheduler.waiting()),
            "blocks": blocks(&scheduler),
            "free_blocks": scheduler.stats().free_blocks,
        });
        let sampled = &want["sampled"];
        let result = outcome(&plan, |i| sampled[name(plan.seqs[i].id)].as_u64().unwrap_or(0) as u32);
        let events = scheduler.commit(at(1000 + step), &plan, &result);
        got["sampled"] = events
            .iter()
            .filter_map(|e| match e {
                Event::Token { id, token, .. } => Some((name(*id), json!(token))),
                Event::Finished { .. } => None,
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        let finished = events.iter().filter_map(|e| match e {
            Event::Finished { id, .. } => Some(name(*id)),
            Event::Token { .. } => None,
        });
        got["finished"] = finished.collect();
        if got != *want {
            return Err(format!("step {step}\n   want {want}\n   got  {got}"));
        }
    }
    if let Some(next) = recorded.next() {
        return Err(format!("step {} is missing", next["step"]));
    }
    let free: Value = scheduler.free_order().iter().map(|b| b.0).collect();
    if free != line["final_free_queue"] {
        return Err(format!("free queue\n   want {}\n   got  {free}", line["final_free_queue"]));
    }
    Ok(())
}
