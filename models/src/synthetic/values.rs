//! The values of a synthetic model: a counter-based generator, so that any tensor can be made alone, in parallel, and the
//! same on every machine.
//!
//! Value `i` of a tensor is a function of (seed, tensor name, i) only. The hash is SplitMix64's output function
//! (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), and the four 16-bit parts of one hash are
//! summed: the Irwin-Hall distribution, within 0.01 of a normal's density and cut at 3.46 sigma, for a tenth of the cost of a
//! Box-Muller transform. All of it is integer arithmetic until one multiply, so results do not depend on the platform.

use rayon::prelude::*;

use crate::error::ModelError;
use crate::spec::{ModelSpec, TensorRole, TensorSpec};
use crate::weights::WeightSource;

/// Values one task makes: enough to hide the cost of handing it out.
const CHUNK: usize = 1 << 16;

/// Weights of a shape, from a seed.
pub struct SyntheticWeights {
    spec: ModelSpec,
    seed: u64,
}

impl SyntheticWeights {
    pub fn new(spec: ModelSpec, seed: u64) -> Self {
        SyntheticWeights { spec, seed }
    }

    /// The values of `tensor`, row-major.
    pub fn generate(&self, tensor: &TensorSpec) -> Vec<f32> {
        let elements = tensor.elements() as usize;
        if tensor.role == TensorRole::Norm {
            return vec![1.0; elements];
        }
        let key = key(self.seed, &tensor.name);
        let scale = standard_deviation(&self.spec, tensor) / SUM_STANDARD_DEVIATION;
        let mut values = vec![0.0f32; elements];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let first = (chunk * CHUNK) as u64;
            for (offset, out) in out.iter_mut().enumerate() {
                *out = centred_sum(key, first + offset as u64) as f32 * scale;
            }
        });
        values
    }
}

impl WeightSource for SyntheticWeights {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensors = self.spec.tensors();
        let tensor = tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| ModelError::NoSuchTensor { tensor: name.to_string() })?;
        Ok(self.generate(tensor))
    }
}

/// The spread of a tensor's values.
///
/// A matrix keeps the size of what passes through it (1/sqrt of its inputs: 0.022 at width 2048, the usual 0.02), and the
/// two matrices of a layer that add to the residual stream are divided by sqrt(2 * layers), as in GPT-2. The embedding is
/// small beside what the layers add: in a tied model the embedding of the last token is also the direction of its own
/// logit, and a large one makes every greedy continuation repeat one token for ever.
fn standard_deviation(spec: &ModelSpec, tensor: &TensorSpec) -> f32 {
    let inputs = *tensor.shape.last().expect("a tensor has at least one dimension") as f32;
    match tensor.role {
        TensorRole::Embedding => EMBEDDING_STANDARD_DEVIATION,
        TensorRole::Linear => 1.0 / inputs.sqrt(),
        TensorRole::ResidualLinear => 1.0 / (inputs * 2.0 * spec.num_layers as f32).sqrt(),
        TensorRole::LmHead => EMBEDDING_STANDARD_DEVIATION,
        TensorRole::Norm => 0.0,
    }
}

const EMBEDDING_STANDARD_DEVIATION: f32 = 0.02;

/// Of the sum of four independent uniform 16-bit integers: sqrt(4 * (2^32 - 1) / 12).
const SUM_STANDARD_DEVIATION: f32 = 37_837.23;

/// The sum of four uniform 16-bit integers less its mean: -131070..=131070, exact in f32.
fn centred_sum(key: u64, index: u64) -> i32 {
    let bits = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    sum as i32 - 131_070
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
