//! Policy `tgi` on worked tables, a restatement of the v3 router's rules run by hand.
//! A line is: forward | scheduled | block tables of those admitted | free blocks afterwards | waiting | emits | finished.

mod common;

use common::trace::{Arrival, arrival, trace};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, TgiConfig};

/// Prefill budget P, total T, and the blocks that make up T.
fn check(config: TgiConfig, block_size: u32, arrivals: Vec<Arrival>, table: &str) -> Vec<u32> {
    let num_blocks = config.max_batch_total_tokens / block_size;
    let policy = PolicyConfig::Tgi(config);
    // The policy reserves by its own rule; the strategy must make no difference.
    let config =
        EngineConfig { policy, kv: KvStrategy::Contiguous, block_size, num_blocks, max_model_len: 64 };
    let (rows, mut free) = trace(config, arrivals);
    let got = rows.iter().map(|r| {
        format!(
            "{} | {} | {} | {} | {} | {} | {}",
            r.step, r.scheduled, r.new_tables, r.free_committed, r.waiting, r.emits, r.finished
        )
    });
    let want = table.lines().map(str::trim).filter(|line| !line.is_empty());
    assert_eq!(got.collect::<Vec<_>>(), want.collect::<Vec<_>>());
    // The tables print the list as it is stored: handed out from the right.
    free.reverse();
    free
}

fn knobs(prefill: u32, total: u32) -> TgiConfig {
    TgiConfig {
        max_batch_prefill_tokens: prefill,
        prefill_chunking: false,
        use_prefix_caching: false,
        ..TgiConfig::new(total)
    }
}

/// floor(3 * 1.2) = 3 requests must wait, or three forwards pass.
#[test]
fn t1_a_single_request_waits_for_company() {
    let free = check(
        TgiConfig { waiting_served_ratio: 1.2, max_waiting_tokens: 3, ..knobs(16, 64) },
        4,
        vec![arrival("A", 4, 8), arrival("B", 4, 6), arrival("C", 4, 6), arrival("D", 4, 2).at_step(2)],
        "
        1 | A:4@0 B:4@0 C:4@0 | A=[13,14,15] B=[10,11,12] C=[7,8,9] | 6 | - | A,B,C | -
        2 | A:1@4 B:1@4 C:1@4 | - | 6 | D | A,B,C | -
        3 | A:1@5 B:1@5 C:1@5 | - | 6 | D | A,B,C | -
        4 | D:4@0 | D=[5,6] | 4 | - | D | -
        5 | A:1@6 B:1@6 C:1@6 D:1@4 | - | 6 | - | A,B,C,D | D
        6 | A:1@7 B:1@7 C:1@7 | - | 6 | - | A,B,C | -
        7 | A:1@8 B:1@8 C:1@8 | - | 12 | - | A,B,C | B,C
        8 | A:1@9 | - | 12 | - | A | -
        9 | A:1@10 | - | 15 | - | A | A",
    );
    assert_eq!(free, [1, 2, 3, 4, 5, 6, 10, 11, 12, 7, 8, 9, 13, 14, 15]);
}

#[test]
fn t2_the_running_batch_stalls_for_a_prefill() {
    check(
        knobs(16, 64),
        4,
        vec![arrival("A", 8, 5), arrival("B", 6, 3).at_step(3)],
        "
        1 | A:8@0 | A=[13,14,15] | 12 | - | A | -
        2 | A:1@8 | - | 12 | - | A | -
        3 | B:6@0 | B=[11,12] | 10 | - | B | -
        4 | A:1@9 B:1@6 | - | 10 | - | A,B | -
        5 | A:1@10 B:1@7 | - | 12 | - | A,B | B
        6 | A:1@11 | - | 15 | - | A | A",
    );
}

/// A and B reserve four blocks each for their whole lives, so C's two are not there until both are done.
#[test]
fn t3_memory_is_reserved_for_the_whole_life() {
    let free = check(
        knobs(32, 40),
        4,
        vec![arrival("A", 8, 9), arrival("B", 8, 9), arrival("C", 4, 3)],
        "
        1 | A:8@0 B:8@0 | A=[6,7,8,9] B=[2,3,4,5] | 1 | C | A,B | -
        2 | A:1@8 B:1@8 | - | 1 | C | A,B | -
        3 | A:1@9 B:1@9 | - | 1 | C | A,B | -
        4 | A:1@10 B:1@10 | - | 1 | C | A,B | -
        5 | A:1@11 B:1@11 | - | 1 | C | A,B | -
        6 | A:1@12 B:1@12 | - | 1 | C | A,B | -
        7 | A:1@13 B:1@13 | - | 1 | C | A,B | -
        8 | A:1@14 B:1@14 | - | 1 | C | A,B | -
        9 | A:1@15 B:1@15 | - | 9 | C | A,B | A,B
        10 | C:4@0 | C=[4,5] | 7 | - | C | -
        11 | C:1@4 | - | 7 | - | C | -
        12 | C:1@5 | - | 9 | - | C | C",
    );
    assert_eq!(free, [1, 6, 7, 8, 9, 2, 3, 4, 5]);
}

/// Before forward 2 the batch will feed 1 + 7 tokens, the whole budget: C has to wait one pass.
#[test]
fn t4_chunking_joins_prefill_and_decode() {
    check(
        TgiConfig { prefill_chunking: true, ..knobs(8, 64) },
        1,
        vec![arrival("A", 5, 5), arrival("B", 11, 2), arrival("C", 3, 2)],
        "
        1 | A:5@0 B:3@0 | A=[55,56,57,58,59,60,61,62,63] B=[43,44,45,46,47,48,49,50,51,52,53,54] | 42 | C | A | -
        2 | A:1@5 B:7@3 | - | 42 | C | A | -
        3 | A:1@6 B:1@10 C:3@0 | C=[39,40,41,42] | 38 | - | A,B,C | -
        4 | A:1@7 B:1@11 C:1@3 | - | 54 | - | A,B,C | B,C
        5 | A:1@8 | - | 63 | - | A | A",
    );
}

#[test]
fn t5_max_batch_size_keeps_a_request_out() {
    check(
        TgiConfig { max_batch_size: Some(2), ..knobs(32, 64) },
        4,
        vec![arrival("A", 4, 4), arrival("B", 4, 2), arrival("C", 4, 2)],
        "
        1 | A:4@0 B:4@0 | A=[14,15] B=[12,13] | 11 | C | A,B | -
        2 | A:1@4 B:1@4 | - | 13 | C | A,B | B
        3 | C:4@0 | C=[12,13] | 11 | - | C | -
        4 | A:1@5 C:1@4 | - | 13 | - | A,C | C
        5 | A:1@6 | - | 15 | - | A | A",
    );
}
