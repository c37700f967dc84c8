//! Candidates that are not simulated, because a row is cheaper and quicker than they could be at best.

use llmlab_scenarios::plan::PlanSpec;
use serde::Serialize;

use super::answer::{Plan, surplus};
use super::bound::Bound;
use super::candidate::Candidate;
use super::money::{HOURS_PER_MONTH, HourlyPrice};
use super::row::{held, replicas};
use super::sensitivity::changes;

/// A candidate as good as it could be, and the row that is better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    pub candidate: Candidate,
    /// The cheapest way of paying.
    pub price: HourlyPrice,
    pub bound: Bound,
    /// Of the candidate's own prediction, as a share.
    pub throughput_error: f64,
    /// At least.
    pub replicas: u32,
    /// At least.
    pub usd_per_month: f64,
    /// The row that is cheaper and quicker.
    pub beaten_by: String,
}

/// A row as the test of dominance sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub usd_per_month: f64,
    pub ttft_p95_s: f64,
    pub tpot_p95_s: f64,
}

impl Figures {
    /// Cheaper, and no slower in anything, than what is bounded so. Of equal prices the more exact weights win, which no bound
    /// knows; hence cheaper.
    pub fn beat(&self, usd_per_month: f64, bound: &Bound) -> bool {
        self.usd_per_month < usd_per_month
            && self.ttft_p95_s <= bound.ttft_p95_s
            && self.tpot_p95_s <= bound.tpot_p95_s
    }
}

/// Replicas and dollars a month, at least.
pub fn at_best(spec: &PlanSpec, candidate: &Candidate, bound: &Bound, price: &HourlyPrice) -> (u32, f64) {
    let needed = replicas(spec.demand.peak_rps, bound.replica_rps);
    let held = held(needed, surplus(price.pricing), spec.space.spare_replicas);
    let hour = f64::from(held) * f64::from(candidate.devices()) * price.usd;
    (held, hour * HOURS_PER_MONTH)
}

/// Of the skipped candidates those that could change something that the plan says: its answer, the front, or what another
/// traffic or price would choose. Clusters that need more replicas than an even share make rows dearer, so this is asked last.
pub fn undecided(plan: &Plan) -> Vec<Candidate> {
    let figures: Vec<Figures> = plan
        .rows
        .iter()
        .map(|row| Figures {
            usd_per_month: row.bill.usd_per_month,
            ttft_p95_s: row.at_peak.observed.ttft_p95_s,
            tpot_p95_s: row.at_peak.observed.tpot_p95_s,
        })
        .collect();
    let Some(best) = plan.best() else {
        return plan.skipped.iter().map(|skipped| skipped.candidate.clone()).collect();
    };
    let then: Vec<_> = changes(best)
        .into_iter()
        .filter_map(|change| {
            let usd = change.choose(plan)?.2;
            Some((change, usd))
        })
        .collect();
    let matters = |skipped: &&Skipped| {
        let beaten = figures.iter().any(|row| row.beat(skipped.usd_per_month, &skipped.bound));
        !beaten
            || best.bill.usd_per_month >= skipped.usd_per_month
            || then.iter().any(|(change, usd)| *usd >= change.at_best(skipped, &plan.spec))
    };
    plan.skipped.iter().filter(matters).map(|skipped| skipped.candidate.clone()).collect()
}
