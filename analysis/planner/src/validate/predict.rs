//! The planner's answer to a case, in the unit of the measurement.

use llmlab_sim::cost_model::Calibration;
use llmlab_sim::{Roofline, SeqShape};

use super::case::{Asked, Case, Metric};
use crate::closed_loop::LoopFigures;
use crate::deployment::Deployment;

/// Tokens of a step in engines that compute prompts in parts; llama.cpp's `n_ubatch`.
const STEP_TOKENS: u32 = 8192;
const LLAMA_CPP_STEP_TOKENS: u32 = 512;
/// Sequences that TensorRT-LLM's and vLLM's own benchmarks run at most.
const MOST_RUNNING: u64 = 2048;

/// Answers cases in turn. A table has TTFT and TPOT of one loop next to each other; it is run once for both.
pub struct Predictor<'c> {
    calibration: &'c Calibration,
    last: Option<(Asked, Deployment, Option<LoopFigures>)>,
}

impl<'c> Predictor<'c> {
    pub fn new(calibration: &'c Calibration) -> Self {
        Predictor { calibration, last: None }
    }

    /// Seconds or tokens a second; `None` if the memory has no room for it.
    pub fn predict(&mut self, case: &Case) -> Option<f64> {
        let Asked::ClosedLoop { users, input, output } = case.asked else {
            return alone(case, self.calibration);
        };
        let known =
            self.last.as_ref().filter(|(asked, on, _)| *asked == case.asked && *on == case.deployment);
        let figures = match known {
            Some((_, _, figures)) => *figures,
            None => {
                let host = self.calibration.runtime(&case.deployment.runtime);
                let asked = case.deployment.closed_loop(host, users, input, output, true);
                let figures = asked.run(&case.deployment.roofline(self.calibration));
                self.last = Some((case.asked, case.deployment.clone(), figures));
                figures
            }
        }?;
        Some(match case.metric {
            Metric::TtftUnderLoad => figures.ttft_s,
            Metric::TpotUnderLoad => figures.tpot_s,
            _ => figures.output_tokens_per_s,
        })
    }
}

/// A case that no other shares work with, or the one loop that is asked.
pub fn predict(case: &Case, calibration: &Calibration) -> Option<f64> {
    Predictor::new(calibration).predict(case)
}

fn alone(case: &Case, calibration: &Calibration) -> Option<f64> {
    let cost = case.deployment.roofline(calibration);
    let host = calibration.runtime(&case.deployment.runtime);
    let llama_cpp = case.deployment.runtime.starts_with("llama.cpp");
    let step = if llama_cpp { LLAMA_CPP_STEP_TOKENS } else { STEP_TOKENS };
    Some(match case.asked {
        Asked::Prefill { batch, input } => prefill_s(&cost, step, batch, input),
        Asked::Decode { batch, input, output } => decode_s(&cost, batch, input, output) / f64::from(output),
        Asked::Static { batch, input, output } => {
            let seconds = prefill_s(&cost, step, batch, input)
                + decode_s(&cost, batch, input, output.saturating_sub(1));
            f64::from(batch) * f64::from(output) / seconds
        }
        Asked::ClosedLoop { .. } => return None,
        Asked::Saturated { input, output } => {
            let kv_tokens = case.deployment.kv_tokens(input.saturating_add(output));
            let users = (kv_tokens / u64::from(input + output)).min(MOST_RUNNING) as u32;
            case.deployment.closed_loop(host, users, input, output, false).run(&cost)?.output_tokens_per_s
        }
    })
}

/// Whole prompts in steps of at most `step_tokens`.
fn prefill_s(cost: &Roofline, step_tokens: u32, batch: u32, input: u32) -> f64 {
    let mut seconds = 0.0;
    let mut step: Vec<SeqShape> = Vec::new();
    let mut room = step_tokens;
    for _ in 0..batch {
        let mut done = 0;
        while done < input {
            let new = (input - done).min(room);
            step.push(SeqShape { context: done, new, padding: 0, sample: done + new == input, drafts: 0 });
            (done, room) = (done + new, room - new);
            if room == 0 {
                seconds += cost.mixed_s(&step, 0, 0);
                step.clear();
                room = step_tokens;
            }
        }
    }
    if step.is_empty() { seconds } else { seconds + cost.mixed_s(&step, 0, 0) }
}

/// So many tokens for each sequence. Time is linear in the keys, so the step in the middle stands for all.
fn decode_s(cost: &Roofline, batch: u32, input: u32, output: u32) -> f64 {
    let middle = u64::from(batch) * (u64::from(input) + u64::from(output / 2).max(1));
    f64::from(output) * cost.mixed_s(&[], batch as usize, middle)
}
