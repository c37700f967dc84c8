//! Policy `vllm` against recordings of the real vLLM 0.33 scheduler, step for step: what is scheduled, who is new,
//! preempted, running and waiting, every block id, and the order of the free queue at the end.

mod common;

use common::vllm::{array, blocks, config, int, name, names, recorded_request};
use common::{at, golden_lines, outcome};
use llmlab_core::request::{Event, FinishReason, RequestId};
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

#[test]
fn aborts_and_stops_are_reproduced() {
    for line in golden_lines("vllm_scheduler_abort.jsonl") {
        if line["scenario"]["async"] == false {
            replay_with_aborts(&line);
        }
    }
}

/// Every iteration of a recording of the engine core: what is scheduled, and the state before and after the tokens are
/// taken in. A `mid` abort falls between plan and commit.
fn replay_with_aborts(line: &Value) {
    let scenario = &line["scenario"];
    let requests = array(&scenario["requests"]);
    let mut scheduler = Scheduler::new(config(scenario)).unwrap();
    let mut generated = vec![0; requests.len()];
    for iter in array(&line["iters"]) {
        let place = format!("scenario {} iteration {}", scenario["id"], iter["it"]);
        let now = at(1000 + int(&iter["it"]));
        for (index, r) in requests.iter().enumerate() {
            if array(&iter["add"]).contains(&r["id"]) {
                let (arrived, request) = recorded_request(index, r);
                scheduler.enqueue_arrived(now, arrived, request).unwrap();
            }
        }
        abort_all(&mut scheduler, &iter["abort_pre"], &place);
        if iter["schedule"].is_null() {
            continue;
        }
        let want = &iter["schedule"];
        let planned = scheduler.plan(now);
        let Planned::Step(plan) = planned else {
            assert_eq!(want["scheduled"], json!([]), "{place}");
            continue;
        };
        let scheduled: Value =
            plan.seqs.iter().map(|s| json!([name(s.id), s.context, s.tokens.len()])).collect();
        assert_eq!(scheduled, want["scheduled"], "{place}");
        let emits: Value = plan.seqs.iter().filter(|s| s.sample).map(|s| name(s.id)).collect();
        assert_eq!(emits, want["emits"], "{place}");
        let admitted: Value = plan.admitted.iter().map(|(id, _)| name(*id)).collect();
        assert_eq!(admitted, want["new"], "{place}");
        assert_eq!(json!(names(&plan.preempted)), want["preempted"], "{place}");
        assert_eq!(blocks(&scheduler), want["blocks"], "{place}");
        check_queues(&scheduler, want, &place);

        abort_all(&mut scheduler, &iter["abort_mid"], &place);
        let token = |i: usize| {
            let index = plan.seqs[i].id.0 as usize;
            let (r, position) = (&requests[index], generated[index]);
            let is_at = |key: &str| r[key].as_u64() == Some(position + 1);
            if is_at("eos_at") {
                2
            } else if is_at("stop_at") {
                3
            } else {
                100_000 + 1000 * index as u32 + position as u32
            }
        };
        let events = scheduler.commit(now, &plan, &outcome(&plan, token));
        let want = &iter["apply"];
        let (mut tokens, mut finished) = (json!({}), json!({}));
        for event in events {
            match event {
                Event::Token { id, token, .. } => {
                    generated[id.0 as usize] += 1;
                    tokens[name(id)] = json!([token]);
                }
                Event::Finished { id, reason: FinishReason::Stop } => {
                    finished[name(id)] = json!("FINISHED_STOPPED")
                }
                Event::Finished { id, .. } => finished[name(id)] = json!("FINISHED_LENGTH_CAPPED"),
            }
        }
        assert_eq!((&tokens, &finished), (&want["tokens"], &want["finished"]), "{place}");
        check_queues(&scheduler, want, &place);
    }
    let free: Value = scheduler.free_order().iter().map(|b| b.0).collect();
    assert_eq!(free, line["final_free_queue"], "scenario {}", scenario["id"]);
}

fn abort_all(scheduler: &mut Scheduler, ids: &Value, place: &str) {
    for id in array(ids) {
        let number = id.as_str().and_then(|id| id.strip_prefix('r')).and_then(|n| n.parse().ok());
        let id = RequestId(number.unwrap_or_else(|| panic!("{place}: not a request name: {id}")));
        assert_eq!(
            scheduler.abort(at(0), id),
            Some(Event::Finished { id, reason: FinishReason::Abort }),
            "{place}"
        );
    }
}

fn check_queues(scheduler: &Scheduler, want: &Value, place: &str) {
    assert_eq!(json!(names(scheduler.running())), want["running"], "{place}");
    assert_eq!(json!(names(&scheduler.waiting())), want["waiting"], "{place}");
    assert_eq!(json!(scheduler.stats().free_blocks), want["free_blocks"], "{place}");
}
