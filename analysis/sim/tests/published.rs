//! Against what others measured: TPOT of Llama-3.1-8B in bf16 on an H100 under TensorRT-LLM 1.0 in a closed loop
//! (aiconfigurator-core 0.12.0, systems/silicon_sample.csv), with the scheduler itself in place of the planner's short form. The
//! figures were fitted to these rows among others (docs/validation.md).

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{Kept, fixed, patient, scheduler, vllm};
use llmlab_core::config::{EngineConfig, PolicyConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_loadgen::{Arrivals, Silent};
use llmlab_models::{WeightFormat, catalogue};
use llmlab_sim::cost_model::Calibration;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::{Device, Options, Roofline, RooflineExecutor, simulate};

/// (prompt tokens, output tokens, users, ms a token).
const MEASURED: [(u32, u32, u32, f64); 16] = [
    (1024, 128, 8, 7.94),
    (1024, 128, 32, 13.19),
    (1024, 128, 128, 31.66),
    (1024, 512, 8, 7.42),
    (1024, 512, 32, 9.88),
    (1024, 512, 128, 19.26),
    (2048, 128, 8, 9.32),
    (2048, 128, 32, 19.84),
    (2048, 512, 8, 8.17),
    (2048, 512, 32, 12.56),
    (2048, 512, 128, 31.14),
    (4096, 128, 8, 12.40),
    (4096, 128, 32, 34.23),
    (4096, 512, 8, 9.65),
    (4096, 512, 32, 18.15),
    (4096, 512, 64, 30.09),
];

fn simulated_ms(input: u32, output: u32, users: u32) -> f64 {
    let spec = llmlab_models::load_spec("spec:llama-3.1-8b").unwrap();
    let layers = Layers::new(&spec, spec.kv_bytes_per_token(2.0), |tensor| {
        Ok::<_, Infallible>(if tensor.role.is_vector() { WeightFormat::F32 } else { WeightFormat::Bf16 })
    });
    let Ok(layers) = layers;
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let efficiency = Calibration::shipped().efficiency(&device, "tensorrt-llm");
    let cost = Roofline::with_efficiency(layers, device, efficiency);
    let policy = PolicyConfig::Vllm(VllmConfig {
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        enable_prefix_caching: false,
        ..VllmConfig::default()
    });
    let config = EngineConfig { policy, max_model_len: 8192, ..vllm(256, 26_000) };
    let load =
        fixed(u64::from(users) * 8, Arrivals::Closed { users, think_time: Duration::ZERO }, input, output);
    let executor = RooflineExecutor::new(Box::new(cost), 1, spec.vocab_size);
    let mut engine = Engine::new(scheduler(&config), executor);
    let mut sink = Kept::default();
    simulate(&load, &mut engine, Options::new(patient()), &mut sink, &Silent, &|| false).unwrap();
    // The first wave starts all at once, the last runs empty.
    let steady =
        sink.0.iter().filter(|record| (u64::from(2 * users)..u64::from(7 * users)).contains(&record.index));
    let per_token = steady.map(|record| {
        let span = record.last_token_ns().unwrap() - record.first_token_ns().unwrap();
        span as f64 / 1e6 / f64::from(output - 1)
    });
    let per_token: Vec<f64> = per_token.collect();
    per_token.iter().sum::<f64>() / per_token.len() as f64
}

#[test]
fn time_per_token_on_an_h100() {
    let mut errors = Vec::new();
    for (input, output, users, measured) in MEASURED {
        let told = simulated_ms(input, output, users);
        let error = told / measured - 1.0;
        println!(
            "{input:>5} in {output:>4} out {users:>4} users: {told:>6.2} ms, measured {measured:>6.2} ms, {:>+6.1} %",
            error * 100.0
        );
        errors.push(error.abs());
    }
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!("median {:.1} %, worst {:.1} %", median * 100.0, worst * 100.0);
    assert!(median < 0.08 && worst < 0.20, "median {median}, worst {worst}");
}
