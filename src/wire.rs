//! Where the vocabularies of the crates meet: scenario words become engine, workload and manifest types.

use llmlab_core::config::{
    EngineConfig, KvStrategy, Memory, PolicyConfig, SpeculativeConfig, SpeculativeMethod, TgiConfig,
    VllmConfig,
};
use llmlab_core::executor::Executor;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::catalogue::SPEC_PREFIX;
use llmlab_models::lora::LoraAdapter;
use llmlab_models::{LoadedModel, ModelSpec};
use llmlab_quant::{UnknownFormat, WeightFormat, WeightRecipe};
use llmlab_results::manifest::{ModelFacts, Slo, TargetFacts, TargetKind};
use llmlab_runtime::{CandleExecutor, CpuExecutor, DraftModelExecutor, RuntimeConfig};
use llmlab_scenarios::spec::{EngineSpec, PolicySpec, SloSpec, SpeculationMethod, SpeculationSpec};
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
    match (engine.policy.knobs().memory(), engine.kv) {
        (Memory::Reserved, _) | (Memory::Strategy, KvStrategy::Reserve) => "reserved",
        (Memory::Paged, _) | (Memory::Strategy, KvStrategy::Paged) => "paged",
        (Memory::Strategy, KvStrategy::Contiguous) => "contiguous",
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
        policy_label: engine.policy.knobs().rules(),
        max_num_seqs: engine.policy.knobs().max_num_seqs(),
        engine,
        runtime,
        executor,
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
    let (weights, kv) = formats(spec, loaded)?;
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
    let mut engine = EngineConfig {
        policy: policy(&spec.policy)?,
        kv: kv_strategy,
        block_size: spec.block_size,
        num_blocks,
        max_model_len,
    };
    // No request can be longer than what the policy lets it have of the pool. Contiguous memory is the exception: it must
    // hold whole contexts or none.
    if engine.kv_in_use() != KvStrategy::Contiguous {
        engine.max_model_len = engine.longest_request();
    }
    engine.validate().map_err(|error| error.to_string())?;
    Ok(Sizes { engine, weights, kv, footprint, kv_bytes_per_token })
}

/// The shape of a model, with its checkpoint where it has one; `seed` is that of synthetic weights.
pub fn shape(source: &str, seed: u64) -> Result<(ModelSpec, Option<LoadedModel>), String> {
    if source.starts_with(SPEC_PREFIX) {
        let spec = llmlab_models::load_spec(source).map_err(|error| error.to_string())?;
        return Ok((spec, None));
    }
    // The headers of its files are read and checked, its weights are not.
    let loaded = llmlab_models::load(source, seed).map_err(|error| error.to_string())?;
    Ok((loaded.spec.clone(), Some(loaded)))
}

/// The formats of weights and KV cache.
pub fn formats(spec: &EngineSpec, loaded: Option<&LoadedModel>) -> Result<(WeightRecipe, KvFormat), String> {
    let weights: WeightRecipe = match (&spec.weights, loaded) {
        (Some(name), _) => name.parse().map_err(|error: UnknownFormat| format!("weights: {error}"))?,
        (None, Some(model)) => weights::default_recipe(model).map_err(|error| error.to_string())?,
        (None, None) => WeightRecipe::Uniform(WeightFormat::Bf16),
    };
    Ok((weights, spec.kv.parse().map_err(|error| format!("kv: {error}"))?))
}

/// The formats of a draft model: those named, else the target's.
pub fn draft_weights(named: Option<&str>, target: WeightRecipe) -> Result<WeightRecipe, String> {
    named.map_or(Ok(target), |name| {
        name.parse().map_err(|error: UnknownFormat| format!("speculative_weights: {error}"))
    })
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
        // A padded batch has no blocks in TGI, only a number of tokens; here both bound it.
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

/// The scheduler's own form of a scenario's policy.
pub fn policy(spec: &PolicySpec) -> Result<PolicyConfig, String> {
    Ok(match spec.clone() {
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
            async_scheduling,
            max_loras,
            speculation,
            upstream_defects,
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
            max_loras,
            async_scheduling,
            speculative_config: speculation.as_ref().map(speculative_config),
            upstream_defects,
        }),
        PolicySpec::Tgi {
            max_batch_prefill_tokens,
            max_batch_total_tokens,
            waiting_served_ratio,
            max_waiting_tokens,
            max_batch_size,
            max_input_tokens,
            prefill_chunking,
            use_prefix_caching,
            requires_padding,
            upstream_defects,
        } => PolicyConfig::Tgi(TgiConfig {
            max_batch_prefill_tokens,
            waiting_served_ratio,
            max_waiting_tokens,
            max_batch_size,
            max_input_tokens,
            prefill_chunking,
            use_prefix_caching,
            requires_padding,
            upstream_defects,
            ..TgiConfig::new(max_batch_total_tokens)
        }),
        // The knobs have the same names on both sides.
        PolicySpec::Other(values) => serde_json::to_value(&values)
            .and_then(serde_json::from_value)
            .map_err(|error| format!("policy {}: {error}", values.policy))?,
    })
}

fn speculative_config(spec: &SpeculationSpec) -> SpeculativeConfig {
    let (method, prompt_lookup_min, prompt_lookup_max) = match spec.method {
        SpeculationMethod::Ngram { prompt_lookup_min, prompt_lookup_max } => {
            (SpeculativeMethod::Ngram, prompt_lookup_min, prompt_lookup_max)
        }
        SpeculationMethod::DraftModel { .. } => (SpeculativeMethod::DraftModel, 0, 0),
    };
    let num_speculative_tokens = spec.num_speculative_tokens;
    SpeculativeConfig { method, num_speculative_tokens, prompt_lookup_min, prompt_lookup_max }
}

/// The executor with its draft model and adapters, if it has any; `model_seed` is that of synthetic weights.
pub fn build_executor(
    spec: &EngineSpec,
    model: &LoadedModel,
    resolved: &ResolvedEngine,
    model_seed: u64,
    adapters: &[LoraAdapter],
) -> Result<Box<dyn Executor>, Failure> {
    let failed = |error| Failure::bad_input(format!("cannot build the executor: {error}"));
    if resolved.executor == ExecutorKind::Candle {
        if !adapters.is_empty() {
            return Err(Failure::bad_input("executor \"candle\" has no adapters; choose executor \"cpu\""));
        }
        return Ok(Box::new(CandleExecutor::new(model, &resolved.runtime).map_err(failed)?));
    }
    let mut executor = CpuExecutor::new(model, &resolved.runtime).map_err(failed)?;
    executor.load_adapters(adapters).map_err(failed)?;
    let PolicySpec::Vllm { speculation: Some(speculation), .. } = &spec.policy else {
        return Ok(Box::new(executor));
    };
    let SpeculationMethod::DraftModel { source, weights } = &speculation.method else {
        return Ok(Box::new(executor));
    };
    let draft = llmlab_models::load(source, model_seed).map_err(Failure::bad_input)?;
    let drafts = speculation.num_speculative_tokens as usize;
    let mut config = resolved.runtime;
    config.weights = draft_weights(weights.as_deref(), config.weights).map_err(Failure::bad_input)?;
    let executor = DraftModelExecutor::new(executor, &draft.spec, draft.weights.as_ref(), &config, drafts);
    Ok(Box::new(executor.map_err(failed)?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use llmlab_scenarios::knobs::POLICIES;

    /// Every knob of the table is one the scheduler has, under the same name and with the same default.
    #[test]
    fn the_table_of_knobs_and_the_scheduler_agree() {
        for name in POLICIES {
            let spec = llmlab_scenarios::engine_from_knobs(name, &[]).unwrap();
            let PolicySpec::Other(_) = &spec.policy else { continue };
            let table = policy(&spec.policy).unwrap();
            let default = match &table {
                PolicyConfig::Static(_) => PolicyConfig::Static(Default::default()),
                PolicyConfig::Dynamic(_) => PolicyConfig::Dynamic(Default::default()),
                PolicyConfig::Orca(_) => PolicyConfig::Orca(Default::default()),
                PolicyConfig::Sarathi(_) => PolicyConfig::Sarathi(Default::default()),
                PolicyConfig::Fastgen(_) => PolicyConfig::Fastgen(Default::default()),
                PolicyConfig::Trtllm(_) => PolicyConfig::Trtllm(Default::default()),
                PolicyConfig::Llamacpp(_) => PolicyConfig::Llamacpp(Default::default()),
                PolicyConfig::Sglang(_) => PolicyConfig::Sglang(Default::default()),
                other => panic!("{other:?} has its own words in a scenario"),
            };
            assert_eq!(table, default, "{name}");
        }
    }

    #[test]
    fn a_knob_reaches_the_scheduler() {
        let knobs = ["schedule_policy=lpm".to_string(), "enable_mixed_chunk=true".to_string()];
        let spec = llmlab_scenarios::engine_from_knobs("sglang", &knobs).unwrap();
        let PolicyConfig::Sglang(sglang) = policy(&spec.policy).unwrap() else { panic!("{spec:?}") };
        assert_eq!(sglang.schedule_policy, llmlab_core::config::SchedulePolicy::Lpm);
        assert!(sglang.enable_mixed_chunk);
    }
}
