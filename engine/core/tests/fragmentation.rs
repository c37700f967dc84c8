//! Internal and external fragmentation of small pools, traced by hand.

mod common;

use common::{at, outcome, request};
use llmlab_core::block_manager::{BlockManager, Discipline};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::request::RequestId;
use llmlab_core::stats::Stats;
use llmlab_core::{Planned, Scheduler};

/// A pool of 17 blocks of 4 tokens, requests of at most 20.
fn scheduler(kv: KvStrategy, enable_prefix_caching: bool) -> Scheduler {
    let policy = PolicyConfig::Vllm(VllmConfig { enable_prefix_caching, ..VllmConfig::default() });
    let config = EngineConfig { policy, kv, block_size: 4, num_blocks: 18, max_model_len: 20 };
    Scheduler::new(config).unwrap()
}

fn step(scheduler: &mut Scheduler) -> Stats {
    let Planned::Step(plan) = scheduler.plan(at(0)) else { panic!("nothing to do") };
    let stats = scheduler.stats();
    scheduler.commit(at(0), &plan, &outcome(&plan, |_| 9));
    stats
}

fn internal(stats: &Stats) -> f64 {
    1.0 - (stats.kv_tokens - stats.kv_shared_tokens) as f64 / stats.kv_held_tokens as f64
}

/// A prompt of 6 tokens in, 7 out, under each strategy: 6 tokens stored in the first step, 7 in the second, up to 12.
#[test]
fn internal_fragmentation_is_the_room_held_without_a_token_in_it() {
    for (kv, blocks) in [
        // 6 tokens need 2 blocks; the ninth token a third.
        (KvStrategy::Paged, [2, 2, 2, 3, 3, 3, 3]),
        // 13 tokens: 4 blocks from the start.
        (KvStrategy::Reserve, [4; 7]),
        // 20 tokens: 5 blocks, whatever the request asks for.
        (KvStrategy::Contiguous, [5; 7]),
    ] {
        let mut scheduler = scheduler(kv, false);
        scheduler.enqueue(at(0), request(0, vec![5; 6], 7)).unwrap();
        for (n, blocks) in blocks.into_iter().enumerate() {
            let stats = step(&mut scheduler);
            let (tokens, room) = (6 + n, blocks * 4);
            assert_eq!((stats.kv_tokens, stats.kv_held_tokens), (tokens, room), "{kv:?} step {n}");
            assert_eq!(internal(&stats), 1.0 - tokens as f64 / room as f64);
        }
        assert_eq!(scheduler.stats().kv_held_tokens, 0, "{kv:?}");
    }
}

/// Two requests with the same 10 tokens: two full blocks are stored once and used twice.
#[test]
fn a_shared_block_is_counted_once() {
    let mut scheduler = scheduler(KvStrategy::Paged, true);
    for id in 0..2 {
        scheduler.enqueue(at(0), request(id, (0..10).collect(), 2)).unwrap();
    }
    let stats = step(&mut scheduler);
    // Blocks: 2 shared, and one for the last 2 tokens of each; 12 tokens in 16 slots.
    assert_eq!((stats.kv_tokens, stats.kv_shared_tokens, stats.kv_held_tokens), (20, 8, 16));
    assert_eq!(internal(&stats), 0.25);
}

/// Three requests of five blocks each fill blocks 1 to 15; 16 and 17 are too few for a fourth.
#[test]
fn equal_pieces_leave_holes_that_fit_again_and_a_rest_that_never_does() {
    let mut contiguous = scheduler(KvStrategy::Contiguous, false);
    for id in 0..4 {
        contiguous.enqueue(at(0), request(id, vec![5; 6], 6)).unwrap();
    }
    let stats = step(&mut contiguous);
    assert_eq!((stats.running, stats.free_blocks, stats.external_fragmentation), (3, 2, 1.0));

    contiguous.abort(at(0), RequestId(3));
    contiguous.abort(at(0), RequestId(1));
    // The hole 6..=10 takes one request, 16 and 17 none: 2 of 7 free blocks are of no use.
    let stats = contiguous.stats();
    assert_eq!((stats.free_blocks, stats.largest_free_run_blocks), (7, 5));
    assert_eq!(stats.external_fragmentation, 1.0 - 5.0 / 7.0);

    // Paged, any free block will do.
    let mut paged = scheduler(KvStrategy::Paged, false);
    paged.enqueue(at(0), request(0, vec![5; 6], 6)).unwrap();
    assert_eq!(step(&mut paged).external_fragmentation, 0.0);
}

/// Pieces of 3, 3 and 5 of 12 blocks. When the one in the middle ends, 4 blocks are free and 4 in a row are nowhere.
#[test]
fn a_request_that_ends_in_the_middle_leaves_a_hole() {
    let mut blocks = BlockManager::new(Discipline::Runs, 13, 4);
    let pieces = [3, 3, 5].map(|n| blocks.take(n));
    assert_eq!(blocks.external_fragmentation(1), 0.0);
    blocks.release(&pieces[1]);
    assert_eq!((blocks.free().len(), blocks.free().largest_run()), (4, 3));
    assert!(!blocks.free().can_take(4));
    assert_eq!(blocks.external_fragmentation(4), 1.0);
    // For requests of three blocks only the last one is lost, for those of two the last of the hole too.
    assert_eq!(blocks.external_fragmentation(3), 0.25);
    assert_eq!(blocks.external_fragmentation(2), 0.5);
    blocks.release(&pieces[2]);
    // 4..=12 is one stretch again.
    assert_eq!((blocks.free().largest_run(), blocks.external_fragmentation(4)), (9, 1.0 - 8.0 / 9.0));
    assert_eq!((blocks.held(), blocks.shared()), (3, 0));
}
