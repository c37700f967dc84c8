//! The logits of a sequence are the same bits however the work is cut, in every family and every format.

mod common;

use common::fixture::{CASES, Fixture};
use common::{plan, prompt, seq};
use llmlab_kernels::attention::KvFormat;
use llmlab_quant::WeightRecipe;
use llmlab_runtime::{CpuExecutor, RuntimeConfig};

const TOKENS: usize = 70;

/// The prompt in one piece, alone, on one thread, is the reference for the prompt in chunks, beside another sequence and
/// padding, with other blocks and threads. Families and formats are paired in turn, so that each of both is met.
#[test]
fn logits_are_the_same_bits_in_every_family_and_format() {
    let recipes: Vec<WeightRecipe> = WeightRecipe::ALL.into_iter().collect();
    for index in 0..recipes.len().max(CASES.len()) {
        let (case, weights) = (CASES[index % CASES.len()], recipes[index % recipes.len()]);
        let kv = KvFormat::ALL[index % KvFormat::ALL.len()];
        let fixture = Fixture::read(case);
        if !fixture.packs(weights) {
            continue;
        }
        let tokens = prompt(TOKENS, 9);
        let executor = |threads, num_blocks, block_size| {
            let config = RuntimeConfig { num_blocks, block_size, ..fixture.config(weights, kv, threads) };
            CpuExecutor::from_weights(&fixture.spec, &fixture.weights(), &config).unwrap()
        };
        let whole = executor(1, 16, 16)
            .logits(&plan(1, vec![seq(1, 0, &tokens, &[1, 2, 3, 4, 5])]))
            .unwrap()
            .remove(0);
        for (chunk, block_size, threads) in [(7, 16, 1), (64, 4, 2), (1, 32, 1), (33, 1, 2)] {
            let blocks = (TOKENS as u32).div_ceil(block_size);
            let mut executor = executor(threads, 2 * blocks + 2, block_size);
            let table: Vec<u32> = (1..=blocks).rev().collect();
            let other: Vec<u32> = (blocks + 1..=2 * blocks).collect();
            let mut last = Vec::new();
            for (step, start) in (0..TOKENS).step_by(chunk).enumerate() {
                let part = &tokens[start..TOKENS.min(start + chunk)];
                let mut company = seq(2, 0, &prompt(3 + step % 5, step as u32), &other);
                company.padding = (step % 3) as u32;
                let seqs = vec![company, seq(1, start as u32, part, &table)];
                last = executor.logits(&plan(step as u64 + 1, seqs)).unwrap().remove(1);
            }
            let same = last.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(
                same,
                "{case} {weights} {kv}: chunks of {chunk}, blocks of {block_size}, {threads} threads"
            );
        }
    }
}
