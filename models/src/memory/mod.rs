//! What fits on a device: weights, cache and all else, line by line.
//!
//! Reading order: this file (the plan), [`budget`] (the sum), [`format`] (what weights are held in), [`matrices`] (what there is
//! and how it is divided), [`weights`] (bytes of it on one device), [`runtime`] (what else there is), [`advice`] (what would have to
//! change).

mod advice;
mod budget;
mod format;
mod matrices;
mod runtime;
mod weights;

pub use budget::Budget;
pub use format::Weights;
pub use matrices::TensorClass;

use crate::architecture::Architecture;
use crate::kv_plan::{KvBudget, KvPlan, KvShape};

/// Bounds on what a user chooses, each some times what any server is started with.
const MAX_DEVICES: u32 = 1024;
const MAX_TOKENS: u32 = 1 << 24;
const GIB: f64 = (1u64 << 30) as f64;

/// vLLM's default of `gpu_memory_utilization`, read in 0.33; 0.9 before its pull request 38284 of 2026.
pub const VLLM_GPU_MEMORY_UTILIZATION: f64 = 0.92;

/// What answers, which decides what is reserved around weights and cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// A share of the device's memory; what weights and the peak of a step leave of it is the cache.
    Vllm,
    /// The same with another share, and without the peak of sampling.
    Tgi,
    /// All of the memory; a share of what weights and the peak of a step leave of it is the cache.
    TensorRtLlm,
    /// All of the memory; weights, the peak of a forward pass and the cache. llama.cpp and our own engine.
    Bare,
}

impl Framework {
    /// The names an error lists.
    pub const NAMES: [&str; 5] = ["vllm", "tgi", "tensorrt-llm", "llama.cpp", "bare"];
}

impl std::str::FromStr for Framework {
    type Err = String;

    fn from_str(name: &str) -> Result<Framework, String> {
        Ok(match name {
            "vllm" => Framework::Vllm,
            "tgi" => Framework::Tgi,
            "tensorrt-llm" => Framework::TensorRtLlm,
            "llama.cpp" | "bare" => Framework::Bare,
            _ => {
                let accepted = Framework::NAMES.join(", ");
                return Err(format!("{name:.40?} is not a framework; accepted are {accepted}"));
            }
        })
    }
}

/// What a value of the cache is held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// f16 or bf16.
    Bits16,
    Fp8,
}

impl KvDtype {
    /// Of one value.
    pub fn bytes(self) -> u32 {
        match self {
            KvDtype::Bits16 => 2,
            KvDtype::Fp8 => 1,
        }
    }
}

impl std::str::FromStr for KvDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<KvDtype, String> {
        match name {
            "auto" | "f16" | "bf16" => Ok(KvDtype::Bits16),
            "fp8" => Ok(KvDtype::Fp8),
            _ => Err(format!("{name:.40?} is not a format of the cache; accepted are auto, f16, bf16, fp8")),
        }
    }
}

/// Adapters resident at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoraSlots {
    pub max_loras: u32,
    pub max_rank: u32,
}

/// How the model is to be served; names as in vLLM where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    pub framework: Framework,
    pub weights: Weights,
    pub kv: KvDtype,
    /// Devices that share each layer.
    pub tp: u32,
    /// Groups of devices that share the layers out.
    pub pp: u32,
    /// Tokens of the longest request; `None` for what the model was trained for.
    pub max_model_len: Option<u32>,
    pub max_num_batched_tokens: u32,
    pub max_num_seqs: u32,
    pub gpu_memory_utilization: f64,
    pub block_size: u32,
    /// Two steps are in flight, and a window layer holds the tokens of both.
    pub async_scheduling: bool,
    pub cuda_graph_bytes: u64,
    pub lora: Option<LoraSlots>,
}

impl MemoryConfig {
    /// The defaults of vLLM's server on such a device: it schedules more on one of 70 GiB and above that is not called A100
    /// (`get_batch_defaults` in `arg_utils.py` of 0.33).
    pub fn vllm(device_name: &str, device_memory_bytes: u64) -> MemoryConfig {
        let large = device_memory_bytes as f64 >= 70.0 * GIB && !device_name.to_lowercase().contains("a100");
        MemoryConfig {
            framework: Framework::Vllm,
            weights: Weights::Published,
            kv: KvDtype::Bits16,
            tp: 1,
            pp: 1,
            max_model_len: None,
            max_num_batched_tokens: if large { 8192 } else { 2048 },
            max_num_seqs: if large { 1024 } else { 256 },
            gpu_memory_utilization: VLLM_GPU_MEMORY_UTILIZATION,
            block_size: 16,
            async_scheduling: true,
            cuda_graph_bytes: 0,
            lora: None,
        }
    }
}

/// One line of the plan, for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub what: String,
    pub bytes: u64,
    /// The formula with its numbers.
    pub how: String,
}

/// What one device holds: of all pipeline stages, one of that with room for the fewest blocks, which all others follow.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// All but the cache.
    pub items: Vec<Item>,
    /// Their sums, and what is left.
    pub budget: Budget,
    /// `None` where nothing is left for a cache.
    pub kv_plan: Option<KvPlan>,
    pub max_model_len: u32,
    /// Counted from 0.
    pub stage: u32,
    /// What does not fit, and what would have to change; `None` where the server starts.
    pub problem: Option<String>,
    kv_shape: KvShape,
    kv_budget: KvBudget,
}

impl MemoryPlan {
    /// The server starts, with room for one request of `max_model_len` tokens.
    pub fn fits(&self) -> bool {
        self.kv_plan.as_ref().is_some_and(|plan| plan.starts)
    }

    /// Sequences of `tokens` tokens that the cache holds at a time.
    pub fn sequences(&self, tokens: u32) -> f64 {
        self.kv_shape.sequences(&self.kv_budget, tokens)
    }

    /// Tokens that the cache holds in sequences of `tokens` tokens each.
    pub fn tokens_in_sequences(&self, tokens: u32) -> u64 {
        self.kv_shape.tokens_in_sequences(&self.kv_budget, tokens)
    }
}

/// A configuration that no memory would make valid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MemoryError {
    #[error("tp = {tp}: {model} has {heads} heads and {kv_heads} KV heads; accepted are {}", list(.accepted))]
    TensorParallel { tp: u32, model: String, heads: u32, kv_heads: u32, accepted: Vec<u32> },
    #[error("pp = {pp}: {model} has {layers} layers; accepted are 1 to {layers}")]
    PipelineParallel { pp: u32, model: String, layers: u32 },
    #[error("{key} = {value}; accepted are {accepted}")]
    Range { key: &'static str, value: String, accepted: String },
    #[error("lora: more bytes than any memory has; accepted are smaller max_loras and max_lora_rank")]
    LoraTooLarge,
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// What `model` takes on one device of `device_memory_bytes`, and what is left for the cache.
pub fn plan(
    model: &Architecture,
    config: &MemoryConfig,
    device_memory_bytes: u64,
) -> Result<MemoryPlan, MemoryError> {
    let mut plan = without_advice(model, config, device_memory_bytes)?;
    if !plan.fits() {
        plan.problem = Some(advice::problem(model, config, &plan));
    }
    Ok(plan)
}

/// The blocks that vLLM would make of `kv_bytes_available` on each device.
pub fn kv_plan(
    model: &Architecture,
    config: &MemoryConfig,
    kv_bytes_available: u64,
) -> Result<KvPlan, MemoryError> {
    check(model, config)?;
    let budget = kv_budget(model, config, kv_bytes_available);
    model.kv_shape().plan(&budget).ok_or_else(|| cannot_split(model, config.tp))
}

/// Tokens that `kv_bytes_available` on each device hold in sequences of `tokens` tokens each.
pub fn tokens_in_sequences(
    model: &Architecture,
    config: &MemoryConfig,
    kv_bytes_available: u64,
    tokens: u32,
) -> Result<u64, MemoryError> {
    check(model, config)?;
    Ok(model.kv_shape().tokens_in_sequences(&kv_budget(model, config, kv_bytes_available), tokens))
}

fn kv_budget(model: &Architecture, config: &MemoryConfig, available_bytes: u64) -> KvBudget {
    // vLLM's `max_concurrent_batches`: a pipeline is filled with as many batches as it has stages.
    let steps = match (config.pp, config.async_scheduling) {
        (1, true) => 2,
        (stages, _) => stages,
    };
    KvBudget {
        available_bytes,
        tensor_parallel: config.tp,
        value_bytes: config.kv.bytes(),
        block_size: config.block_size,
        max_model_len: config.max_model_len.unwrap_or(model.max_positions),
        in_flight_tokens: steps.saturating_mul(config.max_num_batched_tokens),
        stage_layers: (config.pp > 1).then(|| model.num_layers().div_ceil(config.pp)),
    }
}

fn without_advice(
    model: &Architecture,
    config: &MemoryConfig,
    device_memory_bytes: u64,
) -> Result<MemoryPlan, MemoryError> {
    check(model, config)?;
    let mut tightest: Option<MemoryPlan> = None;
    for stage in weights::stages(model, config.pp) {
        let plan = of_stage(model, config, device_memory_bytes, &stage)?;
        // Every stage makes as many blocks as the one that can make fewest.
        let room = |plan: &MemoryPlan| {
            let blocks = plan.kv_plan.as_ref().map_or(0, |plan| plan.num_blocks);
            let Budget { weight_bytes, .. } = plan.budget;
            (blocks, std::cmp::Reverse(plan.budget.excess_bytes()), std::cmp::Reverse(weight_bytes))
        };
        if tightest.as_ref().is_none_or(|known| room(&plan) < room(known)) {
            tightest = Some(plan);
        }
    }
    Ok(tightest.expect("a model has a stage, checked above"))
}

fn of_stage(
    model: &Architecture,
    config: &MemoryConfig,
    device_memory_bytes: u64,
    stage: &weights::Stage,
) -> Result<MemoryPlan, MemoryError> {
    let classes = weights::by_class(model, stage, config);
    let weight_bytes: u64 = classes.values().map(|class| class.bytes).sum();
    let mut items: Vec<Item> = classes
        .iter()
        .filter(|(_, class)| class.values > 0)
        .map(|(class, of)| Item {
            what: format!("weights: {}", class.name()),
            bytes: of.bytes,
            how: format!("{} values x {:.3} B", of.values, of.bytes as f64 / of.values as f64),
        })
        .collect();
    let activations = runtime::activations(model, stage, config);
    let around = runtime::around(config);
    let adapters = config.lora.map(|slots| runtime::lora(model, stage, config, slots)).transpose()?;
    let budget = Budget {
        weight_bytes,
        activation_bytes: activations.bytes,
        outside_tensors_bytes: around.iter().map(|item| item.bytes).sum(),
        adapter_bytes: adapters.as_ref().map_or(0, |item| item.bytes),
        ..Budget::empty(config, device_memory_bytes)
    };
    items.push(activations);
    items.extend(around);
    items.extend(adapters);
    let kv_bytes_available = budget.kv_bytes();
    let kv_shape = model.kv_shape();
    let layers = stage.blocks.iter().map(|(count, _)| *count).sum();
    let kv_budget = KvBudget { stage_layers: Some(layers), ..kv_budget(model, config, kv_bytes_available) };
    let kv_plan = kv_shape.plan(&kv_budget).filter(|_| kv_bytes_available > 0);
    Ok(MemoryPlan {
        items,
        budget,
        kv_plan,
        max_model_len: kv_budget.max_model_len,
        stage: stage.index,
        problem: None,
        kv_shape,
        kv_budget,
    })
}

fn check(model: &Architecture, config: &MemoryConfig) -> Result<(), MemoryError> {
    let whole = |key: &'static str, value: u32, most: u32| match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(MemoryError::Range { key, value: value.to_string(), accepted: format!("1 to {most}") }),
    };
    whole("tp", config.tp, MAX_DEVICES)?;
    whole("pp", config.pp, MAX_DEVICES)?;
    whole("max_model_len", config.max_model_len.unwrap_or(1), MAX_TOKENS)?;
    whole("max_num_batched_tokens", config.max_num_batched_tokens, MAX_TOKENS)?;
    whole("max_num_seqs", config.max_num_seqs, MAX_TOKENS)?;
    whole("block_size", config.block_size, 4096)?;
    let share = config.gpu_memory_utilization;
    if !(share > 0.0 && share <= 1.0) {
        let accepted = "numbers above 0 and up to 1".to_string();
        return Err(MemoryError::Range { key: "gpu_memory_utilization", value: share.to_string(), accepted });
    }
    if !splits(model, config.tp) {
        return Err(cannot_split(model, config.tp));
    }
    if config.pp > model.num_layers() {
        let (model, layers) = (model.name.clone(), model.num_layers());
        return Err(MemoryError::PipelineParallel { pp: config.pp, model, layers });
    }
    Ok(())
}

/// Each device gets as many heads, and KV heads are divided or copied evenly.
fn splits(model: &Architecture, tp: u32) -> bool {
    let shape = model.kv_shape();
    let heads = model.blocks.iter().all(|(_, block)| block.attention.heads().is_multiple_of(tp));
    let kv = shape.latent || shape.kv_heads.is_multiple_of(tp) || tp.is_multiple_of(shape.kv_heads.max(1));
    heads && kv && !model.blocks.is_empty()
}

fn cannot_split(model: &Architecture, tp: u32) -> MemoryError {
    let heads = model.blocks.first().map_or(0, |(_, block)| block.attention.heads());
    MemoryError::TensorParallel {
        tp,
        model: model.name.clone(),
        heads,
        kv_heads: model.kv_shape().kv_heads,
        accepted: (1..=64).filter(|tp| splits(model, *tp)).collect(),
    }
}
