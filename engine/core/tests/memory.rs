//! What the KV strategies cost, when blocks come back, and that the prefix cache only knows what was computed.

mod common;

use std::time::Duration;

use common::fake::FakeExecutor;
use common::{at, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, StaticConfig, VllmConfig};
use llmlab_core::engine::{Engine, EngineStep};
use llmlab_core::request::{Event, FinishReason, Request, RequestId};
use llmlab_core::step::StepPlan;
use llmlab_core::{Planned, Scheduler};

fn vllm(knobs: VllmConfig, kv: KvStrategy, num_blocks: u32, max_model_len: u32) -> EngineConfig {
    EngineConfig { policy: PolicyConfig::Vllm(knobs), kv, block_size: 4, num_blocks, max_model_len }
}

fn uncached() -> VllmConfig {
    VllmConfig { enable_prefix_caching: false, ..VllmConfig::default() }
}

fn planned(scheduler: &mut Scheduler) -> StepPlan {
    match scheduler.plan(at(0)) {
        Planned::Step(plan) => plan,
        other => panic!("{other:?} instead of a step"),
    }
}

fn commit(scheduler: &mut Scheduler, plan: &StepPlan) -> Vec<Event> {
    scheduler.commit(at(0), plan, &outcome(plan, |_| 9))
}

/// The first step of four requests of 6 tokens in and 6 out, in a pool of 12 blocks of 4.
fn first_step(kv: KvStrategy) -> Scheduler {
    let mut scheduler = Scheduler::new(vllm(uncached(), kv, 13, 20)).unwrap();
    for id in 0..4 {
        scheduler.enqueue(at(0), request(id, vec![5; 6], 6)).unwrap();
    }
    planned(&mut scheduler);
    scheduler
}

#[test]
fn paging_admits_more_than_reserving_and_reserving_more_than_contiguous() {
    let stats = first_step(KvStrategy::Paged).stats();
    assert_eq!((stats.running, stats.free_blocks), (4, 4));
    assert_eq!((stats.kv_tokens, stats.kv_held_tokens), (24, 32));

    // 6 + 6 tokens are 3 blocks each.
    let stats = first_step(KvStrategy::Reserve).stats();
    assert_eq!((stats.running, stats.free_blocks), (4, 0));
    assert_eq!((stats.kv_tokens, stats.kv_held_tokens), (24, 48));

    // 20 tokens are 5 blocks each; the 2 blocks left are of no use to anybody.
    let scheduler = first_step(KvStrategy::Contiguous);
    let stats = scheduler.stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.free_blocks, stats.largest_free_run_blocks),
        (2, 2, 2, 2)
    );
    assert_eq!((stats.kv_tokens, stats.kv_held_tokens), (12, 40));
    assert_eq!(stats.external_fragmentation, 1.0);
    let table: Vec<u32> = scheduler.block_table(RequestId(1)).iter().map(|b| b.0).collect();
    assert_eq!(table, [6, 7, 8, 9, 10]);
}

#[test]
fn an_abort_in_flight_frees_its_blocks_when_the_step_is_committed() {
    let mut scheduler = first_step(KvStrategy::Paged);
    let mut second = Scheduler::new(vllm(uncached(), KvStrategy::Paged, 13, 20)).unwrap();
    second.enqueue(at(0), request(7, vec![5; 6], 6)).unwrap();
    let plan = planned(&mut second);
    let left = Some(Event::Finished { id: RequestId(7), reason: FinishReason::Abort });
    assert_eq!(second.abort(at(0), RequestId(7)), left);
    // The executor is still writing to them.
    assert_eq!((second.stats().free_blocks, second.stats().running), (10, 0));
    assert_eq!(commit(&mut second, &plan), []);
    assert_eq!(second.stats().free_blocks, 12);

    // Waiting or between steps: at once.
    scheduler.enqueue(at(0), request(8, vec![5; 6], 6)).unwrap();
    assert!(scheduler.abort(at(0), RequestId(8)).is_some());
    assert_eq!(scheduler.stats().waiting, 0);
}

#[test]
fn a_rectangular_batch_holds_every_slot_to_its_end() {
    let policy = PolicyConfig::Static(StaticConfig { batch_size: 2, max_queue_delay: Duration::ZERO });
    let config =
        EngineConfig { policy, kv: KvStrategy::Paged, block_size: 4, num_blocks: 9, max_model_len: 20 };
    let mut scheduler = Scheduler::new(config).unwrap();
    scheduler.enqueue(at(0), request(0, vec![5; 8], 3)).unwrap();
    scheduler.enqueue(at(0), request(1, vec![5; 3], 1)).unwrap();
    let plan = planned(&mut scheduler);
    assert_eq!(plan.seqs.iter().map(|s| (s.tokens.len(), s.padding)).collect::<Vec<_>>(), [(8, 0), (3, 5)]);
    let events = commit(&mut scheduler, &plan);
    assert_eq!(events.last(), Some(&Event::Finished { id: RequestId(1), reason: FinishReason::Length }));
    // Done, but its block is still held and its row still computed.
    assert_eq!((scheduler.stats().running, scheduler.stats().free_blocks), (1, 5));
    let plan = planned(&mut scheduler);
    assert_eq!(plan.seqs.iter().map(|s| (s.tokens.len(), s.padding)).collect::<Vec<_>>(), [(1, 0), (0, 1)]);
    assert_eq!((plan.seqs[1].context, plan.seqs[1].sample), (3, false));
    // The last live client leaves: with nobody left the batch is over.
    assert!(scheduler.abort(at(0), RequestId(0)).is_some());
    commit(&mut scheduler, &plan);
    let stats = scheduler.stats();
    assert_eq!((stats.free_blocks, stats.prefill_padding_total, stats.decode_padding_total), (8, 5, 1));
    assert_eq!(scheduler.plan(at(0)), Planned::Idle);
}

#[test]
fn prefix_hits_and_preemptions_are_counted() {
    let mut scheduler = Scheduler::new(vllm(VllmConfig::default(), KvStrategy::Paged, 13, 40)).unwrap();
    for id in 0..2 {
        scheduler.enqueue(at(0), request(id, (0..10).collect(), 2)).unwrap();
    }
    planned(&mut scheduler);
    let stats = scheduler.stats();
    assert_eq!((stats.prefix_query_tokens_total, stats.prefix_hit_tokens_total), (20, 8));
    assert_eq!((stats.computed_tokens_total, stats.kv_tokens), (12, 20));

    // Six blocks for two requests that grow to four each.
    let mut scheduler = Scheduler::new(vllm(uncached(), KvStrategy::Paged, 7, 40)).unwrap();
    for id in 0..2 {
        scheduler.enqueue(at(0), request(id, vec![5; 8], 6)).unwrap();
    }
    while let Planned::Step(plan) = scheduler.plan(at(0)) {
        commit(&mut scheduler, &plan);
    }
    let stats = scheduler.stats();
    assert_eq!((stats.preemptions_total, stats.preempted_tokens_total, stats.finished_total), (1, 12, 2));
    // 13 tokens are fed per request, and the 12 lost ones again.
    assert_eq!((stats.computed_tokens_total, stats.sampled_tokens_total), (38, 12));
}

#[test]
fn eos_is_banned_until_min_tokens() {
    let mut scheduler = Scheduler::new(vllm(uncached(), KvStrategy::Paged, 7, 40)).unwrap();
    let mut wanted = request(0, vec![5; 3], 6);
    wanted.stop.min_tokens = 1;
    wanted.stop.ignore_eos = false;
    wanted.stop.eos_ids = [9].into();
    scheduler.enqueue(at(0), wanted).unwrap();
    let plan = planned(&mut scheduler);
    assert_eq!((plan.seqs[0].banned.as_slice(), plan.seqs[0].generated), ([9].as_slice(), 0));
    assert_eq!(commit(&mut scheduler, &plan).len(), 1);
    let plan = planned(&mut scheduler);
    assert_eq!((plan.seqs[0].banned.as_slice(), plan.seqs[0].generated), ([].as_slice(), 1));
    assert!(
        commit(&mut scheduler, &plan)
            .contains(&Event::Finished { id: RequestId(0), reason: FinishReason::Stop })
    );
}

/// The least important request is given a chunk of two blocks and then thrown out within the same step, for one block.
/// The other of the two was never computed: nobody may find it.
#[test]
fn a_victim_of_its_own_step_leaves_nothing_uncomputed_in_the_cache() {
    let knobs = VllmConfig {
        priority: true,
        max_num_batched_tokens: 16,
        long_prefill_token_threshold: 8,
        scheduler_reserve_full_isl: false,
        ..VllmConfig::default()
    };
    let scheduler = Scheduler::new(vllm(knobs, KvStrategy::Paged, 10, 40)).unwrap();
    let mut engine = Engine::new(scheduler, FakeExecutor::new(4));
    let unimportant = Request { priority: 5, ..request(0, (0..33).collect(), 1) };
    let important = request(1, vec![50; 4], 2);
    engine.executor.expect(&unimportant);
    engine.executor.expect(&important);

    engine.scheduler.enqueue(at(0), unimportant).unwrap();
    assert_eq!(shape(&mut engine), [(0, 0, 16)]);
    engine.scheduler.enqueue(at(0), important).unwrap();
    assert_eq!(shape(&mut engine), [(0, 16, 8), (1, 0, 4)]);
    assert_eq!(shape(&mut engine), [(1, 4, 1)]);
    assert_eq!(engine.scheduler.stats().preemptions_total, 1);
    // It comes back with the 24 tokens that were computed, not with 28, and the executor reads back the right ones.
    assert_eq!(shape(&mut engine), [(0, 24, 9)]);
    assert_eq!(engine.scheduler.stats().finished_total, 2);
}

/// Runs a step: id, context and new tokens of each sequence.
fn shape(engine: &mut Engine<FakeExecutor>) -> Vec<(u64, u32, usize)> {
    match engine.step(at(0)).unwrap() {
        EngineStep::Ran { plan, .. } => {
            plan.seqs.iter().map(|s| (s.id.0, s.context, s.tokens.len())).collect()
        }
        other => panic!("{other:?} instead of a step"),
    }
}
