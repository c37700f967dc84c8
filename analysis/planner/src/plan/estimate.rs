//! What the cost model says of a candidate without a simulation.

use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::{Calibration, Resource};
use llmlab_sim::{CostModel, Device, Overhead, Roofline, SeqShape};

use super::bound::Lengths;
use super::limits::{Latency, Limit};
use super::resolve::{Fitting, Question};
use super::row::{ErrorBars, Provenance};

impl Question<'_> {
    /// TTFT and TPOT that no request on a replica can be below.
    pub(super) fn floors(&self, cost: &Roofline) -> (f64, f64) {
        let overhead = Overhead::served(DEFAULT_RUNTIME);
        // Of a prompt all else of which is in the prefix cache: nothing that is asked can be quicker.
        let shape = SeqShape { context: 0, new: 1, padding: 0, sample: true, drafts: 0 };
        let step = cost.step_time(&[shape]).as_secs_f64();
        let front_end = overhead.request_s + overhead.serial_request_s + overhead.serial_token_s;
        (step + overhead.admission_s + front_end, step + overhead.step_token_s)
    }

    /// The time that a prompt token takes in a full step.
    pub(super) fn prefill_token_s(&self, cost: &Roofline) -> f64 {
        let budget = f64::from(self.spec.space.max_num_batched_tokens);
        let input = self.lengths.input.clamp(1.0, budget);
        let prompts = (budget / input).floor().clamp(1.0, 64.0) as usize;
        let shape = SeqShape { context: 0, new: input as u32, padding: 0, sample: true, drafts: 0 };
        let step = cost.step_time(&vec![shape; prompts]).as_secs_f64();
        step / (prompts as f64 * f64::from(shape.new.max(1)))
    }

    pub(super) fn decode_s(&self, cost: &Roofline, batch: f64) -> f64 {
        let context = self.lengths.input + self.lengths.output / 2.0;
        cost.mixed_s(&[], batch.max(1.0) as usize, (batch.max(1.0) * context) as u64)
    }

    /// The shortest time between tokens that is asked for.
    pub(super) fn tpot_limit_s(&self) -> f64 {
        let of_tpot = |limit: &&Limit| matches!(limit.on, Latency::Tpot | Latency::Itl);
        self.limits.iter().filter(of_tpot).map(|limit| limit.seconds).fold(f64::INFINITY, f64::min)
    }

    /// Sequences of mean length that the cache and the configuration have room for.
    pub(super) fn most_running(&self, fitting: &Fitting) -> f64 {
        let room = fitting.kv_tokens as f64 / (self.lengths.input + self.lengths.output);
        f64::from(self.spec.space.max_num_seqs).min(room).max(1.0)
    }

    /// A rate to begin with, and how many sequences are then in a decode: the largest batch whose steps, prompts of newcomers
    /// included, keep the TPOT.
    pub(super) fn guess(&self, fitting: &Fitting) -> (f64, f64) {
        let Lengths { input, output, .. } = self.lengths;
        let (tpot, most) = (self.tpot_limit_s(), self.most_running(fitting));
        let prefill_token_s = self.prefill_token_s(&fitting.cost);
        let mut best = (1e-3, 1.0);
        let mut batch = 1.0;
        while batch <= most {
            // Each step brings a token for each sequence, so 1 / output of them end and as many prompts begin.
            let step =
                self.decode_s(&fitting.cost, batch) + batch / output.max(1.0) * input * prefill_token_s;
            if step > 0.9 * tpot && batch > 1.0 {
                break;
            }
            best = (batch / (output.max(1.0) * step), batch);
            batch = (batch * 1.25).max(batch + 1.0);
        }
        (best.0 * 0.8, best.1)
    }

    /// Seconds that a prompt takes of a replica in full steps, and an answer in a full batch.
    pub(super) fn request_s(&self, fitting: &Fitting) -> (f64, f64) {
        let batch = self.decode_batch(fitting);
        let prefill_s = self.prefill_token_s(&fitting.cost) * self.lengths.input;
        (prefill_s, self.decode_s(&fitting.cost, batch) / batch * self.lengths.output)
    }

    /// The largest batch whose decodes, with no prompt in the step, keep the TPOT.
    pub(super) fn decode_batch(&self, fitting: &Fitting) -> f64 {
        let (tpot, most) = (self.tpot_limit_s(), self.most_running(fitting));
        let mut batch: f64 = 1.0;
        while batch < most && self.decode_s(&fitting.cost, (batch * 1.25).min(most)) <= 0.9 * tpot {
            batch = (batch * 1.25).min(most);
        }
        batch
    }
}

/// What most of a full decode step waits for.
pub(super) fn bound(cost: &Roofline, batch: f64, context: f64) -> &'static str {
    let shape = SeqShape { context: context as u32, new: 1, padding: 0, sample: true, drafts: 0 };
    let step = cost.step(&vec![shape; batch.clamp(1.0, 4096.0) as usize]);
    let resources = [
        (Resource::Memory, "memory bandwidth"),
        (Resource::Compute, "arithmetic"),
        (Resource::Link, "links between devices"),
        (Resource::Network, "the network between nodes"),
        (Resource::Overhead, "launches and the host"),
    ];
    let seconds = |resource| -> f64 {
        step.operations.iter().filter(|op| op.bound_by() == resource).map(|op| op.seconds()).sum()
    };
    resources
        .into_iter()
        .max_by(|a, b| seconds(a.0).total_cmp(&seconds(b.0)))
        .map_or("nothing", |(_, name)| name)
}

/// The spread of the fit where the device's class was measured; wide bars where nothing was.
pub(super) fn errors(device: &Device, name: &str) -> ErrorBars {
    /// Where no measurement of the class is behind a number. Datasheet rooflines were off by about this much in other
    /// planners' own reports (TTFT MAPE 45 %).
    const UNKNOWN: (f64, f64, f64) = (0.5, 0.3, 0.3);
    let spreads = || {
        Calibration::shipped()
            .spread
            .iter()
            .filter(|spread| spread.class == device.class.name() && spread.runtime == DEFAULT_RUNTIME)
    };
    let of = |metric: &str, otherwise: f64| {
        spreads()
            .find(|spread| spread.metric == metric)
            .map_or(otherwise, |spread| spread.p90_error.exp() - 1.0)
    };
    let measured = spreads().any(|spread| spread.devices.iter().any(|known| known == name));
    let provenance = match (measured, spreads().next().is_some()) {
        (true, _) => Provenance::Measured,
        (false, true) => Provenance::Calibrated,
        (false, false) => Provenance::Roofline,
    };
    ErrorBars {
        ttft: of("TTFT under load", UNKNOWN.0),
        tpot: of("TPOT under load", UNKNOWN.1),
        throughput: of("saturated throughput", UNKNOWN.2),
        provenance,
    }
}
