//! `llmlab models memory`: what a model takes on a device, line by line, and how many sequences fit.

use std::path::Path;

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue;
use llmlab_models::memory::{Framework, Item, LoraSlots, MemoryConfig, MemoryPlan, plan};
use serde::Serialize;

use crate::cli::MemoryArgs;
use crate::commands::hardware::print_json;
use crate::exit::{Code, Failure};
use crate::table::table;
use crate::text::print;

const GIB: f64 = (1u64 << 30) as f64;
const MAX_MEMORY_GIB: f64 = 1e6;

pub fn memory(args: &MemoryArgs) -> Result<Code, Failure> {
    let read;
    let model = if args.model.ends_with(".json") {
        read = Architecture::read(Path::new(&args.model)).map_err(Failure::bad_input)?;
        &read
    } else {
        catalogue::architecture(&args.model).map_err(Failure::bad_input)?
    };
    let device = catalogue::hardware(&args.hardware).map_err(Failure::bad_input)?;
    let memory_bytes = match args.memory_gib {
        Some(gib) if gib > 0.0 && gib <= MAX_MEMORY_GIB => (gib * GIB) as u64,
        Some(gib) => {
            return Err(Failure::bad_input(format!(
                "--memory-gib {gib}: accepted are numbers above 0 and up to {MAX_MEMORY_GIB}"
            )));
        }
        None => device.usable_memory_bytes().ok_or_else(|| {
            Failure::bad_input(format!("the catalogue has no memory of {}: pass --memory-gib", device.name))
        })?,
    };
    let config = config(args, &device.name, memory_bytes)?;
    let plan = plan(model, &config, memory_bytes).map_err(Failure::bad_input)?;
    let lengths: Vec<u32> = [plan.max_model_len].into_iter().chain(args.lengths.iter().copied()).collect();
    let of = Answer {
        model: &model.name,
        hardware: &device.name,
        weights: config.weights.of(model).to_string(),
        devices: u64::from(config.tp) * u64::from(config.pp),
        device_memory_bytes: plan.budget.device_memory_bytes,
        usable_bytes: plan.budget.usable_bytes,
        items: plan.items.iter().map(Line::of).collect(),
        kv_bytes_available: plan.budget.kv_bytes(),
        excess_bytes: plan.budget.excess_bytes(),
        num_blocks: plan.kv_plan.as_ref().map(|kv| kv.num_blocks),
        reported_tokens: plan.kv_plan.as_ref().map(|kv| kv.reported_tokens),
        sequences: lengths
            .iter()
            .map(|tokens| Sequences { tokens: *tokens, at_a_time: plan.sequences(*tokens) })
            .collect(),
        fits: plan.fits(),
        problem: plan.problem.as_deref(),
    };
    if args.json { print_json(&of) } else { print(&text(&of, &config, &plan)) }
}

fn config(args: &MemoryArgs, device_name: &str, memory_bytes: u64) -> Result<MemoryConfig, Failure> {
    let defaults = MemoryConfig::vllm(device_name, memory_bytes);
    let framework =
        args.framework.parse().map_err(|error| Failure::bad_input(format!("--framework {error}")))?;
    if args.lengths.contains(&0) {
        return Err(Failure::bad_input("--lengths 0: accepted are whole numbers from 1"));
    }
    let slots = LoraSlots { max_loras: args.max_loras, max_rank: args.max_lora_rank };
    Ok(MemoryConfig {
        framework,
        weights: args.weights.parse().map_err(|error| Failure::bad_input(format!("--weights {error}")))?,
        kv: args.kv.parse().map_err(|error| Failure::bad_input(format!("--kv {error}")))?,
        tp: args.tp,
        pp: args.pp,
        max_model_len: args.max_model_len,
        max_num_batched_tokens: args.max_num_batched_tokens.unwrap_or(defaults.max_num_batched_tokens),
        max_num_seqs: args.max_num_seqs.unwrap_or(defaults.max_num_seqs),
        gpu_memory_utilization: args.gpu_memory_utilization,
        block_size: args.block_size,
        lora: (args.max_loras > 0).then_some(slots),
        ..defaults
    })
}

/// What `--json` prints; bytes are of one device.
#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    hardware: &'a str,
    weights: String,
    devices: u64,
    device_memory_bytes: u64,
    usable_bytes: u64,
    items: Vec<Line<'a>>,
    kv_bytes_available: u64,
    excess_bytes: u64,
    num_blocks: Option<u64>,
    reported_tokens: Option<u64>,
    sequences: Vec<Sequences>,
    fits: bool,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    bytes: u64,
    how: &'a str,
}

impl<'a> Line<'a> {
    fn of(item: &'a Item) -> Line<'a> {
        Line { what: &item.what, bytes: item.bytes, how: &item.how }
    }
}

#[derive(Serialize)]
struct Sequences {
    tokens: u32,
    at_a_time: f64,
}

fn text(answer: &Answer, config: &MemoryConfig, plan: &MemoryPlan) -> String {
    let gib = |bytes: u64| format!("{:.3}", bytes as f64 / GIB);
    let devices = match answer.devices {
        1 => "one device".to_string(),
        _ => format!("each of {} devices (tp {}, pp {})", answer.devices, config.tp, config.pp),
    };
    let mut rows: Vec<Vec<String>> = answer
        .items
        .iter()
        .map(|item| vec![item.what.to_string(), gib(item.bytes), item.how.to_string()])
        .collect();
    let share = match config.framework {
        Framework::Vllm => {
            format!("{} of {} GiB", config.gpu_memory_utilization, gib(answer.device_memory_bytes))
        }
        Framework::Tgi => format!("TGI's share of {} GiB", gib(answer.device_memory_bytes)),
        Framework::TensorRtLlm | Framework::Bare => "all of the memory".to_string(),
    };
    let left = match plan.budget.cache_share {
        1.0 => "usable less the lines above".to_string(),
        share => format!("{share} of usable less the lines above"),
    };
    rows.push(vec!["left for the cache".into(), gib(answer.kv_bytes_available), left]);
    rows.push(vec!["usable".into(), gib(answer.usable_bytes), share]);
    let mut text =
        format!("{} on {}, {devices}, weights in {}\n\n", answer.model, answer.hardware, answer.weights);
    text += &table(&["", "GiB", "how"], &rows, &[1]);
    if let Some(kv) = &plan.kv_plan {
        text += &format!(
            "\n{} blocks of {} tokens: {} B a block = {} layers x {} B a page\n",
            kv.num_blocks, config.block_size, kv.block_bytes, kv.layers_per_group, kv.page_bytes
        );
        for of in &answer.sequences {
            text += &format!("{:.2} sequences of {} tokens at a time\n", of.at_a_time, of.tokens);
        }
    }
    text += &match answer.problem {
        Some(problem) => format!("\nDoes not fit: {problem}\n"),
        None => "\nFits.\n".to_string(),
    };
    text
}
