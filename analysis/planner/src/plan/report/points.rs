//! What follows from the answer, a sentence each.

use super::super::answer::Plan;
use super::super::cluster::{ClusterCheck, Seen};
use super::super::row::Row;
use super::super::words::{digits, dollars, percent, seconds};

pub(super) fn points(plan: &Plan, best: &Row) -> Vec<String> {
    let errors = best.sized.errors;
    let bar = |value: f64, error: f64| {
        format!(
            "{} ({} to {})",
            seconds(value),
            seconds(value / (1.0 + error)),
            seconds(value * (1.0 + error))
        )
    };
    let seen = &best.at_peak.observed;
    let mut points = vec![
        format!(
            "In the busiest hour, {} requests/s: TTFT p95 {}, TPOT p95 {}; predictions are {}.",
            digits(plan.spec.demand.peak_rps),
            bar(seen.ttft_p95_s, errors.ttft),
            bar(seen.tpot_p95_s, errors.tpot),
            errors.provenance.name()
        ),
        format!(
            "A replica takes {} requests/s; the first thing to break beyond is {}.",
            digits(best.sized.replica_rps()),
            best.binding
        ),
        format!(
            "{} a month with one replica more, so that one may fail; {} to {} if throughput is off by its error.",
            dollars(best.n_plus_one_usd_per_month),
            dollars(best.usd_per_month_range.0),
            dollars(best.usd_per_month_range.1)
        ),
        format!(
            "{} a request, {} for a million input tokens, {} for a million output tokens, at the traffic of a whole day.",
            dollars(best.bill.usd_per_request),
            dollars(best.bill.usd_per_million_input_tokens),
            dollars(best.bill.usd_per_million_output_tokens)
        ),
    ];
    if let Some(check) = best.cluster.as_ref().filter(|check| check.routed.replicas > 1) {
        points.push(as_cluster(best, check));
    }
    if let Some(api) = plan.apis.first() {
        let compared = if api.usd_per_month < best.bill.usd_per_month { "cheaper" } else { "dearer" };
        points.push(format!(
            "{} by {} would be {} a month for the same tokens: {compared}.",
            api.api.name,
            api.api.provider,
            dollars(api.usd_per_month)
        ));
    }
    let mixes = plan.apis.iter().filter_map(|api| Some((api, api.mixed.filter(|mix| mix.replicas > 0)?)));
    let cheapest = mixes.min_by(|a, b| a.1.usd_per_month().total_cmp(&b.1.usd_per_month()));
    if let Some((api, mix)) = cheapest.filter(|(_, mix)| mix.share_spilled > 0.0) {
        points.push(format!(
            "{} own replica{} without a spare one and {} by {} for what is more: {} a month, {} of the day's requests and {} of the busiest hour's go to the API.",
            mix.replicas,
            if mix.replicas == 1 { "" } else { "s" },
            api.api.name,
            api.api.provider,
            dollars(mix.usd_per_month()),
            percent(mix.share_spilled),
            percent(mix.share_spilled_at_peak)
        ));
    }
    points
}

/// What the simulation of the whole cluster says of the answer.
fn as_cluster(best: &Row, check: &ClusterCheck) -> String {
    let seen = &check.routed;
    let mut words = format!(
        "Simulated together, {} replicas behind a router that {}: {}",
        seen.replicas,
        match check.routing {
            "prefix-aware" => "sends a turn where the turns before it are cached",
            _ => "takes the one with the fewest requests in flight",
        },
        latencies(seen)
    );
    if check.added > 0 {
        words.push_str(&format!(" ({} more than an even share needs)", check.added));
    }
    words.push_str(&format!("; by turns {}", latencies(&check.round_robin)));
    words.push_str(if check.survives_one() { ". One replica may fail and the SLO holds." } else { "." });
    if best.replicas > best.needed + best.spare {
        words.push_str(" One more is held for a spot machine that is taken away.");
    }
    words
}

/// "TTFT p95 120 ms, TPOT p95 20 ms, holds"
fn latencies(seen: &Seen) -> String {
    format!(
        "TTFT p95 {}, TPOT p95 {}, {}",
        seconds(seen.observed.ttft_p95_s),
        seconds(seen.observed.tpot_p95_s),
        if seen.met { "holds" } else { "breaks the SLO" }
    )
}
