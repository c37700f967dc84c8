//! Prompts whose keys and values were computed elsewhere: the last token is computed here, and all of them after a preemption.

mod common;

use common::{at, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::request::{Event, RequestId};
use llmlab_core::step::StepPlan;
use llmlab_core::{Planned, Scheduler};

fn scheduler(num_blocks: u32) -> Scheduler {
    Scheduler::new(EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: 4,
            max_num_batched_tokens: 16,
            ..VllmConfig::default()
        }),
        kv: KvStrategy::Paged,
        block_size: 4,
        num_blocks,
        max_model_len: 64,
    })
    .unwrap()
}

fn prompt(first: u32, tokens: u32) -> Vec<u32> {
    (first..first + tokens).collect()
}

fn plan(scheduler: &mut Scheduler) -> StepPlan {
    match scheduler.plan(at(0)) {
        Planned::Step(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// Id, context and new tokens of each sequence.
fn rows(plan: &StepPlan) -> Vec<(u64, u32, usize)> {
    plan.seqs.iter().map(|seq| (seq.id.0, seq.context, seq.tokens.len())).collect()
}

#[test]
fn one_token_of_the_prompt_is_computed_and_all_of_it_has_blocks() {
    let mut scheduler = scheduler(17);
    // More than the budget of a step; computed elsewhere it takes one token of it.
    scheduler.enqueue_transferred(at(0), at(0), request(0, prompt(100, 30), 3), 30).unwrap();
    scheduler.enqueue(at(0), request(1, prompt(200, 9), 3)).unwrap();
    let first = plan(&mut scheduler);
    assert_eq!(rows(&first), [(0, 29, 1), (1, 0, 9)]);
    assert!(first.seqs.iter().all(|seq| seq.sample));
    assert_eq!(scheduler.block_table(RequestId(0)).len(), 8);
    let events = scheduler.commit(at(1), &first, &outcome(&first, |_| 7));
    assert!(matches!(events[0], Event::Token { id: RequestId(0), index: 0, .. }));
    assert_eq!(rows(&plan(&mut scheduler)), [(0, 30, 1), (1, 9, 1)]);
}

/// What was fetched is in the prefix cache like what was computed.
#[test]
fn others_find_the_prefix() {
    let mut scheduler = scheduler(17);
    scheduler.enqueue_transferred(at(0), at(0), request(0, prompt(100, 12), 3), 12).unwrap();
    scheduler.enqueue(at(0), request(1, prompt(100, 12), 3)).unwrap();
    assert_eq!(rows(&plan(&mut scheduler)), [(0, 11, 1), (1, 8, 4)]);
}

#[test]
fn who_is_thrown_out_computes_its_prompt_again() {
    // Seven blocks: two requests of 12 tokens fit, and not their answers.
    let mut scheduler = scheduler(8);
    for id in 0..2 {
        let request = request(id, prompt(100 * (id as u32 + 1), 12), 8);
        scheduler.enqueue_transferred(at(0), at(0), request, 12).unwrap();
    }
    let mut again = None;
    for step in 1..40 {
        let Planned::Step(plan) = scheduler.plan(at(step)) else { break };
        if let Some(seq) = plan.seqs.iter().find(|seq| seq.id.0 == 1 && seq.context < 11) {
            again.get_or_insert((seq.context, seq.tokens.len() >= 4));
        }
        let result = outcome(&plan, |place| 900 + step as u32 * 10 + place as u32);
        scheduler.commit(at(step), &plan, &result);
    }
    // From the prefix that is left of it, if any, on, and no token of it as a gift.
    let (context, computes) = again.expect("the second request was thrown out");
    assert!(context % 4 == 0 && computes, "{context}");
    assert_eq!(scheduler.stats().finished_total, 2);
}
