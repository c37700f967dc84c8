//! The roofline by hand, and against figures that others measured.

mod common;

use std::convert::Infallible;

use llmlab_models::{ModelSpec, WeightFormat, catalogue};
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::cost_model::{CostModel, Device, Efficiency, Operation, Resource, Sharding, Weights};
use llmlab_sim::{Roofline, SeqShape};

fn on_h100(format: WeightFormat) -> (ModelSpec, Roofline) {
    let spec = llmlab_models::load_spec("spec:llama-3.1-8b").unwrap();
    let layers = Layers::new(&spec, spec.kv_bytes_per_token(2.0), |tensor| {
        Ok::<_, Infallible>(if tensor.role.is_vector() { WeightFormat::F32 } else { format })
    })
    .unwrap();
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let model = Roofline::new(layers, device);
    (spec, model)
}

fn decode(context: u32) -> SeqShape {
    SeqShape { context, new: 1, padding: 0, sample: true, drafts: 0 }
}

fn prefill(context: u32, new: u32) -> SeqShape {
    SeqShape { context, new, padding: 0, sample: true, drafts: 0 }
}

#[test]
fn the_down_projection_of_one_token_by_hand() {
    let (_, model) = on_h100(WeightFormat::Bf16);
    let cost = model.step(&[decode(100)]);
    let down = cost.operations.iter().find(|cost| cost.operation == Operation::Down).unwrap();
    // 4096 x 14336 weights of 2 bytes in 32 layers, one row of 14336 in and 4096 out.
    let one = 4096.0 * 14336.0 * 2.0 + 2.0 * (14336.0 + 4096.0);
    assert_eq!(down.bytes, 32.0 * one);
    assert_eq!(down.flops, 32.0 * 2.0 * 4096.0 * 14336.0);
    // 117.5 MB is above 100 MB, where the share of the 3350 GB/s is largest.
    let efficiency = model.efficiency();
    let expected = 32.0 * (one / (efficiency.bandwidth * 3350e9) + efficiency.launch_s);
    assert!((down.seconds() / expected - 1.0).abs() < 1e-12);
    assert_eq!(down.bound_by(), Resource::Memory);
}

/// An A100 has no FP8 arithmetic: its weights are half as many bytes, and its products those of 16 bits.
#[test]
fn eight_bit_floats_are_expanded_where_no_product_takes_them() {
    let of = |device: &str, format| {
        let (_, h100) = on_h100(format);
        let device = Device::from_catalogue(catalogue::hardware(device).unwrap()).unwrap();
        Roofline::new(h100.layers().clone(), device)
    };
    let gate_up = |device, format, shape| {
        let step = of(device, format).step(&[shape]);
        step.operations.into_iter().find(|cost| cost.operation == Operation::GateUp).unwrap()
    };
    let seconds = |device, format, shape| gate_up(device, format, shape).seconds();
    let (fp8, bf16, int4) = (WeightFormat::Fp8, WeightFormat::Bf16, WeightFormat::Int4);
    let prompt = prefill(0, 8192);
    assert!(seconds("h100", fp8, prompt) < 0.7 * seconds("h100", bf16, prompt));
    // The shares of the peak and the launches of a weight-only product, not those of one of bytes.
    assert_eq!(seconds("a100", fp8, prompt), seconds("a100", int4, prompt));
    assert!(gate_up("h100", fp8, prompt).overhead_s > gate_up("a100", fp8, prompt).overhead_s);
    assert!(seconds("a100", fp8, decode(100)) < 0.7 * seconds("a100", bf16, decode(100)));
}

/// Three of four layers of Llama 4 see their chunk of 8192 tokens, which begins anew.
#[test]
fn a_chunk_is_read_as_far_as_it_has_come() {
    let model = catalogue::architecture("llama-4-scout").unwrap();
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let layers = Layers::of(model, Weights::of(WeightFormat::Bf16), 2.0, Sharding::tensor(8));
    let cost = Roofline::new(layers, device);
    let read = |context: u32| -> f64 {
        let step = cost.step(&[decode(context)]);
        let attention = step.operations.iter().filter(|cost| cost.operation == Operation::AttentionDecode);
        attention.map(|cost| cost.bytes).sum()
    };
    let shape = model.kv_shape();
    assert_eq!((shape.full_layers, shape.window_layers), (12, 36));
    // A KV head of 128 values on each of eight devices: 512 bytes a token and layer.
    let (chunks, all) = (36.0 * 512.0, 12.0 * 512.0);
    assert_eq!(read(8191) - read(8192), chunks * 8191.0 - all);
    assert_eq!(read(16_383) - read(8191), all * 8192.0);
    // The short form has the mean.
    let mean: f64 = (81_920..90_112).step_by(64).map(|context| cost.step(&[decode(context)]).seconds()).sum();
    let short = cost.mixed_s(&[], 1, 81_920 + 4096);
    assert!((short / (mean / 128.0) - 1.0).abs() < 0.01, "{short} {}", mean / 128.0);
}

#[test]
fn attention_is_the_sum_over_sequences_and_not_a_mean() {
    let (_, model) = on_h100(WeightFormat::Bf16);
    let cost = model.step(&[decode(10), decode(3000)]);
    let attention = cost.operations.iter().find(|cost| cost.operation == Operation::AttentionDecode).unwrap();
    // Keys and values of 11 + 3001 positions, 4096 bytes a layer each; queries in and results out of 4096 values.
    assert_eq!(attention.bytes, 32.0 * (3012.0 * 4096.0 + 2.0 * 2.0 * 2.0 * 4096.0));
    assert_eq!(attention.flops, 32.0 * 4.0 * 4096.0 * 3012.0);
    let chunk = model.step(&[prefill(1000, 200)]);
    let attention =
        chunk.operations.iter().find(|cost| cost.operation == Operation::AttentionPrefill).unwrap();
    // Position 1000 sees 1001 keys, position 1199 sees 1200.
    assert_eq!(attention.flops, 32.0 * 4.0 * 4096.0 * 200.0 * (1001.0 + 1200.0) / 2.0);
}

#[test]
fn a_step_is_the_sum_of_its_operations_and_counts_each_weight_once() {
    let (spec, model) = on_h100(WeightFormat::Bf16);
    let cost = model.step(&[decode(0)]);
    let kinds =
        [Operation::Qkv, Operation::AttentionOutput, Operation::GateUp, Operation::Down, Operation::LmHead];
    let products = || cost.operations.iter().filter(|cost| kinds.contains(&cost.operation));
    let flops: f64 = products().map(|cost| cost.flops).sum();
    assert_eq!(flops, spec.linear_flops_per_token());
    let bytes: f64 = products().map(|cost| cost.bytes).sum();
    let norms = 65.0 * 4096.0 * 4.0;
    let weights = spec.weight_bytes(WeightFormat::Bf16) as f64 - norms;
    assert!(bytes > weights && bytes < weights * 1.001, "{bytes} {weights}");
    let by_parts = cost.operations.iter().map(|cost| cost.seconds()).sum::<f64>();
    assert_eq!(model.step_time(&[decode(0)]).as_nanos() as f64, (by_parts * 1e9).round());
    let efficiency = model.efficiency();
    let overhead = efficiency.step_s + efficiency.sequence_s;
    assert!((cost.of(Operation::StepOverhead) - overhead).abs() < 1e-12);
}

#[test]
fn logits_are_computed_for_sampled_rows_only() {
    let (_, model) = on_h100(WeightFormat::Bf16);
    let middle = SeqShape { sample: false, ..prefill(0, 500) };
    assert_eq!(model.step(&[middle]).of(Operation::LmHead), 0.0);
    let last = model.step(&[prefill(0, 500)]);
    let head = last.operations.iter().find(|cost| cost.operation == Operation::LmHead).unwrap();
    assert_eq!(head.flops, 2.0 * 128256.0 * 4096.0);
}

#[test]
fn padding_pays_for_products_and_keeps_nothing() {
    let (_, model) = on_h100(WeightFormat::Bf16);
    let alone = model.step(&[prefill(0, 100)]);
    let padded = model.step(&[SeqShape { padding: 100, ..prefill(0, 100) }]);
    let twice = model.step(&[prefill(0, 200)]);
    let flops = |cost: &llmlab_sim::StepCost, kind| {
        cost.operations.iter().filter(|c| c.operation == kind).map(|c| c.flops).sum::<f64>()
    };
    assert_eq!(flops(&padded, Operation::Down), flops(&twice, Operation::Down));
    assert_eq!(flops(&padded, Operation::AttentionPrefill), flops(&alone, Operation::AttentionPrefill));
}

#[test]
fn fewer_bits_are_faster_where_memory_binds() {
    let time = |format| on_h100(format).1.step_time(&[decode(100)]);
    assert!(time(WeightFormat::Fp8) < time(WeightFormat::Bf16));
    assert!(time(WeightFormat::Int4) < time(WeightFormat::Fp8));
    assert!(time(WeightFormat::Bf16) < time(WeightFormat::F32));
}

#[test]
fn a_cpu_of_the_catalogue_cannot_be_simulated_and_says_what_can() {
    let error = Device::from_catalogue(catalogue::hardware("epyc-genoa").unwrap()).unwrap_err().to_string();
    assert!(error.contains("this-host") && error.contains("calibrate --engine"), "{error}");
}

/// LLaMA-7B on 2 TB/s: 13.5 GB in 16 bits take 7 ms a token, a quarter of that in 4 bits, if nothing is lost.
#[test]
fn the_ideal_roofline_of_llama_7b_on_an_a100() {
    let a100 = Device::from_catalogue(catalogue::hardware("a100-sxm-80gb").unwrap()).unwrap();
    let device = Device { bandwidth_bytes_per_s: 2e12, ..a100 };
    let model = catalogue::architecture("llama-7b").unwrap();
    let ms = |weights: Weights| {
        let layers = Layers::of(model, weights, 2.0, Sharding::SINGLE);
        let ideal = Roofline::with_efficiency(layers, device.clone(), Efficiency::IDEAL);
        1e3 * ideal.mixed_s(&[], 1, 1)
    };
    let half = ms(Weights::of(WeightFormat::F16));
    assert!((half / 6.7 - 1.0).abs() < 0.05, "13.2 GB without the embedding in 6.6 ms, got {half}");
    let four_bits = Weights { bytes: 0.5, head_bytes: 0.5, ..Weights::of(WeightFormat::Int4) };
    let quarter = ms(four_bits);
    assert!((half / quarter - 4.0).abs() < 0.1, "{half} {quarter}");
}

/// Two devices do half of each product and send two sums a layer.
#[test]
fn tensor_parallelism_halves_the_work_and_sends_sums() {
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let model = catalogue::architecture("llama-3.1-8b").unwrap();
    let on = |devices| {
        let layers = Layers::of(model, Weights::of(WeightFormat::Bf16), 2.0, Sharding::tensor(devices));
        Roofline::new(layers, device.clone()).step(&[decode(1000), decode(10)])
    };
    let (one, two) = (on(1), on(2));
    let flops =
        |cost: &llmlab_sim::StepCost| cost.operations.iter().map(|operation| operation.flops).sum::<f64>();
    assert!((flops(&one) / flops(&two) - 2.0).abs() < 1e-3);
    assert_eq!(one.of(Operation::AllReduce), 0.0);
    assert!(two.of(Operation::AllReduce) > 0.0);
    assert!(two.seconds() < one.seconds());
}

/// A shape of the catalogue and the engine's own tensors are the same work.
#[test]
fn an_architecture_costs_what_its_tensors_cost() {
    let (spec, by_tensors) = on_h100(WeightFormat::Bf16);
    let model = catalogue::architecture("llama-3.1-8b").unwrap();
    let layers = Layers::of(model, Weights::of(WeightFormat::Bf16), 2.0, Sharding::SINGLE);
    let by_sizes = Roofline::new(layers, by_tensors.device().clone());
    for step in [vec![decode(500); 8], vec![prefill(0, 700), decode(20)]] {
        let (tensors, sizes) = (by_tensors.step(&step).seconds(), by_sizes.step(&step).seconds());
        assert!((sizes / tensors - 1.0).abs() < 1e-3, "{tensors} {sizes}");
    }
    assert_eq!(by_sizes.layers().kv_bytes_per_token(), spec.kv_bytes_per_token(2.0) as f64);
}

#[test]
fn attention_on_compressed_keys_reads_what_it_keeps() {
    let model = catalogue::architecture("deepseek-v3").unwrap();
    let layers = Layers::of(model, Weights::of(WeightFormat::Fp8), 2.0, Sharding::tensor(8));
    // 61 layers of 512 + 64 values in 16 bits, on every device.
    assert_eq!(layers.kv_bytes_per_token(), 61.0 * 576.0 * 2.0);
    let stored = 8.0 * layers.stored_bytes as f64 / 1e9;
    assert!((stored / 671.0 - 1.0).abs() < 0.05, "{stored} GB in 8 bits");
}

/// The host queues 32 layers in 10 ms where prompts are among them: a short prompt waits for it, a long one does not, and a
/// decode is a captured graph.
#[test]
fn a_step_with_prompts_takes_as_long_as_the_host_needs_for_its_layers() {
    let (_, model) = on_h100(WeightFormat::Bf16);
    let with = |prompt_layer_host_s| {
        let efficiency = Efficiency { prompt_layer_host_s, ..model.efficiency().clone() };
        Roofline::with_efficiency(model.layers().clone(), model.device().clone(), efficiency)
    };
    let (quick, slow) = (with(0.0), with(10e-3 / 32.0));
    let outside = |sequences: f64| model.efficiency().step_s + model.efficiency().sequence_s * sequences;
    let mixed = [vec![prefill(0, 64)], vec![decode(500); 8]].concat();
    let by_host = 10e-3 + outside(9.0);
    assert!(quick.step_time(&mixed).as_secs_f64() < 0.9 * by_host);
    for seconds in [
        slow.step_time(&mixed).as_secs_f64(),
        slow.step(&mixed).seconds(),
        slow.mixed_s(&[prefill(0, 64)], 8, 8 * 501),
    ] {
        assert!((seconds / by_host - 1.0).abs() < 1e-6, "{seconds} for {by_host}");
    }
    for free in [vec![decode(500); 8], vec![prefill(0, 4096)]] {
        assert_eq!(quick.step_time(&free), slow.step_time(&free));
    }
    assert_eq!(quick.decode_time(8, 4000), slow.decode_time(8, 4000));
}

/// A token of gpt-oss-120b reads 4 of 128 experts in 4.25 bits and all of attention and the output projection in 16: 36 layers of
/// 26.5 M weights of attention, 579 M of the projection, and 3.58 G of experts.
#[test]
fn experts_in_few_bits_leave_the_rest_as_it_is() {
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let model = catalogue::architecture("gpt-oss-120b").unwrap();
    let bytes = |weights: Weights| {
        let layers = Layers::of(model, weights, 2.0, Sharding::SINGLE);
        let cost = Roofline::new(layers, device.clone()).step(&[decode(1)]);
        cost.operations.iter().map(|cost| cost.bytes).sum::<f64>()
    };
    let apart = bytes(Weights::few_bit_experts(4.25));
    let expected = 36.0 * 26.5e6 * 2.0 + 579e6 * 2.0 + 3.58e9 * 4.25 / 8.0;
    assert!((apart / expected - 1.0).abs() < 0.03, "{apart} {expected}");
    assert!(apart > 1.6 * bytes(Weights::mixed(4.47, 4.47)));
}
