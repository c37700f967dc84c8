//! Policy `tgi` against recordings of the real v3 router: which requests enter which forward pass, in which order, with
//! which blocks, how many tokens each feeds, and when each ends. Only scenarios without prefix cache, see the policy's
//! documentation for what else is left out.

mod common;

use common::vllm::{array, int};
use common::{at, golden_lines, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, TgiConfig};
use llmlab_core::request::{Event, FinishReason, RequestId};
use llmlab_core::step::StepPlan;
use llmlab_core::{Planned, Scheduler};
use serde_json::{Value, json};

/// What the policy does not model: the split after 1024 tokens, waiting for ever for too little memory, failing shards,
/// sliding windows.
const LEFT_OUT: [&str; 4] =
    ["long-1500-tail-order", "stall-block16-full", "fail-prefill-join-plain", "window32-block16"];
const EOS: u32 = 2;

#[test]
fn every_recorded_forward_is_reproduced() {
    let mut replayed = 0;
    for line in golden_lines("tgi_router_golden.jsonl") {
        let known = !LEFT_OUT.iter().any(|name| line["scenario"] == *name);
        if known && line["shard"]["use_prefix_caching"] == false && line["family"] != "padding" {
            replay(&line);
            replayed += 1;
        }
    }
    assert!(replayed >= 29, "only {replayed} scenarios were replayed");
}

fn replay(line: &Value) {
    let mut scheduler = Scheduler::new(config(line)).unwrap();
    let requests = array(&line["requests"]);
    let mut generated = vec![0; requests.len()];
    let mut in_flight: Option<StepPlan> = None;
    for event in array(&line["events"]) {
        let place = format!("{}: {event}", line["scenario"]);
        match event["ev"].as_str().unwrap_or_default() {
            "arrive" => {
                let index = int(&event["req"]);
                let r = &requests[index as usize];
                let prompt: Vec<u32> = array(&r["prompt"]).iter().map(|t| int(t) as u32).collect();
                // A request without a limit may fill the rest of the context.
                let rest = int(&line["router"]["max_total_tokens"]) - prompt.len() as u64;
                let max_tokens = r["max_new_tokens"].as_u64().unwrap_or(rest);
                let mut request = request(index, prompt, max_tokens as u32);
                request.stop.ignore_eos = false;
                request.stop.eos_ids = [EOS].into();
                scheduler.enqueue(at(0), request).unwrap();
            }
            "cancel" => {
                scheduler.abort(at(0), RequestId(int(&event["req"])));
            }
            "call" => {
                let Planned::Step(plan) = scheduler.plan(at(0)) else { panic!("{place}: nothing planned") };
                check_admissions(&scheduler, &plan, event, &place);
                in_flight = Some(plan);
            }
            "result" => {
                let plan = in_flight.take().unwrap_or_else(|| panic!("{place}: no call before"));
                let fed: Value = plan.seqs.iter().map(|s| json!([s.id.0, s.tokens.len()])).collect();
                assert_eq!(fed, event["computed"], "{place}");
                let token = |i: usize| {
                    let index = plan.seqs[i].id.0 as usize;
                    if requests[index]["eos_after"] == json!(generated[index] + 1) { EOS } else { 7 }
                };
                let gone: Vec<u64> = plan
                    .seqs
                    .iter()
                    .map(|s| s.id)
                    .filter(|id| is_gone(&scheduler, *id))
                    .map(|id| id.0)
                    .collect();
                let events = scheduler.commit(at(0), &plan, &outcome(&plan, token));
                check_tokens(&events, event, &gone, &mut generated, &place);
            }
            // Filters and clears tell the shard what the next forward's batch shows anyway.
            _ => {}
        }
    }
    let stats = scheduler.stats();
    assert_eq!(
        (stats.waiting, stats.running, stats.free_blocks),
        (0, 0, stats.total_blocks),
        "{}",
        line["scenario"]
    );
}

fn is_gone(scheduler: &Scheduler, id: RequestId) -> bool {
    !scheduler.running().contains(&id)
}

/// A prefill call lists the requests that enter with it; their blocks are fixed for life.
fn check_admissions(scheduler: &Scheduler, plan: &StepPlan, call: &Value, place: &str) {
    let entering = if call["kind"] == "prefill" { array(&call["batch"]["requests"]) } else { &[] };
    let want: Vec<Value> = entering.iter().map(|r| json!([r["req"], r["blocks"]])).collect();
    let blocks = |id: RequestId| scheduler.block_table(id).iter().map(|b| b.0).collect::<Vec<_>>();
    let got: Vec<Value> = plan.admitted.iter().map(|(id, _)| json!([id.0, blocks(*id)])).collect();
    assert_eq!(got, want, "{place}");
}

/// Tokens of clients that left during the forward are recorded, because the shard made them, but reach nobody.
fn check_tokens(events: &[Event], result: &Value, gone: &[u64], generated: &mut [u64], place: &str) {
    let mut got = Vec::new();
    for event in events {
        match event {
            Event::Token { id, .. } => {
                generated[id.0 as usize] += 1;
                got.push((id.0, generated[id.0 as usize], "-"));
            }
            Event::Finished { reason, .. } => {
                let end = if *reason == FinishReason::Stop { "eos" } else { "length" };
                if let Some(last) = got.last_mut() {
                    last.2 = end;
                }
            }
        }
    }
    let recorded = array(&result["tokens"]).iter().filter(|t| !gone.contains(&int(&t[0])));
    let end = |t: &Value| match t[2].as_str() {
        None => "-",
        Some(reason) if reason.contains("eos") => "eos",
        Some(_) => "length",
    };
    let want: Vec<_> = recorded.map(|t| (int(&t[0]), int(&t[1]), end(t))).collect();
    assert_eq!(got, want, "{place}");
}

fn config(line: &Value) -> EngineConfig {
    let (router, shard) = (&line["router"], &line["shard"]);
    let knob = |key: &str| int(&router[key]) as u32;
    let block_size = int(&shard["block_size"]) as u32;
    EngineConfig {
        policy: PolicyConfig::Tgi(TgiConfig {
            max_batch_prefill_tokens: knob("max_batch_prefill_tokens"),
            max_batch_total_tokens: knob("max_batch_total_tokens"),
            waiting_served_ratio: router["waiting_served_ratio"].as_f64().unwrap_or_default(),
            max_waiting_tokens: knob("max_waiting_tokens"),
            max_batch_size: router["max_batch_size"].as_u64().map(|n| n as u32),
            prefill_chunking: shard["support_chunking"] == true,
        }),
        kv: KvStrategy::Paged,
        block_size,
        num_blocks: knob("max_batch_total_tokens") / block_size,
        max_model_len: knob("max_total_tokens"),
    }
}
