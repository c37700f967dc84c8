//! Prints the table family x format: how far our logits are from transformers' f32, how far from f32 arithmetic on the
//! same rounded weights, how much of the greedy text is the same, and what rounding does to the perplexity of a text.
//!
//!     cargo run --release -p llmlab-runtime --example correctness [-- CASE ...]
//!
//! The models are the small random ones of `tests/fixtures`: their weights carry no redundancy, so rounding costs them
//! more than it costs a trained model. What the table shows is that nothing costs more than its rounding.

#[path = "../tests/common/fixture.rs"]
mod fixture;

use fixture::{CASES, Fixture, Quantized, logit_error};
use llmlab_kernels::attention::KvFormat;
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::CpuExecutor;

const F32: WeightRecipe = WeightRecipe::Uniform(WeightFormat::F32);

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "| family | weights | KV | logits, against transformers f32 | against f32 on the same weights | greedy tokens of 64 | perplexity |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in CASES.into_iter().filter(|case| chosen.is_empty() || chosen.iter().any(|name| name == case)) {
        let fixture = Fixture::read(case);
        for kv in KvFormat::ALL {
            row(case, &fixture, F32, kv);
        }
        for recipe in WeightRecipe::ALL.into_iter().filter(|recipe| recipe.base().is_some() && *recipe != F32)
        {
            row(case, &fixture, recipe, KvFormat::F32);
        }
        for kv in [KvFormat::Bf16, KvFormat::Int8] {
            row(case, &fixture, WeightRecipe::Q4KM, kv);
        }
    }
}

fn row(case: &str, fixture: &Fixture, weights: WeightRecipe, kv: KvFormat) {
    let mut executor = fixture.executor(weights, kv);
    let logits = fixture.prompt_logits(&mut executor);
    let rounded =
        Quantized { source: fixture.weights(), spec: fixture.spec.clone(), recipe: weights, stored: false };
    let config = fixture.config(F32, KvFormat::F32, 2);
    let mut exact =
        CpuExecutor::from_weights(&fixture.spec, &rounded, &config).expect("the model builds in f32");
    let greedy = fixture.continue_greedily(&mut executor);
    let same = greedy.iter().zip(&fixture.greedy).take_while(|(a, b)| a == b).count();
    let perplexity = fixture.text_nll(&mut executor).exp();
    let change = 100.0 * (perplexity / fixture.nll.exp() - 1.0);
    println!(
        "| {case} | {weights} | {kv} | {:.1e} | {:.1e} | {same} | {perplexity:.2} ({change:+.2} %) |",
        logit_error(&logits, &fixture.logits),
        logit_error(&logits, &fixture.prompt_logits(&mut exact)),
    );
}
