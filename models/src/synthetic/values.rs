//! The values of a synthetic model: a counter-based generator, so that any tensor can be made alone, in parallel, and the
//! same on every machine.
//!
//! Value `i` of a tensor is a function of (seed, tensor name, i) only. The hash is SplitMix64's output function
//! (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), and the four 16-bit parts of one hash are
//! summed: the Irwin-Hall distribution, within 0.01 of a normal's density and cut at 3.46 sigma, for a tenth of the cost of a
//! Box-Muller transform. All of it is integer arithmetic until one multiply, so results do not depend on the platform.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::ModelError;
use crate::spec::names::FINAL_NORM;
use crate::spec::{Family, ModelSpec, TensorRole, TensorSpec};
use crate::weights::WeightSource;

/// Values one task makes: enough to hide the cost of handing it out.
const CHUNK: usize = 1 << 16;

/// Weights of a shape, from a seed.
pub struct SyntheticWeights {
    spec: ModelSpec,
    tensors: HashMap<String, TensorSpec>,
    seed: u64,
}

impl SyntheticWeights {
    pub fn new(spec: ModelSpec, seed: u64) -> Self {
        let tensors = spec.tensors().into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        SyntheticWeights { spec, tensors, seed }
    }

    /// The values of `tensor`, row-major.
    pub fn generate(&self, tensor: &TensorSpec) -> Vec<f32> {
        let key = key(self.seed, &tensor.name);
        let Distribution { mean, deviation } = distribution(&self.spec, tensor);
        let scale = deviation / SUM_STANDARD_DEVIATION;
        let mut values = vec![mean; tensor.elements() as usize];
        if deviation == 0.0 {
            return values;
        }
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let first = (chunk * CHUNK) as u64;
            for (offset, out) in out.iter_mut().enumerate() {
                *out += centred_sum(key, first + offset as u64) as f32 * scale;
            }
        });
        values
    }
}

impl WeightSource for SyntheticWeights {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(self.generate(tensor)),
            None => Err(ModelError::NoSuchTensor { tensor: name.to_string() }),
        }
    }
}

struct Distribution {
    mean: f32,
    /// Standard deviation; 0 for a constant.
    deviation: f32,
}

/// How a tensor's values lie. For matrices a gain over 1/sqrt(inputs), which alone would keep the size of what passes.
///
/// The gains were chosen by what the models then write and by how much rounding moves it (`tests/synthetic_text.rs`):
/// - With the usual initialisation (0.02 everywhere, residual projections divided by sqrt(2 * layers)) a tied model repeats
///   its last token for ever: attention over a long context averages to almost nothing, so what is left in the residual
///   stream is the token's own embedding, and that is also the direction of its own logit. So queries and keys are larger,
///   which makes attention choose, the MLP and the values are larger, and the residual projections are not shrunk.
/// - Larger queries and keys also amplify rounding: a gain of 2 moves the logits of the 110M model by 6 % when weights are
///   rounded to bf16, 1.25 by 2 %.
/// - Output rows of length 2 give logits with a spread of 2, about that of a trained model, so that sampling by temperature
///   means something. Where embeddings are scaled up, rows are shorter for the same reason as above, and the final norm
///   makes up for it; where each block's output is normed, attention must choose more sharply to move anything.
fn distribution(spec: &ModelSpec, tensor: &TensorSpec) -> Distribution {
    let inputs = *tensor.shape.last().expect("a tensor has at least one dimension") as f32;
    let scaled_embedding = spec.embedding_scale != 1.0;
    let gain = match tensor.role {
        TensorRole::Norm | TensorRole::HeadNorm => return norm(spec, tensor),
        // Large enough that a forgotten bias moves every logit.
        TensorRole::Bias => return Distribution { mean: 0.0, deviation: 0.25 },
        TensorRole::Embedding if scaled_embedding => 2.0 / spec.embedding_scale,
        TensorRole::Query | TensorRole::Key if spec.sandwich_norms => 2.0,
        TensorRole::Query | TensorRole::Key => 1.25,
        TensorRole::Qkv => 1.5,
        TensorRole::AttentionOutput | TensorRole::Down | TensorRole::SharedGate => 1.0,
        _ => 2.0,
    };
    Distribution { mean: 0.0, deviation: gain / inputs.sqrt() }
}

/// Norms of Llama are 1, as its archived results have them. Elsewhere they vary, so that a norm that is forgotten, swapped or
/// off by one shows; those of heads are larger, so that attention chooses.
fn norm(spec: &ModelSpec, tensor: &TensorSpec) -> Distribution {
    if spec.family == Family::Llama {
        return Distribution { mean: 1.0, deviation: 0.0 };
    }
    let factor = match tensor.role {
        TensorRole::HeadNorm if spec.sandwich_norms => 1.9,
        TensorRole::HeadNorm => 1.5,
        _ if tensor.name == FINAL_NORM && spec.embedding_scale != 1.0 => spec.embedding_scale,
        _ => 1.0,
    };
    let mean = if spec.norm_plus_one { factor - 1.0 } else { factor };
    Distribution { mean, deviation: 0.2 * factor }
}

/// Of the sum of four independent uniform 16-bit integers: sqrt(4 * (2^32 - 1) / 12).
const SUM_STANDARD_DEVIATION: f32 = 37_837.23;

/// The sum of four uniform 16-bit integers less its mean: -131070..=131070, exact in f32.
fn centred_sum(key: u64, index: u64) -> i32 {
    let bits = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    sum as i32 - 131_070
}

/// `count` values of this standard deviation.
pub(super) fn seeded_normal(seed: u64, name: &str, count: u64, deviation: f32) -> Vec<f32> {
    let (key, scale) = (key(seed, name), deviation / SUM_STANDARD_DEVIATION);
    (0..count).map(|index| centred_sum(key, index) as f32 * scale).collect()
}

/// FNV-1a over the name, mixed with the seed.
fn key(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ hash)
}

/// SplitMix64's output function: a bijection in which each input bit moves about half of the output bits.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Preset;

    #[test]
    fn a_value_depends_on_seed_and_name_only() {
        let weights = |preset: Preset, seed| SyntheticWeights::new(preset.spec(), seed);
        let name = "model.layers.1.self_attn.q_proj.weight";
        let first = weights(Preset::Llama15m, 7).tensor(name).unwrap();
        assert_eq!(first, weights(Preset::Llama15m, 7).tensor(name).unwrap());
        assert_ne!(first, weights(Preset::Llama15m, 8).tensor(name).unwrap());
        assert_ne!(
            first,
            weights(Preset::Llama15m, 7).tensor("model.layers.2.self_attn.q_proj.weight").unwrap()
        );
        // The same numbers for ever and on every machine: archived results name a preset and a seed.
        let bits: Vec<u32> = first[..4].iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, [3180741948, 3184380518, 3152639884, 3163563408]);
    }

    #[test]
    fn values_are_centred_with_the_spread_asked_for_and_uncorrelated() {
        let spec = Preset::Llama15m.spec();
        let weights = SyntheticWeights::new(spec.clone(), 1);
        for tensor in spec.tensors().iter().filter(|tensor| tensor.role != TensorRole::Norm) {
            let values = weights.generate(tensor);
            let n = values.len() as f64;
            let scale = f64::from(distribution(&spec, tensor).deviation);
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / n / scale;
            let square =
                values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / n / scale.powi(2);
            let neighbours =
                values.windows(2).map(|pair| f64::from(pair[0]) * f64::from(pair[1])).sum::<f64>();
            // Five standard errors.
            let limit = 5.0 / n.sqrt();
            assert!(mean.abs() < limit, "{}: mean {mean}", tensor.name);
            assert!((square - 1.0).abs() < 2.0 * limit, "{}: variance {square}", tensor.name);
            let correlation = neighbours / n / scale.powi(2);
            assert!(correlation.abs() < limit, "{}: correlation {correlation}", tensor.name);
        }
    }

    #[test]
    fn norms_of_other_families_vary_around_what_acts_as_one() {
        for (family, plus_one) in [(Family::Qwen3, false), (Family::Gemma3, true)] {
            let spec = Preset::Tiny(family).spec();
            let weights = SyntheticWeights::new(spec.clone(), 0);
            assert_eq!(spec.norm_plus_one, plus_one);
            let norm = weights.tensor("model.layers.2.input_layernorm.weight").unwrap();
            let mean = norm.iter().sum::<f32>() / norm.len() as f32 + f32::from(u8::from(plus_one));
            assert!((mean - 1.0).abs() < 0.1, "{family}: {mean}");
            assert!(norm.iter().any(|value| (value - norm[0]).abs() > 0.1), "{family}");
        }
    }

    #[test]
    fn norms_of_llama_are_one_and_an_unknown_name_is_an_error() {
        let weights = SyntheticWeights::new(Preset::Llama15m.spec(), 0);
        assert!(weights.tensor("model.norm.weight").unwrap().iter().all(|&value| value == 1.0));
        assert!(matches!(weights.tensor("lm_head.weight"), Err(ModelError::NoSuchTensor { .. })));
    }
}
