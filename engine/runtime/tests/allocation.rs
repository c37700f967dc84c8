//! A warm step allocates the list of tokens it returns, and nothing else. Alone in its binary: the counter replaces the
//! allocator.

mod common;

use common::fixture::Fixture;
use common::{plan, prompt, seq};
use llmlab_core::executor::Executor;
use llmlab_core::step::StepPlan;
use llmlab_kernels::attention::KvFormat;
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::CpuExecutor;

/// A prefill chunk beside two decodes, as large in every step but never of the same tokens.
fn step(index: u32) -> StepPlan {
    let chunk = seq(3, 0, &prompt(20 - index as usize % 3, index), &[9, 10]);
    let decode = |id, blocks| seq(id, 30 + index % 2, &prompt(1, index), blocks);
    plan(u64::from(index), vec![decode(1, &[1, 2, 3, 4]), decode(2, &[5, 6, 7, 8]), chunk])
}

#[test]
fn a_warm_step_allocates_only_its_outcome() {
    for case in ["llama", "gemma3", "qwen2_moe", "phi3"] {
        for weights in [WeightFormat::F32, WeightFormat::Q4_0].map(WeightRecipe::Uniform) {
            let fixture = Fixture::read(case);
            // The counter sees the thread it runs on, so the step must run on that thread alone.
            let config = fixture.config(weights, KvFormat::Int8, 1);
            let mut executor = CpuExecutor::from_weights(&fixture.spec, &fixture.weights(), &config).unwrap();
            // Which experts the tokens choose decides how large the buffers get, so these are tried first.
            (0..9).for_each(|index| drop(executor.execute(&step(index)).unwrap()));
            for index in 0..9 {
                let step = step(index);
                let mut outcome = None;
                let counted =
                    allocation_counter::measure(|| outcome = Some(executor.execute(&step).unwrap()));
                assert_eq!(outcome.unwrap().sampled.len(), 3);
                assert!(counted.count_total <= 1, "{case} {weights}: {counted:?}");
            }
        }
    }
}
