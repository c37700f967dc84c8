//! One measured test: repetitions in, the columns of llama-bench and llama-batched-bench out.

use serde::Serialize;

use super::drive::Phase;

/// One repetition: the prompt, the generation, or both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repetition {
    pub prompt: Option<Phase>,
    pub generation: Option<Phase>,
}

/// What all rows of one executor share.
#[derive(Debug, Clone, Serialize)]
pub struct Subject {
    /// As given with `--model`.
    pub model: String,
    pub family: String,
    pub parameters: u64,
    pub weights: String,
    /// Packed weights in memory.
    pub weight_bytes: u64,
    pub kv: String,
    pub kv_bytes_per_token: u64,
    pub cpu: String,
    pub isa: String,
    pub threads: u32,
    /// Which arithmetic peak the weights can use: "f32", "bf16" or "int8".
    pub peak: String,
    pub peak_ops_per_s: f64,
}

/// The sizes of a test, with llama-batched-bench's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Prompt tokens of each sequence.
    pub pp: u32,
    /// Generated tokens of each sequence.
    pub tg: u32,
    /// Sequences.
    pub pl: u32,
}

/// A line of `--json`. Times are seconds, means over the repetitions; speeds are tokens per second, mean and standard
/// deviation over the repetitions; shares are 1 at the limit. Absent phases are null.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub subject: Subject,
    /// "pp512", "tg128" or "batch".
    pub test: String,
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Positions in the cache at the end, over all sequences.
    pub n_kv: u64,
    pub repetitions: u32,
    pub t_pp: Option<f64>,
    pub speed_pp: Option<f64>,
    pub speed_pp_stddev: Option<f64>,
    pub t_tg: Option<f64>,
    pub speed_tg: Option<f64>,
    pub speed_tg_stddev: Option<f64>,
    /// Both phases.
    pub t: f64,
    pub speed: f64,
    pub speed_stddev: f64,
    /// Operations per second over the peak, prompt phase.
    pub pp_compute_share: Option<f64>,
    /// Seconds that the bytes take at the bandwidth probed every few steps, over the seconds they took; generation phase.
    pub tg_bandwidth_share: Option<f64>,
    pub tg_compute_share: Option<f64>,
    /// Bytes each generation step moves: weights once, keys and values of every sequence.
    pub tg_bytes_per_step: Option<f64>,
    /// Lowest and highest of the probes in and around the repetitions.
    pub read_bandwidth_min_bytes_per_s: f64,
    pub read_bandwidth_max_bytes_per_s: f64,
}

impl Row {
    pub fn new(subject: &Subject, test: String, sizes: Sizes, repetitions: &[Repetition]) -> Row {
        let peak = subject.peak_ops_per_s;
        let prompts: Vec<Phase> = repetitions.iter().filter_map(|r| r.prompt).collect();
        let generations: Vec<Phase> = repetitions.iter().filter_map(|r| r.generation).collect();
        let speeds = |samples: &[Phase]| samples.iter().map(|s| s.tokens_per_s()).collect::<Vec<_>>();
        let seconds = |samples: &[Phase]| mean(samples.iter().map(|s| s.seconds()));
        let whole: Vec<(f64, f64)> = repetitions
            .iter()
            .map(|r| {
                let phases = [r.prompt, r.generation].into_iter().flatten();
                phases.fold((0.0, 0.0), |(s, n), phase| (s + phase.seconds(), n + phase.tokens as f64))
            })
            .collect();
        let whole_speeds: Vec<f64> = whole.iter().map(|(s, tokens)| tokens / s.max(1e-9)).collect();
        let compute = |samples: &[Phase]| mean(samples.iter().map(|s| s.operations_per_s() / peak));
        let ranges = || {
            let phases = repetitions.iter().flat_map(|r| [r.prompt, r.generation]).flatten();
            phases.map(|phase| phase.bandwidth_range)
        };
        Row {
            subject: subject.clone(),
            test,
            sizes,
            n_kv: u64::from(sizes.pl) * u64::from(sizes.pp + sizes.tg),
            repetitions: repetitions.len() as u32,
            t_pp: seconds(&prompts),
            speed_pp: mean(speeds(&prompts)),
            speed_pp_stddev: deviation(&speeds(&prompts)),
            t_tg: seconds(&generations),
            speed_tg: mean(speeds(&generations)),
            speed_tg_stddev: deviation(&speeds(&generations)),
            t: mean(whole.iter().map(|(s, _)| *s)).unwrap_or(0.0),
            speed: mean(whole_speeds.iter().copied()).unwrap_or(0.0),
            speed_stddev: deviation(&whole_speeds).unwrap_or(0.0),
            pp_compute_share: compute(&prompts),
            tg_bandwidth_share: mean(generations.iter().map(Phase::bandwidth_share)),
            tg_compute_share: compute(&generations),
            tg_bytes_per_step: mean(generations.iter().map(|s| s.bytes as f64 / f64::from(sizes.tg.max(1)))),
            read_bandwidth_min_bytes_per_s: ranges().map(|range| range.0).fold(f64::INFINITY, f64::min),
            read_bandwidth_max_bytes_per_s: ranges().map(|range| range.1).fold(0.0, f64::max),
        }
    }
}

fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.into_iter().fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

/// Standard deviation of a sample (n - 1); 0 for a single value.
fn deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values.iter().copied())?;
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len().max(2) - 1) as f64).sqrt())
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;

    pub fn subject() -> Subject {
        Subject {
            model: "synthetic:llama-15m".into(),
            family: "llama".into(),
            parameters: 14_400_000,
            weights: "q8_0".into(),
            weight_bytes: 15_000_000,
            kv: "bf16".into(),
            kv_bytes_per_token: 6144,
            cpu: "a CPU".into(),
            isa: "avx512".into(),
            threads: 2,
            peak: "int8".into(),
            peak_ops_per_s: 1e12,
        }
    }

    fn phase(ms: u64, tokens: u64, bytes: u64, bandwidth: f64) -> Phase {
        Phase {
            elapsed: Duration::from_millis(ms),
            tokens,
            bytes,
            operations: 1e9,
            bytes_at_bandwidth_s: bytes as f64 / bandwidth,
            bandwidth_range: (0.9 * bandwidth, bandwidth),
        }
    }

    pub fn repetition(tg_ms: u64) -> Repetition {
        Repetition {
            prompt: Some(phase(1000, 512, 0, 60e9)),
            generation: Some(phase(tg_ms, 256, 40_000_000_000, 80e9)),
        }
    }

    #[test]
    fn columns_follow_llama_batched_bench() {
        let sizes = Sizes { pp: 256, tg: 128, pl: 2 };
        let row = Row::new(&subject(), "batch".into(), sizes, &[repetition(1000), repetition(2000)]);
        assert_eq!((row.n_kv, row.repetitions), (768, 2));
        assert_eq!((row.speed_pp, row.speed_pp_stddev), (Some(512.0), Some(0.0)));
        assert_eq!(row.speed_tg, Some(192.0), "the mean of 256 and 128, as llama-bench averages");
        assert!((row.speed_tg_stddev.unwrap() - 90.509).abs() < 1e-3);
        assert_eq!((row.t_pp, row.t_tg, row.t), (Some(1.0), Some(1.5), 2.5));
        assert!((row.speed - (768.0 / 2.0 + 768.0 / 3.0) / 2.0).abs() < 1e-9);
        // 40 and 20 GB/s of the 80 GB/s around them.
        assert!((row.tg_bandwidth_share.unwrap() - 0.375).abs() < 1e-12);
        assert_eq!(row.pp_compute_share, Some(0.001));
        assert_eq!((row.read_bandwidth_min_bytes_per_s, row.read_bandwidth_max_bytes_per_s), (54e9, 80e9));
    }

    #[test]
    fn a_phase_that_was_not_run_is_null_and_not_zero() {
        let only = Repetition { prompt: Some(phase(500, 512, 0, 1e9)), generation: None };
        let row = Row::new(&subject(), "pp512".into(), Sizes { pp: 512, tg: 0, pl: 1 }, &[only]);
        let json = serde_json::to_value(&row).unwrap();
        assert!(json["speed_tg"].is_null() && json["tg_bandwidth_share"].is_null());
        assert_eq!(json["speed_pp"], json["speed"]);
        let docs = include_str!("../../../docs/engine.md");
        for key in json.as_object().unwrap().keys() {
            assert!(docs.contains(&format!("`{key}`")), "{key} is not in docs/engine.md");
        }
        assert_eq!((json["pp"].as_u64(), json["model"].as_str()), (Some(512), Some("synthetic:llama-15m")));
    }
}
