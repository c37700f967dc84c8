//! Policies `orca`, `sarathi`, `fastgen`, `trtllm`, `llamacpp` and `sglang` on worked tables.
//! A line is: step | scheduled | preempted | waiting | finished.

mod common;

use common::trace::{Arrival, Row, arrival, arrival_of, trace};
use llmlab_core::config::{
    CapacitySchedulerPolicy, ContextChunkingPolicy, EngineConfig, FastgenConfig, KvStrategy, LlamacppConfig,
    OrcaConfig, PolicyConfig, SarathiConfig, SchedulePolicy, SglangConfig, TrtllmConfig,
};

/// A pool of `usable` blocks. The strategy must make no difference: these policies hand out memory by their own rule.
fn engine(policy: PolicyConfig, block_size: u32, usable: u32) -> EngineConfig {
    let max_model_len = (usable * block_size).min(64);
    EngineConfig { policy, kv: KvStrategy::Contiguous, block_size, num_blocks: usable + 1, max_model_len }
}

fn check(config: EngineConfig, arrivals: Vec<Arrival>, table: &str) -> Vec<Row> {
    let (rows, _) = trace(config, arrivals);
    let got = rows
        .iter()
        .map(|r| format!("{} | {} | {} | {} | {}", r.step, r.scheduled, r.preempted, r.waiting, r.finished));
    let want = table.lines().map(str::trim).filter(|line| !line.is_empty());
    assert_eq!(got.collect::<Vec<_>>(), want.collect::<Vec<_>>());
    rows
}

/// The workload of most tables.
fn abc() -> Vec<Arrival> {
    vec![arrival("A", 10, 4), arrival("B", 12, 4), arrival("C", 6, 2)]
}

/// What a budget of 16 tokens, filled with decodes first, makes of it.
const ABC_IN_16: &str = "
    1 | A:10@0 B:6@0 | - | C | -
    2 | A:1@10 B:6@6 C:6@0 | - | - | -
    3 | A:1@11 B:1@12 C:1@6 | - | - | C
    4 | A:1@12 B:1@13 | - | - | A
    5 | B:1@14 | - | - | B";

/// Two requests that together outgrow six blocks of four.
fn too_large_for_six_blocks() -> Vec<Arrival> {
    vec![arrival("A", 8, 6), arrival("B", 7, 6)]
}

#[test]
fn o1_orca_computes_prompts_whole() {
    let policy = PolicyConfig::Orca(OrcaConfig { max_num_seqs: 4 });
    check(
        engine(policy, 4, 64),
        abc(),
        "
        1 | A:10@0 B:12@0 C:6@0 | - | - | -
        2 | A:1@10 B:1@12 C:1@6 | - | - | C
        3 | A:1@11 B:1@13 | - | - | -
        4 | A:1@12 B:1@14 | - | - | A,B",
    );
}

/// 28 tokens are seven blocks: the pool holds two contexts, though five of the requests would fit by their tokens.
#[test]
fn o2_orca_reserves_the_whole_context() {
    let policy = PolicyConfig::Orca(OrcaConfig::default());
    let config = EngineConfig { max_model_len: 28, ..engine(policy, 4, 20) };
    let rows = check(
        config,
        vec![arrival("A", 4, 2), arrival("B", 4, 3), arrival("C", 4, 1)],
        "
        1 | A:4@0 B:4@0 | - | C | -
        2 | A:1@4 B:1@4 | - | C | A
        3 | B:1@5 C:4@0 | - | - | B,C",
    );
    assert_eq!((rows[0].free_planned, rows[1].free_committed), (6, 13));
}

#[test]
fn sa1_sarathi_fills_a_chunk_after_the_decodes() {
    let policy = PolicyConfig::Sarathi(SarathiConfig { chunk_size: 16, ..SarathiConfig::default() });
    let rows = check(engine(policy, 4, 64), abc(), ABC_IN_16);
    // Blocks for the whole prompts, although B is only half computed.
    assert_eq!(rows[0].tables, "A=[1,2,3] B=[4,5,6]");
}

/// A decode asks for a free block even when its last one has room. So B is thrown out from step 4 on, two steps before
/// the pool is really too small, and comes back in the same step as long as its three blocks are free.
#[test]
fn sa2_sarathi_throws_out_the_youngest_while_no_block_is_free() {
    let policy = PolicyConfig::Sarathi(SarathiConfig::default());
    check(
        engine(policy, 4, 6),
        too_large_for_six_blocks(),
        "
        1 | A:8@0 B:7@0 | - | - | -
        2 | A:1@8 B:1@7 | - | - | -
        3 | A:1@9 B:1@8 | - | - | -
        4 | A:1@10 B:10@0 | B | - | -
        5 | A:1@11 B:11@0 | B | - | -
        6 | A:1@12 | B | B | A
        7 | B:12@0 | - | - | B",
    );
}

/// 64 tokens a step for the first 64 of the prompt, 32 after that. They are the whole budget of a step, so the decode of
/// A takes one of B's.
#[test]
fn sa3_sarathi_shrinks_the_chunks_of_a_long_prompt() {
    let policy = PolicyConfig::Sarathi(SarathiConfig {
        enable_dynamic_chunking_schedule: true,
        low_chunk_size: Some(32),
        high_chunk_size: Some(64),
        chunk_schedule_max_tokens: Some(128),
        chunk_schedule_stages: Some(2),
        ..SarathiConfig::default()
    });
    let config = EngineConfig { max_model_len: 200, ..engine(policy, 4, 64) };
    check(
        config,
        vec![arrival("A", 4, 3), arrival("B", 170, 1)],
        "
        1 | A:4@0 B:60@0 | - | - | -
        2 | A:1@4 B:63@60 | - | - | -
        3 | A:1@5 B:31@123 | - | - | A
        4 | B:16@154 | - | - | B",
    );
}

#[test]
fn f1_fastgen_keeps_the_forward_size() {
    let policy =
        PolicyConfig::Fastgen(FastgenConfig { max_ragged_batch_size: 16, ..FastgenConfig::default() });
    let rows = check(engine(policy, 4, 64), abc(), ABC_IN_16);
    // Blocks only for what is computed.
    assert_eq!(rows[0].tables, "A=[1,2,3] B=[4,5]");
}

/// In step 6 A needs a block and none is free; B still has room and ends.
#[test]
fn f2_fastgen_lets_a_sequence_without_memory_sit_out() {
    let policy = PolicyConfig::Fastgen(FastgenConfig::default());
    check(
        engine(policy, 4, 6),
        too_large_for_six_blocks(),
        "
        1 | A:8@0 B:7@0 | - | - | -
        2 | A:1@8 B:1@7 | - | - | -
        3 | A:1@9 B:1@8 | - | - | -
        4 | A:1@10 B:1@9 | - | - | -
        5 | A:1@11 B:1@10 | - | - | -
        6 | B:1@11 | - | - | B
        7 | A:1@12 | - | - | A",
    );
}

/// In step 6 both need a block. The last of the buffer loses its memory and queues behind C, which came later.
#[test]
fn f3_fastgen_breaks_a_deadlock_by_a_reset() {
    let policy = PolicyConfig::Fastgen(FastgenConfig::default());
    check(
        engine(policy, 4, 6),
        vec![arrival("A", 8, 6), arrival("B", 8, 6), arrival("C", 20, 1).at_step(6)],
        "
        1 | A:8@0 B:8@0 | - | - | -
        2 | A:1@8 B:1@8 | - | - | -
        3 | A:1@9 B:1@9 | - | - | -
        4 | A:1@10 B:1@10 | - | - | -
        5 | A:1@11 B:1@11 | - | - | -
        6 | A:1@12 | B | C,B | A
        7 | C:20@0 | - | B | C
        8 | B:13@0 | - | - | B",
    );
}

/// After step 3 all six blocks are taken, and the last token of the prompt still has room.
#[test]
fn f4_fastgen_ends_a_prompt_in_its_last_block() {
    let config = FastgenConfig { max_ragged_batch_size: 7, ..FastgenConfig::default() };
    check(
        engine(PolicyConfig::Fastgen(config), 4, 6),
        vec![arrival("A", 22, 1)],
        "
        1 | A:7@0 | - | - | -
        2 | A:7@7 | - | - | -
        3 | A:7@14 | - | - | -
        4 | A:1@21 | - | - | A",
    );
}

fn trtllm(config: TrtllmConfig, usable: u32) -> EngineConfig {
    engine(PolicyConfig::Trtllm(TrtllmConfig { max_num_tokens: 16, ..config }), 4, usable)
}

/// A and B take four blocks each to their ends: only one of them fits.
#[test]
fn tr1_no_evict_admits_to_completion() {
    let rows = check(
        trtllm(TrtllmConfig::default(), 6),
        too_large_for_six_blocks(),
        "
        1 | A:8@0 | - | B | -
        2 | A:1@8 | - | B | -
        3 | A:1@9 | - | B | -
        4 | A:1@10 | - | B | -
        5 | A:1@11 | - | B | -
        6 | A:1@12 | - | B | A
        7 | B:7@0 | - | - | -
        8 | B:1@7 | - | - | -
        9 | B:1@8 | - | - | -
        10 | B:1@9 | - | - | -
        11 | B:1@10 | - | - | -
        12 | B:1@11 | - | - | B",
    );
    // What is kept back for the outputs is counted, not taken.
    assert_eq!(rows[0].tables, "A=[1,2]");
}

#[test]
fn tr2_max_utilization_pauses_the_last() {
    let config = TrtllmConfig {
        capacity_scheduler_policy: CapacitySchedulerPolicy::MaxUtilization,
        enable_block_reuse: false,
        ..TrtllmConfig::default()
    };
    check(
        trtllm(config.clone(), 6),
        too_large_for_six_blocks(),
        "
        1 | A:8@0 B:7@0 | - | - | -
        2 | A:1@8 B:1@7 | - | - | -
        3 | A:1@9 B:1@8 | - | - | -
        4 | A:1@10 B:1@9 | - | - | -
        5 | A:1@11 B:1@10 | - | - | -
        6 | A:1@12 | B | B | A
        7 | B:12@0 | - | - | B",
    );
    // With reuse B finds its two full blocks that nobody took, and recomputes the rest.
    let (rows, _) =
        trace(trtllm(TrtllmConfig { enable_block_reuse: true, ..config }, 6), too_large_for_six_blocks());
    assert_eq!(rows[6].scheduled, "B:4@8");
}

#[test]
fn tr3_static_batch_admits_nobody_while_anybody_generates() {
    let config = TrtllmConfig {
        capacity_scheduler_policy: CapacitySchedulerPolicy::StaticBatch,
        ..TrtllmConfig::default()
    };
    check(
        trtllm(config, 16),
        vec![arrival("A", 4, 3), arrival("B", 4, 1), arrival("C", 4, 1).at_step(2)],
        "
        1 | A:4@0 B:4@0 | - | - | B
        2 | A:1@4 | - | C | -
        3 | A:1@5 | - | C | A
        4 | C:4@0 | - | - | C",
    );
}

/// Without chunking B's prompt does not fit into what A leaves of 16 tokens, and keeps C out too. With it the prompts
/// share the budget in whole blocks: in order, or evenly.
#[test]
fn tr4_context_chunking() {
    let whole = TrtllmConfig::default();
    check(
        trtllm(whole.clone(), 64),
        abc(),
        "
        1 | A:10@0 | - | B,C | -
        2 | B:12@0 A:1@10 | - | C | -
        3 | C:6@0 A:1@11 B:1@12 | - | - | -
        4 | A:1@12 B:1@13 C:1@6 | - | - | A,C
        5 | B:1@14 | - | - | B",
    );
    let chunked = TrtllmConfig { enable_chunked_context: true, ..whole };
    // Left after A: 6 tokens, one block of four for B, nothing for C.
    check(
        trtllm(chunked.clone(), 64),
        abc(),
        "
        1 | A:10@0 B:4@0 | - | C | -
        2 | B:8@4 C:6@0 A:1@10 | - | - | -
        3 | A:1@11 B:1@12 C:1@6 | - | - | C
        4 | A:1@12 B:1@13 | - | - | A
        5 | B:1@14 | - | - | B",
    );
    // Four each, and the last four to A, whose turn it is.
    let even = TrtllmConfig { context_chunking_policy: ContextChunkingPolicy::EqualProgress, ..chunked };
    check(
        trtllm(even, 64),
        abc(),
        "
        1 | A:8@0 B:4@0 C:4@0 | - | - | -
        2 | A:2@8 B:8@4 C:2@4 | - | - | -
        3 | A:1@10 B:1@12 C:1@6 | - | - | C
        4 | A:1@11 B:1@13 | - | - | -
        5 | A:1@12 B:1@14 | - | - | A,B",
    );
}

/// B begins with the same block as A, which is being computed: it waits a step and reuses it. C does not.
#[test]
fn tr5_it_is_worth_waiting_for_a_block_in_production() {
    let text = |last: u32| [1, 2, 3, 4, last, last, last].to_vec();
    let arrivals = vec![arrival_of("A", text(7), 2), arrival_of("B", text(8), 1), arrival("C", 4, 1)];
    check(
        trtllm(TrtllmConfig::default(), 16),
        arrivals,
        "
        1 | A:7@0 C:4@0 | - | B | C
        2 | B:3@4 A:1@7 | - | - | B,A",
    );
}

fn llamacpp(config: LlamacppConfig, usable: u32) -> EngineConfig {
    engine(PolicyConfig::Llamacpp(config), 4, usable)
}

/// Of slots that never served, the last is chosen: who comes last has slot 0.
#[test]
fn l1_llamacpp_fills_the_batch_by_slot_number() {
    let config = LlamacppConfig { n_parallel: 3, n_batch: 16, ..LlamacppConfig::default() };
    let mut reversed = abc();
    reversed.reverse();
    check(llamacpp(config.clone(), 64), reversed, &ABC_IN_16.replace("- | C | -", "- | - | -"));
    // In the order of arrival C has slot 0, and A comes last.
    check(
        llamacpp(config, 64),
        abc(),
        "
        1 | C:6@0 B:10@0 | - | - | -
        2 | C:1@6 B:2@10 A:10@0 | - | - | C
        3 | B:1@12 A:1@10 | - | - | -
        4 | B:1@13 A:1@11 | - | - | -
        5 | B:1@14 A:1@12 | - | - | B,A",
    );
}

/// B shares six tokens with what A left in its slot, a block and a half: it goes there although the other slot is idle
/// for longer, and writes on in the second block. A's third is free and goes to C, which shares nothing.
#[test]
fn l2_llamacpp_continues_in_the_slot_that_knows_most() {
    let config = LlamacppConfig { n_parallel: 2, ..LlamacppConfig::default() };
    let shared = [1, 2, 3, 4, 5, 6];
    let a = [shared.to_vec(), vec![7, 8, 9, 10]].concat();
    let b = [shared.to_vec(), vec![20, 21, 22, 23]].concat();
    let rows = check(
        llamacpp(config.clone(), 16),
        vec![
            arrival_of("A", a.clone(), 2),
            arrival_of("B", b.clone(), 2).at_step(4),
            arrival("C", 5, 1).at_step(4),
        ],
        "
        1 | A:10@0 | - | - | -
        2 | A:1@10 | - | - | A
        4 | C:5@0 B:4@6 | - | - | C
        5 | B:1@10 | - | - | B",
    );
    assert_eq!(rows[2].tables, "B=[1,2,5] C=[3,4]");
    // Without the cache the slot is the same and its KV is not used.
    let (rows, _) = trace(
        llamacpp(LlamacppConfig { cache_prompt: false, ..config }, 16),
        vec![arrival_of("A", a, 2), arrival_of("B", b, 2).at_step(4)],
    );
    assert_eq!(rows[2].scheduled, "B:10@0");
}

#[test]
fn l3_llamacpp_computes_a_batch_in_pieces() {
    let config = LlamacppConfig { n_ubatch: 6, ..LlamacppConfig::default() };
    check(
        llamacpp(config, 64),
        vec![arrival("A", 10, 2), arrival("B", 3, 2).at_step(2)],
        "
        1 | A:6@0 | - | - | -
        2 | A:4@6 | - | B | -
        3 | A:1@10 B:3@0 | - | - | A
        4 | B:1@3 | - | - | B",
    );
}

/// A left three blocks in its slot. B needs five of the six there are, so the idle slot is emptied.
#[test]
fn l4_idle_slots_give_their_memory_up() {
    let config = LlamacppConfig { n_parallel: 2, ..LlamacppConfig::default() };
    let rows = check(
        llamacpp(config, 6),
        vec![arrival("A", 10, 1), arrival("B", 18, 1).at_step(3)],
        "
        1 | A:10@0 | - | - | A
        3 | B:18@0 | - | - | B",
    );
    assert_eq!((rows[0].free_committed, rows[1].free_planned, rows[1].free_committed), (3, 1, 1));
}

/// Two slots, six blocks: both prompts fit, both outputs do not. The one admitted last recomputes when A has ended.
#[test]
fn l5_without_idle_slots_the_last_admitted_is_thrown_out() {
    let config = LlamacppConfig { n_parallel: 2, ..LlamacppConfig::default() };
    check(
        llamacpp(config, 6),
        vec![arrival("A", 8, 6), arrival("B", 8, 6)],
        "
        1 | B:8@0 A:8@0 | - | - | -
        2 | B:1@8 A:1@8 | - | - | -
        3 | B:1@9 A:1@9 | - | - | -
        4 | B:1@10 A:1@10 | - | - | -
        5 | B:1@11 A:1@11 | - | - | -
        6 | A:1@12 | B | B | A
        7 | B:13@0 | - | - | B",
    );
}

fn sglang(config: SglangConfig, page: u32, usable: u32) -> EngineConfig {
    engine(PolicyConfig::Sglang(config), page, usable)
}

/// A's prompt is in the tree as soon as it is computed. B finds two of its three pages, because its last token must be
/// computed; the third it computes again and then changes over to A's. The decode of A waits for the prefill.
#[test]
fn sg1_a_prompt_is_shared_while_its_request_runs() {
    let prompt: Vec<u32> = (1..=12).collect();
    let rows = check(
        sglang(SglangConfig::default(), 4, 16),
        vec![arrival_of("A", prompt.clone(), 2), arrival_of("B", prompt, 2).at_step(2)],
        "
        1 | A:12@0 | - | - | -
        2 | B:4@8 | - | - | -
        3 | A:1@12 B:1@12 | - | - | A,B",
    );
    assert_eq!(rows[1].tables, "A=[1,2,3] B=[1,2,4]");
    assert_eq!(rows[2].tables, "A=[1,2,3,4] B=[1,2,3,5]");
    // Three pages stay in the tree, for all those that begin like this.
    assert_eq!(rows[2].free_committed, 13);
}

/// Output enters the tree when its request ends: the next turn of the conversation starts after it.
#[test]
fn sg2_the_next_turn_finds_the_answer() {
    let answered: Vec<u32> = (1..=6).chain([900_100, 900_200, 900_300]).collect();
    let arrivals = vec![
        arrival_of("A", (1..=6).collect(), 3),
        arrival_of("B", [answered, vec![7, 8]].concat(), 1).at_step(5),
    ];
    check(
        sglang(SglangConfig::default(), 4, 16),
        arrivals,
        "
        1 | A:6@0 | - | - | -
        2 | A:1@6 | - | - | -
        3 | A:1@7 | - | - | A
        5 | B:3@8 | - | - | B",
    );
}

#[test]
fn sg3_a_cut_prompt_goes_on_before_anybody_decodes() {
    let config = SglangConfig { chunked_prefill_size: 8, ..SglangConfig::default() };
    let arrivals = || vec![arrival("A", 5, 3), arrival("B", 11, 2), arrival("C", 3, 2)];
    check(
        sglang(config.clone(), 1, 64),
        arrivals(),
        "
        1 | A:5@0 B:3@0 | - | C | -
        2 | B:8@3 | - | C | -
        3 | C:3@0 | - | - | -
        4 | A:1@5 B:1@11 C:1@3 | - | - | B,C
        5 | A:1@6 | - | - | A",
    );
    // Mixed, each decode takes a token of the chunk.
    check(
        sglang(SglangConfig { enable_mixed_chunk: true, ..config }, 1, 64),
        arrivals(),
        "
        1 | A:5@0 B:3@0 | - | C | -
        2 | B:7@3 A:1@5 | - | C | -
        3 | B:1@10 C:3@0 A:1@6 | - | - | A
        4 | B:1@11 C:1@3 | - | - | B,C",
    );
}

/// With an estimate of no output at all B joins A. In step 11 both need a page and none is free: of equal outputs and
/// prompts the last goes, and comes back when A is done.
#[test]
fn sg4_decodes_without_memory_retract_the_shortest_output() {
    let config = SglangConfig { schedule_conservativeness: 0.0, ..SglangConfig::default() };
    check(
        sglang(config, 4, 8),
        vec![arrival("A", 8, 14), arrival("B", 8, 10).at_step(2)],
        "
        1 | A:8@0 | - | - | -
        2 | B:8@0 | - | - | -
        3 | A:1@8 B:1@8 | - | - | -
        4 | A:1@9 B:1@9 | - | - | -
        5 | A:1@10 B:1@10 | - | - | -
        6 | A:1@11 B:1@11 | - | - | -
        7 | A:1@12 B:1@12 | - | - | -
        8 | A:1@13 B:1@13 | - | - | -
        9 | A:1@14 B:1@14 | - | - | -
        10 | A:1@15 B:1@15 | - | - | -
        11 | A:1@16 | B | B | -
        12 | A:1@17 | - | B | -
        13 | A:1@18 | - | B | -
        14 | A:1@19 | - | B | -
        15 | A:1@20 | - | B | A
        16 | B:17@0 | - | - | B",
    );
}

/// The same two with the product's estimate: A may still generate 14 tokens, of which seven tenths are counted.
#[test]
fn sg5_the_estimate_keeps_memory_for_outputs() {
    // 8 + 10 + a page = 22 tokens; 24 are free, 13 * 0.7 = 9.1 of them promised to A.
    let (rows, _) = trace(
        sglang(SglangConfig::default(), 4, 8),
        vec![arrival("A", 8, 14), arrival("B", 8, 10).at_step(2)],
    );
    assert_eq!((rows[1].scheduled.as_str(), rows[1].waiting.as_str()), ("A:1@8", "B"));
    assert!(rows.iter().all(|row| row.preempted == "-"));
}

/// Within a batch of prompts outputs count in full, even if the estimate for running sequences is none at all: of 32 tokens
/// A takes 8 + 14 + a page, B needs 4 + 4 + a page. It joins in the next batch, when A runs.
#[test]
fn sg9_a_batch_of_prompts_counts_outputs_in_full() {
    let config = SglangConfig { schedule_conservativeness: 0.0, ..SglangConfig::default() };
    let (rows, _) = trace(sglang(config, 4, 8), vec![arrival("A", 8, 14), arrival("B", 4, 4)]);
    let scheduled: Vec<_> = rows.iter().take(3).map(|row| row.scheduled.as_str()).collect();
    assert_eq!(scheduled, ["A:8@0", "B:4@0", "A:1@8 B:1@4"]);
}

/// One seat. C begins like A, whose tokens are cached; B was there first.
#[test]
fn sg6_lpm_serves_the_longest_cached_prefix_first() {
    let order = |schedule_policy| {
        let config = SglangConfig { schedule_policy, max_running_requests: 1, ..SglangConfig::default() };
        let a: Vec<u32> = (1..=8).collect();
        let c = [a.clone(), vec![50, 51]].concat();
        let arrivals =
            vec![arrival_of("A", a, 1), arrival("B", 9, 1).at_step(2), arrival_of("C", c, 1).at_step(2)];
        trace(sglang(config, 4, 32), arrivals).0.into_iter().map(|row| row.scheduled).collect::<Vec<_>>()
    };
    assert_eq!(order(SchedulePolicy::Fcfs), ["A:8@0", "B:9@0", "C:2@8"]);
    assert_eq!(order(SchedulePolicy::Lpm), ["A:8@0", "C:2@8", "B:9@0"]);
}

/// A and B begin with the same 33 tokens, of which nothing is cached: B is put off behind C and finds them.
#[test]
fn sg7_lpm_puts_off_who_shares_an_uncached_prefix() {
    let text = |last: u32| (1..=33).chain([last]).collect::<Vec<u32>>();
    let config = SglangConfig {
        schedule_policy: SchedulePolicy::Lpm,
        max_running_requests: 2,
        ..SglangConfig::default()
    };
    let config = EngineConfig { max_model_len: 64, ..sglang(config, 1, 256) };
    check(
        config,
        vec![arrival_of("A", text(100), 1), arrival_of("B", text(101), 1), arrival("C", 5, 1)],
        "
        1 | A:34@0 C:5@0 | - | B | A,C
        2 | B:1@33 | - | - | B",
    );
}

/// The tree is full of A's tokens; B needs them all out. Least recently used leaves go, nothing else.
#[test]
fn sg8_the_cache_makes_room() {
    let rows = check(
        sglang(SglangConfig::default(), 4, 8),
        vec![arrival("A", 16, 1), arrival("B", 22, 1).at_step(2)],
        "
        1 | A:16@0 | - | - | A
        2 | B:22@0 | - | - | B",
    );
    assert_eq!((rows[0].free_committed, rows[1].free_planned), (4, 2));
}

/// The page that shows how to write a policy shows the one that is compiled and tested.
#[test]
fn the_policy_in_the_documentation_is_the_example() {
    let example = include_str!("../examples/shortest_prompt_first.rs");
    let page = include_str!("../../../docs/policies.md");
    let (_, policy) = example.split_once("/// The knobs.").unwrap();
    let (policy, _) = policy.split_once("\nfn main()").unwrap();
    assert!(page.contains(policy), "docs/policies.md shows another policy than the example");
}
