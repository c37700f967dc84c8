//! A simulated target with every size known: the engine's settings on hardware that need not be here.

use std::sync::Arc;

use llmlab_core::config::{EngineConfig, PolicyConfig};
use llmlab_core::engine::Engine;
use llmlab_core::scheduler::Scheduler;
use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue;
use llmlab_models::memory::{Budget, MemoryConfig, Weights};
use llmlab_models::{LoadedModel, ModelSpec, WeightFormat};
use llmlab_results::manifest::{TargetFacts, TargetKind};
use llmlab_scenarios::spec::{AdapterSpec, SimulateSpec};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::fit::Fitted;
use llmlab_sim::{CostModel, Device, Overhead, Roofline, RooflineExecutor};

use crate::adapters::{self, SimulatedAdapters};
use crate::calibration::EngineCalibration;
use crate::exit::Failure;
use crate::speculation::{Draft, SimulatedSpeculation, drafts_from_executor};
use crate::text::bytes;
use crate::weights::{self, Footprint};
use crate::{host, wire};

/// The machine that this process runs on, as `llmlab calibrate --engine` measured it.
pub const THIS_HOST: &str = "this-host";

#[derive(Debug, Clone)]
pub struct ResolvedSimulation {
    pub engine: EngineConfig,
    pub hardware: SimulatedHardware,
    pub overhead: Overhead,
    pub max_queue: usize,
    pub policy_label: String,
    pub max_num_seqs: Option<u32>,
    pub weight_label: String,
    pub kv_label: String,
    pub footprint: Footprint,
    pub kv_bytes_per_token: u64,
    pub vocab_size: u32,
    pub speculation: Option<SimulatedSpeculation>,
}

#[derive(Debug, Clone)]
pub enum SimulatedHardware {
    Catalogue { cost: Arc<Roofline>, description: String, budget: Budget, adapter_rank: Option<u32> },
    ThisHost { cost: Fitted, threads: u32 },
}

/// `model` is the shape; `loaded` its checkpoint, where there is one; `source` its name.
pub fn resolve_simulation(
    spec: &SimulateSpec,
    source: &str,
    model: &ModelSpec,
    loaded: Option<&LoadedModel>,
    max_model_len: Option<u32>,
    adapters: Option<&AdapterSpec>,
) -> Result<ResolvedSimulation, String> {
    let adapters = adapters.map(|adapters| adapters::simulated(adapters, model)).transpose()?;
    if spec.hardware.eq_ignore_ascii_case(THIS_HOST) {
        if adapters.is_some() {
            return Err(format!(
                "adapters: calibration on {THIS_HOST} has no price for them; choose a device, or set enable_lora = false"
            ));
        }
        on_this_host(spec, source, model, loaded, max_model_len)
    } else {
        on_catalogued(spec, model, loaded, max_model_len, adapters)
    }
}

fn on_catalogued(
    spec: &SimulateSpec,
    model: &ModelSpec,
    loaded: Option<&LoadedModel>,
    max_model_len: Option<u32>,
    adapters: Option<SimulatedAdapters>,
) -> Result<ResolvedSimulation, String> {
    let adapter_bytes = adapters.map_or(0, |adapters| adapters.stored_bytes);
    let hardware = catalogue::hardware(&spec.hardware)
        .map_err(|error| format!("hardware: {error}; or \"{THIS_HOST}\" after llmlab calibrate --engine"))?;
    let device = Device::from_catalogue(hardware).map_err(|error| format!("hardware: {error}"))?;
    let memory = memory_config(spec, &device)?;
    let draft = Draft::of(spec, model, loaded)?;
    let (draft_bytes, draft_kv) =
        draft.as_ref().map_or((0, 0), |draft| (draft.footprint.stored_bytes, draft.kv_bytes_per_token));
    let beside = adapter_bytes.saturating_add(draft_bytes);
    let architecture = Architecture::of(model);
    let budget = |weights: &Footprint| {
        let weight_bytes = weights.stored_bytes.saturating_add(beside);
        Budget::of(&architecture, &memory, device.memory_bytes as u64, weight_bytes)
    };
    let (_, kv) = wire::formats(&spec.engine, loaded)?;
    let own_kv = weights::kv_bytes_per_token(model, kv) as f64;
    // A block holds keys and values of both models.
    let own_share = own_kv / (own_kv + draft_kv as f64).max(1.0);
    let sizes = wire::resolve_sizes(&spec.engine, model, loaded, max_model_len, |weights| {
        let budget = budget(weights);
        match budget.kv_bytes() {
            0 => Err(too_large(&device.name, memory.gpu_memory_utilization, &budget)),
            left => Ok((left as f64 * own_share) as u64),
        }
    })?;
    let mut held = std::iter::once(&sizes.footprint).chain(draft.as_ref().map(|draft| &draft.footprint));
    if held.any(|footprint| footprint.formats.contains_key(&WeightFormat::Fp8)) {
        hardware.multiplies(Weights::Fp8).map_err(|error| format!("weights: {error}"))?;
    }
    let budget = budget(&sizes.footprint);
    // A pool that was chosen by hand must fit too.
    let pool_tokens = u64::from(sizes.engine.num_blocks) * u64::from(sizes.engine.block_size);
    let pool_bytes = pool_tokens * (sizes.kv_bytes_per_token + draft_kv);
    let weight_bytes = sizes.footprint.stored_bytes.saturating_add(beside);
    if weight_bytes as f64 + pool_bytes as f64 > device.memory_bytes {
        return Err(format!(
            "weights ({}) and the KV pool ({}) are more than the {} of {}; lower num_blocks or kv_memory",
            bytes(weight_bytes),
            bytes(pool_bytes),
            bytes(device.memory_bytes as u64),
            device.name
        ));
    }
    let stored = loaded.map(|model| model.weights.as_ref());
    let layers = Layers::new(model, sizes.kv_bytes_per_token, |tensor| {
        weights::format_in_memory(model, stored, sizes.weights, tensor)
    })
    .map_err(|error| error.to_string())?;
    let drafter = draft.as_ref().map(|draft| draft.on_device(device.clone())).transpose()?;
    let speculation = SimulatedSpeculation::of(spec, draft.as_ref().zip(drafter));
    let cost = Arc::new(Roofline::new(layers, device));
    let adapter_rank = adapters.map(|adapters| adapters.rank);
    let hardware = SimulatedHardware::Catalogue {
        cost,
        description: hardware.description.clone(),
        budget,
        adapter_rank,
    };
    Ok(resolved(spec, model, sizes, hardware, Overhead::served(DEFAULT_RUNTIME), speculation))
}

/// Every policy has its memory laid out as vLLM does it, so that targets differ by their rules alone.
fn memory_config(spec: &SimulateSpec, device: &Device) -> Result<MemoryConfig, String> {
    let defaults = MemoryConfig::vllm(&device.name, device.memory_bytes as u64);
    let policy = wire::policy(&spec.engine.policy)?;
    Ok(MemoryConfig {
        gpu_memory_utilization: spec.gpu_memory_utilization.unwrap_or(defaults.gpu_memory_utilization),
        max_num_seqs: policy.knobs().max_num_seqs().unwrap_or(defaults.max_num_seqs),
        max_num_batched_tokens: match policy {
            PolicyConfig::Vllm(vllm) => vllm.max_num_batched_tokens,
            _ => defaults.max_num_batched_tokens,
        },
        ..defaults
    })
}

fn too_large(device: &str, utilization: f64, budget: &Budget) -> String {
    format!(
        "the model does not fit on one {device}: of {} ({utilization} of its memory) weights take {}, activations {}; choose smaller weights or other hardware",
        bytes(budget.usable_bytes),
        bytes(budget.weight_bytes),
        bytes(budget.activation_bytes + budget.outside_tensors_bytes)
    )
}

fn on_this_host(
    spec: &SimulateSpec,
    source: &str,
    model: &ModelSpec,
    loaded: Option<&LoadedModel>,
    max_model_len: Option<u32>,
) -> Result<ResolvedSimulation, String> {
    if spec.gpu_memory_utilization.is_some() {
        return Err(format!("gpu_memory_utilization: {THIS_HOST} has no device memory; set kv_memory"));
    }
    // The same pool as a live engine has.
    let sizes =
        wire::resolve_sizes(&spec.engine, model, loaded, max_model_len, |_| Ok(wire::DEFAULT_KV_BYTES))?;
    let threads = spec.engine.threads.unwrap_or_else(host::default_threads);
    let recipe = sizes.weights.to_string();
    let known = EngineCalibration::load(source, model.parameters(), &recipe, &sizes.kv.to_string(), threads)?;
    let draft = Draft::of(spec, model, loaded)?;
    let drafter = draft.as_ref().map(|draft| draft.on_this_host(threads)).transpose()?;
    let speculation = SimulatedSpeculation::of(spec, draft.as_ref().zip(drafter));
    let hardware = SimulatedHardware::ThisHost { cost: known.fitted, threads };
    Ok(resolved(spec, model, sizes, hardware, known.overhead, speculation))
}

fn resolved(
    spec: &SimulateSpec,
    model: &ModelSpec,
    mut sizes: wire::Sizes,
    hardware: SimulatedHardware,
    overhead: Overhead,
    speculation: Option<SimulatedSpeculation>,
) -> ResolvedSimulation {
    drafts_from_executor(&mut sizes.engine.policy);
    ResolvedSimulation {
        policy_label: sizes.engine.policy.knobs().rules(),
        max_num_seqs: sizes.engine.policy.knobs().max_num_seqs(),
        engine: sizes.engine,
        hardware,
        overhead,
        max_queue: spec.engine.max_queue as usize,
        weight_label: weights::label(sizes.weights, &sizes.footprint),
        kv_label: sizes.kv.to_string(),
        footprint: sizes.footprint,
        kv_bytes_per_token: sizes.kv_bytes_per_token,
        vocab_size: model.vocab_size,
        speculation,
    }
}

impl ResolvedSimulation {
    /// One line that says what kind of thing answers.
    pub fn describe(&self) -> String {
        let (on, threads) = match &self.hardware {
            SimulatedHardware::Catalogue { description, .. } => (description.as_str(), String::new()),
            SimulatedHardware::ThisHost { threads, .. } => ("this host", format!(", {threads} thread(s)")),
        };
        format!(
            "simulated on {on}, policy {}{}, {} weights, {} KV {} in {} blocks of {}{threads}",
            self.policy_label,
            self.speculation.as_ref().map_or_else(String::new, SimulatedSpeculation::words),
            self.weight_label,
            self.kv_label,
            wire::kv_words(&self.engine),
            self.engine.num_blocks - 1,
            self.engine.block_size
        )
    }

    pub fn facts(&self, name: &str) -> TargetFacts {
        TargetFacts {
            name: name.to_string(),
            kind: TargetKind::Simulate,
            description: self.describe(),
            saturation_rps: None,
            weight_format: Some(self.weight_label.clone()),
            weight_bytes: self.footprint.read_bytes,
            kv_bytes_per_token: self.kv_bytes_per_token,
            threads: match self.hardware {
                SimulatedHardware::Catalogue { .. } => None,
                SimulatedHardware::ThisHost { threads, .. } => Some(threads),
            },
            max_num_seqs: self.max_num_seqs,
            kv_blocks: Some(self.engine.num_blocks - 1),
            block_size: Some(self.engine.block_size),
        }
    }

    /// Where the device's memory goes, for people.
    pub fn memory_words(&self) -> String {
        let drafting = self.speculation.as_ref().map_or(0, |speculation| speculation.kv_bytes_per_token);
        let token = self.kv_bytes_per_token + drafting;
        let pool = u64::from(self.engine.num_blocks) * u64::from(self.engine.block_size) * token;
        let kv = format!("KV pool {} ({} per token)", bytes(pool), bytes(token));
        match &self.hardware {
            SimulatedHardware::Catalogue { budget, .. } => format!(
                "{} usable: weights {}, activations {}, {kv}",
                bytes(budget.usable_bytes),
                bytes(budget.weight_bytes),
                bytes(budget.activation_bytes + budget.outside_tensors_bytes)
            ),
            SimulatedHardware::ThisHost { .. } => {
                format!("weights {}, {kv}", bytes(self.footprint.stored_bytes))
            }
        }
    }

    /// A fresh engine, as a live target gets a fresh process for each trial.
    pub fn start(&self, seed: u64) -> Result<Engine<RooflineExecutor>, Failure> {
        let scheduler =
            Scheduler::new(self.engine.clone()).map_err(Failure::bad_input)?.without_block_tables();
        let executor = |cost: Box<dyn CostModel>| RooflineExecutor::new(cost, seed, self.vocab_size);
        let executor = match &self.hardware {
            SimulatedHardware::Catalogue { cost, adapter_rank: Some(rank), .. } => {
                executor(Box::new(cost.clone())).with_adapters(cost.clone(), *rank)
            }
            SimulatedHardware::Catalogue { cost, .. } => executor(Box::new(cost.clone())),
            SimulatedHardware::ThisHost { cost, .. } => executor(Box::new(cost.clone())),
        };
        let executor = match &self.speculation {
            Some(speculation) => executor.speculating(speculation.start()),
            None => executor,
        };
        Ok(Engine::new(scheduler, executor))
    }
}
