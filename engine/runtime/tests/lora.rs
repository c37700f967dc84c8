//! Adapters of several requests in one batch against the same weights merged, and against transformers' file format.

mod common;

use std::collections::BTreeMap;

use common::{config, plan, prompt, seq, tiny_spec, tiny_weights};
use llmlab_core::executor::Executor;
use llmlab_core::request::LoraId;
use llmlab_core::step::SeqStep;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::lora::{LoraAdapter, LoraDelta};
use llmlab_models::spec::FeedForward;
use llmlab_models::synthetic::SyntheticWeights;
use llmlab_models::{ModelError, ModelSpec, WeightSource};
use llmlab_quant::WeightFormat;
use llmlab_runtime::CpuExecutor;

/// Weights with an adapter added to them: what every request with it should compute.
struct Merged {
    base: SyntheticWeights,
    adapter: LoraAdapter,
    cols: BTreeMap<String, usize>,
}

impl WeightSource for Merged {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.base.tensor(name)?;
        if let Some(delta) = self.adapter.deltas.get(name) {
            delta.merge_into(&mut values, self.cols[name]);
        }
        Ok(values)
    }
}

/// Rows and columns of every matrix of the layers.
fn shapes(spec: &ModelSpec) -> BTreeMap<String, (usize, usize)> {
    let mut shapes = BTreeMap::new();
    for layer in 0..spec.num_layers {
        let names = spec.names(layer);
        let FeedForward::Dense(mlp) = &names.feed_forward else { panic!("the tiny model is dense") };
        let all = names.qkv.iter().chain([&names.o, &mlp.down]).chain(&mlp.gate_up);
        shapes.extend(all.map(|l| (l.weight.clone(), (l.rows as usize, l.cols as usize))));
    }
    shapes
}

/// Changes the matrices whose names contain one of `targets`, strongly enough to change tokens.
fn adapter(spec: &ModelSpec, rank: u32, seed: u32, targets: &[&str]) -> LoraAdapter {
    let mut state = seed;
    let mut value = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let targeted = shapes(spec).into_iter().filter(|(name, _)| targets.iter().any(|t| name.contains(t)));
    let delta = |(rows, cols)| LoraDelta {
        a: (0..rank as usize * cols).map(|_| value() * 0.3).collect(),
        b: (0..rows * rank as usize).map(|_| value() * 0.3).collect(),
        scale: 0.5,
    };
    let mut delta = delta;
    LoraAdapter { rank, deltas: targeted.map(|(name, shape)| (name, delta(shape))).collect() }
}

fn executor(source: &dyn WeightSource) -> CpuExecutor {
    let config = config(WeightFormat::F32, KvFormat::F32, 2, 32, 16);
    CpuExecutor::from_weights(&tiny_spec(), source, &config).unwrap()
}

fn adapted(id: u64, context: u32, tokens: &[u32], blocks: &[u32], lora: Option<u32>) -> SeqStep {
    SeqStep { lora: lora.map(LoraId), ..seq(id, context, tokens, blocks) }
}

#[test]
fn a_batch_of_adapters_computes_what_merged_weights_compute() {
    let spec = tiny_spec();
    let adapters = [
        adapter(&spec, 8, 1, &["q_proj", "v_proj"]),
        adapter(&spec, 3, 2, &["proj"]),
        adapter(&spec, 16, 3, &["o_proj", "down_proj", "up_proj"]),
    ];
    let mut shared = executor(&tiny_weights(&spec));
    shared.load_adapters(&adapters).unwrap();
    // Prompts and then decodes, adapters mixed, one twice, one request without.
    let loras = [Some(1), None, Some(0), Some(2), Some(1)];
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| prompt(5 + 4 * i, i as u32)).collect();
    let steps = |executor: &mut CpuExecutor, wanted: &dyn Fn(usize) -> Option<Option<u32>>| {
        let seqs = |context: bool| {
            let part = |i: usize| {
                let tokens = if context { &[7][..] } else { &prompts[i][..] };
                let start = if context { prompts[i].len() as u32 } else { 0 };
                let blocks = [3 * i as u32 + 1, 3 * i as u32 + 2, 3 * i as u32 + 3];
                wanted(i).map(|lora| adapted(i as u64, start, tokens, &blocks, lora))
            };
            (0..5).filter_map(part).collect::<Vec<_>>()
        };
        let first = executor.logits(&plan(1, seqs(false))).unwrap();
        let second = executor.logits(&plan(2, seqs(true))).unwrap();
        (first, second)
    };
    let together = steps(&mut shared, &|i| Some(loras[i]));
    let mut plain = executor(&tiny_weights(&spec));
    let mut differs = false;
    for (i, lora) in loras.iter().enumerate() {
        let cols = shapes(&spec).into_iter().map(|(name, (_, cols))| (name, cols)).collect();
        let mut alone = match lora {
            None => executor(&tiny_weights(&spec)),
            Some(lora) => {
                let adapter = adapters[*lora as usize].clone();
                executor(&Merged { base: tiny_weights(&spec), adapter, cols })
            }
        };
        let merged = steps(&mut alone, &|j| (i == j).then_some(None));
        let base = steps(&mut plain, &|j| (i == j).then_some(None));
        for (ours, merged, base) in
            [(&together.0[i], &merged.0[0], &base.0[0]), (&together.1[i], &merged.1[0], &base.1[0])]
        {
            let size = merged.iter().map(|v| v.abs()).fold(0.0, f32::max);
            let error = ours.iter().zip(merged).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 2e-5 * size, "request {i}: {error} of {size}");
            let change = ours.iter().zip(base).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(
                lora.is_none() == (change == 0.0),
                "request {i}: the base model's logits moved by {change}"
            );
            differs |= change > 0.05 * size;
        }
    }
    assert!(differs, "adapters too weak to show");
}

#[test]
fn an_adapter_that_is_not_loaded_is_refused() {
    let mut executor = executor(&tiny_weights(&tiny_spec()));
    let error = executor.execute(&plan(1, vec![adapted(4, 0, &[1, 2], &[1], Some(0))])).unwrap_err();
    assert!(error.to_string().contains("request 4: adapter 0 of 0"), "{error}");
}
