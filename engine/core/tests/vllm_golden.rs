//! Policy `vllm` against recordings of the real vLLM 0.33 scheduler, step for step: what is scheduled, who is new,
//! preempted, running and waiting, every block id, and the order of the free queue at the end.

mod common;

use common::{at, golden_lines, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::request::{Event, RequestId};
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
                let prompt = array(&r["prompt"]).iter().map(|t| int(t) as u32).collect();
                let mut request = request(index as u64, prompt, int(&r["max_tokens"]) as u32);
                request.priority = int(&r["priority"]) as i32;
                let (now, arrived) = (at(1000 + step), at(int(&r["arrival"])));
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
            "blocks": scheduler.running().iter().map(|id| (name(*id), table(&scheduler, *id))).collect::<serde_json::Map<_, _>>(),
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

fn config(s: &Value) -> EngineConfig {
    let flag = |key: &str| s[key].as_bool().unwrap_or_else(|| panic!("{key} is not a flag"));
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: int(&s["max_num_seqs"]) as u32,
            max_num_batched_tokens: int(&s["max_num_batched_tokens"]) as u32,
            enable_chunked_prefill: flag("chunked_prefill"),
            enable_prefix_caching: flag("prefix_caching"),
            long_prefill_token_threshold: int(&s["long_prefill_token_threshold"]) as u32,
            prefill_schedule_interval: int(&s["prefill_schedule_interval"]) as u32,
            scheduler_reserve_full_isl: flag("reserve_full_isl"),
            watermark: s["watermark"].as_f64().unwrap_or_else(|| panic!("watermark is not a number")),
            priority: s["policy"] == "priority",
        }),
        kv: KvStrategy::Paged,
        block_size: int(&s["block_size"]) as u32,
        num_blocks: int(&s["num_blocks"]) as u32,
        max_model_len: int(&s["max_model_len"]) as u32,
    }
}

fn table(scheduler: &Scheduler, id: RequestId) -> Value {
    scheduler.block_table(id).iter().map(|b| b.0).collect()
}

fn name(id: RequestId) -> String {
    format!("r{}", id.0)
}

fn names(ids: &[RequestId]) -> Vec<String> {
    ids.iter().map(|id| name(*id)).collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

fn int(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a whole number: {value}"))
}
