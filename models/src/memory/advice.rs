//! What would have to change for a model to fit.

use super::{Framework, KvDtype, MemoryConfig, MemoryPlan, Weights, splits, without_advice};
use crate::architecture::Architecture;

const MAX_ADVISED_TP: u32 = 64;

/// One sentence: what does not fit, and which single changes would make it fit.
pub(super) fn problem(model: &Architecture, config: &MemoryConfig, plan: &MemoryPlan) -> String {
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let budget = &plan.budget;
    let what = if budget.weight_bytes > budget.usable_bytes {
        format!("needs {} for weights on each device", gb(budget.weight_bytes))
    } else if budget.excess_bytes() > 0 {
        format!("needs {} besides the cache on each device", gb(budget.taken_bytes()))
    } else {
        format!(
            "has {} left for a cache, too little for one request of {} tokens",
            gb(budget.kv_bytes()),
            plan.max_model_len
        )
    };
    let share = match config.framework {
        Framework::Vllm => {
            format!(" ({} of {})", config.gpu_memory_utilization, gb(budget.device_memory_bytes))
        }
        Framework::Tgi | Framework::TensorRtLlm | Framework::Bare => String::new(),
    };
    let changes = changes(model, config, plan);
    let change = match changes.is_empty() {
        true => "no single change of tp, weights, kv or max_model_len makes it fit".to_string(),
        false => format!("use {}", changes.join(" or ")),
    };
    format!("{what}; usable are {}{share}: {change}", gb(budget.usable_bytes))
}

fn changes(model: &Architecture, config: &MemoryConfig, plan: &MemoryPlan) -> Vec<String> {
    let fits = |config: MemoryConfig| {
        without_advice(model, &config, plan.budget.device_memory_bytes).is_ok_and(|plan| plan.fits())
    };
    let mut changes = Vec::new();
    if let Some(kv) = &plan.kv_plan
        && kv.longest_that_starts > 0
    {
        changes.push(format!("max_model_len = {}", kv.longest_that_starts));
    }
    if config.kv != KvDtype::Fp8 && fits(MemoryConfig { kv: KvDtype::Fp8, ..config.clone() }) {
        changes.push("kv = \"fp8\"".to_string());
    }
    let more = (config.tp + 1..=MAX_ADVISED_TP).filter(|tp| splits(model, *tp));
    if let Some(tp) = more.into_iter().find(|tp| fits(MemoryConfig { tp: *tp, ..config.clone() })) {
        changes.push(format!("tp = {tp}"));
    }
    let smaller = [Weights::Fp8, Weights::Int4 { group: 128 }];
    let smaller =
        smaller.into_iter().find(|weights| fits(MemoryConfig { weights: *weights, ..config.clone() }));
    if let Some(weights) = smaller {
        changes.push(format!("weights = \"{weights}\""));
    }
    changes
}
