//! The answer to a plan: every row that serves, the cheapest ones first.

use std::cell::RefCell;

use llmlab_scenarios::plan::PlanSpec;
use llmlab_sim::cluster::Routing;
use serde::Serialize;

use super::PlanError;
use super::bound::Lengths;
use super::candidate::Candidate;
use super::capacity::Tried;
use super::cluster::{self, ClusterCheck, Seen};
use super::conversations::{Conversations, routing};
use super::hybrid::{self, Division};
use super::limits::Limit;
use super::money::{
    HOURS_PER_MONTH, HourlyPrice, Pricing, Served, api_usd_per_request, break_even_rps, spot_surplus,
};
use super::pareto;
use super::row::{Refusal, RefusalKind, Row, Sized, row};
use super::search::{Found, Searched};
use super::sensitivity::{Sensitivity, sensitivities};
use super::skipped::Skipped;
use super::words;
use crate::day_shape;

/// How often spot machines are taken away, a replica an hour. Providers publish monthly rates of 5 to 20 % for most GPU types;
/// this is the upper end.
pub const SPOT_INTERRUPTIONS_PER_HOUR: f64 = 0.20 / HOURS_PER_MONTH;
/// From the loss of a machine until its successor serves: provisioning, image, weights, warm-up (BLIS: 240 s for the load alone).
pub const COLD_START_S: f64 = 420.0;

/// What an API asks for the same tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Api {
    pub name: String,
    pub provider: String,
    pub usd_per_million_input: f64,
    pub usd_per_million_output: f64,
    pub from: String,
}

/// An API beside the cheapest row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ApiRow {
    pub api: Api,
    pub usd_per_month: f64,
    pub usd_per_request: f64,
    /// Mean rate from which one full replica of the cheapest row is cheaper; `None` if none is.
    pub break_even_rps: Option<f64>,
    /// Replicas of that row for the base load and this API for the rest, where that costs least.
    pub mixed: Option<Division>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub spec: PlanSpec,
    pub limits: Vec<Limit>,
    /// `None`: requests stand alone.
    pub conversations: Option<Conversations>,
    pub served: Served,
    /// Cheapest first.
    pub rows: Vec<Row>,
    /// Places in `rows` that no other row beats in cost, TTFT and TPOT (95th percentiles).
    pub front: Vec<usize>,
    pub refused: Vec<(Candidate, Refusal)>,
    /// Not simulated, because a row is cheaper and quicker than they could be at best. Cheapest first.
    pub skipped: Vec<Skipped>,
    /// Candidates with no price for the ways of paying that were asked for.
    pub unpriced: Vec<String>,
    pub apis: Vec<ApiRow>,
    pub sensitivities: Vec<Sensitivity>,
    /// Rows that were to be looked at; fewer were if the search was interrupted.
    pub configurations: usize,
    pub complete: bool,
    pub simulations: u64,
}

impl Plan {
    /// The cheapest row within the budget.
    pub fn best(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.within_budget && row.holds())
    }

    /// Why there is no answer, and what would have to change.
    pub fn refusal(&self) -> Option<Refusal> {
        if self.best().is_some() {
            return None;
        }
        let holding = self.rows.iter().find(|row| row.holds());
        if let (Some(cheapest), Some(budget)) = (holding, self.spec.usd_per_month) {
            return Some(Refusal {
                kind: RefusalKind::NoRate,
                reason: format!(
                    "the cheapest configuration that meets the SLO, {}, takes {} a month; the budget is {}",
                    cheapest.sized.candidate.words(),
                    words::dollars(cheapest.bill.usd_per_month),
                    words::dollars(budget)
                ),
                change: "a larger budget, a longer limit, or less traffic at the busiest hour".into(),
            });
        }
        if let (Some(row), true) = (self.rows.first(), self.refused.is_empty()) {
            let reason = format!(
                "{} meets the SLO with an even share of the traffic, and not as a cluster of {} replicas, nor with a quarter more",
                row.sized.candidate.words(),
                row.needed
            );
            let change = "a longer limit, a smaller peak, or other hardware".into();
            return Some(Refusal { kind: RefusalKind::NoRate, reason, change });
        }
        // The refusal that came furthest says most.
        let nearest = self.refused.iter().max_by_key(|(_, refusal)| refusal.kind);
        match nearest {
            Some((candidate, refusal)) => Some(Refusal {
                reason: format!("{}: {}", candidate.words(), refusal.reason),
                ..refusal.clone()
            }),
            None => Some(Refusal {
                kind: RefusalKind::Impossible,
                reason: match self.unpriced.is_empty() {
                    true => "nothing was tried".into(),
                    false => format!(
                        "no price is known for {} {}",
                        self.unpriced.join(", "),
                        self.spec.space.pricing.join(" or ")
                    ),
                },
                change: "other hardware, another way of paying, or a price of your own: [own] device_usd in the plan for what is bought, a [[price]] in a catalogue file for what is rented (docs/catalogue.md)"
                    .into(),
            }),
        }
    }
}

/// What a device of that name costs, paid for in this way.
pub type Prices = dyn Fn(&str, Pricing) -> Option<HourlyPrice> + Sync;

/// What a plan needs beside its candidates.
pub struct Market {
    /// Of a device of the catalogue.
    pub price: Box<Prices>,
    pub pricings: Vec<Pricing>,
    pub apis: Vec<Api>,
}

impl Market {
    /// Of a device, for each way of paying that is asked for and that it has.
    pub fn prices(&self, hardware: &str) -> Vec<HourlyPrice> {
        self.pricings.iter().filter_map(|way| (self.price)(hardware, *way)).collect()
    }
}

/// So many replicas of a candidate behind a router, in the busiest hour.
pub type Together<'a> = dyn Fn(&Candidate, u32, Routing) -> Result<Seen, PlanError> + Sync + 'a;

/// Clusters that were simulated.
pub type Clusters = Vec<(Candidate, Routing, Seen)>;

/// Of the Pareto front, the cheapest ones that are simulated as clusters, beside the answer.
const CLUSTERS: usize = 3;

/// Puts prices on what was sized, and simulates the best rows as clusters. `clusters`: those that are known, and become known.
pub fn answer(
    spec: &PlanSpec,
    limits: &[Limit],
    searched: &Searched,
    lengths: &Lengths,
    conversations: Option<Conversations>,
    market: &Market,
    together: &Together<'_>,
    clusters: &mut Clusters,
    cancelled: &dyn Fn() -> bool,
) -> Result<Plan, PlanError> {
    let mut refused = Vec::new();
    let mut rows = Vec::new();
    let mut simulations = 0;
    for found in &searched.found {
        match found {
            Found::Refused(candidate, refusal) => refused.push((candidate.clone(), refusal.clone())),
            Found::Serves(sized, peak) => {
                simulations += u64::from(sized.capacity.simulations + peak.simulations);
                for price in market.prices(&sized.candidate.hardware) {
                    let served = served(spec, lengths, sized.output_share);
                    rows.push(put_price(spec, sized, &price, peak.added, &served, peak.tried.clone()));
                }
            }
        }
    }
    let mut plan = Plan {
        limits: limits.to_vec(),
        conversations,
        served: served(spec, lengths, 1.0),
        front: Vec::new(),
        rows,
        refused,
        skipped: searched.skipped.clone(),
        unpriced: searched.unpriced.clone(),
        apis: Vec::new(),
        sensitivities: Vec::new(),
        configurations: searched.candidates * market.pricings.len(),
        complete: searched.complete,
        simulations,
        spec: spec.clone(),
    };
    refuse_too_large(&mut plan);
    sort(&mut plan);
    check_clusters(&mut plan, together, clusters, cancelled)?;
    plan.simulations += clusters.len() as u64;
    plan.apis = apis(&plan, market);
    plan.sensitivities = sensitivities(&plan);
    Ok(plan)
}

/// Rows that hold more devices than may be used, with all that is held beside those that serve.
fn refuse_too_large(plan: &mut Plan) {
    let most = plan.spec.space.max_devices;
    let (fit, large): (Vec<Row>, Vec<Row>) =
        std::mem::take(&mut plan.rows).into_iter().partition(|row| row.devices() <= most);
    plan.rows = fit;
    for row in large {
        let still = plan.rows.iter().any(|fit| fit.sized.candidate == row.sized.candidate);
        let known = plan.refused.iter().any(|(candidate, _)| *candidate == row.sized.candidate);
        if !still && !known {
            plan.refused.push((row.sized.candidate.clone(), too_large(u64::from(row.devices()), most)));
        }
    }
}

pub(super) fn too_large(devices: u64, most: u32) -> Refusal {
    Refusal {
        kind: RefusalKind::TooManyDevices,
        reason: format!("takes {devices} devices, at most {most} may be used"),
        change: "a higher max_devices, or a faster device".into(),
    }
}

fn served(spec: &PlanSpec, lengths: &Lengths, output_share: f64) -> Served {
    Served {
        mean_rps: spec.demand.mean_rps,
        input_tokens: lengths.input,
        output_tokens: lengths.output,
        output_share,
    }
}

fn put_price(
    spec: &PlanSpec,
    sized: &Sized,
    price: &HourlyPrice,
    added: u32,
    served: &Served,
    at_peak: Tried,
) -> Row {
    let spare = spec.space.spare_replicas;
    row(
        sized,
        price,
        added,
        surplus(price.pricing),
        spare,
        spec.demand.peak_rps,
        served,
        at_peak,
        spec.usd_per_month,
    )
}

/// How many times as many replicas are held as serve.
pub fn surplus(pricing: Pricing) -> f64 {
    match pricing {
        Pricing::Spot => spot_surplus(SPOT_INTERRUPTIONS_PER_HOUR, COLD_START_S),
        _ => 1.0,
    }
}

/// Cheapest first, and which of them no other beats.
fn sort(plan: &mut Plan) {
    plan.rows.sort_by(|a, b| a.bill.usd_per_month.total_cmp(&b.bill.usd_per_month));
    let figures = |row: &Row| {
        let seen = &row.at_peak.observed;
        [row.bill.usd_per_month, seen.ttft_p95_s, seen.tpot_p95_s]
    };
    let points: Vec<[f64; 3]> = plan.rows.iter().map(figures).collect();
    plan.front = pareto::front(&points);
}

/// Simulates the answer and the cheapest of the front as the clusters they would be. Where the cluster needs replicas more than
/// an even share says, all rows of that candidate get them, and another row may become the answer.
fn check_clusters(
    plan: &mut Plan,
    together: &Together<'_>,
    clusters: &mut Clusters,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), PlanError> {
    let routing = routing(plan.conversations.as_ref());
    let mut passed: Vec<(Candidate, Pricing)> = Vec::new();
    while !cancelled() {
        let best = plan.rows.iter().position(|row| row.within_budget && row.holds());
        let places = best.into_iter().chain(plan.front.iter().copied().take(CLUSTERS));
        let unknown = |place: &usize| {
            let row = &plan.rows[*place];
            !passed.iter().any(|(of, pricing)| *of == row.sized.candidate && *pricing == row.price.pricing)
        };
        let Some(place) = places.into_iter().find(unknown) else { break };
        let row = plan.rows[place].clone();
        let candidate = row.sized.candidate.clone();
        passed.push((candidate.clone(), row.price.pricing));
        if candidate.split.is_some_and(|split| !split.is_simulated(row.replicas.saturating_mul(2))) {
            continue;
        }
        let memory = RefCell::new(&mut *clusters);
        let simulate = |replicas: u32, routing: Routing| {
            let known = |(of, by, seen): &&(Candidate, Routing, Seen)| {
                *of == candidate && *by == routing && seen.replicas == replicas
            };
            if let Some((_, _, seen)) = memory.borrow().iter().find(known) {
                return Ok(seen.clone());
            }
            let found = together(&candidate, replicas, routing)?;
            memory.borrow_mut().push((candidate.clone(), routing, found.clone()));
            Ok(found)
        };
        let before = row.sized.replicas(plan.spec.demand.peak_rps).0;
        let Some(mut check) = cluster::check(row.needed, row.replicas - row.needed, routing, &simulate)?
        else {
            continue;
        };
        check.added += row.needed - before;
        for other in plan.rows.iter_mut().filter(|other| other.sized.candidate == candidate) {
            if other.needed < before + check.added {
                let served = Served { output_share: other.sized.output_share, ..plan.served };
                let at_peak = together_at_peak(&plan.spec, other, &check);
                *other = put_price(&plan.spec, &other.sized, &other.price, check.added, &served, at_peak);
            }
            if other.price.pricing == row.price.pricing {
                other.cluster = Some(check.clone());
            }
        }
        refuse_too_large(plan);
        sort(plan);
    }
    Ok(())
}

/// What a row with replicas added has in the busiest hour: the latencies of its cluster, and the load of the smaller share.
fn together_at_peak(spec: &PlanSpec, row: &Row, check: &ClusterCheck) -> Tried {
    let before = &row.at_peak;
    let share = spec.demand.peak_rps / f64::from(check.routed.replicas.max(1));
    let less = share / before.rate_rps;
    Tried {
        rate_rps: share,
        observed: check.routed.observed.clone(),
        busy: before.busy * less,
        output_tokens_per_s: before.output_tokens_per_s * less,
        input_tokens_per_s: before.input_tokens_per_s * less,
        ..before.clone()
    }
}

fn apis(plan: &Plan, market: &Market) -> Vec<ApiRow> {
    let hours = day_shape::hours(&plan.spec.demand);
    let requests_per_month = plan.served.mean_rps * 3600.0 * HOURS_PER_MONTH;
    let mut rows: Vec<ApiRow> = market
        .apis
        .iter()
        .map(|api| {
            let per_request =
                api_usd_per_request(api.usd_per_million_input, api.usd_per_million_output, &plan.served);
            let break_even = plan.best().or(plan.rows.first()).and_then(|row| {
                let hour = f64::from(row.sized.candidate.devices()) * row.price.usd;
                // A replica is full in the busiest hour, not over the day.
                let demand = &plan.spec.demand;
                let replica_rps = row.sized.replica_rps() * demand.mean_rps / demand.peak_rps;
                break_even_rps(hour, replica_rps, per_request)
            });
            ApiRow {
                usd_per_month: per_request * requests_per_month,
                usd_per_request: per_request,
                break_even_rps: break_even,
                mixed: plan.best().or(plan.rows.first()).and_then(|row| {
                    let hour = f64::from(row.sized.candidate.devices()) * row.price.usd;
                    // Where the cluster needed more replicas, each is known to hold its share of the busiest hour and no more.
                    let share = plan.spec.demand.peak_rps / f64::from(row.needed);
                    let added = row.cluster.as_ref().is_some_and(|check| check.added > 0);
                    let rate = if added { share } else { row.sized.replica_rps() };
                    hybrid::divide(&hours, row.needed, rate, hour, per_request)
                }),
                api: api.clone(),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.usd_per_month.total_cmp(&b.usd_per_month));
    rows
}
