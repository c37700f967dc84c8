//! What a candidate could be at best, from its cost model alone: enough to leave out what is dearer and slower than something
//! that was simulated.

use llmlab_loadgen::workload::Prefixes;
use llmlab_loadgen::{WorkloadConfig, generate};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::{CostModel, Overhead, Roofline, SeqShape};
use serde::Serialize;

use super::PlanError;
use super::capacity::Traffic;

/// A simulated rate may pass the limits this much above what mean lengths allow: a run ends, and its requests are drawn.
const LUCK: f64 = 1.25;
/// The 95th percentile of a run's prompts may be this much shorter than the sample's.
const SHORTER: f64 = 0.85;
/// Requests from which the lengths are taken.
pub const SAMPLE: u64 = 4000;

/// Figures that a replica of a candidate cannot beat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// Requests a second, at most.
    pub replica_rps: f64,
    /// At least.
    pub ttft_p95_s: f64,
    /// At least.
    pub tpot_p95_s: f64,
}

/// Lengths of the traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lengths {
    /// Mean tokens of a prompt.
    pub input: f64,
    /// Mean tokens of an answer.
    pub output: f64,
    pub input_p50: u32,
    pub input_p95: u32,
    /// Prompts that begin alike are found in caches, and clients who hang up ask for less: no bound knows how much.
    pub unbounded: bool,
}

impl Lengths {
    /// From a sample of the traffic.
    pub fn of(traffic: &Traffic<'_>) -> Result<Lengths, PlanError> {
        let config = traffic(1.0, SAMPLE);
        let workload = generate(&config).map_err(|error| PlanError::Workload(error.to_string()))?;
        let mut inputs: Vec<u32> = workload.requests.iter().map(|request| request.prompt_tokens).collect();
        inputs.sort_unstable();
        let count = inputs.len().max(1) as f64;
        let at = |share: f64| inputs.get((count * share) as usize).or(inputs.last()).copied().unwrap_or(1);
        let output: f64 = workload.requests.iter().map(|request| f64::from(request.max_tokens)).sum();
        Ok(Lengths {
            input: inputs.iter().map(|tokens| f64::from(*tokens)).sum::<f64>() / count,
            output: output / count,
            input_p50: at(0.5),
            input_p95: at(0.95),
            unbounded: unbounded(&config),
        })
    }

    /// `None` where the traffic has none. `tpot_s`: the shortest limit on TPOT, or infinity.
    pub fn bound(&self, cost: &Roofline, tpot_s: f64, max_num_seqs: u32, kv_tokens: u64) -> Option<Bound> {
        if self.unbounded {
            return None;
        }
        let prompt = |new: u32| SeqShape { context: 0, new: new.max(1), padding: 0, sample: true, drafts: 0 };
        let overhead = Overhead::served(DEFAULT_RUNTIME);
        let ttft_s =
            cost.mixed_s(&[prompt(self.input_p95)], 0, 0) + overhead.request_s + overhead.serial_request_s;
        let tpot_p95_s = cost.mixed_s(&[], 1, u64::from(self.input_p50));
        Some(Bound {
            // A pipeline has a batch in every stage.
            replica_rps: LUCK
                * cost.stages() as f64
                * self.highest_rps(cost, tpot_s, max_num_seqs, kv_tokens),
            ttft_p95_s: SHORTER * ttft_s,
            tpot_p95_s: SHORTER * tpot_p95_s,
        })
    }

    /// Of all batches whose mean step keeps the TPOT. A step brings a token for each sequence, so 1 / output of them end, and as
    /// many prompts are computed in it; times grow faster than the work, so steps that differ take longer on average.
    fn highest_rps(&self, cost: &Roofline, tpot_s: f64, max_num_seqs: u32, kv_tokens: u64) -> f64 {
        // A sequence holds its prompt and, on average, half of its answer.
        let context = self.input + self.output / 2.0;
        let most = f64::from(max_num_seqs).min(LUCK * kv_tokens as f64 / context).max(1.0);
        let mut best = 0.0_f64;
        let mut batch = 1.0;
        loop {
            let step = self.mean_step_s(cost, batch, context);
            if batch > 1.0 && step > tpot_s {
                return best;
            }
            best = best.max(batch / (self.output.max(1.0) * step));
            if batch >= most {
                return best;
            }
            batch = (batch * 1.25).max(batch + 1.0).min(most);
        }
    }

    fn mean_step_s(&self, cost: &Roofline, batch: f64, context: f64) -> f64 {
        let tokens = batch / self.output.max(1.0) * self.input;
        let whole = (tokens / self.input.max(1.0)) as usize;
        let shape = |new: f64| SeqShape { context: 0, new: new as u32, padding: 0, sample: true, drafts: 0 };
        let mut prompts = vec![shape(self.input); whole];
        let rest = tokens - whole as f64 * self.input;
        if rest >= 1.0 {
            prompts.push(shape(rest));
        }
        cost.mixed_s(&prompts, batch as usize, (batch.floor() * context) as u64)
    }
}

fn unbounded(config: &WorkloadConfig) -> bool {
    let alike = match config.prefixes {
        Prefixes::Each { tokens, .. } => tokens > 0,
        Prefixes::Tree(_) => true,
    };
    alike || config.abandonment.is_some() || config.sessions.is_some()
}
