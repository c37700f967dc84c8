//! The score of a window is what its tokens cost when they are fed one by one.

mod common;

use common::fixture::Fixture;
use llmlab_core::executor::ExecutorError;
use llmlab_core::request::TokenId;
use llmlab_kernels::attention::KvFormat;
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::CpuExecutor;
use llmlab_runtime::perplexity::{Divergence, PerplexityError, Scorer, Windows};

const F32: WeightRecipe = WeightRecipe::Uniform(WeightFormat::F32);
const BLOCK_SIZE: u32 = 16;
const CONTEXT: usize = 80;
const BEGIN: TokenId = 1;

fn text(fixture: &Fixture) -> Vec<TokenId> {
    fixture.prompt.iter().chain(&fixture.text).copied().collect()
}

/// Tokens of the second half of a window and what each costs, computed a token a step.
fn token_by_token(
    fixture: &Fixture,
    executor: &mut CpuExecutor,
    window: &[TokenId],
) -> Result<Vec<f64>, ExecutorError> {
    let mut costs = Vec::new();
    for position in 0..window.len() - 1 {
        let logits = fixture.step_logits(executor, position, window[position])?;
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        costs.push(total.ln() - f64::from(logits[window[position + 1] as usize]));
    }
    Ok(costs.split_off(window.len() / 2))
}

/// Families with windows, soft caps and experts: a step with many rows of logits computes what steps with one do.
#[test]
fn a_window_costs_what_its_tokens_cost() {
    for (case, recipe) in [
        ("llama", F32),
        ("llama", WeightRecipe::Q4KM),
        ("gemma2", F32),
        ("gemma3", F32),
        ("mistral", WeightRecipe::Uniform(WeightFormat::Bf16)),
        ("qwen3_moe", WeightRecipe::Uniform(WeightFormat::Q8_0)),
    ] {
        let fixture = Fixture::read(case);
        let tokens = text(&fixture);
        let mut executor = fixture.executor(recipe, KvFormat::F32);
        let windows = Windows::new(&tokens, Some(BEGIN), CONTEXT).unwrap();
        assert_eq!(windows.count(), 2);
        for index in 0..windows.count() {
            let expected = token_by_token(&fixture, &mut executor, &windows.window(index)).unwrap();
            let mut scorer =
                Scorer::new(&mut executor, windows.clone(), BLOCK_SIZE, fixture.spec.vocab_size).unwrap();
            let window = scorer.score(index, None).unwrap();
            assert_eq!(window.rows.len(), CONTEXT / 2 - 1);
            for (row, expected) in window.rows.iter().zip(&expected) {
                assert!((row.nll - expected).abs() < 1e-5, "{case} {recipe}: {} for {expected}", row.nll);
            }
        }
    }
}

/// Against itself a model diverges by no more than the 16 bits of the kept predictions; against another it diverges by more.
#[test]
fn divergence_is_nothing_from_itself_and_something_from_another() {
    let fixture = Fixture::read("llama");
    let tokens = text(&fixture);
    let windows = Windows::new(&tokens, None, CONTEXT).unwrap();
    let score = |recipe, base: Option<&[_]>| {
        let mut executor = fixture.executor(recipe, KvFormat::F32);
        let mut scorer =
            Scorer::new(&mut executor, windows.clone(), BLOCK_SIZE, fixture.spec.vocab_size).unwrap();
        scorer.keep_log_probabilities();
        scorer.score(0, base).unwrap()
    };
    let base: Vec<_> = score(F32, None).rows.into_iter().map(|row| row.log_probabilities.unwrap()).collect();
    let divergence = |recipe| {
        let mut all = Divergence::default();
        for row in score(recipe, Some(&base)).rows {
            all.add(&row.divergence.unwrap(), row.nll);
        }
        all
    };
    let same = divergence(F32);
    assert!(same.kl().mean().abs() < 1e-7 && same.same_top().mean() == 1.0, "{same:?}");
    let (q8_0, q2_k) = (divergence(WeightRecipe::Uniform(WeightFormat::Q8_0)), divergence(WeightRecipe::Q2K));
    assert!(q8_0.kl().mean() > 1e-6 && q2_k.kl().mean() > 20.0 * q8_0.kl().mean(), "{q8_0:?} {q2_k:?}");
}

#[test]
fn a_token_the_model_does_not_have_is_named() {
    let fixture = Fixture::read("llama");
    let mut tokens = text(&fixture);
    tokens[70] = fixture.spec.vocab_size;
    let mut executor = fixture.executor(F32, KvFormat::F32);
    let windows = Windows::new(&tokens, None, CONTEXT).unwrap();
    let error = Scorer::new(&mut executor, windows, BLOCK_SIZE, fixture.spec.vocab_size).err().unwrap();
    assert!(
        matches!(error, PerplexityError::Token { token, .. } if token == fixture.spec.vocab_size),
        "{error}"
    );
}
