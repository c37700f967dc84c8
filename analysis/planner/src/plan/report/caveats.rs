//! What may go wrong with this plan, and what its numbers rest on.

use super::super::answer::{COLD_START_S, Plan, SPOT_INTERRUPTIONS_PER_HOUR};
use super::super::limits::Latency;
use super::super::money::{HOURS_PER_MONTH, Pricing};
use super::super::row::{Provenance, Row};
use super::super::words::{digits, dollars, percent, seconds};

/// Of this answer, the gravest first.
pub(super) fn risks(plan: &Plan) -> Vec<String> {
    let Some(best) = plan.best() else { return Vec::new() };
    [failure(best), close_limits(plan, best), headroom(best), by_turns(best), unmeasured(best), spot(best)]
        .concat()
}

fn failure(best: &Row) -> Vec<String> {
    let more = dollars(best.n_plus_one_usd_per_month);
    if best.replicas == 1 {
        return vec![format!(
            "One replica alone: when it fails nothing is served. A second one makes it {more} a month."
        )];
    }
    let failed = best.cluster.as_ref().and_then(|check| check.one_failed.as_ref());
    failed
        .filter(|seen| !seen.met)
        .map(|seen| {
            format!(
                "When a replica fails in the busiest hour, the other {} break the SLO: TTFT p95 {}, TPOT p95 {}. One more, {more} a month, keeps it.",
                seen.replicas,
                seconds(seen.observed.ttft_p95_s),
                seconds(seen.observed.tpot_p95_s)
            )
        })
        .into_iter()
        .collect()
}

/// Limits that the error of the prediction reaches.
fn close_limits(plan: &Plan, best: &Row) -> Vec<String> {
    let errors = best.sized.errors;
    let seen = &best.at_peak.observed;
    let predicted = plan.limits.iter().filter_map(|limit| {
        let (value, error) = match (limit.on, limit.percentile) {
            (Latency::Ttft, 95.0) => (seen.ttft_p95_s, errors.ttft),
            (Latency::Ttft, 99.0) => (seen.ttft_p99_s, errors.ttft),
            (Latency::Tpot, 95.0) => (seen.tpot_p95_s, errors.tpot),
            (Latency::Tpot, 99.0) => (seen.tpot_p99_s, errors.tpot),
            _ => return None,
        };
        Some((limit, value, error))
    });
    predicted
        .filter(|(limit, value, error)| value * (1.0 + error) > limit.seconds)
        .map(|(limit, value, error)| {
            format!(
                "{} holds by less than the prediction's error: predicted {}, and {} if it is off by {}. Measure before buying.",
                limit.words(),
                seconds(value),
                seconds(value * (1.0 + error)),
                percent(error)
            )
        })
        .collect()
}

fn headroom(best: &Row) -> Vec<String> {
    match best.headroom < 0.1 {
        true => vec![format!("Only {} more traffic breaks the SLO.", percent(best.headroom))],
        false => Vec::new(),
    }
}

fn by_turns(best: &Row) -> Vec<String> {
    let check = best.cluster.as_ref().filter(|check| check.routed.met && !check.round_robin.met);
    check
        .map(|check| {
            format!(
                "It takes a router that knows its replicas: sent by turns they break the SLO (TTFT p95 {}, TPOT p95 {}).",
                seconds(check.round_robin.observed.ttft_p95_s),
                seconds(check.round_robin.observed.tpot_p95_s)
            )
        })
        .into_iter()
        .collect()
}

fn unmeasured(best: &Row) -> Vec<String> {
    match best.sized.errors.provenance {
        Provenance::Roofline => vec![format!(
            "No measurement of {} or its class under a server is behind these numbers: {} on throughput is our guess.",
            best.sized.candidate.hardware,
            percent(best.sized.errors.throughput)
        )],
        Provenance::Measured | Provenance::Calibrated => Vec::new(),
    }
}

fn spot(best: &Row) -> Vec<String> {
    match best.price.pricing {
        Pricing::Spot => vec![format!(
            "Spot machines can be taken away together; what is held beyond the {} needed covers single losses only.",
            best.needed
        )],
        _ => Vec::new(),
    }
}

pub(super) fn assumptions(plan: &Plan) -> Vec<String> {
    let space = &plan.spec.space;
    let mut lines = vec![
        format!(
            "Each replica is simulated with the scheduler of our engine under vLLM's rules: max_num_seqs {}, max_num_batched_tokens {}, prefix caching on, prompts as drawn.",
            space.max_num_seqs, space.max_num_batched_tokens
        ),
        "Rows are sized with an even share of the requests for each replica. The answer and the cheapest of the front are simulated as clusters, and get replicas where that breaks the SLO.".into(),
        "Replicas are sized for the busiest hour and paid for all day. A month has 730 hours.".into(),
        "Input and output tokens bear the part of the bill that they take of the devices' time.".into(),
    ];
    if space.pricing.iter().any(|way| way == Pricing::Spot.name()) {
        lines.push(format!(
            "Spot: a replica is taken away {} times a month and its successor serves {} later; as much more is held, at least one replica.",
            digits(SPOT_INTERRUPTIONS_PER_HOUR * HOURS_PER_MONTH),
            seconds(COLD_START_S)
        ));
    }
    if space.pricing.iter().any(|way| way == Pricing::Own.name()) {
        let own = &plan.spec.own;
        lines.push(format!(
            "Own: written off in {} years, servers cost {} more than their devices, upkeep {} a year, {} a kWh, PUE {}.",
            digits(own.years),
            percent(own.server_overhead),
            percent(own.upkeep_per_year),
            dollars(own.usd_per_kwh),
            digits(own.pue)
        ));
    }
    if !plan.unpriced.is_empty() {
        lines.push(format!("Left out because no price is known: {}.", plan.unpriced.join(", ")));
    }
    lines
}
