//! What a synthetic model writes: no sense, but not one token for ever either, and stable under rounding.

mod plain;

use std::collections::HashSet;

use llmlab_models::{Preset, WeightFormat, load};
use plain::Plain;

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&left, &right| logits[left].total_cmp(&logits[right])).unwrap() as u32
}

fn spread(logits: &[f32]) -> f32 {
    (logits.iter().map(|logit| logit * logit).sum::<f32>() / logits.len() as f32).sqrt()
}

#[test]
fn a_greedy_continuation_keeps_moving() {
    for seed in 0..3 {
        let model = load("synthetic:llama-15m", seed).unwrap();
        let mut plain = Plain::new(&model);
        let mut logits = Vec::new();
        for token in model.tokenizer.encode("The quick brown fox") {
            logits = plain.step(token);
        }
        let mut written = Vec::new();
        for _ in 0..100 {
            // A spread near 2 is what the output rows were scaled for.
            assert!((1.5..2.5).contains(&spread(&logits)), "seed {seed}: logits spread {}", spread(&logits));
            written.push(argmax(&logits));
            logits = plain.step(*written.last().unwrap());
        }
        let distinct = written.iter().collect::<HashSet<_>>().len();
        let repeats = written.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(distinct > 60, "seed {seed}: {distinct} different tokens in 100: {written:?}");
        assert!(repeats < 15, "seed {seed}: {repeats} immediate repetitions in 100: {written:?}");
    }
}

/// Tests of the engine compare formats; a model that turns rounding into other tokens would make them say nothing.
#[test]
fn rounding_the_weights_to_bf16_moves_the_logits_little() {
    let model = load("synthetic:llama-15m", 0).unwrap();
    let mut exact = Plain::new(&model);
    let mut rounded = Plain::new(&model);
    for value in rounded.weights.values_mut().flatten() {
        *value = half::bf16::from_f32(*value).to_f32();
    }
    let tokens = model.tokenizer.encode("The quick brown fox jumps over the lazy dog.");
    let mut same_choice = 0;
    for &token in &tokens {
        let (exact, rounded) = (exact.step(token), rounded.step(token));
        let difference: Vec<f32> =
            exact.iter().zip(&rounded).map(|(exact, rounded)| exact - rounded).collect();
        let error = spread(&difference) / spread(&exact);
        assert!(error < 0.05, "logits moved by {:.1} %", error * 100.0);
        same_choice += usize::from(argmax(&exact) == argmax(&rounded));
    }
    assert!(same_choice * 10 >= tokens.len() * 9, "{same_choice} of {} choices are the same", tokens.len());
}

#[test]
fn presets_have_the_announced_sizes_and_aligned_shapes() {
    let sizes =
        [Preset::Llama15m, Preset::Llama110m, Preset::Llama1_1b].map(|preset| preset.spec().parameters());
    assert_eq!(sizes, [14_424_576, 109_529_856, 1_100_048_384]);
    for preset in Preset::ALL {
        let spec = preset.spec();
        assert_eq!(spec.head_dim, 64);
        assert_eq!(spec.layers.len(), spec.num_layers as usize);
        for tensor in spec.tensors().iter().filter(|tensor| !tensor.role.is_vector()) {
            assert_eq!(tensor.shape[1] % 256, 0, "{}: {} {:?}", spec.name, tensor.name, tensor.shape);
        }
        assert_eq!(preset.name().parse::<Preset>(), Ok(preset));
        assert!(spec.weight_bytes(WeightFormat::Q4_0) < spec.weight_bytes(WeightFormat::Bf16));
    }
}
