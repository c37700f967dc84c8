//! Policy `vllm` on the worked tables: runs of the real 0.33 scheduler small enough to follow by hand.
//! A line is: step | scheduled | preempted | block tables after planning | free blocks | waiting | sampled | finished.

mod common;

use common::trace::{Arrival, arrival, arrival_of, trace};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};

fn knobs(max_num_batched_tokens: u32, max_num_seqs: u32) -> VllmConfig {
    VllmConfig { max_num_batched_tokens, max_num_seqs, enable_prefix_caching: false, ..VllmConfig::default() }
}

fn paged(config: VllmConfig, num_blocks: u32) -> EngineConfig {
    // Without chunking vLLM wants a budget of at least one whole request.
    let max_model_len = if config.enable_chunked_prefill { 64 } else { config.max_num_batched_tokens };
    EngineConfig {
        policy: PolicyConfig::Vllm(config),
        kv: KvStrategy::Paged,
        block_size: 4,
        num_blocks,
        max_model_len,
    }
}

fn check(config: VllmConfig, num_blocks: u32, arrivals: Vec<Arrival>, table: &str, free_at_end: &[u32]) {
    let (rows, free) = trace(paged(config, num_blocks), arrivals);
    let got = rows.iter().map(|r| {
        format!(
            "{} | {} | {} | {} | {} | {} | {} | {}",
            r.step, r.scheduled, r.preempted, r.tables, r.free_planned, r.waiting, r.emits, r.finished
        )
    });
    let want = table.lines().map(str::trim).filter(|line| !line.is_empty());
    assert_eq!(got.collect::<Vec<_>>(), want.collect::<Vec<_>>());
    if !free_at_end.is_empty() {
        assert_eq!(free, free_at_end);
    }
}

/// Chunked prefill and decodes share the budget.
#[test]
fn v1_mixed_prefill_and_decode() {
    check(
        knobs(16, 4),
        17,
        vec![arrival("A", 10, 4), arrival("B", 12, 4), arrival("C", 6, 2)],
        "
        1 | A:10@0 B:6@0 | - | A=[1,2,3] B=[4,5] | 11 | C | A | -
        2 | A:1@10 B:6@6 C:6@0 | - | A=[1,2,3] B=[4,5,6] C=[7,8] | 8 | - | A,B,C | -
        3 | A:1@11 B:1@12 C:1@6 | - | A=[1,2,3] B=[4,5,6,9] C=[7,8] | 7 | - | A,B,C | C
        4 | A:1@12 B:1@13 | - | A=[1,2,3,8] B=[4,5,6,9] | 8 | - | A,B | A
        5 | B:1@14 | - | B=[4,5,6,9] | 12 | - | B | B",
        &[9, 6, 5, 4, 8, 3, 2, 1, 7, 10, 11, 12, 13, 14, 15, 16],
    );
}

/// A needs a fourth block with none free: the tail of the running list goes, and nobody is admitted in that step.
#[test]
fn v2_preemption_by_recompute() {
    check(
        knobs(16, 4),
        7,
        vec![arrival("A", 8, 6), arrival("B", 7, 6)],
        "
        1 | A:8@0 B:7@0 | - | A=[1,2] B=[3,4] | 2 | - | A,B | -
        2 | A:1@8 B:1@7 | - | A=[1,2,5] B=[3,4] | 1 | - | A,B | -
        3 | A:1@9 B:1@8 | - | A=[1,2,5] B=[3,4,6] | 0 | - | A,B | -
        4 | A:1@10 B:1@9 | - | A=[1,2,5] B=[3,4,6] | 0 | - | A,B | -
        5 | A:1@11 B:1@10 | - | A=[1,2,5] B=[3,4,6] | 0 | - | A,B | -
        6 | A:1@12 | B | A=[1,2,5,6] | 2 | B | A | A
        7 | B:12@0 | - | B=[6,5,2] | 3 | - | B | B",
        &[2, 5, 6, 1, 4, 3],
    );
}

/// The freed blocks keep their hashes.
#[test]
fn v2b_a_preempted_request_hits_its_own_prefix() {
    check(
        VllmConfig { enable_prefix_caching: true, ..knobs(16, 4) },
        7,
        vec![arrival("A", 8, 6), arrival("B", 7, 6)],
        "
        1 | A:8@0 B:7@0 | - | A=[1,2] B=[3,4] | 2 | - | A,B | -
        2 | A:1@8 B:1@7 | - | A=[1,2,5] B=[3,4] | 1 | - | A,B | -
        3 | A:1@9 B:1@8 | - | A=[1,2,5] B=[3,4,6] | 0 | - | A,B | -
        4 | A:1@10 B:1@9 | - | A=[1,2,5] B=[3,4,6] | 0 | - | A,B | -
        5 | A:1@11 B:1@10 | - | A=[1,2,5] B=[3,4,6] | 0 | - | A,B | -
        6 | A:1@12 | B | A=[1,2,5,6] | 2 | B | A | A
        7 | B:4@8 | - | B=[3,4,6] | 3 | - | B | B",
        &[5, 2, 1, 6, 4, 3],
    );
}

/// C repeats A and hits 8 of 12 tokens: its last token must be computed, so its last block is.
#[test]
fn v3_prefix_caching() {
    check(
        VllmConfig { enable_prefix_caching: true, ..knobs(32, 4) },
        11,
        vec![
            arrival_of("A", (100..112).collect(), 2),
            arrival_of("B", (100..108).chain(500..503).collect(), 2).at_step(4),
            arrival_of("C", (100..112).collect(), 2).at_step(5),
        ],
        "
        1 | A:12@0 | - | A=[1,2,3] | 7 | - | A | -
        2 | A:1@12 | - | A=[1,2,3,4] | 6 | - | A | A
        4 | B:3@8 | - | B=[1,2,4] | 7 | - | B | -
        5 | B:1@11 C:4@8 | - | B=[1,2,4] C=[1,2,5] | 6 | - | B,C | B
        6 | C:1@12 | - | C=[1,2,5,6] | 6 | - | C | C",
        &[6, 7, 8, 9, 10, 3, 4, 5, 2, 1],
    );
}

/// D takes the never used blocks, then block 3, the end of A.
#[test]
fn v3b_the_tail_of_a_prompt_is_evicted_first() {
    check(
        VllmConfig { enable_prefix_caching: true, ..knobs(32, 4) },
        8,
        vec![
            arrival_of("A", (100..112).collect(), 1),
            arrival("D", 20, 1).at_step(3),
            arrival_of("A2", (100..112).collect(), 1).at_step(5),
        ],
        "
        1 | A:12@0 | - | A=[1,2,3] | 4 | - | A | A
        3 | D:20@0 | - | D=[4,5,6,7,3] | 2 | - | D | D
        5 | A2:4@8 | - | A2=[1,2,3] | 4 | - | A2 | A2",
        &[7, 6, 5, 4, 3, 2, 1],
    );
}

#[test]
fn v4_max_num_seqs_limits_admission() {
    check(
        knobs(8, 2),
        17,
        vec![arrival("A", 5, 3), arrival("B", 11, 2), arrival("C", 3, 2)],
        "
        1 | A:5@0 B:3@0 | - | A=[1,2] B=[3] | 13 | C | A | -
        2 | A:1@5 B:7@3 | - | A=[1,2] B=[3,4,5] | 11 | C | A | -
        3 | A:1@6 B:1@10 | - | A=[1,2] B=[3,4,5] | 11 | C | A,B | A
        4 | B:1@11 C:3@0 | - | B=[3,4,5] C=[2] | 12 | - | B,C | B
        5 | C:1@3 | - | C=[2] | 15 | - | C | C",
        &[2, 5, 4, 3, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    );
}

/// The smaller number goes first, the largest is thrown out.
#[test]
fn v5_priority() {
    check(
        VllmConfig { priority: true, ..knobs(16, 4) },
        7,
        vec![arrival("A", 8, 6).priority(5), arrival("B", 7, 6).priority(1)],
        "
        1 | B:7@0 A:8@0 | - | B=[1,2] A=[3,4] | 2 | - | B,A | -
        2 | B:1@7 A:1@8 | - | B=[1,2] A=[3,4,5] | 1 | - | B,A | -
        3 | B:1@8 A:1@9 | - | B=[1,2,6] A=[3,4,5] | 0 | - | B,A | -
        4 | B:1@9 A:1@10 | - | B=[1,2,6] A=[3,4,5] | 0 | - | B,A | -
        5 | B:1@10 A:1@11 | - | B=[1,2,6] A=[3,4,5] | 0 | - | B,A | -
        6 | B:1@11 | A | B=[1,2,6] | 3 | A | B | B
        7 | A:13@0 | - | A=[6,2,1,5] | 2 | - | A | A",
        &[5, 1, 2, 6, 4, 3],
    );
}

#[test]
fn v6a_the_whole_prompt_must_fit() {
    check(
        knobs(8, 4),
        7,
        vec![arrival("A", 8, 3), arrival("B", 20, 2)],
        "
        1 | A:8@0 | - | A=[1,2] | 4 | B | A | -
        2 | A:1@8 | - | A=[1,2,3] | 3 | B | A | -
        3 | A:1@9 | - | A=[1,2,3] | 3 | B | A | A
        4 | B:8@0 | - | B=[3,2] | 4 | - | - | -
        5 | B:8@8 | - | B=[3,2,1,4] | 2 | - | - | -
        6 | B:4@16 | - | B=[3,2,1,4,5] | 1 | - | B | -
        7 | B:1@20 | - | B=[3,2,1,4,5,6] | 0 | - | B | B",
        &[6, 5, 4, 1, 2, 3],
    );
}

#[test]
fn v6b_admission_by_chunk_can_preempt_itself() {
    check(
        VllmConfig { scheduler_reserve_full_isl: false, ..knobs(8, 4) },
        7,
        vec![arrival("A", 8, 3), arrival("B", 20, 2)],
        "
        1 | A:8@0 | - | A=[1,2] | 4 | B | A | -
        2 | A:1@8 B:7@0 | - | A=[1,2,3] B=[4,5] | 1 | - | A | -
        3 | A:1@9 | B | A=[1,2,3] | 3 | B | A | A
        4 | B:8@0 | - | B=[3,2] | 4 | - | - | -
        5 | B:8@8 | - | B=[3,2,1,5] | 2 | - | - | -
        6 | B:4@16 | - | B=[3,2,1,5,4] | 1 | - | B | -
        7 | B:1@20 | - | B=[3,2,1,5,4,6] | 0 | - | B | B",
        &[6, 4, 5, 1, 2, 3],
    );
}

/// B needs 4 blocks and 3 kept free.
#[test]
fn v7_the_watermark_holds_only_while_something_runs() {
    check(
        VllmConfig { watermark: 0.3, ..knobs(32, 4) },
        10,
        vec![arrival("A", 12, 3), arrival("B", 16, 2)],
        "
        1 | A:12@0 | - | A=[1,2,3] | 6 | B | A | -
        2 | A:1@12 | - | A=[1,2,3,4] | 5 | B | A | -
        3 | A:1@13 | - | A=[1,2,3,4] | 5 | B | A | A
        4 | B:16@0 | - | B=[4,3,2,1] | 5 | - | B | -
        5 | B:1@16 | - | B=[4,3,2,1,5] | 4 | - | B | B",
        &[5, 1, 2, 3, 4, 6, 7, 8, 9],
    );
}

#[test]
fn v8_without_chunking_a_prompt_waits_for_a_whole_budget() {
    check(
        VllmConfig { enable_chunked_prefill: false, ..knobs(16, 4) },
        17,
        vec![arrival("A", 10, 3), arrival("B", 12, 2), arrival("C", 4, 2)],
        "
        1 | A:10@0 | - | A=[1,2,3] | 13 | B,C | A | -
        2 | A:1@10 B:12@0 | - | A=[1,2,3] B=[4,5,6] | 10 | C | A,B | -
        3 | A:1@11 B:1@12 C:4@0 | - | A=[1,2,3] B=[4,5,6,7] C=[8] | 8 | - | A,B,C | A,B
        4 | C:1@4 | - | C=[8,7] | 14 | - | C | C",
        &[7, 8, 6, 5, 4, 3, 2, 1, 9, 10, 11, 12, 13, 14, 15, 16],
    );
}

#[test]
fn v9_long_prefill_cap_is_lifted_for_a_single_request() {
    check(
        VllmConfig { long_prefill_token_threshold: 4, ..knobs(16, 4) },
        17,
        vec![arrival("A", 10, 2), arrival("B", 6, 2)],
        "
        1 | A:4@0 B:4@0 | - | A=[1] B=[2] | 14 | - | - | -
        2 | A:4@4 B:2@4 | - | A=[1,3] B=[2,4] | 12 | - | B | -
        3 | A:2@8 B:1@6 | - | A=[1,3,5] B=[2,4] | 11 | - | A,B | B
        4 | A:1@10 | - | A=[1,3,5] | 13 | - | A | A",
        &[5, 3, 1, 4, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    );
}

/// B finds blocks that A fills in the same forward pass.
#[test]
fn v12_identical_prompts_share_within_one_step() {
    check(
        VllmConfig { enable_prefix_caching: true, ..knobs(32, 4) },
        17,
        vec![arrival_of("A", (100..110).collect(), 2), arrival_of("B", (100..110).collect(), 2)],
        "
        1 | A:10@0 B:2@8 | - | A=[1,2,3] B=[1,2,4] | 12 | - | A,B | -
        2 | A:1@10 B:1@10 | - | A=[1,2,3] B=[1,2,4] | 12 | - | A,B | A,B",
        &[],
    );
}

/// Prefill in every third step at most while A decodes.
#[test]
fn v10_prefill_interval_lets_decodes_run_between() {
    let config = VllmConfig { prefill_schedule_interval: 3, ..knobs(8, 4) };
    let (rows, _) = trace(paged(config, 33), vec![arrival("A", 4, 8), arrival("B", 10, 2).at_step(2)]);
    let b = rows.iter().filter(|r| r.scheduled.contains('B')).map(|r| (r.step, r.scheduled.as_str()));
    assert_eq!(b.collect::<Vec<_>>(), [(4, "A:1@6 B:7@0"), (7, "A:1@9 B:3@7"), (8, "A:1@10 B:1@10")]);
    assert_eq!(rows.last().map(|r| (r.step, r.finished.as_str())), Some((8, "A,B")));
}

/// Not recorded, follows from the rules: A was given its token before B needs a block, and gives it back. C, next in line
/// after B, must not be skipped because the list got shorter.
#[test]
fn a_victim_that_was_already_scheduled_gives_its_tokens_back() {
    check(
        VllmConfig { priority: true, ..knobs(16, 4) },
        5,
        vec![
            arrival("A", 3, 8).priority(5),
            arrival("B", 4, 3).priority(1).at_step(2),
            arrival("C", 2, 3).priority(2).at_step(2),
        ],
        "
        1 | A:3@0 | - | A=[1] | 3 | - | A | -
        2 | A:1@3 B:4@0 C:2@0 | - | A=[1] B=[2] C=[3] | 1 | - | A,B,C | -
        3 | B:1@4 C:1@2 | A | B=[2,4] C=[3] | 1 | A | B,C | -
        4 | B:1@5 C:1@3 | - | B=[2,4] C=[3] | 1 | A | B,C | B,C
        5 | A:5@0 | - | A=[3,4] | 2 | - | A | -
        6 | A:1@5 | - | A=[3,4] | 2 | - | A | -
        7 | A:1@6 | - | A=[3,4] | 2 | - | A | -
        8 | A:1@7 | - | A=[3,4] | 2 | - | A | -
        9 | A:1@8 | - | A=[3,4,2] | 1 | - | A | -
        10 | A:1@9 | - | A=[3,4,2] | 1 | - | A | A",
        &[],
    );
}
