//! How the cost model sees a format of weights that a person names.

use llmlab_models::architecture::{Architecture, FeedForward};
use llmlab_models::memory::{self, Framework, MemoryConfig, MemoryError, MemoryPlan};
use llmlab_quant::WeightFormat;
use llmlab_sim::cost_model::{MXFP4_BITS, Weights};

/// Of a whole model: mixes count with the mean of their bits, which is not the same in every model.
pub fn weights(format: memory::Weights, model: &Architecture) -> Result<Weights, MemoryError> {
    let config = MemoryConfig { framework: Framework::Bare, weights: format, ..MemoryConfig::vllm("", 0) };
    let plan = memory::plan(model, &config, 0)?;
    Ok(cost_weights(format.of(model), &plan, model, 1))
}

fn has_experts(model: &Architecture) -> bool {
    model.blocks.iter().any(|(_, block)| matches!(block.feed_forward, FeedForward::Experts { .. }))
}

/// How the cost model sees a format. Mixes of GGUF and 4-bit floats of the whole model count with their mean.
pub(crate) fn cost_weights(
    weights: memory::Weights,
    plan: &MemoryPlan,
    model: &Architecture,
    devices: u32,
) -> Weights {
    let of = Weights::of;
    match weights {
        memory::Weights::F32 => of(WeightFormat::F32),
        memory::Weights::Fp8 => of(WeightFormat::Fp8),
        memory::Weights::Int8 => of(WeightFormat::Int8),
        memory::Weights::Int4 { .. } => of(WeightFormat::Int4),
        memory::Weights::Mxfp4 if has_experts(model) => Weights::few_bit_experts(MXFP4_BITS),
        memory::Weights::Mxfp4 | memory::Weights::Nvfp4 | memory::Weights::Gguf(_) => {
            let bits = 8.0 * plan.budget.weight_bytes as f64 * f64::from(devices) / model.parameters() as f64;
            Weights::mixed(bits, bits)
        }
        memory::Weights::Published | memory::Weights::F16 | memory::Weights::Bf16 => of(WeightFormat::Bf16),
    }
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
