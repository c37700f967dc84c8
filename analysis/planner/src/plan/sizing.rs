//! How much a candidate takes: first without a simulation, then by many.

use llmlab_scenarios::plan::PlanSpec;

use super::PlanError;
use super::answer::too_large;
use super::bound::{Bound, Lengths};
use super::candidate::Candidate;
use super::capacity::{Capacity, LOWEST_RPS, Replica, Start, capacity};
use super::disaggregated::Split;
use super::estimate::{bound, errors};
use super::resolve::{Fitting, Question};
use super::row::{AtPeak, ErrorBars, Refusal, RefusalKind, Sized, below_floor};
use super::search::Found;

/// A candidate that may serve: it fits, and an idle replica is within the limits.
pub struct Prepared {
    pub candidate: Candidate,
    /// What it could be at best; `None` where the traffic has no bound.
    pub bound: Option<Bound>,
    pub errors: ErrorBars,
    fitting: Fitting,
    /// From the cost model alone.
    guess_rps: f64,
    batch: f64,
    floor_ttft_s: f64,
    floor_tpot_s: f64,
}

impl Question<'_> {
    /// What can be said without a simulation.
    pub fn prepare(&self, candidate: &Candidate) -> Result<Result<Prepared, Refusal>, PlanError> {
        let fitting = match self.fit(candidate)? {
            Ok(fitting) => fitting,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (floor_ttft_s, floor_tpot_s) = self.floors(&fitting.cost);
        if let Some(refusal) = below_floor(&self.limits, floor_ttft_s, floor_tpot_s) {
            return Ok(Err(refusal));
        }
        let (guess_rps, batch) = self.guess(&fitting);
        let seqs = self.spec.space.max_num_seqs;
        let bound = || self.lengths.bound(&fitting.cost, self.tpot_limit_s(), seqs, fitting.kv_tokens);
        Ok(Ok(Prepared {
            candidate: candidate.clone(),
            bound: if candidate.split.is_none() { bound() } else { None },
            errors: errors(fitting.cost.device(), &fitting.device.name),
            fitting,
            guess_rps,
            batch,
            floor_ttft_s,
            floor_tpot_s,
        }))
    }

    /// Capacity by simulation and latencies of the busiest hour, or why there are none. `hint`: how many times the guess the
    /// capacity of a similar candidate was.
    pub fn size(&self, prepared: &Prepared, hint: Option<f64>) -> Result<Found, PlanError> {
        let Prepared { candidate, fitting, .. } = prepared;
        let start = match hint {
            Some(factor) => Start::near(prepared.guess_rps * factor),
            None => Start::anywhere(prepared.guess_rps),
        };
        let (candidate, found) = match candidate.split {
            Some(_) => self.best_split(candidate, fitting)?,
            None => (candidate.clone(), self.capacity(candidate, fitting, Some(start))?),
        };
        if found.best.is_none() {
            return Ok(Found::Refused(candidate, no_rate(&found)));
        }
        let sized = self.sized(prepared, candidate, found);
        if let Some(refusal) = too_many_devices(self.spec, &sized) {
            return Ok(Found::Refused(sized.candidate, refusal));
        }
        let (replica, _) = self.replica(&sized.candidate, fitting);
        match self.at_peak(&replica, &sized)? {
            Ok(peak) => Ok(Found::Serves(Box::new(sized), peak)),
            Err(refusal) => Ok(Found::Refused(sized.candidate, refusal)),
        }
    }

    /// `start`: where to begin; a unit's own guess if left out.
    fn capacity(
        &self,
        candidate: &Candidate,
        fitting: &Fitting,
        start: Option<Start>,
    ) -> Result<Capacity, PlanError> {
        let (replica, guess_rps) = self.replica(candidate, fitting);
        let (requests, seed) = (self.spec.workload.requests, self.spec.seed);
        let start = start.unwrap_or(Start::anywhere(guess_rps));
        capacity(&replica, start, requests, seed, self.traffic, &self.limits, self.cancelled)
    }

    /// The unit that takes the fewest devices for the busiest hour; of equal ones the one with the most room.
    fn best_split(
        &self,
        candidate: &Candidate,
        fitting: &Fitting,
    ) -> Result<(Candidate, Capacity), PlanError> {
        let (prefill_s, decode_s) = self.request_s(fitting);
        let mut best: Option<(Candidate, Capacity)> = None;
        let mut simulations = 0;
        let peak = self.spec.demand.peak_rps;
        let cost = |(candidate, found): &(Candidate, Capacity)| {
            let rate = found.best.as_ref().map_or(0.0, |best| best.rate_rps);
            let devices = f64::from(candidate.devices());
            ((peak / rate).ceil() * devices, devices / rate)
        };
        for split in Split::tried(prefill_s / (prefill_s + decode_s)) {
            if (self.cancelled)() {
                break;
            }
            let tried = Candidate { split: Some(split), ..candidate.clone() };
            let found = self.capacity(&tried, fitting, None)?;
            simulations += found.simulations;
            let one = (tried, found);
            let is_better = |known: &(Candidate, Capacity)| {
                let ((devices, room), (least, most)) = (cost(&one), cost(known));
                devices < least || devices == least && room < most
            };
            if best.as_ref().is_none_or(is_better) {
                best = Some(one);
            }
        }
        let none = Capacity { best: None, broken: None, simulations: 0 };
        let (candidate, found) = best.unwrap_or((candidate.clone(), none));
        Ok((candidate, Capacity { simulations, ..found }))
    }

    fn sized(&self, prepared: &Prepared, candidate: Candidate, capacity: Capacity) -> Sized {
        let Prepared { fitting, batch, .. } = prepared;
        let Lengths { input, output, .. } = self.lengths;
        let prefill_s = self.prefill_token_s(&fitting.cost) * input;
        let decode_s = self.decode_s(&fitting.cost, *batch) / batch.max(1.0) * output;
        Sized {
            candidate,
            guess_rps: prepared.guess_rps,
            capacity,
            errors: prepared.errors,
            kv_tokens: fitting.kv_tokens,
            floor_ttft_s: prepared.floor_ttft_s,
            floor_tpot_s: prepared.floor_tpot_s,
            bound: bound(&fitting.cost, *batch, input + output / 2.0),
            output_share: decode_s / (prefill_s + decode_s),
            tdp_w: fitting.device.tdp_w.as_ref().map(|figure| figure.value),
        }
    }

    /// An even share of the busiest hour. Another rate draws other requests, which may just break what the search saw hold: then
    /// replicas are added.
    fn at_peak(&self, replica: &Replica<'_>, sized: &Sized) -> Result<Result<AtPeak, Refusal>, PlanError> {
        let spec = self.spec;
        let (replicas, _) = sized.replicas(spec.demand.peak_rps);
        for added in 0..=1 + replicas / 10 {
            let share = (spec.demand.peak_rps / f64::from(replicas.saturating_add(added))).max(LOWEST_RPS);
            let tried = replica.at(share, spec.workload.requests, spec.seed, self.traffic, &self.limits)?;
            if tried.verdict.met {
                return Ok(Ok(AtPeak { tried, added, simulations: added + 1 }));
            }
            if (self.cancelled)() {
                break;
            }
        }
        Ok(Err(Refusal {
            kind: RefusalKind::NoRate,
            reason: format!("the SLO is met by no number of replicas near {replicas}"),
            change: "a longer limit, or traffic that comes more evenly".into(),
        }))
    }
}

fn no_rate(found: &Capacity) -> Refusal {
    let nearest = found.broken.as_ref().and_then(|broken| broken.verdict.nearest);
    let reason = nearest.map_or_else(
        || "no rate was served".to_owned(),
        |(limit, share)| {
            format!(
                "{} is missed by a factor of {} even when hardly anything is asked",
                limit.words(),
                super::words::digits(share)
            )
        },
    );
    Refusal {
        kind: RefusalKind::NoRate,
        reason,
        change: "a longer limit, shorter prompts, more tensor parallelism, or a faster device".into(),
    }
}

fn too_many_devices(spec: &PlanSpec, sized: &Sized) -> Option<Refusal> {
    let (replicas, _) = sized.replicas(spec.demand.peak_rps);
    let held = u64::from(replicas) + u64::from(spec.space.spare_replicas);
    let devices = held * u64::from(sized.candidate.devices());
    (devices > u64::from(spec.space.max_devices)).then(|| too_large(devices, spec.space.max_devices))
}
