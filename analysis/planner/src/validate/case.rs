//! What a row asks of the planner, or why it cannot be used.

use llmlab_quant::WeightFormat;
use llmlab_sim::Device;
use llmlab_sim::cost_model::{DeviceClass, Sharding, Weights};

use super::names;
use super::table::Row;
use crate::deployment::Deployment;

/// What was measured, in seconds or tokens a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Mean time to the first token, of users in a closed loop.
    TtftUnderLoad,
    /// Mean time a further token, of users in a closed loop.
    TpotUnderLoad,
    /// Time of a prompt, or of a batch of them, with nothing else.
    Prefill,
    /// Time a token of a batch that decodes together.
    Decode,
    /// Output tokens a second with as many requests as fit.
    SaturatedThroughput,
    /// Output tokens a second of a batch that starts and ends together, or of few users.
    Throughput,
}

impl Metric {
    pub const ALL: [Metric; 6] = [
        Metric::TpotUnderLoad,
        Metric::Decode,
        Metric::TtftUnderLoad,
        Metric::Prefill,
        Metric::SaturatedThroughput,
        Metric::Throughput,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Metric::TtftUnderLoad => "TTFT under load",
            Metric::TpotUnderLoad => "TPOT under load",
            Metric::Prefill => "prefill",
            Metric::Decode => "decode",
            Metric::SaturatedThroughput => "saturated throughput",
            Metric::Throughput => "throughput of a batch",
        }
    }
}

/// The shape of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Prefill {
        batch: u32,
        input: u32,
    },
    /// Sequences of `input` tokens, each to be longer by `output`.
    Decode {
        batch: u32,
        input: u32,
        output: u32,
    },
    Static {
        batch: u32,
        input: u32,
        output: u32,
    },
    ClosedLoop {
        users: u32,
        input: u32,
        output: u32,
    },
    Saturated {
        input: u32,
        output: u32,
    },
}

/// A row that the planner can be asked.
#[derive(Debug, Clone)]
pub struct Case {
    pub line: u64,
    pub model: String,
    pub gpu: String,
    pub framework: String,
    pub metric: Metric,
    pub asked: Asked,
    pub deployment: Deployment,
    /// Seconds, or tokens a second of the whole deployment.
    pub measured: f64,
}

const MOST_TOKENS: u32 = 1 << 20;
const MOST_SEQUENCES: u32 = 4096;
const MOST_DEVICES: u32 = 1024;

impl Case {
    /// The error is a reason, for people.
    pub fn of(row: &Row) -> Result<Case, String> {
        if let Some(reason) = row.problem.clone().or_else(|| outside(row)) {
            return Err(reason);
        }
        let measured: f64 =
            row.value.parse().map_err(|_| format!("value: {:.40?} is no number", row.value))?;
        if !(measured.is_finite() && measured > 0.0) {
            return Err(format!("value: {measured} is not positive"));
        }
        let lengths = |field: &str, name: &str| count(field, name, MOST_TOKENS);
        let batch = || count(&row.batch_or_concurrency, "batch_or_concurrency", MOST_SEQUENCES);
        let saturated = row.batch_or_concurrency.eq_ignore_ascii_case("saturated");
        let (name, unit) = named(&row.metric);
        let unit = if row.unit.is_empty() { unit } else { row.unit.to_ascii_lowercase() };
        let seconds = match unit.as_str() {
            "us" | "usec" | "microseconds" => measured / 1e6,
            "ms" | "msec" | "milliseconds" | "ms/token" | "ms/tok" => measured / 1e3,
            "s" | "sec" | "seconds" | "gib" | "b" => measured,
            "tok/s" | "tok/s/gpu" | "tokens/s" | "tokens/s/gpu" | "tokens/sec" | "tok/sec" | "t/s"
            | "tps" | "token/s" | "tokens_per_s" => measured,
            _ => {
                return Err(format!("unit: {unit:.20?} is none of us, ms, s, tok/s, tok/s/gpu, GiB, B"));
            }
        };
        let is_static = row.notes.contains("static batch");
        let input = || lengths(&row.isl, "isl");
        let output = || lengths(&row.osl, "osl");
        let (metric, asked, measured) = match name.as_str() {
            "ttft" | "ttft_mean" if row.osl == "1" => {
                (Metric::Prefill, Asked::Prefill { batch: batch()?, input: input()? }, seconds)
            }
            "ttft" | "ttft_mean" => (
                Metric::TtftUnderLoad,
                Asked::ClosedLoop { users: batch()?, input: input()?, output: output()? },
                seconds,
            ),
            "prefill_time" => (Metric::Prefill, Asked::Prefill { batch: batch()?, input: input()? }, seconds),
            "tpot" if row.notes.contains("prefill_time is whole-batch") => (
                Metric::Decode,
                Asked::Decode { batch: batch()?, input: input()?, output: output()? },
                seconds,
            ),
            "tpot" | "itl" | "tpot_mean" | "itl_mean" => (
                Metric::TpotUnderLoad,
                Asked::ClosedLoop { users: batch()?, input: input()?, output: output()? },
                seconds,
            ),
            "output_throughput_total" | "output_throughput_per_gpu" => {
                let devices = if name.ends_with("per_gpu") { f64::from(devices(row)?) } else { 1.0 };
                let (input, output) = (input()?, output()?);
                let (metric, asked) = if saturated {
                    (Metric::SaturatedThroughput, Asked::Saturated { input, output })
                } else if is_static {
                    (Metric::Throughput, Asked::Static { batch: batch()?, input, output })
                } else {
                    (Metric::Throughput, Asked::ClosedLoop { users: batch()?, input, output })
                };
                (metric, asked, measured * devices)
            }
            "decode_tok_s" => {
                (Metric::Decode, Asked::Decode { batch: 1, input: 0, output: output()? }, 1.0 / measured)
            }
            other => match tested_tokens(other) {
                Some(("pp", tokens)) => (
                    Metric::Prefill,
                    Asked::Prefill { batch: 1, input: tokens },
                    f64::from(tokens) / measured,
                ),
                Some((_, tokens)) => {
                    (Metric::Decode, Asked::Decode { batch: 1, input: 0, output: tokens }, 1.0 / measured)
                }
                None => return Err(format!("metric: the planner does not predict {other:.40}")),
            },
        };
        Ok(Case {
            line: row.line,
            framework: format!("{} {}", row.framework, row.version).trim().to_string(),
            metric,
            asked,
            measured,
            deployment: deployment(row)?,
            model: names::model(&row.model).map_or_else(|| row.model.clone(), |model| model.name.clone()),
            gpu: names::device(&row.gpu).map_or_else(|| row.gpu.clone(), |device| device.name.clone()),
        })
    }

    pub fn class(&self) -> DeviceClass {
        self.deployment.device.class
    }
}

/// Rows about something else.
fn outside(row: &Row) -> Option<String> {
    let reason = if row.isl == "dataset" || row.osl == "dataset" {
        "isl: the lengths are a data set's, and the row does not say them"
    } else if row.notes.contains("multi-turn") {
        "the load is conversations with shared prefixes at changing rates, which the row does not describe"
    } else if matches!(row.metric.as_str(), "tg_mean" | "pp_mean") {
        "isl: an average over prompts and answers of lengths that the row does not say"
    } else if row.metric.starts_with("mem_") || row.metric == "kv_bytes_per_token" {
        "metric: memory; the planner's budget is tested against it (models/tests/memory.rs)"
    } else if row.metric.ends_with("tok_s_per_gpu") {
        "isl: neither lengths nor batch are said"
    } else if row.gpu.to_lowercase().contains("cpu") {
        "gpu: a CPU; the catalogue has no arithmetic peaks of CPUs"
    } else {
        return None;
    };
    Some(reason.to_string())
}

fn deployment(row: &Row) -> Result<Deployment, String> {
    let model = names::model(&row.model)
        .ok_or_else(|| format!("model: {:.60} is not in the catalogue", row.model))?;
    let hardware =
        names::device(&row.gpu).ok_or_else(|| format!("gpu: {:.60} is not in the catalogue", row.gpu))?;
    let device = Device::from_catalogue(hardware).map_err(|error| format!("gpu: {error}"))?;
    let format = match names::is_as_published(&row.dtype_weights) {
        true => model.stored.to_string(),
        false => row.dtype_weights.clone(),
    };
    let weights = names::weights(&format)
        .ok_or_else(|| format!("dtype_weights: {:.40} is not known", row.dtype_weights))?;
    let runtime = names::runtime(&row.framework, &row.version);
    // NVIDIA's FP8 checkpoints (ModelOpt) say that their cache is FP8 too, and TensorRT-LLM does what they say.
    let fp8 = weights == Weights::of(WeightFormat::Fp8) && runtime.starts_with("tensorrt-llm");
    let dtype_kv = if row.dtype_kv.is_empty() && fp8 { "fp8" } else { &row.dtype_kv };
    let kv_value_bytes = names::kv_value_bytes(dtype_kv)
        .ok_or_else(|| format!("dtype_kv: {:.40} is not known", row.dtype_kv))?;
    Ok(Deployment { model, device, weights, kv_value_bytes, sharding: sharding(row)?, runtime })
}

fn sharding(row: &Row) -> Result<Sharding, String> {
    let or_one = |field: &str, name| if field.is_empty() { Ok(1) } else { count(field, name, MOST_DEVICES) };
    if row.tp == "layer-split" || names::runtime(&row.framework, "") == "llama.cpp" {
        // llama.cpp gives layers to devices.
        return Ok(Sharding { pipeline: or_one(&row.n_gpus, "n_gpus")?, ..Sharding::SINGLE });
    }
    let (tensor, pipeline) = (or_one(&row.tp, "tp")?, or_one(&row.pp, "pp")?);
    Ok(Sharding { tensor, pipeline, expert: 1 })
}

/// A metric in our terms, and the unit that its name says: "Mean TTFT (ms)", "itl_ms", "output_throughput".
fn named(metric: &str) -> (String, String) {
    let plain: String =
        metric.to_lowercase().chars().take(80).map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let words: Vec<&str> = plain.split('_').filter(|word| !word.is_empty()).collect();
    let (units, words): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|word| matches!(*word, "ms" | "us"));
    let unit = units.first().copied().unwrap_or_default().to_owned();
    let is = |known: &[&str]| words.iter().all(|word| known.contains(word));
    let latency = ["ttft", "tpot", "itl"].into_iter().find(|latency| words.contains(latency));
    let name = match latency {
        Some(latency) if is(&[latency, "mean", "avg", "average"]) => latency.to_owned(),
        // Of an even load; the median of a wait is not its mean.
        Some(latency @ ("tpot" | "itl")) if is(&[latency, "median", "p50"]) => latency.to_owned(),
        _ => match words.join("_").as_str() {
            "output_throughput"
            | "output_token_throughput"
            | "output_tokens_per_s"
            | "output_throughput_tok_s" => "output_throughput_total".to_owned(),
            _ if unit.is_empty() => metric.to_owned(),
            other => other.to_owned(),
        },
    };
    (name, unit)
}

fn devices(row: &Row) -> Result<u32, String> {
    if row.n_gpus.is_empty() {
        sharding(row).map(|sharding| sharding.devices())
    } else {
        count(&row.n_gpus, "n_gpus", MOST_DEVICES)
    }
}

fn count(field: &str, name: &str, most: u32) -> Result<u32, String> {
    match field.parse::<f64>() {
        Ok(value) if value >= 1.0 && value <= f64::from(most) && value.fract() == 0.0 => Ok(value as u32),
        _ if field.is_empty() => Err(format!("{name}: missing")),
        _ => Err(format!("{name}: {field:.40?} is not a whole number from 1 to {most}")),
    }
}

/// `pp512` and `tg128`, as llama-bench names its tests.
fn tested_tokens(metric: &str) -> Option<(&str, u32)> {
    let (test, tokens) = metric.split_at_checked(2)?;
    let tokens = tokens.parse().ok().filter(|tokens| (1..=MOST_TOKENS).contains(tokens))?;
    matches!(test, "pp" | "tg").then_some((test, tokens))
}
