//! The plan in two pictures: what latency costs, and from which traffic on a machine of one's own is cheaper than an API.

use llmlab_metrics::report::kit::{Axis, Dot, Unit, lines, scatter};
use serde::Serialize;

use super::super::answer::Plan;
use super::super::money::HOURS_PER_MONTH;

#[derive(Debug, Serialize)]
pub struct Chart {
    pub title: String,
    /// Names with their colours.
    pub key: Vec<(String, usize)>,
    pub svg: String,
}

const SIZE: (u32, u32) = (580, 330);
/// Lines of APIs in the chart.
const APIS: usize = 4;

pub fn charts(plan: &Plan) -> Vec<Chart> {
    [pareto(plan), break_even(plan)].into_iter().flatten().collect()
}

/// Cost against TTFT, a dot a row; colours are devices.
fn pareto(plan: &Plan) -> Option<Chart> {
    let mut devices: Vec<&str> = Vec::new();
    for place in &plan.front {
        let name = plan.rows[*place].sized.candidate.hardware.as_str();
        if !devices.contains(&name) {
            devices.push(name);
        }
    }
    let dots: Vec<Dot> = plan
        .rows
        .iter()
        .enumerate()
        .filter_map(|(place, row)| {
            let slot = devices.iter().position(|name| *name == row.sized.candidate.hardware)?;
            let ttft = row.at_peak.observed.ttft_p95_s * 1e9;
            ttft.is_finite().then(|| Dot {
                x: row.bill.usd_per_month,
                y: ttft.max(1.0).log10(),
                slot,
                strong: plan.front.contains(&place),
            })
        })
        .collect();
    let cheapest = plan.rows.first()?.bill.usd_per_month;
    // What costs ten times the answer is not looked for.
    let dots: Vec<Dot> = dots.into_iter().filter(|dot| dot.x <= 10.0 * cheapest).collect();
    let most = dots.iter().map(|dot| dot.x).fold(0.0, f64::max);
    let ns = |dot: &Dot| 10f64.powf(dot.y);
    let low = dots.iter().map(ns).fold(f64::INFINITY, f64::min);
    let high = dots.iter().map(ns).fold(0.0, f64::max);
    if dots.is_empty() {
        return None;
    }
    let x = Axis::from_zero("dollars a month", most, Unit::Dollars);
    let y = Axis::log_ns("TTFT p95", low, high);
    Some(Chart {
        title: "Cost against TTFT: filled dots are beaten by nothing".into(),
        key: devices.iter().enumerate().map(|(slot, name)| ((*name).to_owned(), slot)).collect(),
        svg: scatter(SIZE, &x, &y, &dots),
    })
}

/// Dollars a month over the mean rate: the best row in steps of a replica, the APIs in straight lines.
fn break_even(plan: &Plan) -> Option<Chart> {
    let best = plan.best().or(plan.rows.first())?;
    if plan.apis.is_empty() {
        return None;
    }
    let demand = &plan.spec.demand;
    let most = 2.0 * demand.mean_rps;
    let per_replica = f64::from(best.sized.candidate.devices()) * best.price.usd * HOURS_PER_MONTH;
    let peak = demand.peak_rps / demand.mean_rps;
    const POINTS: usize = 400;
    let rates = (0..=POINTS).map(|point| most * point as f64 / POINTS as f64);
    let own: Vec<(f64, f64)> = rates
        .map(|rate| {
            let (replicas, _) = best.sized.replicas((rate * peak).max(1e-12));
            (rate, f64::from(replicas.saturating_add(best.replicas - best.needed)) * per_replica)
        })
        .collect();
    let highest = own.iter().map(|(_, usd)| *usd).fold(0.0, f64::max);
    let mut series = vec![(0, own)];
    let mut key = vec![(format!("{}, {}", best.sized.candidate.words(), best.price.pricing.name()), 0)];
    for (slot, api) in plan.apis.iter().take(APIS).enumerate() {
        let per_rate = api.usd_per_request * 3600.0 * HOURS_PER_MONTH;
        let end = most.min(1.6 * highest / per_rate);
        series.push((slot + 1, vec![(0.0, 0.0), (end, end * per_rate)]));
        let short = api.api.name.rsplit('/').next().unwrap_or_default();
        key.push((format!("{short} ({})", api.api.provider), slot + 1));
    }
    let top = series.iter().flat_map(|(_, points)| points).map(|(_, usd)| *usd).fold(0.0, f64::max);
    let x = Axis::from_zero("requests/s over the day", most, Unit::Number);
    let y = Axis::from_zero("dollars a month", top, Unit::Dollars);
    Some(Chart { title: "Own replicas against APIs".into(), key, svg: lines(SIZE, &x, &y, &series) })
}
