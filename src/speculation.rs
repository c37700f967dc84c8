//! Guessing ahead in a simulated target: how many guesses are right is an input, what they cost is computed.

use std::sync::Arc;

use llmlab_core::config::PolicyConfig;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::{LoadedModel, ModelSpec};
use llmlab_quant::WeightRecipe;
use llmlab_scenarios::spec::{SimulateSpec, SpeculationMethod};
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::fit::Fitted;
use llmlab_sim::speculation::{DraftingOn, Speculation};
use llmlab_sim::{Device, Roofline};

use crate::calibration::EngineCalibration;
use crate::weights::{self, Footprint};
use crate::wire;

/// A draft model by its shape, in the same formats as in the engine.
pub struct Draft {
    source: String,
    spec: ModelSpec,
    loaded: Option<LoadedModel>,
    recipe: WeightRecipe,
    kv: KvFormat,
    pub footprint: Footprint,
    pub kv_bytes_per_token: u64,
}

/// How a simulated target speculates.
#[derive(Debug, Clone)]
pub struct SimulatedSpeculation {
    acceptance: Vec<f64>,
    drafts: u32,
    drafter: Option<Drafter>,
    /// Of the draft model.
    pub kv_bytes_per_token: u64,
}

#[derive(Debug, Clone)]
pub enum Drafter {
    Device(Arc<Roofline>),
    ThisHost(Fitted),
}

impl Draft {
    /// The draft model of a target that has one.
    pub fn of(
        spec: &SimulateSpec,
        model: &ModelSpec,
        target: Option<&LoadedModel>,
    ) -> Result<Option<Draft>, String> {
        let Some(speculation) = spec.engine.speculation() else { return Ok(None) };
        let SpeculationMethod::DraftModel { source, weights } = &speculation.method else { return Ok(None) };
        let wrong = |error: &dyn std::fmt::Display| format!("speculative_model: {error}");
        // Only its shape and formats count, whatever the seed.
        let (draft, loaded) = wire::shape(source, 0).map_err(|error| wrong(&error))?;
        if draft.vocab_size != model.vocab_size {
            let (ours, theirs) = (draft.vocab_size, model.vocab_size);
            return Err(wrong(&format!("{} has {ours} tokens, the target has {theirs}", draft.name)));
        }
        let (recipe, kv) = wire::formats(&spec.engine, target)?;
        let recipe = wire::draft_weights(weights.as_deref(), recipe)?;
        let stored = loaded.as_ref().map(|model| model.weights.as_ref());
        let footprint = weights::footprint(&draft, stored, recipe).map_err(|error| wrong(&error))?;
        let kv_bytes_per_token = weights::kv_bytes_per_token(&draft, kv);
        let source = source.clone();
        Ok(Some(Draft { source, spec: draft, loaded, recipe, kv, footprint, kv_bytes_per_token }))
    }

    pub fn on_device(&self, device: Device) -> Result<Drafter, String> {
        let recipe = self.recipe;
        let stored = self.loaded.as_ref().map(|model| model.weights.as_ref());
        let layers = Layers::new(&self.spec, self.kv_bytes_per_token, |tensor| {
            weights::format_in_memory(&self.spec, stored, recipe, tensor)
        })
        .map_err(|error| format!("speculative_model: {error}"))?;
        Ok(Drafter::Device(Arc::new(Roofline::new(layers, device))))
    }

    /// As it was measured in a server of its own; it needs a calibration like the target's.
    pub fn on_this_host(&self, threads: u32) -> Result<Drafter, String> {
        let (recipe, kv) = (self.recipe.to_string(), self.kv.to_string());
        let known = EngineCalibration::load(&self.source, self.spec.parameters(), &recipe, &kv, threads)
            .map_err(|error| format!("speculative_model: {error}"))?;
        // Its steps are parts of the target's, so planning is not paid again.
        Ok(Drafter::ThisHost(Fitted { planning_s: 0.0, ..known.fitted }))
    }
}

impl SimulatedSpeculation {
    pub fn of(spec: &SimulateSpec, draft: Option<(&Draft, Drafter)>) -> Option<SimulatedSpeculation> {
        let speculation = spec.engine.speculation()?;
        Some(SimulatedSpeculation {
            acceptance: spec.speculative_acceptance_rate.clone(),
            drafts: speculation.num_speculative_tokens,
            kv_bytes_per_token: draft.as_ref().map_or(0, |(draft, _)| draft.kv_bytes_per_token),
            drafter: draft.map(|(_, drafter)| drafter),
        })
    }

    /// The part of an executor that guesses.
    pub fn start(&self) -> Speculation {
        let speculation = Speculation::new(self.acceptance.clone(), self.drafts);
        match &self.drafter {
            None => speculation,
            Some(Drafter::Device(cost)) => speculation.drafted_by(Box::new(DraftingOn(cost.clone()))),
            Some(Drafter::ThisHost(cost)) => speculation.drafted_by(Box::new(cost.clone())),
        }
    }

    /// For the description of a target: the rates are nobody's measurement here.
    pub fn words(&self) -> String {
        let rates: Vec<String> = self.acceptance.iter().map(|rate| format!("{rate}")).collect();
        format!(", drafts accepted at an assumed {}", rates.join(", "))
    }
}

/// Drafts come from the executor: a simulated text has nothing to be looked up in.
pub fn drafts_from_executor(policy: &mut PolicyConfig) {
    if let PolicyConfig::Vllm(vllm) = policy
        && let Some(speculation) = &mut vllm.speculative_config
    {
        (speculation.prompt_lookup_min, speculation.prompt_lookup_max) = (0, 0);
    }
}
