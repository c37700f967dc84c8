//! Where `tgi` and its exact twin `tgi-3.3.6` part, and what neither recording nor table shows.

mod common;

use common::trace::{Arrival, arrival, trace};
use common::{at, outcome, request};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, TgiConfig};
use llmlab_core::request::{Event, FinishReason, RequestId, StopRules};
use llmlab_core::step::StepPlan;
use llmlab_core::{EnqueueError, Planned, Scheduler};

fn engine(config: TgiConfig, block_size: u32, max_model_len: u32) -> EngineConfig {
    let num_blocks = config.max_batch_total_tokens / block_size;
    EngineConfig {
        policy: PolicyConfig::Tgi(config),
        kv: KvStrategy::Paged,
        block_size,
        num_blocks,
        max_model_len,
    }
}

/// The rules without defects, and the twin.
fn both(config: TgiConfig) -> [TgiConfig; 2] {
    [config.clone(), TgiConfig { upstream_defects: true, ..config }]
}

fn planned(scheduler: &mut Scheduler) -> StepPlan {
    match scheduler.plan(at(0)) {
        Planned::Step(plan) => plan,
        other => panic!("{other:?} instead of a step"),
    }
}

/// Runs a step: id, cached or computed context, and new tokens of each sequence.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, u32, usize)> {
    let plan = planned(scheduler);
    scheduler.commit(at(0), &plan, &outcome(&plan, |_| 900));
    plan.seqs.iter().map(|s| (s.id.0, s.context, s.tokens.len())).collect()
}

/// 128 tokens are seven usable blocks of 16; 100 + 28 - 1 tokens take eight.
#[test]
fn a_request_that_never_fits_is_refused_or_blocks_the_queue() {
    let [rules, twin] = both(TgiConfig::new(128)).map(|c| Scheduler::new(engine(c, 16, 128)).unwrap());
    let (mut rules, mut twin) = (rules, twin);
    let large = || request(0, (0..100).collect(), 28);
    assert_eq!(rules.enqueue(at(0), large()), Err(EnqueueError::NeverFits { blocks: 8, total: 7 }));

    twin.enqueue(at(0), large()).unwrap();
    twin.enqueue(at(0), request(1, vec![5, 6], 2)).unwrap();
    for _ in 0..3 {
        assert_eq!(twin.plan(at(0)), Planned::Idle);
    }
    assert_eq!((twin.stats().waiting, twin.stats().running), (2, 0));
    // Only its client can end it.
    assert!(twin.abort(at(0), RequestId(0)).is_some());
    assert_eq!(step(&mut twin), [(1, 0, 2)]);
}

/// Two prompts of 60 tokens are taken out of the queue and put back, because three were wanted: nothing was computed.
#[test]
fn only_the_twin_starts_from_blocks_that_nobody_computed() {
    let config = TgiConfig {
        max_batch_prefill_tokens: 64,
        waiting_served_ratio: 2.0,
        max_waiting_tokens: 3,
        prefill_chunking: false,
        ..TgiConfig::new(512)
    };
    let joined = both(config).map(|config| {
        let mut scheduler = Scheduler::new(engine(config, 1, 88)).unwrap();
        scheduler.enqueue(at(0), request(0, vec![1, 2, 3, 4], 8)).unwrap();
        assert_eq!(step(&mut scheduler), [(0, 0, 4)]);
        scheduler.enqueue(at(0), request(1, (300..360).collect(), 4)).unwrap();
        scheduler.enqueue(at(0), request(2, (600..660).collect(), 4)).unwrap();
        assert_eq!(step(&mut scheduler), [(0, 4, 1)]);
        let joined = step(&mut scheduler);
        (joined, scheduler.stats().prefix_hit_tokens_total)
    });
    // The twin looked once before it was patient enough.
    assert_eq!(joined, [(vec![(0, 5, 1)], 0), (vec![(1, 59, 1), (2, 59, 1)], 118)]);
}

/// Of two that wait one leaves. The router still counts two, takes the other one out of the queue and puts it back.
#[test]
fn a_client_that_left_the_queue_counts_until_its_turn_in_the_twin() {
    let config = TgiConfig {
        waiting_served_ratio: 2.0,
        max_waiting_tokens: 2,
        prefill_chunking: false,
        ..TgiConfig::new(512)
    };
    let joined = both(config).map(|config| {
        let mut scheduler = Scheduler::new(engine(config, 1, 88)).unwrap();
        scheduler.enqueue(at(0), request(0, vec![1, 2, 3, 4], 8)).unwrap();
        step(&mut scheduler);
        scheduler.enqueue(at(0), request(1, (300..360).collect(), 4)).unwrap();
        scheduler.enqueue(at(0), request(2, (600..660).collect(), 4)).unwrap();
        assert!(scheduler.abort(at(0), RequestId(2)).is_some());
        assert_eq!(scheduler.stats().waiting, 1);
        assert_eq!(step(&mut scheduler), [(0, 4, 1)]);
        step(&mut scheduler)
    });
    assert_eq!(joined, [[(1, 0, 60)], [(1, 59, 1)]]);
}

/// Two of three wanted: both go back, the last one first, and the blocks behind their prompts with them.
#[test]
fn what_is_put_back_frees_its_memory_last_one_first() {
    let config = TgiConfig {
        waiting_served_ratio: 3.0,
        max_waiting_tokens: 2,
        prefill_chunking: false,
        upstream_defects: true,
        ..TgiConfig::new(64)
    };
    let mut scheduler = Scheduler::new(engine(config, 1, 32)).unwrap();
    scheduler.enqueue(at(0), request(0, vec![1], 8)).unwrap();
    step(&mut scheduler);
    for id in 1..4 {
        scheduler.enqueue(at(0), request(id, vec![id as u32 * 100; 20], 3)).unwrap();
    }
    // 63 blocks less 8 hold two of them.
    step(&mut scheduler);
    planned(&mut scheduler);
    let table = |id| scheduler.block_table(RequestId(id)).iter().map(|b| b.0).collect::<Vec<_>>();
    let (first, second) = (table(1), table(2));
    assert_eq!((first[..20].to_vec(), second[..20].to_vec()), ((34..54).collect(), (12..32).collect()));
    assert_eq!((first[20..].to_vec(), second[20..].to_vec()), (vec![54, 55], vec![32, 33]));
}

#[test]
fn a_prompt_that_is_cached_whole_computes_its_last_token() {
    let mut scheduler = Scheduler::new(engine(TgiConfig::new(64), 4, 32)).unwrap();
    for id in 0..2 {
        scheduler.enqueue(at(0), request(id, (0..8).collect(), 1)).unwrap();
        assert_eq!(step(&mut scheduler), [[(0, 0, 8)], [(1, 7, 1)]][id as usize]);
    }
    assert_eq!(scheduler.stats().prefix_hit_tokens_total, 7);
}

#[test]
fn a_client_that_leaves_a_chunked_prefill_is_dropped_at_once_or_at_its_first_token() {
    let config = TgiConfig { max_batch_prefill_tokens: 8, ..TgiConfig::new(512) };
    let steps = both(config).map(|config| {
        let mut scheduler = Scheduler::new(engine(config, 1, 88)).unwrap();
        scheduler.enqueue(at(0), request(0, (0..20).collect(), 4)).unwrap();
        assert_eq!(step(&mut scheduler), [(0, 0, 8)]);
        let left = scheduler.abort(at(0), RequestId(0));
        assert_eq!(left, Some(Event::Finished { id: RequestId(0), reason: FinishReason::Abort }));
        assert_eq!((scheduler.stats().aborted_total, scheduler.stats().running), (1, 0));
        let mut more = Vec::new();
        while let Planned::Step(plan) = scheduler.plan(at(0)) {
            assert_eq!(scheduler.commit(at(0), &plan, &outcome(&plan, |_| 900)), []);
            more.extend(plan.seqs.iter().map(|s| s.tokens.len()));
        }
        let stats = scheduler.stats();
        assert_eq!((stats.kv_tokens, stats.free_blocks + stats.cached_blocks), (0, stats.total_blocks));
        (more, stats.cached_blocks)
    });
    // What was computed of the prompt stays in the cache.
    assert_eq!(steps, [(vec![], 8), (vec![8, 4], 20)]);
}

fn table(config: TgiConfig, arrivals: Vec<Arrival>) -> Vec<String> {
    let (rows, _) = trace(engine(config, 4, 64), arrivals);
    rows.iter().map(|r| format!("{} | {} | {}", r.scheduled, r.waiting, r.finished)).collect()
}

fn legs_of_four() -> TgiConfig {
    TgiConfig {
        max_batch_prefill_tokens: 16,
        max_batch_size: Some(1),
        prefill_chunking: false,
        use_prefix_caching: false,
        leg_tokens: 4,
        ..TgiConfig::new(64)
    }
}

/// A wants six tokens. Its second leg begins behind B and C with a prompt of 3 + 4 tokens.
#[test]
fn a_second_leg_waits_at_the_tail_and_is_exact_only_without_the_defect() {
    let arrivals = || vec![arrival("A", 3, 6), arrival("B", 2, 2), arrival("C", 2, 2)];
    let [rules, twin] = both(legs_of_four()).map(|config| table(config, arrivals()));
    let common = [
        "A:3@0 | B,C | -",
        "A:1@3 | B,C | -",
        "A:1@4 | B,C | -",
        "A:1@5 | B,C | -",
        "B:2@0 | C,A | -",
        "B:1@2 | C,A | B",
        "C:2@0 | A | -",
        "C:1@2 | A | C",
        "A:7@0 | - | -",
    ];
    assert_eq!(rules[..9], common);
    assert_eq!(twin[..9], common);
    assert_eq!(rules[9..], ["A:1@7 | - | A"]);
    assert_eq!(twin[9..], ["A:1@7 | - | -", "A:1@8 | - | -", "A:1@9 | - | A"]);
}

/// A's first leg ends while B runs. The forward after that does not know yet that A is back.
#[test]
fn a_second_leg_is_seen_one_forward_later() {
    let config = TgiConfig { max_batch_size: None, ..legs_of_four() };
    let rows = table(config, vec![arrival("A", 2, 5), arrival("B", 2, 4).at_step(3)]);
    assert_eq!(
        rows,
        [
            "A:2@0 | - | -",
            "A:1@2 | - | -",
            "B:2@0 | - | -",
            "A:1@3 B:1@2 | - | -",
            "A:1@4 B:1@3 | - | -",
            "B:1@4 | A | B",
            "A:6@0 | - | A",
        ]
    );
}

/// Tokens a request with a prompt of 8 gets in a context of `max_model_len`.
fn generated(config: TgiConfig, max_tokens: u32, max_model_len: u32) -> usize {
    let mut scheduler = Scheduler::new(engine(config, 4, max_model_len)).unwrap();
    scheduler.enqueue(at(0), request(0, (0..8).collect(), max_tokens)).unwrap();
    let mut tokens = 0;
    while let Planned::Step(plan) = scheduler.plan(at(0)) {
        let events = scheduler.commit(at(0), &plan, &outcome(&plan, |_| 900));
        tokens += events.iter().filter(|event| matches!(event, Event::Token { .. })).count();
        if let Some(Event::Finished { reason, .. }) = events.last() {
            assert_eq!(*reason, FinishReason::Length);
        }
    }
    assert_eq!(scheduler.stats().finished_total, 1);
    tokens
}

#[test]
fn how_much_a_long_answer_gets() {
    let config = || TgiConfig::new(8192);
    let counts = |config: TgiConfig, max_tokens, max_model_len| {
        both(config).map(|config| generated(config, max_tokens, max_model_len))
    };
    assert_eq!(counts(config(), 1000, 4096), [1000, 1000]);
    assert_eq!(counts(config(), 1500, 4096), [1500, 2048]);
    assert_eq!(counts(config(), 2048, 4096), [2048, 2048]);
    // The second leg would reach beyond the context: not run.
    assert_eq!(counts(config(), 1500, 2000), [1500, 1024]);
    assert_eq!(counts(config(), StopRules::NO_LIMIT, 1800), [1792, 1792]);
    // Its prompt would be too long.
    let short = TgiConfig { max_input_tokens: Some(1000), ..config() };
    assert_eq!(counts(short, 1500, 4096), [1024, 1024]);
    // Nothing of the prompt fits into one prefill then, in pieces it does.
    let small = TgiConfig { max_batch_prefill_tokens: 100, ..config() };
    assert_eq!(counts(small.clone(), 1500, 4096), [1500, 2048]);
    let whole = TgiConfig { prefill_chunking: false, ..small };
    assert_eq!(counts(whole, 1500, 4096), [1024, 1024]);
}

fn padded() -> TgiConfig {
    TgiConfig {
        max_batch_prefill_tokens: 64,
        prefill_chunking: false,
        use_prefix_caching: false,
        requires_padding: true,
        ..TgiConfig::new(128)
    }
}

/// In TGI such a batch has no blocks; ours has, so it waits for them too.
#[test]
fn a_padded_batch_pays_for_its_rectangle_and_stays_within_the_pool() {
    // 6 usable blocks of 4: 8 + 5 - 1 tokens take three, 3 + 2 - 1 one, 9 + 2 - 1 three.
    let mut small = engine(padded(), 4, 64);
    small.num_blocks = 7;
    let mut scheduler = Scheduler::new(small).unwrap();
    scheduler.enqueue(at(0), request(0, (0..8).collect(), 5)).unwrap();
    scheduler.enqueue(at(0), request(1, (0..3).collect(), 2)).unwrap();
    scheduler.enqueue(at(0), request(2, (0..9).collect(), 2)).unwrap();
    let plan = planned(&mut scheduler);
    let rows: Vec<_> = plan.seqs.iter().map(|s| (s.id.0, s.tokens.len(), s.padding)).collect();
    assert_eq!(rows, [(0, 8, 0), (1, 3, 5)]);
    assert_eq!((scheduler.stats().free_blocks, scheduler.stats().waiting), (2, 1));
    scheduler.commit(at(0), &plan, &outcome(&plan, |_| 900));
    assert_eq!(step(&mut scheduler), [(0, 8, 1), (1, 3, 1)]);
    // The second is done, its block is back.
    assert_eq!(step(&mut scheduler), [(2, 0, 9)]);

    // Two rows of 8 and outputs of 5 and 5 are 26 tokens.
    let tight = TgiConfig { max_batch_total_tokens: 25, ..padded() };
    let mut scheduler = Scheduler::new(EngineConfig { num_blocks: 99, ..engine(tight, 4, 25) }).unwrap();
    scheduler.enqueue(at(0), request(0, (0..8).collect(), 5)).unwrap();
    scheduler.enqueue(at(0), request(1, (0..3).collect(), 5)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 0, 8)]);
    // 25 - 13 tokens are left, the second takes 3 + 5.
    assert_eq!(step(&mut scheduler), [(1, 0, 3)]);

    let narrow = TgiConfig { max_batch_total_tokens: 20, ..padded() };
    let mut scheduler = Scheduler::new(EngineConfig { num_blocks: 99, ..engine(narrow, 4, 64) }).unwrap();
    let refused = scheduler.enqueue(at(0), request(0, (0..15).collect(), 6));
    assert_eq!(refused, Err(EnqueueError::TooLong { tokens: 21, limit: 20 }));
}

#[test]
fn speculated_tokens_are_reserved_too() {
    for (speculate, blocks) in [(0, 9), (3, 12)] {
        let config = TgiConfig { speculate, ..TgiConfig::new(64) };
        let mut scheduler = Scheduler::new(engine(config, 1, 32)).unwrap();
        scheduler.enqueue(at(0), request(0, (0..8).collect(), 2)).unwrap();
        planned(&mut scheduler);
        assert_eq!(scheduler.block_table(RequestId(0)).len(), blocks);
    }
}
