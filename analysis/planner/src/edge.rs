//! One person's device: which models fit in which formats, how fast they answer, and what an answer takes of the battery.
//!
//! One request at a time under llama.cpp, whose shares of a device's peaks were fitted to its published measurements.

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{DeviceKind, Figure, Hardware, published_models};
use llmlab_models::memory::{self, Framework, KvDtype, MemoryConfig, MemoryPlan};
use llmlab_sim::cost_model::device::DeviceError;
use llmlab_sim::cost_model::{Calibration, Sharding};
use llmlab_sim::{CostModel, Device, Roofline, SeqShape};
use serde::Serialize;

use crate::deployment::Deployment;
use crate::formats::cost_weights;
use crate::plan::row::Provenance;

/// Formats that are shown where none is named: the usual mix, the one that loses nothing to speak of, and the original.
pub const FORMATS: [&str; 3] = ["q4_k_m", "q8_0", "f16"];
/// The same for one model.
pub const FORMATS_OF_ONE: [&str; 8] = ["q2_k", "q3_k_m", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16"];
pub const PROMPT_TOKENS: u32 = 500;
pub const ANSWER_TOKENS: u32 = 200;
/// llama.cpp's `n_ubatch`.
const BATCH_TOKENS: u32 = 512;
/// The software with the most measurements on such devices; what is newer is quicker, by how much one device alone says.
const RUNTIME: &str = "llama.cpp-2024";
/// Error of predictions where no device of the kind was measured.
const UNKNOWN_ERROR: f64 = 0.5;

/// What a device does with models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edge {
    pub device: String,
    pub description: String,
    /// For weights, cache and activations together.
    pub usable_bytes: u64,
    pub provenance: Provenance,
    /// Nine in ten predictions are within a factor of 1 plus this, either way.
    pub prefill_error: f64,
    pub decode_error: f64,
    /// The catalogue has an arithmetic peak: without one decoding is bounded by memory alone, and prefill is unknown.
    pub arithmetic_known: bool,
    /// Smaller models first, smaller formats first.
    pub rows: Vec<EdgeRow>,
    pub too_large: Vec<TooLarge>,
}

/// A model in a format that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EdgeRow {
    pub model: String,
    pub parameters: u64,
    pub format: String,
    pub weight_bytes: u64,
    /// Longest context that fits, at most what the model was made for.
    pub context_tokens: u32,
    pub prefill_tokens_per_s: Option<f64>,
    pub decode_tokens_per_s: f64,
    /// [`ANSWER_TOKENS`] tokens after a prompt of [`PROMPT_TOKENS`].
    pub answer_s: Option<f64>,
    /// At the device's power limit.
    pub answer_joules: Option<f64>,
    pub answer_battery_share: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TooLarge {
    pub model: String,
    pub format: String,
    /// Weights, activations, and a cache for one such answer.
    pub needed_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("weights: {0}")]
    Format(String),
}

/// Every model of the catalogue, or `model` alone, in every one of `formats`.
pub fn edge(
    hardware: &Hardware,
    model: Option<&'static Architecture>,
    formats: &[String],
) -> Result<Edge, EdgeError> {
    let mut known = hardware.clone();
    let arithmetic_known = hardware.bf16_tflops.is_some() || hardware.fp32_tflops.is_some();
    if known.bf16_tflops.is_none() {
        // Without half-precision instructions products take as long as in f32. Where nothing is known, no product takes any time.
        let peak = |value| Figure { value, ..hardware.memory_bandwidth_gb_per_s.clone() };
        known.bf16_tflops = Some(hardware.fp32_tflops.clone().unwrap_or_else(|| peak(1e9)));
    }
    let device = Device::from_catalogue(&known)?;
    let usable_bytes = device.memory_bytes as u64;
    let (provenance, prefill_error, decode_error) = errors(&device, hardware.kind);
    let weights: Vec<memory::Weights> =
        formats.iter().map(|name| name.parse().map_err(EdgeError::Format)).collect::<Result<_, _>>()?;
    let mut models: Vec<&'static Architecture> = match model {
        Some(model) => vec![model],
        None => published_models().iter().map(|model| &model.architecture).collect(),
    };
    models.sort_by_key(|model| model.parameters());
    let (mut rows, mut too_large) = (Vec::new(), Vec::new());
    for model in models {
        for format in &weights {
            match fit(model, *format, usable_bytes) {
                Ok(plan) => {
                    let cost = cost(model, *format, &plan, &device);
                    rows.push(row(model, *format, &plan, &cost, hardware, arithmetic_known));
                }
                Err(needed_bytes) => too_large.push(TooLarge {
                    model: model.name.clone(),
                    format: format.of(model).to_string(),
                    needed_bytes,
                }),
            }
        }
    }
    Ok(Edge {
        device: hardware.name.clone(),
        description: hardware.description.clone(),
        usable_bytes,
        provenance,
        prefill_error,
        decode_error,
        arithmetic_known,
        rows,
        too_large,
    })
}

/// Memory of one request, or how much there would have to be.
fn fit(model: &Architecture, weights: memory::Weights, usable_bytes: u64) -> Result<MemoryPlan, u64> {
    let of = |memory_bytes: u64| {
        let config = MemoryConfig {
            framework: Framework::Bare,
            weights,
            kv: KvDtype::Bits16,
            max_model_len: Some(PROMPT_TOKENS + ANSWER_TOKENS),
            max_num_batched_tokens: BATCH_TOKENS,
            max_num_seqs: 1,
            async_scheduling: false,
            ..MemoryConfig::vllm("", memory_bytes)
        };
        memory::plan(model, &config, memory_bytes)
    };
    match of(usable_bytes) {
        Ok(plan) if plan.fits() => Ok(plan),
        // The cache of so short a request is at most a few MiB a layer: what the items exceed is the answer, to a rounding.
        Ok(plan) => Err(plan.budget.taken_bytes()),
        Err(_) => Err(model.parameters().saturating_mul(2)),
    }
}

fn cost(
    model: &'static Architecture,
    weights: memory::Weights,
    plan: &MemoryPlan,
    device: &Device,
) -> Roofline {
    let deployment = Deployment {
        model,
        device: device.clone(),
        weights: cost_weights(weights.of(model), plan, model, 1),
        kv_value_bytes: 2.0,
        sharding: Sharding { tensor: 1, pipeline: 1, expert: 1 },
        runtime: RUNTIME.into(),
    };
    deployment.roofline(Calibration::shipped())
}

fn row(
    model: &Architecture,
    weights: memory::Weights,
    plan: &MemoryPlan,
    cost: &Roofline,
    hardware: &Hardware,
    arithmetic_known: bool,
) -> EdgeRow {
    let shape = |context: u32, new: u32| SeqShape { context, new, padding: 0, sample: true, drafts: 0 };
    let prefill_s = cost.step_time(&[shape(0, PROMPT_TOKENS)]).as_secs_f64();
    // Attention grows with the context, so the token in the middle is the mean one.
    let decode_s = cost.step_time(&[shape(PROMPT_TOKENS + ANSWER_TOKENS / 2, 1)]).as_secs_f64();
    // The prompt's step brings the first token.
    let answer_s = arithmetic_known.then(|| prefill_s + f64::from(ANSWER_TOKENS - 1) * decode_s);
    let joules = answer_s.zip(hardware.tdp_w.as_ref()).map(|(seconds, watts)| seconds * watts.value);
    let share = joules.zip(hardware.battery_wh.as_ref()).map(|(joules, wh)| joules / 3600.0 / wh.value);
    EdgeRow {
        model: model.name.clone(),
        parameters: model.parameters(),
        format: weights.of(model).to_string(),
        weight_bytes: plan.budget.weight_bytes,
        context_tokens: longest(plan, model.max_positions),
        prefill_tokens_per_s: arithmetic_known.then(|| f64::from(PROMPT_TOKENS) / prefill_s),
        decode_tokens_per_s: 1.0 / decode_s,
        answer_s,
        answer_joules: joules,
        answer_battery_share: share,
    }
}

/// The longest request of which the cache holds one.
fn longest(plan: &MemoryPlan, most: u32) -> u32 {
    let (mut fits, mut too_long) = (0, most.saturating_add(1));
    while too_long - fits > 1 {
        let middle = fits + (too_long - fits) / 2;
        if plan.sequences(middle) >= 1.0 { fits = middle } else { too_long = middle }
    }
    fits
}

/// Where a prediction is from, and the errors of prefill and decode of its kind.
fn errors(device: &Device, kind: DeviceKind) -> (Provenance, f64, f64) {
    let spreads = || {
        let of_class = |spread: &&llmlab_sim::cost_model::calibration::Spread| {
            spread.class == device.class.name() && spread.runtime.starts_with(RUNTIME)
        };
        Calibration::shipped().spread.iter().filter(of_class)
    };
    // The measured chips with shared memory are Apple's alone.
    if matches!(kind, DeviceKind::Phone | DeviceKind::Board) || spreads().next().is_none() {
        return (Provenance::Roofline, UNKNOWN_ERROR, UNKNOWN_ERROR);
    }
    let widest = |metric: &str| {
        let of_metric = spreads().filter(|spread| spread.metric == metric);
        of_metric.map(|spread| spread.p90_error.exp() - 1.0).reduce(f64::max).unwrap_or(UNKNOWN_ERROR)
    };
    let measured = spreads().any(|spread| spread.devices.contains(&device.name));
    let provenance = if measured { Provenance::Measured } else { Provenance::Calibrated };
    (provenance, widest("prefill"), widest("decode"))
}

#[cfg(test)]
mod tests {
    use llmlab_models::catalogue::{architecture, hardware};

    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn of(device: &str, model: &str, formats: &[&str]) -> Edge {
        let formats: Vec<String> = formats.iter().map(|name| (*name).to_owned()).collect();
        edge(hardware(device).unwrap(), Some(architecture(model).unwrap()), &formats).unwrap()
    }

    /// llama-bench, May 2024, in analysis/validation/measured.csv: 8B on an M1 Max of 32 cores.
    #[test]
    fn an_m1_max_writes_as_fast_as_was_measured() {
        let edge = of("apple-m1-max-32", "llama-3-8b", &["q4_k_m", "f16"]);
        assert_eq!(edge.provenance, Provenance::Measured);
        for (row, decode, prefill) in [(&edge.rows[0], 35.73, 408.23), (&edge.rows[1], 18.75, 517.34)] {
            let within = |predicted: f64, measured: f64, error: f64| {
                assert!(
                    (predicted / measured).ln().abs() < (1.0 + error).ln(),
                    "{predicted} {measured} in {row:?}"
                );
            };
            within(row.decode_tokens_per_s, decode, edge.decode_error);
            within(row.prefill_tokens_per_s.unwrap(), prefill, edge.prefill_error);
        }
    }

    /// 7.25 billion parameters in 4.9 bits are 4.1 GiB; a 128 KiB token of 32 layers, 8 heads of 128 in 16 bits.
    #[test]
    fn what_is_left_of_the_memory_is_context() {
        let edge = of("apple-m1", "mistral-7b", &["q4_k_m"]);
        let row = &edge.rows[0];
        assert!((row.weight_bytes as f64 / GIB - 4.1).abs() < 0.2, "{row:?}");
        let room = edge.usable_bytes - row.weight_bytes;
        assert!(u64::from(row.context_tokens) * (128 << 10) <= room, "{row:?}");
        assert!(
            u64::from(row.context_tokens) > room * 9 / 10 / (128 << 10) || row.context_tokens == 32_768,
            "{row:?}"
        );
    }

    #[test]
    fn energy_is_power_times_time_and_the_battery_is_drained_by_it() {
        let edge = of("apple-m1", "llama-3.2-1b", &["q8_0"]);
        let row = &edge.rows[0];
        let seconds = f64::from(PROMPT_TOKENS) / row.prefill_tokens_per_s.unwrap()
            + f64::from(ANSWER_TOKENS - 1) / row.decode_tokens_per_s;
        assert!((row.answer_s.unwrap() - seconds).abs() < 1e-9);
        assert!((row.answer_joules.unwrap() - 20.0 * seconds).abs() < 1e-6);
        assert!((row.answer_battery_share.unwrap() - 20.0 * seconds / 3600.0 / 49.9).abs() < 1e-9);
    }

    #[test]
    fn a_phone_without_a_peak_has_a_bound_and_no_answer_time() {
        let edge = of("snapdragon-8-gen-3", "llama-3.2-3b", &["q4_k_m"]);
        assert!(!edge.arithmetic_known);
        let row = &edge.rows[0];
        // No faster than the weights can be read at 76.8 GB/s.
        assert!(row.decode_tokens_per_s < 76.8e9 / row.weight_bytes as f64);
        assert_eq!((row.prefill_tokens_per_s, row.answer_s, row.answer_joules), (None, None, None));
        assert_eq!(edge.provenance, Provenance::Roofline);
    }

    #[test]
    fn what_is_too_large_says_what_it_needs() {
        let edge = of("raspberry-pi-5", "llama-3.1-70b", &["q4_k_m"]);
        assert!(edge.rows.is_empty());
        assert!(edge.too_large[0].needed_bytes as f64 > 38.0 * GIB, "{:?}", edge.too_large);
    }

    #[test]
    fn what_may_be_used_is_what_every_command_says() {
        for name in ["apple-m1", "apple-m4-max-40", "iphone-a18-pro", "raspberry-pi-5", "rtx-4090"] {
            let usable = hardware(name).unwrap().usable_memory_bytes();
            assert_eq!(Some(of(name, "llama-3.2-1b", &["q4_k_m"]).usable_bytes), usable, "{name}");
        }
    }

    #[test]
    fn every_device_with_memory_has_an_answer() {
        for hardware in llmlab_models::catalogue::hardwares() {
            let formats = ["q4_k_m".to_owned()];
            match edge(hardware, None, &formats) {
                Ok(edge) => {
                    for row in &edge.rows {
                        assert!(
                            row.decode_tokens_per_s.is_finite() && row.decode_tokens_per_s > 0.0,
                            "{row:?}"
                        );
                        assert!(row.context_tokens >= PROMPT_TOKENS + ANSWER_TOKENS, "{row:?}");
                    }
                }
                Err(error) => assert_eq!(hardware.kind, DeviceKind::Cpu, "{}: {error}", hardware.name),
            }
        }
    }
}
