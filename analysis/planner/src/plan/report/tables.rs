//! The tables of a report: rows, clusters, APIs, changes, and the answer in figures.

use serde::Serialize;

use super::super::answer::Plan;
use super::super::cluster::Seen;
use super::super::money::HOURS_PER_MONTH;
use super::super::row::{RefusalKind, Row};
use super::super::skipped::Skipped;
use super::super::words::{digits, dollars, percent, seconds, thousands};

/// Rows of the long table.
const ROWS: usize = 20;
/// Examples of a reason.
const EXAMPLES: usize = 3;

/// Headings and rows. A terminal shows the columns of `narrow`.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub headings: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    #[serde(skip)]
    pub narrow: Vec<usize>,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub cells: Vec<String>,
    /// No other row beats it.
    pub on_front: bool,
    pub best: bool,
    pub simulated: bool,
}

#[derive(Debug, Serialize)]
pub struct Reason {
    pub title: &'static str,
    pub count: usize,
    pub examples: Vec<String>,
    pub change: String,
}

pub(super) const HEADINGS: [&str; 10] = [
    "$/month",
    "configuration",
    "replicas",
    "pays",
    "TTFT p95",
    "TPOT p95",
    "headroom",
    "N+1 $/month",
    "$/1M out",
    "breaks first",
];

/// Columns of a terminal.
pub(super) fn narrow(plan: &Plan) -> Vec<usize> {
    let pays = plan.spec.space.pricing.len() > 1;
    [0, 1, 2, 3, 4, 5, 6].into_iter().filter(|column| *column != 3 || pays).collect()
}

/// The front first, then the cheapest others; by price.
pub(super) fn lines(plan: &Plan) -> Vec<Line> {
    let best = plan.rows.iter().position(|row| row.within_budget && row.holds());
    let figures = |place: usize| (plan.rows[place].bill.usd_per_month, Shown::Row(place));
    let front = plan.front.iter().copied().take(ROWS).chain(best.filter(|best| !plan.front.contains(best)));
    let mut shown: Vec<(f64, Shown)> = front.map(figures).collect();
    let is_shown = |place: &usize| plan.front.contains(place) || Some(*place) == best;
    let others = (0..plan.rows.len()).filter(|place| !is_shown(place)).map(figures);
    let skipped =
        (0..plan.skipped.len()).map(|place| (plan.skipped[place].usd_per_month, Shown::Skipped(place)));
    let mut rest: Vec<(f64, Shown)> = others.chain(skipped).collect();
    rest.sort_by(|a, b| a.0.total_cmp(&b.0));
    shown.extend(rest.into_iter().take(ROWS.saturating_sub(shown.len())));
    // Of equal prices in the order of the rows, so that the answer is before its equals.
    shown.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let line = |(_, shown): (f64, Shown)| match shown {
        Shown::Row(place) => Line {
            cells: cells(&plan.rows[place]),
            on_front: plan.front.contains(&place),
            best: Some(place) == best,
            simulated: true,
        },
        Shown::Skipped(place) => {
            Line { cells: at_best(&plan.skipped[place]), on_front: false, best: false, simulated: false }
        }
    };
    shown.into_iter().map(line).collect()
}

/// Places in `rows` and in `skipped`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    Row(usize),
    Skipped(usize),
}

fn cells(row: &Row) -> Vec<String> {
    let replicas = match row.replicas_range {
        (low, high) if low == high => row.replicas.to_string(),
        (low, high) => format!("{} ({low} to {high})", row.replicas),
    };
    vec![
        dollars(row.bill.usd_per_month),
        row.sized.candidate.words(),
        replicas,
        row.price.pricing.name().into(),
        seconds(row.at_peak.observed.ttft_p95_s),
        seconds(row.at_peak.observed.tpot_p95_s),
        percent(row.headroom),
        dollars(row.n_plus_one_usd_per_month),
        dollars(row.bill.usd_per_million_output_tokens),
        row.binding.split(';').next().unwrap_or_default().to_owned(),
    ]
}

fn at_best(skipped: &Skipped) -> Vec<String> {
    vec![
        format!("≥ {}", dollars(skipped.usd_per_month)),
        skipped.candidate.words(),
        format!("≥ {}", skipped.replicas),
        skipped.price.pricing.name().into(),
        format!("≥ {}", seconds(skipped.bound.ttft_p95_s)),
        format!("≥ {}", seconds(skipped.bound.tpot_p95_s)),
        "".into(),
        "".into(),
        "".into(),
        "not simulated".into(),
    ]
}

pub(super) fn clusters(plan: &Plan) -> Table {
    let or_latencies = |seen: &Seen| match seen.met {
        true => "holds".to_owned(),
        false => {
            format!("breaks: {}, {}", seconds(seen.observed.ttft_p95_s), seconds(seen.observed.tpot_p95_s))
        }
    };
    let checked = plan.rows.iter().filter_map(|row| Some((row, row.cluster.as_ref()?)));
    let rows = checked
        .map(|(row, check)| {
            let seen = &check.routed;
            vec![
                format!("{}, {}", row.sized.candidate.words(), row.price.pricing.name()),
                match check.added {
                    0 => row.needed.to_string(),
                    added => format!("{} ({added} added)", row.needed),
                },
                seconds(seen.observed.ttft_p95_s),
                seconds(seen.observed.tpot_p95_s),
                if seen.met { "holds".into() } else { "breaks".into() },
                if row.needed > 1 { or_latencies(&check.round_robin) } else { "the same".into() },
                check.one_failed.as_ref().map_or_else(|| "nothing is served".to_owned(), or_latencies),
            ]
        })
        .collect();
    Table {
        headings: vec![
            "configuration",
            "replicas",
            "TTFT p95",
            "TPOT p95",
            "SLO",
            "sent by turns",
            "one failed",
        ],
        rows,
        narrow: vec![0, 1, 4, 5, 6],
    }
}

pub(super) fn apis(plan: &Plan) -> Table {
    let rows = plan.apis.iter().map(|row| {
        let short = row.api.name.rsplit('/').next().unwrap_or_default();
        vec![
            short.to_owned(),
            row.api.provider.clone(),
            dollars(row.api.usd_per_million_input),
            dollars(row.api.usd_per_million_output),
            dollars(row.usd_per_month),
            row.break_even_rps.map_or_else(|| "never".into(), |rate| format!("{}/s", digits(rate))),
            row.mixed.map_or_else(String::new, |mix| match (mix.replicas, mix.share_spilled) {
                (0, _) => "the API alone".into(),
                (own, share) if share > 0.0 => format!("{own} own, {} API", percent(share)),
                _ => "own alone".into(),
            }),
            row.mixed
                .filter(|mix| mix.share_spilled > 0.0)
                .map_or_else(String::new, |mix| dollars(mix.usd_per_month())),
        ]
    });
    Table {
        headings: vec![
            "API",
            "provider",
            "$/1M in",
            "$/1M out",
            "$/month",
            "own cheaper from",
            "cheapest mix",
            "mix $/month",
        ],
        rows: rows.collect(),
        narrow: vec![0, 1, 4, 5, 7],
    }
}

pub(super) fn sensitivities(plan: &Plan) -> Table {
    let rows = plan.sensitivities.iter().map(|one| {
        vec![
            one.change.clone(),
            one.answer.clone(),
            one.usd_per_month.map_or_else(String::new, dollars),
            if one.decision_changes { "another".into() } else { "the same".into() },
        ]
    });
    Table { headings: vec!["if", "then", "$/month", "choice"], rows: rows.collect(), narrow: vec![0, 1, 2] }
}

pub(super) fn details(best: &Row) -> Vec<(String, String)> {
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
    if let Some(busy) = best.at_peak.pools_busy {
        details.push((
            "time in which a step runs".into(),
            format!("prefill {}, decode {}", percent(busy.prefill), percent(busy.decode)),
        ));
    }
    if let Some(watts) = best.watts {
        details.push((
            "power of the devices over the day".into(),
            format!("{} kW, {} kWh a month", digits(watts / 1e3), thousands(watts / 1e3 * HOURS_PER_MONTH)),
        ));
    }
    details
}

pub(super) fn reasons(plan: &Plan) -> Vec<Reason> {
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
