//! What a model's weights and its KV cache take in memory under the formats chosen for them.

use std::collections::BTreeMap;

use llmlab_kernels::attention::KvFormat;
use llmlab_models::{LoadedModel, ModelError, ModelSpec, TensorRole, TensorSpec, WeightSource};
use llmlab_quant::{WeightFormat, WeightRecipe};

/// The formats of a model's tensors, and their bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Footprint {
    /// Per format, what is stored in it.
    pub formats: BTreeMap<WeightFormat, Share>,
    /// Bytes of all weights: what must fit.
    pub stored_bytes: u64,
    /// Bytes one decode step of one sequence reads: all but an embedding table that is only looked up, and of experts those
    /// one token uses.
    pub read_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share {
    pub tensors: u64,
    pub values: u64,
    pub bytes: u64,
}

impl Footprint {
    /// The format that holds most of the values.
    pub fn main_format(&self) -> Option<WeightFormat> {
        self.formats.iter().max_by_key(|(_, share)| share.values).map(|(format, _)| *format)
    }

    /// Bits a weight over all tensors, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        let values: u64 = self.formats.values().map(|share| share.values).sum();
        8.0 * self.stored_bytes as f64 / (values as f64).max(1.0)
    }

    fn add(&mut self, spec: &ModelSpec, tensor: &TensorSpec, format: WeightFormat) {
        let bytes = tensor.bytes(format);
        let share = self.formats.entry(format).or_default();
        share.tensors += 1;
        share.values += tensor.elements();
        share.bytes += bytes;
        self.stored_bytes += bytes;
        let looked_up = tensor.role == TensorRole::Embedding && !spec.tie_word_embeddings;
        let used = match &spec.moe {
            Some(moe) if tensor.routed => f64::from(moe.experts_per_token) / f64::from(moe.experts),
            _ => 1.0,
        };
        if !looked_up {
            self.read_bytes += (used * bytes as f64) as u64;
        }
    }
}

/// The checkpoint as it lies on disk.
pub fn as_stored(model: &LoadedModel) -> Result<Footprint, ModelError> {
    let mut footprint = Footprint::default();
    for tensor in model.spec.tensors() {
        footprint.add(&model.spec, &tensor, model.weights.format(&tensor.name)?);
    }
    Ok(footprint)
}

/// The model in an engine's memory under `recipe`. `stored` is the checkpoint, where there is one.
pub fn footprint(
    spec: &ModelSpec,
    stored: Option<&dyn WeightSource>,
    recipe: WeightRecipe,
) -> Result<Footprint, ModelError> {
    let mut footprint = Footprint::default();
    for tensor in spec.tensors() {
        footprint.add(spec, &tensor, format_in_memory(spec, stored, recipe, &tensor)?);
    }
    Ok(footprint)
}

/// The format that a tensor has in an engine's memory. Vectors and routers are f32 there whatever the file holds.
pub fn format_in_memory(
    spec: &ModelSpec,
    stored: Option<&dyn WeightSource>,
    recipe: WeightRecipe,
    tensor: &TensorSpec,
) -> Result<WeightFormat, ModelError> {
    let Some(place) = spec.place(tensor) else { return Ok(WeightFormat::F32) };
    match (recipe.format(&place), stored) {
        (Some(format), _) => Ok(format),
        (None, Some(weights)) => weights.format(&tensor.name),
        // A shape alone is of a model as it was published, and those of the catalogue were published in 16 bits.
        (None, None) => Ok(WeightFormat::Bf16),
    }
}

/// What an engine uses when nothing was chosen: a quantized checkpoint as it is, everything else in bf16.
pub fn default_recipe(model: &LoadedModel) -> Result<WeightRecipe, ModelError> {
    let stored = as_stored(model)?;
    let is_float =
        |format: &WeightFormat| matches!(format, WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16);
    if stored.formats.keys().all(is_float) {
        return Ok(WeightRecipe::Uniform(WeightFormat::Bf16));
    }
    Ok(WeightRecipe::AsStored)
}

/// The recipe for people; of a checkpoint left as it is, the format most of it has.
pub fn label(recipe: WeightRecipe, footprint: &Footprint) -> String {
    match (recipe, footprint.main_format()) {
        (WeightRecipe::AsStored, Some(format)) => format!("{format} (as stored)"),
        _ => recipe.to_string(),
    }
}

/// Bytes one token adds to the KV cache over all layers, the scales of the 8-bit formats included.
pub fn kv_bytes_per_token(spec: &ModelSpec, kv: KvFormat) -> u64 {
    let rows = 2 * u64::from(spec.num_layers) * u64::from(spec.num_kv_heads);
    rows * kv.bytes_per_row(spec.head_dim as usize) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(preset: &str) -> LoadedModel {
        llmlab_models::load(&format!("synthetic:{preset}"), 0).unwrap()
    }

    /// The scenario's parser knows the names without knowing the formats.
    #[test]
    fn scenarios_accept_exactly_the_formats_that_exist() {
        let recipes: Vec<String> = WeightRecipe::ALL.into_iter().map(|recipe| recipe.to_string()).collect();
        assert_eq!(recipes, llmlab_scenarios::knobs::WEIGHTS);
        assert_eq!(KvFormat::ALL.map(|kv| kv.to_string()).as_slice(), llmlab_scenarios::knobs::KV);
    }

    /// docs/engine.md is where a person looks up what a name means.
    #[test]
    fn every_name_is_documented() {
        let docs = include_str!("../docs/engine.md");
        let recipes = WeightRecipe::ALL.into_iter().map(|recipe| recipe.to_string());
        let kv = KvFormat::ALL.into_iter().map(|kv| kv.to_string());
        let families = llmlab_models::Family::ALL.into_iter().map(|family| family.to_string());
        for name in recipes.chain(kv).chain(families) {
            assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs/engine.md");
        }
    }

    /// 1.1B: 968,884,224 weights in layers, 65,536,000 each in embedding and output, 92,160 in norms.
    #[test]
    fn bytes_of_one_format_and_of_a_mix() {
        let model = load("llama-1.1b");
        let q8 = footprint(&model.spec, None, WeightRecipe::Uniform(WeightFormat::Q8_0)).unwrap();
        let matrices = 968_884_224u64 + 2 * 65_536_000;
        assert_eq!(q8.stored_bytes, matrices / 32 * 34 + 45 * 2048 * 4);
        assert_eq!(q8.stored_bytes - q8.read_bytes, 65_536_000 / 32 * 34, "the embedding is looked up");
        let mix = footprint(&model.spec, None, WeightRecipe::Q4KM).unwrap();
        assert_eq!(mix.main_format(), Some(WeightFormat::Q4K));
        assert!(mix.formats.contains_key(&WeightFormat::Q6K), "{mix:?}");
        let bits = mix.bits_per_weight();
        assert!((4.6..5.0).contains(&bits), "{bits} bits; llama.cpp's files of this shape have 4.8");
        assert_eq!(label(WeightRecipe::Q4KM, &mix), "q4_k_m");
    }

    #[test]
    fn eight_bit_keys_and_values_carry_their_scales() {
        let spec = load("llama-1.1b").spec;
        let values = 2 * 22 * 4 * 64;
        assert_eq!(kv_bytes_per_token(&spec, KvFormat::Bf16), 2 * values);
        assert_eq!(kv_bytes_per_token(&spec, KvFormat::Int8), values + 2 * 22 * 4 * 4);
    }

    #[test]
    fn nothing_chosen_means_bf16_for_floats() {
        assert_eq!(default_recipe(&load("llama-15m")).unwrap(), WeightRecipe::Uniform(WeightFormat::Bf16));
    }
}
