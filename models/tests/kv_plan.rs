//! The plan of KV memory against what vLLM 0.33 computes, for models of every kind of attention.

mod golden_file;

use golden_file::{Row, Table};
use llmlab_models::kv_plan::{KvBudget, KvShape};

#[test]
fn every_row_that_vllm_computes_is_reproduced() {
    let table = Table::open("vllm_kv_blocks.csv");
    let (mut rows, mut differences) = (0, Vec::new());
    for row in table.rows() {
        if row.text("tp_valid") != "1" {
            continue;
        }
        rows += 1;
        if let Err(difference) = check(&row) {
            differences.push(format!("{} tp {}: {difference}", row.text("model"), row.text("tp")));
        }
    }
    assert!(rows > 1000, "only {rows} rows");
    assert!(differences.is_empty(), "{} of {rows} differ:\n{}", differences.len(), differences.join("\n"));
    println!("{rows} rows agree");
}

fn check(row: &Row) -> Result<(), String> {
    let number = |name: &str| row.number(name);
    let text = |name: &str| row.text(name);
    let small = |name: &str| row.number(name) as u32;
    let shape = KvShape {
        kv_heads: small("num_kv_heads_total"),
        head_size: small("head_size"),
        latent: text("attention_kind") == "mla",
        full_layers: small("full_layers"),
        window_layers: small("window_layers"),
        window: small("sliding_window"),
    };
    let budget = KvBudget {
        available_bytes: number("avail_gib") << 30,
        tensor_parallel: small("tp"),
        value_bytes: small("kv_elem_bytes"),
        block_size: small("block_size"),
        max_model_len: small("max_model_len"),
        in_flight_tokens: small("in_flight_tokens"),
        stage_layers: None,
    };
    let plan = shape.plan(&budget).ok_or("no plan")?;
    let pairs = [
        ("kv_heads_per_gpu", u64::from(plan.kv_heads_per_device)),
        ("page_size_bytes_per_layer", plan.page_bytes),
        ("kv_groups", u64::from(plan.groups)),
        ("layers_per_group", u64::from(plan.layers_per_group)),
        ("padding_layers", u64::from(plan.padding_layers)),
        ("pool_bytes_per_block", plan.block_bytes),
        ("num_blocks", plan.num_blocks),
        ("blocks_per_request_at_max_len", plan.blocks_per_request),
        ("reported_kv_tokens", plan.reported_tokens),
        ("startup_ok", u64::from(plan.starts)),
    ];
    for (name, got) in pairs {
        if got != number(name) {
            return Err(format!("{name} is {got}, vLLM has {}", text(name)));
        }
    }
    if !plan.starts && u64::from(plan.longest_that_starts) != number("est_max_model_len") {
        let want = text("est_max_model_len");
        return Err(format!("longest_that_starts is {}, vLLM estimates {want}", plan.longest_that_starts));
    }
    let concurrency = format!("{:.6}", plan.max_concurrency);
    if concurrency != text("max_concurrency") {
        return Err(format!("max_concurrency is {concurrency}, vLLM has {}", text("max_concurrency")));
    }
    Ok(())
}

#[test]
fn what_cannot_be_split_or_is_empty_has_no_plan() {
    let shape =
        KvShape { kv_heads: 25, head_size: 64, latent: false, full_layers: 48, window_layers: 0, window: 0 };
    let budget = KvBudget {
        available_bytes: 1 << 30,
        tensor_parallel: 2,
        value_bytes: 2,
        block_size: 16,
        max_model_len: 1024,
        in_flight_tokens: 8192,
        stage_layers: None,
    };
    assert!(shape.plan(&budget).is_none());
    assert!(shape.plan(&KvBudget { tensor_parallel: 1, block_size: 0, ..budget }).is_none());
    let tiny = shape.plan(&KvBudget { tensor_parallel: 1, available_bytes: 1000, ..budget }).unwrap();
    assert_eq!((tiny.num_blocks, tiny.starts, tiny.longest_that_starts), (0, false, 0));
}
