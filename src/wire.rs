//! Where the vocabularies of the crates meet: scenario words become engine, workload and manifest types.

use llmlab_core::config::{
    DynamicConfig, EngineConfig, KvStrategy, PolicyConfig, StaticConfig, TgiConfig, VllmConfig,
};
use llmlab_core::executor::Executor;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::{LoadedModel, ModelSpec};
use llmlab_quant::{UnknownFormat, WeightFormat, WeightRecipe};
use llmlab_results::manifest::{ModelFacts, Slo, TargetFacts, TargetKind};
use llmlab_runtime::{CandleExecutor, CpuExecutor, RuntimeConfig};
use llmlab_scenarios::spec::{EngineSpec, PolicySpec, SloSpec};
use llmlab_server::ModelInfo;

use crate::exit::Failure;
use crate::host;
use crate::weights::{self, Footprint};

/// KV pool of an engine whose scenario names no size.
pub const DEFAULT_KV_BYTES: u64 = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorKind {
    Cpu,
    Candle,
}

/// An engine target with every size known.
#[derive(Debug, Clone)]
pub struct ResolvedEngine {
    pub engine: EngineConfig,
    pub runtime: RuntimeConfig,
    pub executor: ExecutorKind,
    pub policy_label: String,
    pub max_num_seqs: Option<u32>,
    pub footprint: Footprint,
    pub kv_bytes_per_token: u64,
}

impl ResolvedEngine {
    /// One line that says what kind of thing answers; an emulated policy is never called by a product's name alone.
    pub fn describe(&self) -> String {
        let executor = match self.executor {
            ExecutorKind::Cpu => "",
            ExecutorKind::Candle => ", candle executor",
        };
        let kv = kv_words(&self.engine);
        format!(
            "engine, policy {}{executor}, {} weights, {} KV {kv} in {} blocks of {}, {} thread(s)",
            self.policy_label,
            weights::label(self.runtime.weights, &self.footprint),
            self.runtime.kv,
            self.engine.num_blocks - 1,
            self.engine.block_size,
            self.runtime.threads
        )
    }

    /// Bytes the KV pool takes.
    pub fn kv_pool_bytes(&self) -> u64 {
        u64::from(self.engine.num_blocks) * u64::from(self.engine.block_size) * self.kv_bytes_per_token
    }

    pub fn facts(&self, name: &str) -> TargetFacts {
        TargetFacts {
            name: name.to_string(),
            kind: TargetKind::Engine,
            description: self.describe(),
            saturation_rps: None,
            weight_format: Some(weights::label(self.runtime.weights, &self.footprint)),
            weight_bytes: self.footprint.read_bytes,
            kv_bytes_per_token: self.kv_bytes_per_token,
            threads: Some(self.runtime.threads as u32),
            max_num_seqs: self.max_num_seqs,
            kv_blocks: Some(self.engine.num_blocks - 1),
            block_size: Some(self.engine.block_size),
        }
    }
}

/// How KV memory is handed out.
pub fn kv_words(engine: &EngineConfig) -> &'static str {
    match (&engine.policy, engine.kv) {
        // TGI reserves a request's whole life at admission, whatever the strategy.
        (PolicyConfig::Tgi(_), _) | (_, KvStrategy::Reserve) => "reserved",
        (_, KvStrategy::Paged) => "paged",
        (_, KvStrategy::Contiguous) => "contiguous",
    }
}

/// Turns a scenario's engine into sizes. The error is one sentence that names the key.
pub fn resolve_engine(
    spec: &EngineSpec,
    model: &LoadedModel,
    max_model_len: Option<u32>,
) -> Result<ResolvedEngine, String> {
    let executor = match spec.executor.as_str() {
        "cpu" => ExecutorKind::Cpu,
        "candle" => ExecutorKind::Candle,
        other => return Err(format!("executor {other:?}: accepted are \"cpu\", \"candle\"")),
    };
    let sizes = resolve_sizes(spec, &model.spec, Some(model), max_model_len, |_| Ok(DEFAULT_KV_BYTES))?;
    let Sizes { engine, weights, kv, footprint, kv_bytes_per_token } = sizes;
    let runtime = RuntimeConfig {
        weights,
        kv,
        threads: spec.threads.unwrap_or_else(host::default_threads) as usize,
        num_blocks: engine.num_blocks,
        block_size: engine.block_size,
        max_model_len: engine.max_model_len,
    };
    fits_this_machine(model, &runtime)?;
    Ok(ResolvedEngine {
        engine,
        runtime,
        executor,
        policy_label: policy_label(&spec.policy),
        max_num_seqs: max_num_seqs(&spec.policy),
        footprint,
        kv_bytes_per_token,
    })
}

/// What an engine and its simulation have in common.
#[derive(Debug, Clone)]
pub struct Sizes {
    pub engine: EngineConfig,
    pub weights: WeightRecipe,
    pub kv: KvFormat,
    pub footprint: Footprint,
    pub kv_bytes_per_token: u64,
}

/// `loaded` is the model's checkpoint, where there is one; `default_kv_bytes` the pool of a scenario that names no size, given
/// the weights.
pub fn resolve_sizes(
    spec: &EngineSpec,
    model: &ModelSpec,
    loaded: Option<&LoadedModel>,
    max_model_len: Option<u32>,
    default_kv_bytes: impl FnOnce(&Footprint) -> Result<u64, String>,
) -> Result<Sizes, String> {
    let weights: WeightRecipe = match (&spec.weights, loaded) {
        (Some(name), _) => name.parse().map_err(|error: UnknownFormat| format!("weights: {error}"))?,
        (None, Some(model)) => weights::default_recipe(model).map_err(|error| error.to_string())?,
        (None, None) => WeightRecipe::Uniform(WeightFormat::Bf16),
    };
    let kv: KvFormat = spec.kv.parse().map_err(|error| format!("kv: {error}"))?;
    let kv_strategy = match spec.kv_strategy.as_str() {
        "paged" => KvStrategy::Paged,
        "reserve" => KvStrategy::Reserve,
        "contiguous" => KvStrategy::Contiguous,
        other => {
            return Err(format!(
                "kv_strategy {other:?}: accepted are \"paged\", \"reserve\", \"contiguous\""
            ));
        }
    };
    let stored = loaded.map(|model| model.weights.as_ref());
    let footprint = weights::footprint(model, stored, weights).map_err(|error| error.to_string())?;
    let kv_bytes_per_token = weights::kv_bytes_per_token(model, kv);
    let positions = model.max_position_embeddings;
    let max_model_len = max_model_len.unwrap_or(positions).min(positions);
    let num_blocks = num_blocks(spec, kv_bytes_per_token, || default_kv_bytes(&footprint))?;
    let pool_tokens = (num_blocks - 1).saturating_mul(spec.block_size);
    // No request can be longer than the pool. Contiguous memory is the exception: it must hold whole contexts or none.
    let max_model_len = match kv_strategy {
        KvStrategy::Contiguous => max_model_len,
        KvStrategy::Paged | KvStrategy::Reserve => max_model_len.min(pool_tokens),
    };
    let engine = EngineConfig {
        policy: policy(&spec.policy),
        kv: kv_strategy,
        block_size: spec.block_size,
        num_blocks,
        max_model_len,
    };
    Ok(Sizes { engine, weights, kv, footprint, kv_bytes_per_token })
}

/// Weights, KV pool and the table of rotary angles against this machine's memory.
pub fn fits_this_machine(model: &LoadedModel, config: &RuntimeConfig) -> Result<Footprint, String> {
    let footprint = weights::footprint(&model.spec, Some(model.weights.as_ref()), config.weights)
        .map_err(|error| error.to_string())?;
    let memory_bytes = host::memory_bytes();
    let pool_tokens = u64::from(config.num_blocks) * u64::from(config.block_size);
    let kv_bytes = pool_tokens.saturating_mul(weights::kv_bytes_per_token(&model.spec, config.kv));
    let rope_bytes = 4 * u64::from(model.spec.head_dim) * u64::from(config.max_model_len);
    let wanted = footprint.stored_bytes.saturating_add(kv_bytes).saturating_add(rope_bytes);
    if memory_bytes == 0 || wanted <= memory_bytes {
        return Ok(footprint);
    }
    Err(format!(
        "weights ({:.1} GB) and {} KV blocks of {} tokens take {:.1} GB, this machine has {:.1} GB; choose smaller weights, or lower num_blocks, kv_memory or max_model_len",
        footprint.stored_bytes as f64 / 1e9,
        config.num_blocks,
        config.block_size,
        wanted as f64 / 1e9,
        memory_bytes as f64 / 1e9
    ))
}

/// Blocks in the pool, the null block included: as told or by memory; TGI's own token budget bounds both.
fn num_blocks(
    spec: &EngineSpec,
    kv_bytes_per_token: u64,
    default_kv_bytes: impl FnOnce() -> Result<u64, String>,
) -> Result<u32, String> {
    let block_bytes = kv_bytes_per_token * u64::from(spec.block_size);
    let by_memory = |bytes: u64| bytes / block_bytes.max(1) + 1;
    let wanted = match (spec.num_blocks, spec.kv_memory_bytes) {
        (Some(blocks), _) => Some(u64::from(blocks)),
        (None, Some(bytes)) => Some(by_memory(bytes)),
        (None, None) => None,
    };
    let blocks = match &spec.policy {
        PolicySpec::Tgi { max_batch_total_tokens, .. } => {
            let budget = u64::from(max_batch_total_tokens / spec.block_size);
            wanted.map_or(budget, |blocks| blocks.min(budget))
        }
        _ => match wanted {
            Some(blocks) => blocks,
            None => by_memory(default_kv_bytes()?),
        },
    };
    if blocks < 2 {
        return Err(format!(
            "the KV pool holds no block: one block of {} tokens takes {block_bytes} bytes; raise kv_memory",
            spec.block_size
        ));
    }
    u32::try_from(blocks)
        .map_err(|_| format!("kv_memory gives {blocks} blocks; accepted are at most {}", u32::MAX))
}

fn policy(spec: &PolicySpec) -> PolicyConfig {
    match spec.clone() {
        PolicySpec::Static { batch_size, max_queue_delay } => {
            PolicyConfig::Static(StaticConfig { batch_size, max_queue_delay })
        }
        PolicySpec::Dynamic { max_batch_size, preferred_batch_size, max_queue_delay } => {
            PolicyConfig::Dynamic(DynamicConfig { max_batch_size, preferred_batch_size, max_queue_delay })
        }
        PolicySpec::Vllm {
            max_num_seqs,
            max_num_batched_tokens,
            enable_chunked_prefill,
            enable_prefix_caching,
            long_prefill_token_threshold,
            prefill_schedule_interval,
            scheduler_reserve_full_isl,
            watermark,
            priority,
        } => PolicyConfig::Vllm(VllmConfig {
            max_num_seqs,
            max_num_batched_tokens,
            enable_chunked_prefill,
            enable_prefix_caching,
            long_prefill_token_threshold,
            prefill_schedule_interval,
            scheduler_reserve_full_isl,
            watermark,
            priority,
        }),
        PolicySpec::Tgi {
            max_batch_prefill_tokens,
            max_batch_total_tokens,
            waiting_served_ratio,
            max_waiting_tokens,
            max_batch_size,
            prefill_chunking,
        } => PolicyConfig::Tgi(TgiConfig {
            max_batch_prefill_tokens,
            max_batch_total_tokens,
            waiting_served_ratio,
            max_waiting_tokens,
            max_batch_size,
            prefill_chunking,
        }),
    }
}

pub fn policy_label(spec: &PolicySpec) -> String {
    match spec {
        PolicySpec::Static { batch_size, .. } => format!("static (batches of {batch_size})"),
        PolicySpec::Dynamic { max_batch_size, .. } => {
            format!("dynamic (Triton rules, up to {max_batch_size})")
        }
        PolicySpec::Vllm { .. } => "vllm (V1, 0.33 rules)".into(),
        PolicySpec::Tgi { .. } => "tgi (v3 rules)".into(),
    }
}

pub fn max_num_seqs(spec: &PolicySpec) -> Option<u32> {
    match spec {
        PolicySpec::Static { batch_size, .. } => Some(*batch_size),
        PolicySpec::Dynamic { max_batch_size, .. } => Some(*max_batch_size),
        PolicySpec::Vllm { max_num_seqs, .. } => Some(*max_num_seqs),
        PolicySpec::Tgi { max_batch_size, .. } => *max_batch_size,
    }
}

pub fn build_executor(model: &LoadedModel, resolved: &ResolvedEngine) -> Result<Box<dyn Executor>, Failure> {
    let failed = |error| Failure::bad_input(format!("cannot build the executor: {error}"));
    Ok(match resolved.executor {
        ExecutorKind::Cpu => Box::new(CpuExecutor::new(model, &resolved.runtime).map_err(failed)?),
        ExecutorKind::Candle => Box::new(CandleExecutor::new(model, &resolved.runtime).map_err(failed)?),
    })
}

/// The model as the server needs it: shape and text, without weights.
pub fn model_info(model: LoadedModel) -> Result<ModelInfo, Failure> {
    let chat_template = model.chat().map_err(Failure::bad_input)?;
    Ok(ModelInfo {
        eos_token_ids: model.spec.eos_token_ids.clone(),
        spec: model.spec,
        tokenizer: model.tokenizer,
        chat_template,
    })
}

pub fn model_facts(source: &str, model: &ModelSpec, max_model_len: u32) -> ModelFacts {
    ModelFacts {
        source: source.to_string(),
        architecture: model.family.to_string(),
        parameters: model.parameters(),
        linear_flops_per_token: model.linear_flops_per_token(),
        attention_flops_per_token_per_context: model.attention_flops_per_token_per_context(),
        layers: model.num_layers,
        vocab_size: model.vocab_size,
        max_model_len,
    }
}

pub fn slo(spec: &SloSpec) -> Slo {
    let limits = |pairs: &[(f64, std::time::Duration)]| {
        pairs.iter().map(|(percentile, limit)| (*percentile, limit.as_nanos() as u64)).collect()
    };
    Slo { ttft: limits(&spec.ttft), tpot: limits(&spec.tpot), itl: limits(&spec.itl), e2e: limits(&spec.e2e) }
}
