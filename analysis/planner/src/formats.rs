//! How the cost model sees a format of weights that a person names.

use llmlab_models::architecture::Architecture;
use llmlab_models::memory::{self, Framework, MemoryConfig, MemoryError};
use llmlab_sim::cost_model::Weights;

use crate::plan::resolve::cost_weights;

/// Of a whole model: mixes count with the mean of their bits, which is not the same in every model.
pub fn weights(format: memory::Weights, model: &Architecture) -> Result<Weights, MemoryError> {
    let config = MemoryConfig { framework: Framework::Bare, weights: format, ..MemoryConfig::vllm("", 0) };
    let plan = memory::plan(model, &config, 0)?;
    Ok(cost_weights(format.of(model), &plan, model, 1))
}

#[cfg(test)]
mod tests {
    use llmlab_models::catalogue::architecture;

    use super::*;

    #[test]
    fn every_format_of_a_plan_has_a_cost() {
        let model = architecture("llama-3.1-8b").unwrap();
        let bytes = |name: &str| weights(name.parse().unwrap(), model).unwrap().bytes;
        for name in memory::Weights::NAMES.into_iter().chain(["q3_k_m", "q2_k", "iq4_nl"]) {
            assert!((0.3..=4.0).contains(&bytes(name)), "{name}: {}", bytes(name));
        }
        assert!(bytes("q3_k_m") < bytes("q4_k_m"));
        assert_eq!(bytes("published"), bytes("bf16"));
    }
}
