//! The workload's adapters, as an engine and as a simulation need them.

use llmlab_models::ModelSpec;
use llmlab_models::lora::LoraAdapter;
use llmlab_scenarios::spec::{AdapterSource, AdapterSpec, EngineSpec, RunSpec};

use crate::host;
use crate::text::bytes;

/// What stands in place of a folder on the command line, with a rank behind it.
pub const SYNTHETIC: &str = "synthetic:";
/// Bytes of a value: the CPU engine keeps adapters in f32.
const LIVE_VALUE_BYTES: u64 = 4;
/// vLLM's `lora_dtype` is the model's own by default.
const SIMULATED_VALUE_BYTES: u64 = 2;

/// Adapters of a simulated target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedAdapters {
    pub rank: u32,
    /// Of all of them; they stay in the device's memory.
    pub stored_bytes: u64,
}

/// The workload's adapters, unless this engine does not serve them.
pub fn of<'a>(run: &'a RunSpec, engine: &EngineSpec) -> Option<&'a AdapterSpec> {
    run.workload.adapters.as_ref().filter(|_| engine.enable_lora)
}

/// Values for `--lora-modules`. The error is one sentence.
pub fn lora_modules(adapters: &AdapterSpec, model: &ModelSpec) -> Result<Vec<String>, String> {
    let sizes = adapters.modules.iter().map(|module| match &module.source {
        AdapterSource::Synthetic { rank } => {
            LIVE_VALUE_BYTES * LoraAdapter::synthetic_parameters(model, *rank)
        }
        // As large as its file says, which the engine finds when it opens it.
        AdapterSource::Folder { .. } => 0,
    });
    let (wanted, memory) = (sizes.fold(0, u64::saturating_add), host::memory_bytes());
    if memory > 0 && wanted > memory / 2 {
        return Err(format!(
            "{} adapters take {}, more than half of this machine's {}; lower count or rank",
            adapters.modules.len(),
            bytes(wanted),
            bytes(memory)
        ));
    }
    Ok(adapters
        .modules
        .iter()
        .map(|module| match &module.source {
            AdapterSource::Synthetic { rank } => format!("{}={SYNTHETIC}{rank}", module.name),
            AdapterSource::Folder { path } => format!("{}={path}", module.name),
        })
        .collect())
}

/// The cost of adapters in virtual time depends on their rank alone, so folders are not read for it.
pub fn simulated(adapters: &AdapterSpec, model: &ModelSpec) -> Result<SimulatedAdapters, String> {
    let Some(AdapterSource::Synthetic { rank }) = adapters.modules.first().map(|module| &module.source)
    else {
        return Err("adapters: a simulation takes them as count and rank, not as folders".into());
    };
    if model.moe.is_some() {
        return Err("adapters: what they cost beside experts is not modelled; choose a dense model".into());
    }
    let one = SIMULATED_VALUE_BYTES * LoraAdapter::synthetic_parameters(model, *rank);
    Ok(SimulatedAdapters { rank: *rank, stored_bytes: one.saturating_mul(adapters.modules.len() as u64) })
}
