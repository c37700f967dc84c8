//! What becomes of the answer when something changes.

use llmlab_scenarios::plan::PlanSpec;
use serde::Serialize;

use super::answer::Plan;
use super::candidate::Candidate;
use super::money::{HOURS_PER_MONTH, HourlyPrice};
use super::row::{Row, replicas};
use super::skipped::Skipped;

/// A change and what the answer would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    pub change: String,
    pub answer: String,
    pub usd_per_month: Option<f64>,
    /// Another candidate would be chosen.
    pub decision_changes: bool,
}

/// What changes the decision: traffic, prices and the model's own error, without a new simulation.
pub(super) fn sensitivities(plan: &Plan) -> Vec<Sensitivity> {
    let Some(best) = plan.best() else { return Vec::new() };
    changes(best)
        .into_iter()
        .filter_map(|change| {
            let (row, replicas, usd) = change.choose(plan)?;
            if plan.spec.usd_per_month.is_some_and(|budget| usd > budget) {
                return Some(Sensitivity {
                    change: change.words,
                    answer: "nothing within the budget".into(),
                    usd_per_month: None,
                    decision_changes: true,
                });
            }
            Some(Sensitivity {
                answer: format!(
                    "{replicas} x ({}), {}",
                    row.sized.candidate.words(),
                    row.price.pricing.name()
                ),
                usd_per_month: Some(usd),
                decision_changes: row.sized.candidate != best.sized.candidate
                    || row.price.pricing != best.price.pricing,
                change: change.words,
            })
        })
        .collect()
}

/// Something that may turn out otherwise.
pub(super) struct Change {
    words: String,
    /// Of the traffic.
    factor: f64,
    /// Of the price of one device.
    price: Option<(String, f64)>,
    /// Every throughput is lower by its error.
    slower: bool,
}

pub(super) fn changes(best: &Row) -> Vec<Change> {
    let chosen = &best.sized.candidate.hardware;
    let traffic = [0.5, 2.0, 5.0].map(|factor| Change {
        words: format!("traffic x {factor}"),
        factor,
        price: None,
        slower: false,
    });
    let price = [0.7, 1.5].map(|factor| Change {
        words: format!("price of {chosen} x {factor}"),
        factor: 1.0,
        price: Some((chosen.clone(), factor)),
        slower: false,
    });
    let slower = Change {
        words: "throughput lower by its error, everywhere".into(),
        factor: 1.0,
        price: None,
        slower: true,
    };
    traffic.into_iter().chain(price).chain([slower]).collect()
}

impl Change {
    /// The cheapest row then, its replicas, and dollars a month.
    pub fn choose<'p>(&self, plan: &'p Plan) -> Option<(&'p Row, u32, f64)> {
        let then = |row: &'p Row| {
            let sized = &row.sized;
            // As many beside an even share as the row has, in proportion, and as many beside those that serve.
            let added = row.needed - sized.replicas(plan.spec.demand.peak_rps).0;
            let added = (f64::from(added) * self.factor).ceil() as u32;
            let beside = added.saturating_add(row.replicas - row.needed);
            let rate = sized.replica_rps() / self.slowed(sized.errors.throughput);
            let replicas = replicas(plan.spec.demand.peak_rps * self.factor, rate).saturating_add(beside);
            (row, replicas, self.usd_per_month(&sized.candidate, &row.price, replicas))
        };
        plan.rows.iter().filter(|row| row.holds()).map(then).min_by(|a, b| a.2.total_cmp(&b.2))
    }

    /// What a candidate costs then, at least.
    pub fn at_best(&self, skipped: &Skipped, spec: &PlanSpec) -> f64 {
        let rate = skipped.bound.replica_rps / self.slowed(skipped.throughput_error);
        let needed = replicas(spec.demand.peak_rps * self.factor, rate);
        // Rows have at least as many beside those that serve.
        let replicas = needed.saturating_add(spec.space.spare_replicas);
        self.usd_per_month(&skipped.candidate, &skipped.price, replicas)
    }

    fn slowed(&self, error: f64) -> f64 {
        if self.slower { 1.0 + error } else { 1.0 }
    }

    fn usd_per_month(&self, candidate: &Candidate, price: &HourlyPrice, replicas: u32) -> f64 {
        let factor = match &self.price {
            Some((hardware, factor)) if *hardware == candidate.hardware => *factor,
            _ => 1.0,
        };
        f64::from(replicas) * f64::from(candidate.devices()) * price.usd * factor * HOURS_PER_MONTH
    }
}
