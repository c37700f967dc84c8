//! What every form of the report says, as words.

use serde::Serialize;

use super::super::answer::Plan;
use super::super::cluster::{ClusterCheck, Seen};
use super::super::money::Pricing;
use super::super::row::{RefusalKind, Row};
use super::super::words::{digits, dollars, percent, seconds, thousands};

/// Rows of the long table.
const ROWS: usize = 20;
/// Examples of a reason.
const EXAMPLES: usize = 3;

#[derive(Debug, Serialize)]
pub struct View {
    pub name: String,
    /// The answer in one line.
    pub headline: String,
    pub answered: bool,
    /// What follows from it, a sentence each.
    pub points: Vec<String>,
    /// What was asked: term and description.
    pub question: Vec<(&'static str, String)>,
    pub headings: Vec<&'static str>,
    pub rows: Vec<Line>,
    pub more_rows: usize,
    /// The best row in figures, with where each is from.
    pub details: Vec<(String, String)>,
    pub refused: Vec<Reason>,
    pub cluster_headings: Vec<&'static str>,
    /// Rows that were simulated as clusters.
    pub clusters: Vec<Vec<String>>,
    pub api_headings: Vec<&'static str>,
    pub apis: Vec<Vec<String>>,
    pub sensitivity_headings: Vec<&'static str>,
    pub sensitivities: Vec<Vec<String>>,
    pub risks: Vec<String>,
    pub assumptions: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub cells: Vec<String>,
    /// No other row beats it.
    pub on_front: bool,
    pub best: bool,
    pub within_budget: bool,
}

#[derive(Debug, Serialize)]
pub struct Reason {
    pub title: &'static str,
    pub count: usize,
    pub examples: Vec<String>,
    pub change: String,
}

pub fn view(plan: &Plan) -> View {
    let best = plan.best();
    View {
        name: plan.spec.name.clone(),
        headline: headline(plan),
        answered: best.is_some(),
        points: best.map_or_else(Vec::new, |best| points(plan, best)),
        question: question(plan),
        headings: vec![
            "$/month",
            "configuration",
            "replicas",
            "pays",
            "TTFT p95",
            "TPOT p95",
            "load",
            "headroom",
            "N+1 $/month",
            "$/1M out",
            "breaks first",
        ],
        rows: lines(plan),
        more_rows: plan.rows.len().saturating_sub(ROWS),
        details: best.map_or_else(Vec::new, details),
        refused: reasons(plan),
        cluster_headings: vec![
            "configuration",
            "needed",
            "behind its router",
            "round robin",
            "with one replica of the row failed",
        ],
        clusters: clusters(plan),
        api_headings: vec![
            "API",
            "provider",
            "$/1M in",
            "$/1M out",
            "$/month",
            "own replica cheaper from",
            "cheapest mix",
            "mix $/month",
        ],
        apis: apis(plan),
        sensitivity_headings: vec!["if", "then", "$/month", ""],
        sensitivities: plan
            .sensitivities
            .iter()
            .map(|s| {
                vec![
                    s.change.clone(),
                    s.answer.clone(),
                    s.usd_per_month.map_or_else(String::new, dollars),
                    if s.decision_changes { "another choice".into() } else { "the same choice".into() },
                ]
            })
            .collect(),
        risks: risks(plan),
        assumptions: assumptions(plan),
    }
}

fn headline(plan: &Plan) -> String {
    match (plan.best(), plan.refusal()) {
        (Some(best), _) => format!(
            "{} replica{} of {}, {}: {} a month",
            best.replicas,
            if best.replicas == 1 { "" } else { "s" },
            best.sized.candidate.words(),
            best.price.pricing.name(),
            dollars(best.bill.usd_per_month)
        ),
        (None, Some(refusal)) => format!("No: {}", refusal.reason),
        (None, None) => "No answer".into(),
    }
}

fn points(plan: &Plan, best: &Row) -> Vec<String> {
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
    words.push_str(match (&check.one_failed, check.survives_one()) {
        (None, _) => ".",
        (Some(_), true) => ". One replica may fail and the SLO holds.",
        (Some(_), false) => ". When one replica fails the SLO breaks; with one more it holds.",
    });
    if best.replicas > best.needed + best.spare {
        words.push_str(" What is held beside them makes up for spot machines that are taken away.");
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

fn clusters(plan: &Plan) -> Vec<Vec<String>> {
    let checked = plan.rows.iter().filter_map(|row| Some((row, row.cluster.as_ref()?)));
    checked
        .map(|(row, check)| {
            let needed = match check.added {
                0 => row.needed.to_string(),
                added => format!("{} ({added} added)", row.needed),
            };
            let left = match &check.one_failed {
                Some(seen) => format!("{} left: {}", seen.replicas, latencies(seen)),
                None => "nothing is served".into(),
            };
            vec![
                format!("{}, {}", row.sized.candidate.words(), row.price.pricing.name()),
                needed,
                latencies(&check.routed),
                if row.needed > 1 { latencies(&check.round_robin) } else { "the same".into() },
                left,
            ]
        })
        .collect()
}

fn question(plan: &Plan) -> Vec<(&'static str, String)> {
    let spec = &plan.spec;
    let demand = &spec.demand;
    let limits: Vec<String> = plan.limits.iter().map(super::super::limits::Limit::words).collect();
    let mut question = vec![
        ("model", spec.model.clone()),
        (
            "traffic",
            format!(
                "{} requests/s over the day, {} in the busiest hour; {} tokens in and {} out on average",
                digits(demand.mean_rps),
                digits(demand.peak_rps),
                thousands(plan.served.input_tokens),
                thousands(plan.served.output_tokens)
            ),
        ),
        ("SLO", limits.join(", ")),
    ];
    if let Some(sessions) = &plan.conversations {
        question.push((
            "sessions",
            format!(
                "{} turns each, {} from an answer to the next turn; {} sessions/s in the busiest hour",
                digits(sessions.turns),
                seconds(sessions.think_s),
                digits(demand.peak_rps / sessions.turns)
            ),
        ));
    }
    if let Some(budget) = spec.usd_per_month {
        question.push(("budget", format!("{} a month", dollars(budget))));
    }
    let complete = if plan.complete { "" } else { "; interrupted, the table is partial" };
    question.push((
        "looked at",
        format!(
            "{} configurations, {} serve, {} simulations{complete}",
            plan.configurations,
            plan.rows.len(),
            plan.simulations
        ),
    ));
    question
}

/// The front first, then the cheapest others.
fn lines(plan: &Plan) -> Vec<Line> {
    let best = plan.rows.iter().position(|row| row.within_budget);
    let mut places: Vec<usize> = plan.front.iter().copied().take(ROWS).collect();
    let others = (0..plan.rows.len()).filter(|place| !plan.front.contains(place));
    places.extend(others.take(ROWS.saturating_sub(places.len())));
    places.sort_unstable();
    places
        .into_iter()
        .map(|place| {
            let row = &plan.rows[place];
            let replicas = match row.replicas_range {
                (low, high) if low == high => row.replicas.to_string(),
                (low, high) => format!("{} ({low} to {high})", row.replicas),
            };
            Line {
                cells: vec![
                    dollars(row.bill.usd_per_month),
                    row.sized.candidate.words(),
                    replicas,
                    row.price.pricing.name().into(),
                    seconds(row.at_peak.observed.ttft_p95_s),
                    seconds(row.at_peak.observed.tpot_p95_s),
                    load(row),
                    percent(row.headroom),
                    dollars(row.n_plus_one_usd_per_month),
                    dollars(row.bill.usd_per_million_output_tokens),
                    row.binding.split(';').next().unwrap_or_default().to_owned(),
                ],
                on_front: plan.front.contains(&place),
                best: Some(place) == best,
                within_budget: row.within_budget,
            }
        })
        .collect()
}

/// Of what the replicas take; where prefill and decode are apart, how busy each pool is.
fn load(row: &Row) -> String {
    let load = percent(1.0 / (1.0 + row.headroom));
    match row.at_peak.pools_busy {
        Some(busy) => {
            format!("{load} (prefill {}, decode {} busy)", percent(busy.prefill), percent(busy.decode))
        }
        None => load,
    }
}

fn details(best: &Row) -> Vec<(String, String)> {
    let sized = &best.sized;
    let errors = sized.errors;
    let seen = &best.at_peak.observed;
    let from = errors.provenance.name();
    let with = |value: String, error: f64| format!("{value} ± {} ({from})", percent(error));
    let mut details = vec![
        (
            "TTFT p50 / p95 / p99".into(),
            with(
                format!(
                    "{} / {} / {}",
                    seconds(seen.ttft_p50_s),
                    seconds(seen.ttft_p95_s),
                    seconds(seen.ttft_p99_s)
                ),
                errors.ttft,
            ),
        ),
        (
            "TPOT p50 / p95 / p99".into(),
            with(
                format!(
                    "{} / {} / {}",
                    seconds(seen.tpot_p50_s),
                    seconds(seen.tpot_p95_s),
                    seconds(seen.tpot_p99_s)
                ),
                errors.tpot,
            ),
        ),
        ("E2E p50 / p95".into(), format!("{} / {}", seconds(seen.e2e_p50_s), seconds(seen.e2e_p95_s))),
        ("requests/s a replica, at most".into(), with(digits(sized.replica_rps()), errors.throughput)),
        ("output tokens/s a replica in the busiest hour".into(), thousands(best.at_peak.output_tokens_per_s)),
        ("KV cache of a replica".into(), format!("{} tokens", thousands(sized.kv_tokens as f64))),
        (
            "least that a request takes".into(),
            format!("TTFT {}, TPOT {}", seconds(sized.floor_ttft_s), seconds(sized.floor_tpot_s)),
        ),
        ("price of a device".into(), format!("{} an hour ({})", dollars(best.price.usd), best.price.from)),
    ];
    if let Some(watts) = best.watts {
        details.push((
            "power of the devices over the day".into(),
            format!(
                "{} kW, {} kWh a month",
                digits(watts / 1e3),
                thousands(watts / 1e3 * super::super::money::HOURS_PER_MONTH)
            ),
        ));
    }
    details
}

fn reasons(plan: &Plan) -> Vec<Reason> {
    let kinds = [
        (RefusalKind::DoesNotFit, "does not fit into memory"),
        (RefusalKind::BelowFloor, "an idle replica is slower than the SLO"),
        (RefusalKind::NoRate, "no rate meets the SLO"),
        (RefusalKind::TooManyDevices, "too many devices"),
        (RefusalKind::Impossible, "cannot be run so"),
    ];
    kinds
        .into_iter()
        .filter_map(|(kind, title)| {
            let of_kind: Vec<_> = plan.refused.iter().filter(|(_, refusal)| refusal.kind == kind).collect();
            let (_, first) = of_kind.first()?;
            Some(Reason {
                title,
                count: of_kind.len(),
                examples: of_kind
                    .iter()
                    .take(EXAMPLES)
                    .map(|(candidate, refusal)| format!("{}: {}", candidate.words(), refusal.reason))
                    .collect(),
                change: first.change.clone(),
            })
        })
        .collect()
}

fn apis(plan: &Plan) -> Vec<Vec<String>> {
    plan.apis
        .iter()
        .map(|row| {
            vec![
                row.api.name.clone(),
                row.api.provider.clone(),
                dollars(row.api.usd_per_million_input),
                dollars(row.api.usd_per_million_output),
                dollars(row.usd_per_month),
                row.break_even_rps
                    .map_or_else(|| "never".into(), |rate| format!("{} requests/s", digits(rate))),
                row.mixed.map_or_else(String::new, |mix| match (mix.replicas, mix.share_spilled) {
                    (0, _) => "the API alone".into(),
                    (own, share) if share > 0.0 => format!("{own} own, {} to the API", percent(share)),
                    _ => "own replicas alone".into(),
                }),
                row.mixed
                    .filter(|mix| mix.share_spilled > 0.0)
                    .map_or_else(String::new, |mix| dollars(mix.usd_per_month())),
            ]
        })
        .collect()
}

fn risks(plan: &Plan) -> Vec<String> {
    let Some(best) = plan.best() else { return Vec::new() };
    let mut risks = Vec::new();
    let errors = best.sized.errors;
    for (limit, value, error) in plan.limits.iter().filter_map(|limit| {
        use super::super::limits::Latency;
        let seen = &best.at_peak.observed;
        let value = match (limit.on, limit.percentile) {
            (Latency::Ttft, 95.0) => seen.ttft_p95_s,
            (Latency::Ttft, 99.0) => seen.ttft_p99_s,
            (Latency::Tpot, 95.0) => seen.tpot_p95_s,
            (Latency::Tpot, 99.0) => seen.tpot_p99_s,
            _ => return None,
        };
        Some((limit, value, if limit.on == Latency::Ttft { errors.ttft } else { errors.tpot }))
    }) {
        if value * (1.0 + error) > limit.seconds {
            risks.push(format!(
                "{} holds by less than the prediction's error: predicted {}, off by up to {}. Measure before buying.",
                limit.words(),
                seconds(value),
                percent(error)
            ));
        }
    }
    if best.replicas == 1 {
        risks.push("One replica alone: when it fails nothing is served. See the N+1 column.".into());
    }
    if best.headroom < 0.1 {
        risks.push(format!("Only {} more traffic breaks the SLO.", percent(best.headroom)));
    }
    if best.price.pricing == Pricing::Spot {
        risks.push(
            "Spot machines can be taken away together; the surplus that is held covers single losses only."
                .into(),
        );
    }
    if errors.provenance == super::super::row::Provenance::Roofline {
        risks.push("No measurement of this class of device is behind these numbers.".into());
    }
    risks
}

fn assumptions(plan: &Plan) -> Vec<String> {
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
            "Spot: a replica is taken away {} times a month and its successor serves {} later; as much more is held, in whole replicas.",
            digits(super::super::answer::SPOT_INTERRUPTIONS_PER_HOUR * super::super::money::HOURS_PER_MONTH),
            seconds(super::super::answer::COLD_START_S)
        ));
    }
    if space.pricing.iter().any(|way| way == Pricing::Own.name()) {
        let own = plan.spec.own;
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
