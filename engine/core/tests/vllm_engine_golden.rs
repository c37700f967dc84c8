//! Policy `vllm` against recordings of the real 0.33 engine core: asynchronous scheduling with its lag of one step,
//! speculation, aborts and stops. In every iteration: what is scheduled, who is new, resumed and preempted, every block id,
//! what is outstanding, and the state before and after each outcome is taken in.

mod common;

use std::collections::VecDeque;

use common::vllm::{array, blocks, config, int, name, names, recorded_request};
use common::{at, golden_lines};
use llmlab_core::config::PolicyConfig;
use llmlab_core::request::{Event, FinishReason, RequestId, TokenId};
use llmlab_core::step::{Sampled, StepOutcome, StepPlan};
use llmlab_core::{Planned, Scheduler};
use serde_json::{Map, Value, json};

#[test]
fn asynchronous_scheduling_is_reproduced() {
    replay_all("vllm_scheduler_async.jsonl");
}

#[test]
fn speculation_is_reproduced() {
    replay_all("vllm_scheduler_spec.jsonl");
}

#[test]
fn aborts_and_stops_are_reproduced() {
    replay_all("vllm_scheduler_abort.jsonl");
}

fn replay_all(file: &str) {
    let lines = golden_lines(file);
    let mut failures = Vec::new();
    for line in &lines {
        if let Err(difference) = Replay::new(line).and_then(Replay::run) {
            failures.push(format!("scenario {}: {difference}", line["scenario"]["id"]));
        }
    }
    assert!(failures.is_empty(), "{} of {} differ:\n{}", failures.len(), lines.len(), failures.join("\n"));
    println!("{} scenarios agree", lines.len());
}

struct Replay<'a> {
    line: &'a Value,
    requests: &'a [Value],
    scheduler: Scheduler,
    /// Output tokens of each request so far.
    generated: Vec<u64>,
    /// Schedule calls whose outcome is still to come; none where there was nothing to schedule.
    queue: VecDeque<Option<StepPlan>>,
    /// Thrown out by a call that scheduled nothing; the next plan names them.
    preempted_before: Vec<Value>,
}

impl<'a> Replay<'a> {
    fn new(line: &'a Value) -> Result<Self, String> {
        let requests = array(&line["scenario"]["requests"]);
        let scheduler = Scheduler::new(config(&line["scenario"])).map_err(|e| e.to_string())?;
        let generated = vec![0; requests.len()];
        Ok(Replay {
            line,
            requests,
            scheduler,
            generated,
            queue: VecDeque::new(),
            preempted_before: Vec::new(),
        })
    }

    fn run(mut self) -> Result<(), String> {
        for iter in array(&self.line["iters"]) {
            self.iteration(iter).map_err(|e| format!("iteration {}: {e}", iter["it"]))?;
        }
        let free: Value = self.scheduler.free_order().iter().map(|b| b.0).collect();
        same("free queue at the end", &free, &self.line["final_free_queue"])?;
        let outputs: Map<_, _> =
            self.generated.iter().enumerate().map(|(i, n)| (name(RequestId(i as u64)), json!(n))).collect();
        same("outputs", &outputs.into(), &self.line["outputs"])
    }

    fn iteration(&mut self, iter: &Value) -> Result<(), String> {
        let now = at(1000 + int(&iter["it"]));
        for id in array(&iter["add"]) {
            let index = self.index(id)?;
            let (arrived, request) = recorded_request(index, &self.requests[index]);
            self.scheduler.enqueue_arrived(now, arrived, request).map_err(|e| e.to_string())?;
        }
        self.abort(&iter["abort_pre"])?;
        if !iter["schedule"].is_null() {
            self.schedule(&iter["schedule"], iter)?;
        }
        // Between a schedule and the outcome; it waits for the next iteration where no outcome follows.
        self.abort(&iter["abort_mid"])?;
        if !iter["apply"].is_null() {
            self.apply(&iter["apply"], iter)?;
        }
        Ok(())
    }

    fn schedule(&mut self, want: &Value, iter: &Value) -> Result<(), String> {
        let planned = self.scheduler.plan_one(at(1000 + int(&iter["it"])));
        let plan = if let Planned::Step(plan) = planned { Some(plan) } else { None };
        let seqs = || plan.iter().flat_map(|plan| &plan.seqs);
        let rows = |s: &llmlab_core::step::SeqStep| s.tokens.len() + s.padding as usize;
        let scheduled: Value = seqs().map(|s| json!([name(s.id), s.context, rows(s)])).collect();
        same("scheduled", &scheduled, &want["scheduled"])?;
        let emits: Value = seqs().filter(|s| s.sample).map(|s| name(s.id)).collect();
        same("emits", &emits, &want["emits"])?;
        let new: Value = plan.iter().flat_map(|plan| &plan.admitted).map(|(id, _)| name(*id)).collect();
        same("new", &new, &want["new"])?;
        same("running", &json!(names(self.scheduler.running())), &want["running"])?;
        same("waiting", &json!(names(&self.scheduler.waiting())), &want["waiting"])?;
        same("blocks", &blocks(&self.scheduler), &want["blocks"])?;
        same("free blocks", &json!(self.scheduler.stats().free_blocks), &want["free_blocks"])?;
        self.preempted_before.extend_from_slice(array(&want["preempted"]));
        if let Some(plan) = &plan {
            let preempted = std::mem::take(&mut self.preempted_before);
            same("preempted", &json!(names(&plan.preempted)), &preempted.into())?;
        }
        if !want["placeholders"].is_null() {
            let outstanding = seqs().map(|s| (s.id, self.scheduler.outstanding(s.id)));
            let outstanding: Map<_, _> =
                outstanding.filter(|(_, n)| *n > 0).map(|(id, n)| (name(id), json!(n))).collect();
            same("placeholders", &outstanding.into(), &want["placeholders"])?;
        }
        if !want["drafts"].is_null() {
            let drafts = seqs().map(|s| (name(s.id), s.drafts + s.padding)).filter(|(_, n)| *n > 0);
            let drafts: Map<_, _> = drafts.map(|(id, n)| (id, json!(n))).collect();
            same("drafts", &drafts.into(), &want["drafts"])?;
            let padded: Value = seqs().filter(|s| s.padding > 0).map(|s| name(s.id)).collect();
            same("padded", &padded, &want["padded"])?;
        }
        self.queue.push_back(plan);
        Ok(())
    }

    fn apply(&mut self, want: &Value, iter: &Value) -> Result<(), String> {
        let Some(plan) = self.queue.pop_front().ok_or("an outcome without a schedule")? else {
            return same("tokens", &json!({}), &want["tokens"]);
        };
        let outcome = self.outcome(&plan, &iter["new_drafts"]);
        let events = self.scheduler.commit(at(1000 + int(&iter["it"])), &plan, &outcome);
        let (mut kept, mut finished) = (Map::new(), Map::new());
        for event in events {
            match event {
                Event::Token { id, token, .. } => {
                    self.generated[id.0 as usize] += 1;
                    let tokens = kept.entry(name(id)).or_insert_with(|| json!([]));
                    tokens.as_array_mut().into_iter().for_each(|tokens| tokens.push(json!(token)));
                }
                Event::Finished { id, reason } => {
                    let stopped = reason == FinishReason::Stop;
                    let status = if stopped { "FINISHED_STOPPED" } else { "FINISHED_LENGTH_CAPPED" };
                    finished.insert(name(id), json!(status));
                }
            }
        }
        let mut tokens = want["tokens"].clone();
        for (id, kept) in want["kept"].as_object().into_iter().flatten() {
            let all = array(&tokens[id]);
            tokens[id] = all[..int(kept) as usize].into();
        }
        same("tokens", &kept.into(), &tokens)?;
        same("finished", &finished.into(), &want["finished"])?;
        same("running after", &json!(names(self.scheduler.running())), &want["running"])?;
        same("waiting after", &json!(names(&self.scheduler.waiting())), &want["waiting"])?;
        same("free blocks after", &json!(self.scheduler.stats().free_blocks), &want["free_blocks"])
    }

    /// What the recorded executor, which is a formula, returns for this plan.
    fn outcome(&self, plan: &StepPlan, new_drafts: &Value) -> StepOutcome {
        let PolicyConfig::Vllm(policy) = &self.scheduler.config().policy else {
            unreachable!("built as vllm")
        };
        let spec = &self.line["scenario"]["spec"];
        let (mut sampled, mut drafts) = (Vec::new(), Vec::new());
        for (i, seq) in plan.seqs.iter().enumerate().filter(|(_, seq)| seq.sample) {
            let (r, p) = (seq.id.0, self.generated[seq.id.0 as usize]);
            let accepted = if seq.drafts == 0 {
                0
            } else {
                let k = int(&spec["k"]);
                let wish = (31 * r + 17 * p + 7 * int(&spec["seed"]) + (p * p) % 11) % (k + 1);
                wish.min(u64::from(seq.drafts))
            };
            sampled.extend((0..=accepted).map(|n| Sampled { seq: i as u32, token: self.token(r, p + n) }));
            let count = match policy.speculative_config {
                Some(speculation) if policy.async_scheduling => u64::from(speculation.num_speculative_tokens),
                _ => new_drafts[name(seq.id)].as_u64().unwrap_or(0),
            };
            drafts.extend((0..count).map(|_| Sampled { seq: i as u32, token: 1 }));
        }
        StepOutcome { sampled, drafts, elapsed: std::time::Duration::from_millis(1) }
    }

    /// The token at this place of a request's output.
    fn token(&self, request: u64, position: u64) -> TokenId {
        let r = &self.requests[request as usize];
        let is_at = |key: &str| r[key].as_u64() == Some(position + 1);
        match (is_at("eos_at"), is_at("stop_at")) {
            (true, _) => 2,
            (_, true) => 3,
            _ => (100_000 + 1000 * request + position) as TokenId,
        }
    }

    fn abort(&mut self, ids: &Value) -> Result<(), String> {
        for id in array(ids) {
            let id = RequestId(self.index(id)? as u64);
            let event = self.scheduler.abort(at(0), id);
            if event != Some(Event::Finished { id, reason: FinishReason::Abort }) {
                return Err(format!("abort of {} had no effect", name(id)));
            }
        }
        Ok(())
    }

    fn index(&self, id: &Value) -> Result<usize, String> {
        let place = self.requests.iter().position(|r| r["id"] == *id);
        place.ok_or_else(|| format!("{id} is no request of this scenario"))
    }
}

fn same(what: &str, got: &Value, want: &Value) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}\n   want {want}\n   got  {got}")) }
}
