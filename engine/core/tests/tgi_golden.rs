//! Policies `tgi-3.3.6` and `tgi` against recordings of the real v3 router: which requests enter which forward pass, in which order,
//! with which blocks, how much of a prompt is cached and how much fed, what each forward emits, and how each request ends.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::vllm::{array, int};
use common::{at, golden_lines, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, TgiConfig};
use llmlab_core::request::{Event, FinishReason, Request, RequestId, StopRules};
use llmlab_core::step::StepPlan;
use llmlab_core::{Planned, Scheduler};
use serde_json::{Value, json};

const EOS: u32 = 2;

#[test]
fn the_exact_twin_reproduces_every_recorded_forward() {
    let lines = golden_lines("tgi_router_golden.jsonl");
    check(lines.iter().collect(), true);
}

/// Random workloads without prefix cache and without clients that leave show no defect.
#[test]
fn the_rules_without_defects_are_the_same_rules() {
    let lines = golden_lines("tgi_router_golden.jsonl");
    let harmless = |line: &&Value| {
        let random =
            ["plain", "chunk", "padding"].iter().any(|f| line["family"].as_str().unwrap().starts_with(f));
        let leaves = array(&line["events"]).iter().any(|event| event["ev"] == "cancel");
        random && line["shard"]["use_prefix_caching"] == false && !leaves
    };
    let lines: Vec<&Value> = lines.iter().filter(harmless).collect();
    assert!(lines.len() >= 20, "only {} scenarios were replayed", lines.len());
    check(lines, false);
}

fn check(lines: Vec<&Value>, upstream_defects: bool) {
    let replay = |line: &Value| Replay::new(line, upstream_defects).run();
    let differs = |line: &&&Value| catch_unwind(AssertUnwindSafe(|| replay(line))).is_err();
    let failed: Vec<&Value> = lines.iter().filter(differs).map(|line| &line["scenario"]).collect();
    assert!(failed.is_empty(), "{} of {} scenarios differ: {failed:?}", failed.len(), lines.len());
}

struct Replay<'a> {
    line: &'a Value,
    scheduler: Scheduler,
    requests: Vec<Client<'a>>,
    in_flight: Option<StepPlan>,
}

/// A recorded request and what its client got so far.
struct Client<'a> {
    recorded: &'a Value,
    /// Tokens the router reserved for the running leg, and those generated in it.
    reserved: u64,
    of_leg: u64,
    received: u64,
    end: Option<FinishReason>,
}

impl<'a> Replay<'a> {
    fn new(line: &'a Value, upstream_defects: bool) -> Self {
        let client = |recorded| Client { recorded, reserved: 0, of_leg: 0, received: 0, end: None };
        Replay {
            line,
            scheduler: Scheduler::new(config(line, upstream_defects)).unwrap(),
            requests: array(&line["requests"]).iter().map(client).collect(),
            in_flight: None,
        }
    }

    fn run(mut self) {
        for event in array(&self.line["events"]) {
            let place = format!("{}: {event}", self.line["scenario"]);
            match event["ev"].as_str().unwrap_or_default() {
                "arrive" => self.scheduler.enqueue(at(0), self.request(int(&event["req"]))).unwrap(),
                "cancel" => {
                    let id = int(&event["req"]);
                    let end = &mut self.requests[id as usize].end;
                    match self.scheduler.abort(at(0), RequestId(id)) {
                        Some(_) => *end = Some(FinishReason::Abort),
                        // It had its last token already.
                        None => assert!(end.is_some(), "{place}"),
                    }
                }
                "call" => self.call(event, &place),
                "result" => self.result(event, &place),
                "decode_run_elided" => (0..int(&event["n_calls"])).for_each(|_| self.elided_decode(&place)),
                "after_1024_end" => {
                    let waiting = self.scheduler.waiting();
                    let running = self.scheduler.running();
                    let back = |id: &Value| {
                        let id = RequestId(int(id));
                        waiting.contains(&id) || running.contains(&id)
                    };
                    assert!(array(&event["reqs"]).iter().all(back), "{place}");
                }
                "idle_with_queue" | "stalled" => {
                    assert_eq!(self.scheduler.plan(at(0)), Planned::Idle, "{place}");
                    let waiting: Value = self.scheduler.waiting().iter().map(|id| id.0).collect();
                    assert_eq!(waiting, event["waiting"], "{place}");
                }
                // Filters and clears tell the shard what the next forward's batch shows anyway.
                "filter" | "clear" => {}
                other => panic!("{place}: {other} is unknown"),
            }
        }
        self.check_the_end();
    }

    fn request(&self, id: u64) -> Request {
        let r = self.requests[id as usize].recorded;
        let mut prompt: Vec<u32> = array(&r["prompt"]).iter().map(|t| int(t) as u32).collect();
        if let Some(last) = r["truncate"].as_u64() {
            prompt.drain(..prompt.len().saturating_sub(last as usize));
        }
        let max_tokens = r["max_new_tokens"].as_u64().map_or(StopRules::NO_LIMIT, |n| n as u32);
        let mut request = request(id, prompt, max_tokens);
        request.stop.ignore_eos = false;
        request.stop.eos_ids = [EOS].into();
        request.skip_prefix_cache = r["decoder_input_details"] == true;
        request
    }

    fn plan(&mut self, place: &str) -> StepPlan {
        match self.scheduler.plan(at(0)) {
            Planned::Step(plan) => plan,
            other => panic!("{place}: {other:?} instead of a step"),
        }
    }

    fn call(&mut self, call: &Value, place: &str) {
        let before = self.scheduler.running().to_vec();
        let plan = self.plan(place);
        let entering: Vec<_> = if call["kind"] == "prefill" {
            array(&call["batch"]["requests"]).iter().collect()
        } else {
            let batches = array(&call["batches"]).iter().flat_map(|batch| array(&batch["reqs"]));
            let planned: Vec<u64> = plan.seqs.iter().map(|s| s.id.0).collect();
            assert_eq!(planned, batches.map(int).collect::<Vec<_>>(), "{place}");
            Vec::new()
        };
        let new = self.scheduler.running().iter().filter(|id| !before.contains(id));
        let new: Vec<u64> = new.map(|id| id.0).collect();
        assert_eq!(new, entering.iter().map(|r| int(&r["req"])).collect::<Vec<_>>(), "{place}");
        for recorded in entering {
            self.admission(&plan, recorded, place);
        }
        self.in_flight = Some(plan);
    }

    /// What a request enters with: its blocks for life, the cached part of its prompt, and the first piece of the rest.
    fn admission(&mut self, plan: &StepPlan, recorded: &Value, place: &str) {
        let id = int(&recorded["req"]);
        let seq =
            plan.seqs.iter().find(|s| s.id.0 == id).unwrap_or_else(|| panic!("{place}: {id} is not fed"));
        let table: Vec<u64> =
            self.scheduler.block_table(seq.id).iter().map(|block| u64::from(block.0)).collect();
        let (input, cached) = (int(&recorded["input_tokens"]), u64::from(seq.context));
        assert_eq!(cached, int(&recorded["cached"]), "{place}: cached tokens of {id}");
        let chunk =
            if cached + seq.tokens.len() as u64 == input { json!(null) } else { json!(seq.tokens.len()) };
        assert_eq!(chunk, recorded["chunk"], "{place}: chunk of {id}");
        let reserved = int(&recorded["max_new_tokens"]);
        let speculate = self.line["shard"]["speculate"].as_u64().unwrap_or(0);
        let tokens = input + reserved + speculate - 1;
        assert_eq!(
            table.len() as u64,
            tokens.div_ceil(int(&self.line["shard"]["block_size"])),
            "{place}: {id}"
        );
        // A padded batch has no blocks in the product; a sliding window uses its few in turn.
        let blocks: Vec<u64> = array(&recorded["blocks"]).iter().map(int).collect();
        if !blocks.is_empty() {
            assert_eq!(int(&recorded["n_slots"]), tokens, "{place}: {id}");
            let turns: Vec<u64> = blocks.iter().copied().cycle().take(table.len()).collect();
            assert_eq!(table, turns, "{place}: blocks of {id}");
        }
        let client = &mut self.requests[id as usize];
        (client.reserved, client.of_leg) = (reserved, 0);
    }

    fn result(&mut self, result: &Value, place: &str) {
        let plan = self.in_flight.take().unwrap_or_else(|| panic!("{place}: no call before"));
        if !result["error"].is_null() {
            for event in self.scheduler.fail(at(0), &plan) {
                let Event::Finished { id, reason: reason @ FinishReason::Error } = event else {
                    panic!("{place}: {event:?}")
                };
                self.requests[id.0 as usize].end = Some(reason);
            }
            return;
        }
        let fed: Value = plan.seqs.iter().map(|s| json!([s.id.0, s.tokens.len()])).collect();
        assert_eq!(fed, result["computed"], "{place}");
        let emitted = self.commit(&plan, place);
        // Tokens of clients that left are recorded, because the shard made them, but reach nobody.
        let left = |t: &Value| self.requests[int(&t[0]) as usize].end == Some(FinishReason::Abort);
        let want: Vec<_> = array(&result["tokens"])
            .iter()
            .filter(|t| !left(t))
            .map(|t| (int(&t[0]), int(&t[1]), t[2].as_str().map(|end| end.contains("eos"))))
            .collect();
        assert_eq!(emitted, want, "{place}");
    }

    /// A decode of the whole batch that ends nothing, left out of the recording like many of its kind.
    fn elided_decode(&mut self, place: &str) {
        let running = self.scheduler.running().to_vec();
        let plan = self.plan(place);
        assert!(
            plan.seqs.iter().map(|s| (s.id, s.tokens.len())).eq(running.iter().map(|id| (*id, 1))),
            "{place}"
        );
        let emitted = self.commit(&plan, place);
        assert!(emitted.len() == running.len() && emitted.iter().all(|(_, _, end)| end.is_none()), "{place}");
    }

    /// The tokens of a forward: request, number in its leg, and whether it was the last by EOS or by length.
    fn commit(&mut self, plan: &StepPlan, place: &str) -> Vec<(u64, u64, Option<bool>)> {
        let token = |i: usize| {
            let client = &self.requests[plan.seqs[i].id.0 as usize];
            if client.recorded["eos_after"] == json!(client.of_leg + 1) { EOS } else { 7 }
        };
        let outcome = outcome(plan, token);
        let mut emitted: Vec<(u64, u64, Option<bool>)> = Vec::new();
        for event in self.scheduler.commit(at(0), plan, &outcome) {
            match event {
                Event::Token { id, index, .. } => {
                    let client = &mut self.requests[id.0 as usize];
                    assert_eq!(u64::from(index), client.received, "{place}");
                    client.of_leg += 1;
                    client.received += 1;
                    // The shard calls it an end whether or not another leg follows.
                    emitted.push((id.0, client.of_leg, (client.of_leg == client.reserved).then_some(false)));
                }
                Event::Finished { id, reason } => {
                    self.requests[id.0 as usize].end = Some(reason);
                    let last =
                        emitted.last_mut().unwrap_or_else(|| panic!("{place}: an end without a token"));
                    assert_eq!(last.0, id.0, "{place}");
                    last.2 = Some(reason == FinishReason::Stop);
                }
            }
        }
        emitted
    }

    fn check_the_end(&self) {
        let scenario = &self.line["scenario"];
        let results = array(&self.line["results"]);
        assert_eq!(results.len(), self.requests.len(), "{scenario}");
        let mut stalled = 0;
        for (client, result) in self.requests.iter().zip(results) {
            let end = match (result["outcome"].as_str(), result["finish_reason"].as_str()) {
                (Some("ok"), Some("length")) => Some(FinishReason::Length),
                (Some("ok"), Some("eos_token")) => Some(FinishReason::Stop),
                (Some("error"), None) => Some(FinishReason::Error),
                (Some("client_closed"), None) => client.end.or(Some(FinishReason::Abort)),
                (Some("stalled_in_queue"), None) => None,
                _ => panic!("{scenario}: {result}"),
            };
            assert_eq!(client.end, end, "{scenario}: {result}");
            stalled += usize::from(end.is_none());
            if let Some(tokens) = result["n_tokens"].as_u64() {
                assert_eq!(client.received, tokens, "{scenario}: {result}");
            }
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.waiting, stats.running), (stalled, 0), "{scenario}");
        assert_eq!(stats.free_blocks + stats.cached_blocks, stats.total_blocks, "{scenario}");
        assert_eq!((stats.kv_tokens, stats.kv_held_tokens), (0, 0), "{scenario}");
        let caches = self.line["shard"]["use_prefix_caching"] == true;
        assert!(caches || stats.cached_blocks == 0, "{scenario}");
    }
}

fn config(line: &Value, upstream_defects: bool) -> EngineConfig {
    let (router, shard) = (&line["router"], &line["shard"]);
    let knob = |key: &str| int(&router[key]) as u32;
    let optional = |value: &Value| value.as_u64().map(|n| n as u32);
    let block_size = int(&shard["block_size"]) as u32;
    let requires_padding = shard["requires_padding"] == true;
    EngineConfig {
        policy: PolicyConfig::Tgi(TgiConfig {
            max_batch_prefill_tokens: knob("max_batch_prefill_tokens"),
            waiting_served_ratio: router["waiting_served_ratio"].as_f64().unwrap_or_default(),
            max_waiting_tokens: knob("max_waiting_tokens"),
            max_batch_size: optional(&router["max_batch_size"]),
            max_input_tokens: optional(&router["max_input_tokens"]),
            prefill_chunking: shard["support_chunking"] == true,
            use_prefix_caching: shard["use_prefix_caching"] == true,
            requires_padding,
            window_size: optional(&shard["window_size"]),
            speculate: optional(&shard["speculate"]).unwrap_or(0),
            upstream_defects,
            ..TgiConfig::new(knob("max_batch_total_tokens"))
        }),
        kv: KvStrategy::Paged,
        block_size,
        // Where the product has no blocks, ours must not be what stops a request.
        num_blocks: if requires_padding { 1 << 16 } else { knob("max_batch_total_tokens") / block_size },
        max_model_len: knob("max_total_tokens"),
    }
}
