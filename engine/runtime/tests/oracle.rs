//! Both executors compute the same function, within what the number formats allow.

mod common;

use common::{FORMATS, config, cpu, plan, prompt, seq, tiny_spec, tiny_weights};
use llmlab_core::executor::Executor;
use llmlab_core::request::RequestId;
use llmlab_core::step::StepPlan;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::{ModelError, ModelSpec};
use llmlab_quant::WeightFormat;
use llmlab_runtime::{CandleExecutor, CpuExecutor, RuntimeError};

/// How far logits are from the oracle's, relative to the oracle's spread in the same row.
#[derive(Debug, Clone, Copy, Default)]
struct Error {
    /// Largest difference over the largest logit.
    max: f32,
    /// Root mean square of the differences over that of the logits.
    rms: f32,
}

impl Error {
    fn of(cpu: &[Vec<f32>], candle: &[Vec<f32>]) -> Error {
        assert_eq!(cpu.len(), candle.len());
        let mut worst = Error::default();
        for (a, b) in cpu.iter().zip(candle) {
            assert_eq!(a.len(), b.len());
            let differences: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            let largest = |x: &[f32]| x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let rms = |x: &[f32]| (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
            assert!(largest(b) > 0.0, "an oracle that says nothing");
            worst =
                worst.max(Error { max: largest(&differences) / largest(b), rms: rms(&differences) / rms(b) });
        }
        worst
    }

    fn max(self, other: Error) -> Error {
        Error { max: self.max.max(other.max), rms: self.rms.max(other.rms) }
    }

    fn within(self, limit: Error) -> bool {
        self.max < limit.max && self.rms < limit.rms
    }
}

/// The same plans through both: prefill of two prompts, a chunk beside a decode, two decodes.
fn compare(spec: &ModelSpec, weights: WeightFormat, kv: KvFormat) -> Error {
    let config = config(weights, kv, 2, 16, 16);
    let source = tiny_weights(spec);
    let mut cpu = CpuExecutor::from_weights(spec, &source, &config).unwrap();
    let mut candle = CandleExecutor::from_weights(spec, &source, &config).unwrap();
    let (a, b) = (prompt(70, 1), prompt(41, 2));
    let (a_blocks, b_blocks) = ([9, 2, 7, 1, 5], [3, 11, 4]);
    let mut padded = seq(3, 0, &[], &[]);
    (padded.sample, padded.padding) = (false, 3);
    let plans = [
        plan(1, vec![seq(1, 0, &a[..30], &a_blocks[..2]), seq(2, 0, &b[..40], &b_blocks)]),
        plan(2, vec![seq(2, 40, &b[40..], &b_blocks), seq(1, 30, &a[30..69], &a_blocks), padded]),
        plan(3, vec![seq(1, 69, &a[69..], &a_blocks), seq(2, 41, &[17], &b_blocks)]),
    ];
    plans
        .iter()
        .map(|plan| Error::of(&cpu.logits(plan).unwrap(), &candle.logits(plan).unwrap()))
        .fold(Error::default(), Error::max)
}

/// How far a format may be from f32 activations with the same weights.
fn tolerance(weights: WeightFormat) -> Error {
    match weights {
        // Rounding of f32 sums in another order.
        WeightFormat::F32 => Error { max: 1e-5, rms: 1e-5 },
        // Activations rounded to 8 significant bits before each product.
        WeightFormat::Bf16 => Error { max: 3e-2, rms: 2e-2 },
        // Activations rounded to 127 steps per block of 32.
        WeightFormat::Q8_0 => Error { max: 4e-2, rms: 4e-2 },
        // To steps that are powers of two: 64 to 127 of them, so between once and twice the error of the above on each value.
        _ => Error { max: 8e-2, rms: 7e-2 },
    }
}

#[test]
fn cpu_agrees_with_candle_in_every_weight_format() {
    for weights in FORMATS {
        let error = compare(&tiny_spec(), weights, KvFormat::F32);
        println!("{weights}: max {:.1e}, rms {:.1e}", error.max, error.rms);
        assert!(error.within(tolerance(weights)), "{weights}: {error:?}");
    }
}

#[test]
fn a_bf16_cache_costs_its_rounding_and_no_more() {
    let error = compare(&tiny_spec(), WeightFormat::F32, KvFormat::Bf16);
    assert!((1e-5..1e-2).contains(&error.max), "{error:?}");
}

#[test]
fn other_shapes_agree_too() {
    let untied = ModelSpec { tie_word_embeddings: false, num_kv_heads: 1, ..tiny_spec() };
    let odd_heads = ModelSpec { head_dim: 40, num_heads: 6, num_kv_heads: 3, ..tiny_spec() }
        .with_plain_attention(10_000.0);
    for spec in [untied, odd_heads] {
        let error = compare(&spec, WeightFormat::F32, KvFormat::F32);
        assert!(error.within(tolerance(WeightFormat::F32)), "{error:?}");
    }
}

#[test]
fn candle_drops_what_the_scheduler_gave_to_others() {
    let spec = tiny_spec();
    let config = config(WeightFormat::F32, KvFormat::F32, 1, 16, 16);
    let mut candle = CandleExecutor::from_weights(&spec, &tiny_weights(&spec), &config).unwrap();
    let tokens = prompt(20, 3);
    let run = |candle: &mut CandleExecutor, plan: StepPlan| {
        candle.execute(&plan).map(|outcome| outcome.sampled.len())
    };
    assert_eq!(
        run(&mut candle, plan(1, vec![seq(1, 0, &tokens, &[1, 2]), seq(2, 0, &tokens, &[3, 4])])).unwrap(),
        2
    );
    assert_eq!(candle.held_requests(), 2);
    // Block 2 belongs to request 3 now, so request 1 has ended.
    run(&mut candle, plan(2, vec![seq(3, 0, &tokens[..5], &[2])])).unwrap();
    assert_eq!(candle.held_requests(), 2);
    let error = run(&mut candle, plan(3, vec![seq(1, 20, &[1], &[1, 5])])).unwrap_err().to_string();
    assert!(error.contains("request 1") && error.contains("prefix caching"), "{error}");
    let mut preempting = plan(4, vec![seq(3, 5, &[1], &[2])]);
    preempting.preempted.push(RequestId(2));
    run(&mut candle, preempting).unwrap();
    assert_eq!(candle.held_requests(), 1);
}

/// A restart from 0 after a preemption gives the logits of the first time.
#[test]
fn recomputing_gives_the_same_logits() {
    let spec = tiny_spec();
    let config = config(WeightFormat::F32, KvFormat::F32, 1, 16, 16);
    let mut candle = CandleExecutor::from_weights(&spec, &tiny_weights(&spec), &config).unwrap();
    let mut ours = cpu(&config);
    let tokens = prompt(20, 3);
    let first = plan(1, vec![seq(1, 0, &tokens, &[1, 2])]);
    let again = plan(2, vec![seq(1, 0, &tokens, &[6, 7])]);
    assert_eq!(ours.logits(&first).unwrap(), ours.logits(&again).unwrap());
    assert_eq!(candle.logits(&first).unwrap(), candle.logits(&again).unwrap());
}

#[test]
fn weights_that_are_not_finite_or_of_the_wrong_size_are_refused_by_name() {
    struct Broken(fn(&str, Vec<f32>) -> Vec<f32>);
    impl llmlab_models::WeightSource for Broken {
        fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
            Ok((self.0)(name, tiny_weights(&tiny_spec()).tensor(name)?))
        }
    }
    let config = config(WeightFormat::Q8_0, KvFormat::F32, 1, 4, 16);
    let build = |broken: Broken| CpuExecutor::from_weights(&tiny_spec(), &broken, &config).err().unwrap();
    let short = build(Broken(|name, mut values| {
        values.truncate(values.len() - usize::from(name.ends_with("1.mlp.up_proj.weight")));
        values
    }));
    assert!(
        matches!(&short, RuntimeError::TensorSize { tensor, .. } if tensor.contains("1.mlp.up_proj")),
        "{short}"
    );
    let nan = build(Broken(|name, mut values| {
        values[5] = if name.ends_with("0.self_attn.k_proj.weight") { f32::NAN } else { values[5] };
        values
    }));
    assert!(
        matches!(&nan, RuntimeError::Pack { tensor, .. } if tensor.contains("0.self_attn.k_proj")),
        "{nan}"
    );
}

/// A NaN that appears while computing is an error that names the request, not a token and not a panic.
#[test]
fn a_nan_in_the_logits_names_the_request() {
    struct HugeNorm;
    impl llmlab_models::WeightSource for HugeNorm {
        fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
            let values = tiny_weights(&tiny_spec()).tensor(name)?;
            let huge = name.ends_with("post_attention_layernorm.weight");
            Ok(if huge { values.iter().map(|_| 3e38).collect() } else { values })
        }
    }
    let config = config(WeightFormat::F32, KvFormat::F32, 1, 4, 16);
    let mut executor = CpuExecutor::from_weights(&tiny_spec(), &HugeNorm, &config).unwrap();
    let error = executor.execute(&plan(1, vec![seq(77, 0, &[1, 2, 3], &[1])])).unwrap_err().to_string();
    assert!(error.contains("request 77") && error.contains("not finite"), "{error}");
}

#[test]
fn sizes_that_cannot_work_are_refused_by_key() {
    let spec = tiny_spec();
    let good = config(WeightFormat::F32, KvFormat::F32, 1, 4, 16);
    let key = |config: llmlab_runtime::RuntimeConfig| match config.validate(&spec) {
        Err(RuntimeError::Config { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert!(good.validate(&spec).is_ok());
    assert_eq!(key(llmlab_runtime::RuntimeConfig { threads: 0, ..good }), "threads");
    assert_eq!(key(llmlab_runtime::RuntimeConfig { block_size: 0, ..good }), "block_size");
    assert_eq!(key(llmlab_runtime::RuntimeConfig { num_blocks: 1 << 30, ..good }), "num_blocks");
    assert_eq!(key(llmlab_runtime::RuntimeConfig { max_model_len: 129, ..good }), "max_model_len");
    let layers = spec.layers[..1].to_vec();
    assert!(good.validate(&ModelSpec { layers, ..spec.clone() }).is_err());
    assert!(good.validate(&ModelSpec { ropes: Vec::new(), ..spec.clone() }).is_err());
    assert!(good.validate(&ModelSpec { num_kv_heads: 3, ..spec.clone() }).is_err());
}
