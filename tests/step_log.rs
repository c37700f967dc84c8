//! The server writes the step log, the result store reads it; neither knows the other. Here they are held together.

#[test]
fn what_the_server_writes_is_what_the_store_reads() {
    let written = llmlab_server::step_log::StepRow {
        step: 3,
        start_monotonic_ns: 17,
        elapsed_ns: 5,
        seqs: vec![llmlab_server::step_log::StepSeq {
            id: 9,
            new_tokens: 4,
            context: 8,
            padding: 1,
            drafts: 2,
        }],
        running: 2,
        waiting: 1,
        free_blocks: 30,
        total_blocks: 40,
        kv_tokens: 12,
        block_size: 16,
        kv_shared_tokens: 4,
        kv_held_tokens: 32,
        external_fragmentation: 0.25,
        accepted_drafts: 1,
        preempted: vec![5],
        admitted: vec![(9, 1_000)],
    };
    let line = serde_json::to_string(&written).unwrap();
    let read: llmlab_results::step::StepRow = serde_json::from_str(&line).unwrap();
    let back: serde_json::Value = serde_json::to_value(&read).unwrap();
    let sent: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(back, sent);
}
