//! The answer to a plan: every row that serves, the cheapest ones first, and what becomes of it when something changes.

use std::cell::RefCell;

use llmlab_scenarios::plan::PlanSpec;
use llmlab_sim::cluster::Routing;
use serde::Serialize;

use super::PlanError;
use super::candidate::Candidate;
use super::capacity::{Traffic, Tried};
use super::cluster::{self, Seen};
use super::conversations::{Conversations, routing};
use super::hybrid::{self, Division};
use super::limits::Limit;
use super::money::{HourlyPrice, Pricing, Served, api_usd_per_request, break_even_rps, spot_surplus};
use super::pareto;
use super::row::{Refusal, RefusalKind, Row, Sized, row};
use super::search::Found;
use super::words;
use crate::day_shape;

/// How often spot machines are taken away, a replica an hour. Providers publish monthly rates of 5 to 20 % for most GPU types;
/// this is the upper end.
pub const SPOT_INTERRUPTIONS_PER_HOUR: f64 = 0.20 / super::money::HOURS_PER_MONTH;
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

/// A change and what the answer would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    pub change: String,
    pub answer: String,
    pub usd_per_month: Option<f64>,
    /// Another candidate would be chosen.
    pub decision_changes: bool,
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
                    false => format!("no price is known for {}", self.unpriced.join(", ")),
                },
                change: "other hardware, another way of paying, or a price of your own in a catalogue file"
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

/// What is asked of the simulator for rows.
pub struct Simulations<'a> {
    /// One replica at one rate.
    pub at_rate: &'a dyn Fn(&Candidate, f64) -> Result<Tried, PlanError>,
    /// So many replicas behind a router, in the busiest hour.
    pub together: &'a dyn Fn(&Candidate, u32, Routing) -> Result<Seen, PlanError>,
    pub cancelled: &'a dyn Fn() -> bool,
}

/// Of the Pareto front, the cheapest ones that are simulated as clusters, beside the answer.
const CLUSTERS: usize = 3;

/// Puts prices on what was sized, and simulates the best rows as clusters.
pub fn answer(
    spec: &PlanSpec,
    limits: &[Limit],
    found: Vec<Found>,
    complete: bool,
    configurations: usize,
    tokens: (f64, f64),
    conversations: Option<Conversations>,
    market: &Market,
    run: &Simulations<'_>,
) -> Result<Plan, PlanError> {
    let served_by = |sized: &Sized| Served {
        mean_rps: spec.demand.mean_rps,
        input_tokens: tokens.0,
        output_tokens: tokens.1,
        output_share: sized.output_share,
    };
    let mut refused = Vec::new();
    let mut sized = Vec::new();
    let mut unpriced: Vec<String> = Vec::new();
    let mut simulations = 0;
    for found in found {
        match found {
            Found::Refused(candidate, refusal) => refused.push((candidate, refusal)),
            Found::Serves(one) => {
                simulations += u64::from(one.capacity.simulations);
                let (replicas, _) = one.replicas(spec.demand.peak_rps);
                let devices = (u64::from(replicas) + u64::from(spec.space.spare_replicas))
                    * u64::from(one.candidate.devices());
                if devices > u64::from(spec.space.max_devices) {
                    refused.push((one.candidate.clone(), too_large(devices, spec.space.max_devices)));
                } else {
                    sized.push(one);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for sized in &sized {
        let prices: Vec<HourlyPrice> = market
            .pricings
            .iter()
            .filter_map(|way| (market.price)(&sized.candidate.hardware, *way))
            .collect();
        if prices.is_empty() {
            if !unpriced.contains(&sized.candidate.hardware) {
                unpriced.push(sized.candidate.hardware.clone());
            }
            continue;
        }
        let (replicas, _) = sized.replicas(spec.demand.peak_rps);
        // Another rate draws other requests, which may just break what the search saw hold.
        let mut added = 0;
        let mut at_peak = (run.at_rate)(&sized.candidate, spec.demand.peak_rps / f64::from(replicas))?;
        simulations += 1;
        while !at_peak.verdict.met && added < 1 + replicas / 10 && !(run.cancelled)() {
            added += 1;
            let share = spec.demand.peak_rps / f64::from(replicas.saturating_add(added));
            at_peak = (run.at_rate)(&sized.candidate, share)?;
            simulations += 1;
        }
        if !at_peak.verdict.met {
            let refusal = Refusal {
                kind: RefusalKind::NoRate,
                reason: format!("the SLO is met by no number of replicas near {replicas}"),
                change: "a longer limit, or traffic that comes more evenly".into(),
            };
            refused.push((sized.candidate.clone(), refusal));
            continue;
        }
        for price in &prices {
            rows.push(put_price(spec, sized, price, added, &served_by(sized), at_peak.clone()));
        }
    }
    let mut plan = Plan {
        limits: limits.to_vec(),
        conversations,
        served: Served {
            mean_rps: spec.demand.mean_rps,
            input_tokens: tokens.0,
            output_tokens: tokens.1,
            output_share: 1.0,
        },
        front: Vec::new(),
        rows,
        refused,
        unpriced,
        apis: Vec::new(),
        sensitivities: Vec::new(),
        configurations,
        complete,
        simulations,
        spec: spec.clone(),
    };
    refuse_too_large(&mut plan);
    sort(&mut plan);
    check_clusters(&mut plan, run)?;
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

fn too_large(devices: u64, most: u32) -> Refusal {
    Refusal {
        kind: RefusalKind::TooManyDevices,
        reason: format!("takes {devices} devices, at most {most} may be used"),
        change: "a higher max_devices, or a faster device".into(),
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
    let surplus = match price.pricing {
        Pricing::Spot => spot_surplus(SPOT_INTERRUPTIONS_PER_HOUR, COLD_START_S),
        _ => 1.0,
    };
    let spare = spec.space.spare_replicas;
    row(sized, price, added, surplus, spare, spec.demand.peak_rps, served, at_peak, spec.usd_per_month)
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
fn check_clusters(plan: &mut Plan, run: &Simulations<'_>) -> Result<(), PlanError> {
    let routing = routing(plan.conversations.as_ref());
    let mut seen: Vec<(Candidate, Routing, Seen)> = Vec::new();
    let mut passed: Vec<(Candidate, Pricing)> = Vec::new();
    while !(run.cancelled)() {
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
        let memory = RefCell::new(&mut seen);
        let simulate = |replicas: u32, routing: Routing| {
            let known = |(of, by, seen): &&(Candidate, Routing, Seen)| {
                *of == candidate && *by == routing && seen.replicas == replicas
            };
            if let Some((_, _, seen)) = memory.borrow().iter().find(known) {
                return Ok(seen.clone());
            }
            let found = (run.together)(&candidate, replicas, routing)?;
            memory.borrow_mut().push((candidate.clone(), routing, found.clone()));
            Ok(found)
        };
        let before = row.sized.replicas(plan.spec.demand.peak_rps).0;
        let Some(mut check) = cluster::check(row.needed, row.replicas - row.needed, routing, &simulate)?
        else {
            continue;
        };
        check.added += row.needed - before;
        let share = plan.spec.demand.peak_rps / f64::from((before + check.added).max(1));
        let at_peak = match check.added > row.needed - before {
            true => (run.at_rate)(&candidate, share)?,
            false => row.at_peak.clone(),
        };
        for other in plan.rows.iter_mut().filter(|other| other.sized.candidate == candidate) {
            if other.needed < before + check.added {
                let served = Served { output_share: other.sized.output_share, ..plan.served };
                let priced =
                    put_price(&plan.spec, &other.sized, &other.price, check.added, &served, at_peak.clone());
                *other = priced;
            }
            if other.price.pricing == row.price.pricing {
                other.cluster = Some(check.clone());
            }
        }
        refuse_too_large(plan);
        sort(plan);
    }
    plan.simulations += seen.len() as u64;
    Ok(())
}

fn apis(plan: &Plan, market: &Market) -> Vec<ApiRow> {
    let hours = day_shape::hours(&plan.spec.demand);
    let requests_per_month = plan.served.mean_rps * 3600.0 * super::money::HOURS_PER_MONTH;
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

/// What changes the decision: traffic, prices and the model's own error, without a new simulation.
fn sensitivities(plan: &Plan) -> Vec<Sensitivity> {
    let Some(best) = plan.best() else { return Vec::new() };
    let choose = |peak: f64, price: &dyn Fn(&Row) -> f64, slower: f64| {
        plan.rows
            .iter()
            .filter(|row| row.holds())
            .map(|row| {
                let mut sized = row.sized.clone();
                if let Some(tried) = &mut sized.capacity.best {
                    tried.rate_rps /= 1.0 + slower * sized.errors.throughput;
                }
                let (replicas, _) = sized.replicas(peak);
                // As many beside an even share as the row has, in proportion, and as many beside those that serve.
                let now = plan.spec.demand.peak_rps;
                let added = row.needed - row.sized.replicas(now).0;
                let added = (f64::from(added) * (peak / now)).ceil() as u32;
                let replicas = replicas.saturating_add(added).saturating_add(row.replicas - row.needed);
                let hour = f64::from(replicas) * f64::from(sized.candidate.devices()) * price(row);
                (row, replicas, hour * super::money::HOURS_PER_MONTH)
            })
            .filter(|(_, _, usd)| plan.spec.usd_per_month.is_none_or(|budget| *usd <= budget))
            .min_by(|a, b| a.2.total_cmp(&b.2))
    };
    let peak = plan.spec.demand.peak_rps;
    let as_is = |row: &Row| row.price.usd;
    let chosen = &best.sized.candidate.hardware;
    let mut found = Vec::new();
    let mut add = |change: String, answer: Option<(&Row, u32, f64)>| {
        let Some((row, replicas, usd)) = answer else {
            let answer = "nothing within the budget".to_owned();
            found.push(Sensitivity { change, answer, usd_per_month: None, decision_changes: true });
            return;
        };
        found.push(Sensitivity {
            change,
            answer: format!("{replicas} x ({}), {}", row.sized.candidate.words(), row.price.pricing.name()),
            usd_per_month: Some(usd),
            decision_changes: row.sized.candidate != best.sized.candidate
                || row.price.pricing != best.price.pricing,
        });
    };
    for factor in [0.5, 2.0, 5.0] {
        add(format!("traffic x {factor}"), choose(peak * factor, &as_is, 0.0));
    }
    for factor in [0.7, 1.5] {
        let price = |row: &Row| {
            if row.sized.candidate.hardware == *chosen { row.price.usd * factor } else { row.price.usd }
        };
        add(format!("price of {chosen} x {factor}"), choose(peak, &price, 0.0));
    }
    add("throughput lower by its error, everywhere".into(), choose(peak, &as_is, 1.0));
    found
}

/// Mean prompt and output tokens of the traffic.
pub fn mean_tokens(traffic: &Traffic<'_>, requests: u64) -> Result<(f64, f64), PlanError> {
    let workload = llmlab_loadgen::generate(&traffic(1.0, requests))
        .map_err(|error| PlanError::Workload(error.to_string()))?;
    let count = workload.requests.len().max(1) as f64;
    let input: f64 = workload.requests.iter().map(|request| f64::from(request.prompt_tokens)).sum();
    let output: f64 = workload.requests.iter().map(|request| f64::from(request.max_tokens)).sum();
    Ok((input / count, output / count))
}
