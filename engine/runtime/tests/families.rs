//! Every family computes what transformers computes, and every number format what its own numbers stand for.

mod common;

use common::fixture::{CASES, Fixture, Quantized, logit_error};
use llmlab_kernels::attention::KvFormat;
use llmlab_models::ModelSpec;
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::CpuExecutor;

const F32: WeightRecipe = WeightRecipe::Uniform(WeightFormat::F32);

/// The checkpoint holds what the spec says it holds.
#[test]
fn tensors_are_those_transformers_saves() {
    for case in CASES {
        let fixture = Fixture::read(case);
        let mut tensors: Vec<(String, Vec<u64>)> =
            fixture.spec.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        tensors.sort();
        assert_eq!(tensors, fixture.tensors, "{case}");
    }
}

/// In f32 only the order of sums differs: logits agree to the last bits, so greedy text is the same and so is the
/// likelihood of a given text.
#[test]
fn f32_logits_greedy_text_and_likelihood_are_those_of_transformers() {
    for case in CASES {
        let fixture = Fixture::read(case);
        let mut executor = fixture.executor(F32, KvFormat::F32);
        let error = logit_error(&fixture.prompt_logits(&mut executor), &fixture.logits);
        println!("{case}: logit error {error:.1e}");
        assert!(error < 2e-5, "{case}: {error:.1e}");
        assert_eq!(fixture.continue_greedily(&mut executor), fixture.greedy, "{case}");
        let nll = fixture.text_nll(&mut executor);
        assert!((nll - fixture.nll).abs() < 1e-5, "{case}: {nll} against {}", fixture.nll);
    }
}

/// How far f32 logits move when keys and values are rounded to a format.
fn kv_tolerance(kv: KvFormat) -> f32 {
    match kv {
        KvFormat::F32 => 2e-5,
        KvFormat::F16 => 2e-3,
        KvFormat::Bf16 => 2e-2,
        KvFormat::Int8 => 4e-2,
        KvFormat::Fp8 => 1.5e-1,
    }
}

#[test]
fn narrow_caches_cost_their_rounding_in_every_family() {
    for case in CASES {
        let fixture = Fixture::read(case);
        for kv in KvFormat::ALL {
            let error = logit_error(&fixture.prompt_logits(&mut fixture.executor(F32, kv)), &fixture.logits);
            println!("{case} {kv}: {error:.1e}");
            // A token near the border between two experts may go to the other one.
            let slack = if fixture.spec.moe.is_some() { 3.0 } else { 1.0 };
            assert!(error < slack * kv_tolerance(kv), "{case} {kv}: {error:.1e}");
            assert!(kv == KvFormat::F32 || error > 1e-5, "{case} {kv}: nothing was rounded");
        }
    }
}

/// How far logits may be from f32 arithmetic on the same, already rounded weights: what rounding the activations costs.
fn activation_tolerance(format: WeightFormat) -> f32 {
    match format {
        WeightFormat::F32 => 2e-5,
        // 11 and 8 significant bits.
        WeightFormat::F16 => 3e-3,
        WeightFormat::Bf16 => 3e-2,
        // 4 significant bits: up to 16 times the rounding of bf16.
        WeightFormat::Fp8 => 3e-1,
        // 127 steps per block or token.
        WeightFormat::Q8_0 | WeightFormat::Int8 => 8e-2,
        // 64 to 127 steps per block: their step is a power of two.
        _ => 1.2e-1,
    }
}

/// Every format in every family against f32 on the weights it stands for, taken from a checkpoint in that format and
/// quantized on load alike.
#[test]
fn every_format_computes_with_exactly_the_weights_it_stands_for() {
    for case in ["llama", "gemma3", "phi3", "qwen3"] {
        let fixture = Fixture::read(case);
        for recipe in WeightRecipe::ALL {
            let Some(base) = recipe.base() else { continue };
            if !fixture.packs(recipe) {
                continue;
            }
            let exact = logits(&fixture, &quantized(&fixture, recipe, false), F32);
            let as_stored = logits(&fixture, &quantized(&fixture, recipe, true), WeightRecipe::AsStored);
            let error = logit_error(&as_stored, &exact);
            println!("{case} {recipe}: {error:.1e}");
            assert!(error < activation_tolerance(base), "{case} {recipe}: {error:.1e}");
            let on_load = logits(&fixture, &fixture.weights(), recipe);
            assert!(on_load == as_stored, "{case} {recipe}: quantized on load is not the same");
        }
    }
}

fn quantized(
    fixture: &Fixture,
    recipe: WeightRecipe,
    stored: bool,
) -> Quantized<common::fixture::FormulaWeights> {
    Quantized { source: fixture.weights(), spec: fixture.spec.clone(), recipe, stored }
}

fn logits(
    fixture: &Fixture,
    source: &dyn llmlab_models::WeightSource,
    recipe: WeightRecipe,
) -> Vec<Vec<f32>> {
    let config = fixture.config(recipe, KvFormat::F32, 2);
    fixture.prompt_logits(&mut CpuExecutor::from_weights(&fixture.spec, source, &config).unwrap())
}

/// A case, what is taken from it, and how.
type Change = (&'static str, &'static str, fn(&mut ModelSpec));

/// Each thing a family adds changes what is computed: a flag that nothing read would pass unseen otherwise.
#[test]
fn every_choice_of_a_family_matters() {
    let changes: [Change; 11] = [
        ("mistral", "windows", |spec| spec.layers.iter_mut().for_each(|layer| layer.window = None)),
        ("gemma2", "attention soft cap", |spec| spec.attention_softcap = None),
        ("gemma2", "logit soft cap", |spec| spec.logit_softcap = None),
        ("gemma2", "embedding scale", |spec| spec.embedding_scale = 1.0),
        ("gemma2", "attention scale", |spec| spec.attention_scale *= 1.1),
        ("gemma2", "activation", |spec| spec.activation = llmlab_models::Activation::Silu),
        ("gemma3", "rotary tables", |spec| spec.layers.iter_mut().for_each(|layer| layer.rope = 0)),
        ("qwen3_yarn", "yarn", |spec| spec.ropes[0].scaling = llmlab_models::spec::RopeScaling::None),
        ("llama_llama3", "llama3", |spec| spec.ropes[0].scaling = llmlab_models::spec::RopeScaling::None),
        ("phi3_longrope", "longrope", |spec| spec.ropes[0].scaling = llmlab_models::spec::RopeScaling::None),
        ("qwen3_moe", "top-k", |spec| spec.moe.as_mut().unwrap().normalize_top_k = false),
    ];
    for (case, what, change) in changes {
        let mut fixture = Fixture::read(case);
        change(&mut fixture.spec);
        let error =
            logit_error(&fixture.prompt_logits(&mut fixture.executor(F32, KvFormat::F32)), &fixture.logits);
        assert!(error > 1e-3, "{case} without its {what} computes the same: {error:.1e}");
    }
}
