//! Recordings that were changed: whatever stands in a file, replaying it ends with an answer.

use llmlab_core::config::{
    DynamicConfig, EngineConfig, FastgenConfig, KvStrategy, LlamacppConfig, OrcaConfig, PolicyConfig,
    SarathiConfig, SglangConfig, SpeculativeConfig, SpeculativeMethod, StaticConfig, TgiConfig, TrtllmConfig,
    VllmConfig,
};
use llmlab_core::recording::{Call, FORMAT, Header, PlanCall};
use llmlab_core::request::{At, Request, RequestId, StopRules};
use llmlab_core::step::{Sampled, StepOutcome, StepPlan};
use llmlab_core::{Planned, Scheduler};
use llmlab_sim::replay::{ReplayError, Replayed, replay};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

fn speculating(method: SpeculativeMethod, ahead: bool) -> PolicyConfig {
    let lookup = if method == SpeculativeMethod::Ngram { 2 } else { 0 };
    let speculation = SpeculativeConfig {
        method,
        num_speculative_tokens: 2,
        prompt_lookup_min: lookup.min(1),
        prompt_lookup_max: lookup,
    };
    let speculative_config = Some(speculation);
    PolicyConfig::Vllm(VllmConfig { async_scheduling: ahead, speculative_config, ..VllmConfig::default() })
}

fn policies() -> Vec<PolicyConfig> {
    let defects = TgiConfig { upstream_defects: true, leg_tokens: 3, ..TgiConfig::new(80) };
    let dynamic = DynamicConfig { default_timeout: Duration::from_millis(25), ..DynamicConfig::default() };
    vec![
        PolicyConfig::Vllm(VllmConfig { max_num_batched_tokens: 16, ..VllmConfig::default() }),
        speculating(SpeculativeMethod::Ngram, false),
        speculating(SpeculativeMethod::DraftModel, true),
        PolicyConfig::Tgi(TgiConfig { max_batch_prefill_tokens: 16, ..TgiConfig::new(80) }),
        PolicyConfig::Tgi(TgiConfig { window_size: Some(16), use_prefix_caching: false, ..defects }),
        PolicyConfig::Static(StaticConfig { batch_size: 2, max_queue_delay: Duration::from_millis(2) }),
        PolicyConfig::Dynamic(dynamic),
        PolicyConfig::Orca(OrcaConfig::default()),
        PolicyConfig::Sarathi(SarathiConfig { chunk_size: 16, ..SarathiConfig::default() }),
        PolicyConfig::Fastgen(FastgenConfig::default()),
        PolicyConfig::Trtllm(TrtllmConfig::default()),
        PolicyConfig::Llamacpp(LlamacppConfig::default()),
        PolicyConfig::Sglang(SglangConfig::default()),
    ]
}

fn header(policy: PolicyConfig) -> Header {
    let engine =
        EngineConfig { policy, kv: KvStrategy::Paged, block_size: 4, num_blocks: 21, max_model_len: 60 };
    let (model, llmlab) = ("none".to_string(), "test".to_string());
    Header { llmlab_recording: FORMAT, llmlab, model, adapters: Vec::new(), engine }
}

/// Six requests, one of which leaves, on an executor that accepts some drafts.
fn record(header: &Header) -> Vec<Value> {
    let mut scheduler = Scheduler::new(header.engine.clone()).unwrap();
    let mut lines = vec![json!(header)];
    let at = |ms: u64| At::from_millis(ms);
    for id in 0..6u64 {
        let prompt: Vec<u32> = (0..10).chain([id as u32, 3, id as u32, 3]).collect();
        let stop = StopRules {
            max_tokens: 12,
            min_tokens: 2,
            ignore_eos: false,
            eos_ids: [900].into(),
            stop_token_ids: [].into(),
        };
        let request = Request::new(RequestId(id), prompt.into(), stop);
        scheduler.enqueue_arrived(at(id), at(0), request.clone()).unwrap();
        lines.push(json!(Call::Enqueue { now: at(id), arrived: at(0), refused: false, request }));
    }
    for step in 10..200 {
        if step == 14 {
            scheduler.abort(at(step), RequestId(1));
            lines.push(json!(Call::Abort { now: at(step), id: RequestId(1) }));
        }
        let planned = scheduler.plan(at(step));
        let expired = scheduler.take_expired();
        lines.push(json!(Call::Plan(PlanCall::of(at(step), &planned, &expired))));
        if let Planned::Step(plan) = planned {
            let outcome = execute(&plan, &header.engine);
            scheduler.commit(at(step + 1), &plan, &outcome);
            let StepOutcome { sampled, drafts, .. } = outcome;
            lines.push(json!(Call::Commit { now: at(step + 1), sampled, drafts }));
        }
    }
    assert!(lines.len() > 40, "{:?}", header.engine.policy);
    lines
}

fn execute(plan: &StepPlan, engine: &EngineConfig) -> StepOutcome {
    let (mut sampled, mut drafts) = (Vec::new(), Vec::new());
    for (seq, step) in (0..).zip(&plan.seqs).filter(|(_, step)| step.sample) {
        let guessed = &step.tokens[step.tokens.len() - step.drafts as usize..];
        let accepted = guessed.iter().take(plan.step as usize % 3);
        sampled.extend(accepted.map(|&token| Sampled { seq, token }));
        sampled.push(Sampled { seq, token: step.generated % 5 });
        if matches!(engine.policy, PolicyConfig::Vllm(VllmConfig { async_scheduling: true, .. })) {
            drafts.extend([1, 2].map(|token| Sampled { seq, token }));
        }
    }
    StepOutcome { sampled, drafts, elapsed: Duration::ZERO }
}

fn replay_lines(lines: &[Value]) -> Result<Replayed, ReplayError> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    replay(&mut text.as_bytes())
}

#[test]
fn what_was_recorded_is_planned_again() {
    for policy in policies() {
        let header = header(policy);
        let lines = record(&header);
        let replayed = replay_lines(&lines).unwrap();
        assert_eq!((replayed.calls as usize, &replayed.header), (lines.len() - 1, &header));
        assert!(replayed.steps > 10 && !replayed.cut_off && replayed.uncommitted.is_none(), "{replayed:?}");
    }
}

#[test]
fn a_line_without_end_is_left_out_only_where_the_file_ends() {
    let lines = record(&header(policies().remove(0)));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let cut = |bytes: usize| replay(&mut &text.as_bytes()[..text.len() - bytes]);
    assert!(!cut(1).unwrap().cut_off, "the line is whole without its line feed");
    assert!(cut(2).unwrap().cut_off);
    let torn = text.replacen("}\n", "\n", 20);
    assert!(matches!(replay(&mut torn.as_bytes()), Err(ReplayError::NotARecording { line: 1, .. })));
    assert!(matches!(replay(&mut &b""[..]), Err(ReplayError::NotARecording { line: 1, .. })));
}

/// Every number and switch of a line, to be set to something else.
fn leaves<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| leaves(item, found)),
        Value::Object(items) => items.values_mut().for_each(|item| leaves(item, found)),
        Value::Number(_) | Value::Bool(_) => found.push(value),
        Value::Null | Value::String(_) => {}
    }
}

fn numbers() -> impl Strategy<Value = Value> {
    let extremes = [0, 1, 2, u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::MAX];
    let extremes = prop::sample::select(extremes.map(|number| json!(number)).to_vec());
    prop_oneof![4 => extremes, 2 => (0..70u64).prop_map(|number| json!(number)), 1 => Just(json!(-1)), 1 => Just(json!(true))]
}

#[derive(Debug, Clone)]
enum Change {
    Leaf(prop::sample::Index, prop::sample::Index, Value),
    Header(prop::sample::Index, Value),
    Remove(prop::sample::Index),
    Repeat(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), index(), numbers()).prop_map(|(line, leaf, to)| Change::Leaf(line, leaf, to)),
        4 => (index(), numbers()).prop_map(|(leaf, to)| Change::Header(leaf, to)),
        1 => index().prop_map(Change::Remove),
        1 => index().prop_map(Change::Repeat),
        1 => (index(), index()).prop_map(|(one, other)| Change::Swap(one, other)),
    ]
}

fn apply(lines: &mut Vec<Value>, change: &Change) {
    let set = |line: &mut Value, leaf: &prop::sample::Index, to: &Value| {
        let mut found = Vec::new();
        leaves(line, &mut found);
        if !found.is_empty() {
            *found.swap_remove(leaf.index(found.len())) = to.clone();
        }
    };
    let count = lines.len();
    match change {
        Change::Leaf(line, leaf, to) => set(&mut lines[line.index(count)], leaf, to),
        Change::Header(leaf, to) => set(&mut lines[0], leaf, to),
        Change::Remove(line) => drop(lines.remove(line.index(count))),
        Change::Repeat(line) => lines.insert(line.index(count), lines[line.index(count)].clone()),
        Change::Swap(one, other) => lines.swap(one.index(count), other.index(count)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_file_makes_a_replay_panic(policy in 0..13usize, changes in prop::collection::vec(change(), 1..4)) {
        let mut lines = record(&header(policies().remove(policy)));
        for change in &changes {
            apply(&mut lines, change);
        }
        // Differs, is refused, or nothing that matters was changed.
        let _ = replay_lines(&lines);
    }
}
