//! Requests with different adapters under policy `vllm`.

mod common;

use common::{at, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::request::{LoraId, Request, RequestId};
use llmlab_core::{Planned, Scheduler};

fn scheduler(max_loras: u32) -> Scheduler {
    let policy = PolicyConfig::Vllm(VllmConfig { max_loras, ..VllmConfig::default() });
    let config =
        EngineConfig { policy, kv: KvStrategy::Paged, block_size: 4, num_blocks: 65, max_model_len: 64 };
    Scheduler::new(config).unwrap()
}

fn adapted(id: u64, lora: Option<u32>, max_tokens: u32) -> Request {
    Request { lora: lora.map(LoraId), ..request(id, (0..9).collect(), max_tokens) }
}

fn ids(plan: &llmlab_core::step::StepPlan) -> Vec<u64> {
    plan.seqs.iter().map(|seq| seq.id.0).collect()
}

/// Plans a step, checks who is in it, and commits it.
fn step(scheduler: &mut Scheduler, expected: &[u64]) {
    let Planned::Step(plan) = scheduler.plan(at(0)) else { panic!("nothing planned") };
    assert_eq!(ids(&plan), expected);
    scheduler.commit(at(0), &plan, &outcome(&plan, |_| 7));
}

#[test]
fn one_adapter_too_many_waits_and_others_pass_it() {
    let mut scheduler = scheduler(2);
    for (id, lora, max_tokens) in
        [(1, Some(5), 3), (2, Some(6), 2), (3, Some(7), 1), (4, None, 1), (5, Some(5), 1)]
    {
        scheduler.enqueue(at(0), adapted(id, lora, max_tokens)).unwrap();
    }
    step(&mut scheduler, &[1, 2, 4, 5]);
    assert_eq!(scheduler.waiting(), [RequestId(3)]);
    step(&mut scheduler, &[1, 2]);
    // Adapter 6 left with request 2.
    step(&mut scheduler, &[1, 3]);
}

#[test]
fn equal_prompts_share_blocks_only_under_one_adapter() {
    let mut scheduler = scheduler(3);
    for (id, lora) in [(1, None), (2, Some(1)), (3, Some(2)), (4, Some(1)), (5, None)] {
        scheduler.enqueue(at(0), adapted(id, lora, 1)).unwrap();
    }
    let Planned::Step(plan) = scheduler.plan(at(0)) else { panic!("nothing planned") };
    let contexts: Vec<u32> = plan.seqs.iter().map(|seq| seq.context).collect();
    assert_eq!(contexts, [0, 0, 0, 8, 8]);
    assert_eq!(plan.seqs[3].blocks[..2], plan.seqs[1].blocks[..2]);
    assert_eq!(plan.seqs[4].blocks[..2], plan.seqs[0].blocks[..2]);
    assert_eq!(plan.seqs[2].lora, Some(LoraId(2)));
}
