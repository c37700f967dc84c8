//! The plan of memory against what vLLM computes and reports, and against the sizes of published checkpoints.

mod golden_file;

use golden_file::Table;
use llmlab_models::catalogue::architecture;
use llmlab_models::memory::{self, Framework, KvDtype, LoraSlots, MemoryConfig, MemoryPlan, Weights};

const GIB: f64 = (1u64 << 30) as f64;
const H100_BYTES: u64 = (79.18 * GIB) as u64;

fn plan(model: &str, change: impl FnOnce(&mut MemoryConfig)) -> MemoryPlan {
    let mut config = MemoryConfig::vllm("h100", H100_BYTES);
    change(&mut config);
    memory::plan(architecture(model).unwrap(), &config, H100_BYTES).unwrap()
}

fn item(plan: &MemoryPlan, what: &str) -> f64 {
    plan.items.iter().find(|item| item.what == what).unwrap_or_else(|| panic!("no {what}")).bytes as f64
}

/// Models by their name in the catalogue, so that what is read from a configuration decides, and not the table.
#[test]
fn blocks_of_catalogued_models_are_those_that_vllm_computes() {
    let table = Table::open("vllm_kv_blocks.csv");
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in table.rows() {
        let model = architecture(row.text("model")).unwrap();
        let config = MemoryConfig {
            tp: row.number("tp") as u32,
            kv: if row.number("kv_elem_bytes") == 1 { KvDtype::Fp8 } else { KvDtype::Bits16 },
            max_model_len: Some(row.number("max_model_len") as u32),
            max_num_batched_tokens: row.number("in_flight_tokens") as u32,
            async_scheduling: false,
            block_size: row.number("block_size") as u32,
            ..MemoryConfig::vllm("h100", H100_BYTES)
        };
        let plan = memory::kv_plan(model, &config, row.number("avail_gib") << 30);
        if row.text("tp_valid") != "1" {
            assert!(plan.is_err(), "{} tp {}", row.text("model"), config.tp);
            continue;
        }
        let plan = plan.unwrap();
        let got = [
            ("num_blocks", plan.num_blocks),
            ("page_size_bytes_per_layer", plan.page_bytes),
            ("pool_bytes_per_block", plan.block_bytes),
            ("blocks_per_request_at_max_len", plan.blocks_per_request),
            ("reported_kv_tokens", plan.reported_tokens),
            ("startup_ok", u64::from(plan.starts)),
        ];
        rows += 1;
        let differ = got.iter().filter(|(name, value)| *value != row.number(name));
        wrong.extend(differ.map(|(name, value)| {
            format!("{} tp {}: {name} is {value}, vLLM has {}", row.text("model"), config.tp, row.text(name))
        }));
    }
    assert!(rows > 1000, "only {rows} rows");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What vLLM refuses because heads do not divide, of the models of the table at 1, 2, 4 and 8 devices.
#[test]
fn tensor_parallel_sizes_that_vllm_refuses_are_refused() {
    let refused = [
        ("Qwen2.5-1.5B", &[8][..]),
        ("Qwen2.5-7B", &[8][..]),
        ("Gemma-3-1B", &[8][..]),
        ("Phi-3-medium-4k", &[4, 8][..]),
        ("Phi-4-14B", &[4, 8][..]),
        ("GPT-2", &[8][..]),
        ("GPT-2-XL", &[2, 4, 8][..]),
    ];
    for (model, sizes) in refused {
        for tp in [1, 2, 4, 8] {
            let config = MemoryConfig { tp, ..MemoryConfig::vllm("h100", H100_BYTES) };
            let plan = memory::kv_plan(architecture(model).unwrap(), &config, 1 << 30);
            assert_eq!(plan.is_err(), sizes.contains(&tp), "{model} tp {tp}");
        }
    }
}

/// By hand, from the closed form of vLLM's planning; families and sizes that the table has no rows of.
#[test]
fn blocks_by_hand_where_the_table_has_no_row() {
    const GIB: u64 = 1 << 30;
    let blocks = |model: &str, tp: u32, kv: KvDtype, block_size: u32, bytes: u64| {
        let config = MemoryConfig {
            tp,
            kv,
            block_size,
            max_model_len: Some(4096),
            ..MemoryConfig::vllm("h100-sxm", H100_BYTES)
        };
        let plan = memory::kv_plan(architecture(model).unwrap(), &config, bytes).unwrap();
        (plan.page_bytes, plan.num_blocks)
    };
    // 512 + 64 values a token and layer, one vector, whatever the devices: 64 x 576 x 2 B; 61 layers.
    assert_eq!(blocks("kimi-k2", 8, KvDtype::Bits16, 64, 10 * GIB), (73_728, 10 * GIB / (73_728 * 61)));
    assert_eq!(blocks("deepseek-v2-lite", 2, KvDtype::Fp8, 16, GIB), (9_216, GIB / (9_216 * 27)));
    // 8 KV heads of 128 on 16 devices: one on each, twice over. 80 layers, 2 vectors of 16 tokens.
    assert_eq!(blocks("llama-3.3-70b", 16, KvDtype::Bits16, 16, GIB), (8_192, GIB / (8_192 * 80)));
    // 128 tokens a block, bytes: 128 x 8 x 128 x 2.
    assert_eq!(blocks("mistral-7b", 1, KvDtype::Fp8, 128, GIB), (262_144, GIB / (262_144 * 32)));
    // 10 KV heads of 128 over 5 devices: 2 each. 40 layers.
    assert_eq!(blocks("phi-4-14b", 5, KvDtype::Bits16, 32, GIB), (32_768, GIB / (32_768 * 40)));
    // 8 KV heads of 128 over 4 devices; 60 layers.
    assert_eq!(blocks("yi-34b", 4, KvDtype::Bits16, 16, GIB), (16_384, GIB / (16_384 * 60)));
}

/// A pipeline has as many blocks as the stage with the least room: of equal layers the last one, where sequences are sampled.
/// Groups of layers are those of the whole model, each divided over the stages.
#[test]
fn a_pipeline_has_the_blocks_of_its_tightest_stage() {
    let staged =
        |model: &str, pp: u32| plan(model, |config| (config.pp, config.max_model_len) = (pp, Some(65_536)));
    let two = staged("llama-3.1-8b", 2);
    assert_eq!(two.stage, 1, "{two:?}");
    // 16 of 32 layers, 8 KV heads of 128, 16 tokens, key and value in 16 bits.
    let kv = two.kv_plan.unwrap();
    assert_eq!((kv.block_bytes, kv.num_blocks), (16 * 65_536, two.budget.kv_bytes() / (16 * 65_536)));
    // 10 full layers of 62: seven groups, whose ten layers are five on each stage.
    let hybrid = staged("gemma-3-27b", 2).kv_plan.unwrap();
    assert_eq!((hybrid.groups, hybrid.layers_per_group, hybrid.block_bytes / hybrid.page_bytes), (7, 10, 5));
    // Two batches are in flight in either: a pipeline of two, and one device that plans ahead.
    let one = staged("gemma-3-27b", 1).kv_plan.unwrap();
    assert_eq!(hybrid.blocks_per_request, one.blocks_per_request);
    assert!(staged("gemma-3-27b", 4).kv_plan.unwrap().blocks_per_request > one.blocks_per_request);
}

/// llm-d-planner, docs/empirical-vllm-memory-results.md (vLLM 0.11 on H100, 79.18 GiB): weights, peak of activations, all else
/// and cache of one device in GiB, and the error that is allowed for each in percent.
///
/// Of Mistral Small the image encoder (0.44 B parameters) is not part of the shape, and its peak was measured at 2.12 GiB where
/// the formula of the text models gives 4.9: it was started with settings the report does not give.
#[test]
fn measured_memory_is_met_within_the_stated_errors() {
    let rows = [
        ("llama-3.3-70b", 2, Weights::Fp8, 0.9, [33.88, 4.84, 0.55, 32.0], [0.5, 0.5, 1.0, 1.0]),
        ("llama-3.1-8b", 1, Weights::Published, 0.9, [14.99, 4.76, 0.13, 51.38], [0.5, 0.5, 10.0, 0.5]),
        ("qwen3-0.6b", 1, Weights::Published, 0.9, [1.12, 5.56, 0.13, 64.45], [1.0, 0.5, 10.0, 0.5]),
        (
            "mistral-small-3.2-24b",
            1,
            Weights::Published,
            0.95,
            [44.76, 2.12, 0.14, 28.2],
            [2.5, 140.0, 1.0, 8.0],
        ),
    ];
    for (model, tp, weights, share, measured, allowed_percent) in rows {
        let plan = plan(model, |config| {
            (config.tp, config.weights, config.gpu_memory_utilization) = (tp, weights, share);
            (config.block_size, config.max_model_len) = (128, Some(16000));
        });
        let around = item(&plan, "runtime") + if tp > 1 { item(&plan, "communication buffers") } else { 0.0 };
        let weights = plan.budget.weight_bytes as f64;
        let got = [weights, item(&plan, "activations, peak"), around, plan.budget.kv_bytes() as f64];
        for ((got, measured), allowed) in got.into_iter().zip(measured).zip(allowed_percent) {
            let error = 100.0 * (got / GIB / measured - 1.0);
            println!("{model}: {:.2} GiB, measured {measured}, {error:+.1} %", got / GIB);
            assert!(
                error.abs() <= allowed,
                "{model}: {:.3} GiB, measured {measured}: {error:+.2} %",
                got / GIB
            );
        }
    }
}

/// Sizes of the files that were published.
#[test]
fn weights_are_as_large_as_published_checkpoints() {
    let rows = [
        ("llama-2-70b", "f16", 137.95e9),
        ("llama-3-8b", "f16", 14.96 * GIB),
        // Columns of llama-bench for llama.cpp's files.
        ("llama-3-8b", "q4_k_m", 4.58 * GIB),
        ("llama-2-7b", "q4_0", 3.56 * GIB),
        ("llama-2-7b", "q8_0", 6.67 * GIB),
        // TheBloke/Llama-2-7B-AWQ, groups of 128.
        ("llama-2-7b", "awq", 3.89e9),
        // The model card of gpt-oss: 60.8 and 12.8 GiB.
        ("gpt-oss-120b", "published", 60.8 * GIB),
        ("gpt-oss-20b", "published", 12.8 * GIB),
        // 31.2 billion values of layers in a byte, 1.56 billion of tables in two.
        ("qwen/qwen3-32b-fp8", "published", 34.3e9),
    ];
    for (model, format, published) in rows {
        let plan = plan(model, |config| {
            config.weights = format.parse().unwrap();
            config.framework = Framework::Bare;
        });
        let error = 100.0 * (plan.budget.weight_bytes as f64 / published - 1.0);
        println!("{model} {format}: {} bytes, {error:+.2} %", plan.budget.weight_bytes);
        assert!(error.abs() < 1.0, "{model} {format}: {} bytes, {error:+.2} %", plan.budget.weight_bytes);
    }
}

/// `get_batch_defaults` of vLLM's `arg_utils.py`, which leaves the A100 out by name.
#[test]
fn the_defaults_are_those_of_vllm_on_the_device() {
    let of = |name: &str| {
        let device = llmlab_models::catalogue::hardware(name).unwrap();
        let config = MemoryConfig::vllm(&device.name, device.usable_memory_bytes().unwrap());
        assert_eq!(config.gpu_memory_utilization, 0.92);
        (config.max_num_batched_tokens, config.max_num_seqs)
    };
    assert_eq!(of("h100-sxm"), (8192, 1024));
    assert_eq!(of("mi300x"), (8192, 1024));
    assert_eq!(of("a100-sxm-80gb"), (2048, 256));
    assert_eq!(of("a100-pcie-80gb"), (2048, 256));
    assert_eq!(of("l40s"), (2048, 256));
}

#[test]
fn worked_figures() {
    // Keys and values of LLaMA-7B at 4096 tokens: 2.1 GB.
    let bytes = architecture("llama-7b").unwrap().kv_values_per_token() * 2 * 4096;
    assert_eq!(bytes, 2_147_483_648);
    // 70B in 16 bits: 140 GB by the round figure.
    let plan = plan("llama-2-70b", |config| config.weights = Weights::F16);
    assert!((plan.budget.weight_bytes as f64 / 140e9 - 1.0).abs() < 0.02, "{}", plan.budget.weight_bytes);
    assert!(!plan.fits());
}

#[test]
fn what_does_not_fit_says_what_would() {
    let plan = plan("llama-3.1-70b", |config| config.max_model_len = Some(8192));
    let problem = plan.problem.unwrap();
    assert!(problem.contains("needs 141.1 GB for weights on each device"), "{problem}");
    assert!(problem.contains("tp = 2") && problem.contains("int4"), "{problem}");
    assert_eq!((plan.budget.kv_bytes(), plan.kv_plan), (0, None));
    assert!(plan.budget.excess_bytes() > 60_000_000_000);
    let long = self::plan("llama-3.1-8b", |config| config.gpu_memory_utilization = 0.3);
    let problem = long.problem.unwrap();
    assert!(problem.contains("too little for one request of 131072 tokens"), "{problem}");
    let longest = long.kv_plan.unwrap().longest_that_starts;
    assert!(problem.contains(&format!("max_model_len = {longest}")), "{problem}");
    let shorter = self::plan("llama-3.1-8b", |config| {
        (config.gpu_memory_utilization, config.max_model_len) = (0.3, Some(longest));
    });
    assert!(shorter.fits());
}

/// Heads that cannot be divided are copied, and so are the projections that make them.
#[test]
fn parallel_devices_hold_their_part_and_what_is_copied() {
    let of = |tp: u32, pp: u32| plan("qwen3-30b-a3b", |config| (config.tp, config.pp) = (tp, pp));
    let model = architecture("qwen3-30b-a3b").unwrap();
    assert_eq!(of(1, 1).budget.weight_bytes, model.parameters() * 2);
    let eight = of(8, 1);
    let (hidden, layers) = (2048u64, 48u64);
    // 4 query heads and one copied key and value head of 128.
    let attention = layers * hidden * 128 * (4 * 2 + 2) * 2;
    assert_eq!(item(&eight, "weights: attention"), attention as f64);
    assert_eq!(item(&eight, "weights: routers"), item(&of(1, 1), "weights: routers"));
    assert_eq!(item(&eight, "weights: routed experts") * 8.0, item(&of(1, 1), "weights: routed experts"));
    assert_eq!(eight.kv_plan.as_ref().unwrap().kv_heads_per_device, 1);
    // Two stages: half of the layers and one table each.
    let half = of(1, 2);
    assert!(half.budget.weight_bytes * 2 <= model.parameters() * 2 + 2 * hidden);
    assert!(item(&half, "weights: routed experts") * 2.0 == item(&of(1, 1), "weights: routed experts"));
}

/// Five of six layers of Gemma 3 have a window, in turns, so that no stage has all the layers that see everything; those with the
/// most of them decide.
#[test]
fn stages_of_alternating_windows_keep_what_their_own_layers_keep() {
    let model = architecture("gemma-3-27b").unwrap();
    let full: Vec<usize> = model
        .layers()
        .enumerate()
        .filter(|(_, block)| block.attention.window().is_none())
        .map(|at| at.0)
        .collect();
    assert_eq!(full, [5, 11, 17, 23, 29, 35, 41, 47, 53, 59], "of 62");
    let of = |pp: u32| plan("gemma-3-27b", |config| (config.pp, config.max_model_len) = (pp, Some(65_536)));
    // 10 layers that see everything in 62, 5 in 31: half a stage's layers in half of the bytes, and more memory for them.
    let (one, two) = (of(1), of(2));
    let held =
        |plan: &MemoryPlan| plan.kv_plan.as_ref().unwrap().max_concurrency / plan.budget.kv_bytes() as f64;
    let ratio = held(&two) / held(&one);
    assert!((1.9..2.1).contains(&ratio), "{ratio}");
}

#[test]
fn adapters_and_shorter_sequences_change_what_is_left() {
    let plain = plan("llama-3.1-8b", |_| {});
    let slots = LoraSlots { max_loras: 4, max_rank: 16 };
    let with = plan("llama-3.1-8b", |config| config.lora = Some(slots));
    // Rows and columns of q, k, v, o, gate, up and down of one layer.
    let sides = 8192 + 2 * 5120 + 8192 + 3 * (4096 + 14336);
    let bytes = 4 * 16 * 32 * sides * 2;
    assert_eq!(plain.budget.kv_bytes() - with.budget.kv_bytes(), bytes);
    let ratio = plain.sequences(1024) / plain.sequences(4096);
    assert!((ratio - 4.0).abs() < 1e-9, "{ratio}");
}

#[test]
fn a_wrong_configuration_is_one_error_that_says_what_is_accepted() {
    let error = |change: fn(&mut MemoryConfig)| {
        let mut config = MemoryConfig::vllm("h100", H100_BYTES);
        change(&mut config);
        memory::plan(architecture("phi-4").unwrap(), &config, H100_BYTES).unwrap_err().to_string()
    };
    let tp = error(|config| config.tp = 4);
    assert!(tp.contains("40 heads and 10 KV heads; accepted are 1, 2, 5, 10"), "{tp}");
    assert!(error(|config| config.pp = 41).contains("accepted are 1 to 40"));
    assert!(error(|config| config.tp = 0).contains("tp = 0; accepted are 1 to 1024"));
    assert!(error(|config| config.gpu_memory_utilization = f64::NAN).contains("gpu_memory_utilization"));
    assert!(error(|config| config.block_size = 0).contains("block_size = 0"));
    let huge = error(|config| config.lora = Some(LoraSlots { max_loras: u32::MAX, max_rank: u32::MAX }));
    assert!(huge.contains("max_loras"), "{huge}");
    let format = "q9".parse::<Weights>().unwrap_err();
    assert!(format.contains("awq") && format.contains("q4_k_m"), "{format}");
    assert!("awq:7".parse::<Weights>().is_err() && "fp8:64".parse::<Weights>().is_err());
}

#[test]
fn every_model_of_the_catalogue_has_a_plan_in_every_format() {
    let formats = ["published", "f32", "fp8", "int8", "awq:32", "mxfp4", "nvfp4", "q4_k_m", "q2_k", "q5_k_s"];
    for model in llmlab_models::catalogue::published_models() {
        let model = &model.architecture;
        for format in formats {
            let weights = format.parse().unwrap();
            let config = MemoryConfig { weights, ..MemoryConfig::vllm("h100", 8 * H100_BYTES) };
            let plan = memory::plan(model, &config, 8 * H100_BYTES).unwrap();
            let bits = 8.0 * plan.budget.weight_bytes as f64 / model.parameters() as f64;
            assert!((2.5..40.0).contains(&bits), "{} {format}: {bits} bits a weight", model.name);
        }
    }
}
