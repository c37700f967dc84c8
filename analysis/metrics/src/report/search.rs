//! The report of a search: the edge of each target, the values tried, and the throughput-latency curve.

use serde::Serialize;

use crate::report::charts::SMALL;
use crate::report::format::{duration, plain, significant};
use crate::report::page;
use crate::report::series::Points;
use crate::report::svg::{Axis, Unit, lines, standalone};
use crate::search::{CurvePoint, Edge, SearchReport, Searched, TargetSearch, TriedValue};

const HEADINGS: [&str; 10] =
    ["", "achieved", "goodput", "tok/s", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95", "trials", "verdict"];
const LEGEND: [&str; 5] = [
    "achieved and goodput in requests/s; figures are medians over the trials of a value",
    "trials: those that met the SLO, of all; a number after + were stopped early, and their figures are what was seen until then",
    "clear: the 95 % interval of the share of requests over each limit lies on one side of what the percentile allows, or the queue only grew",
    "else the trials voted, each by its own percentiles; a tie is a miss",
    "rule and definitions: docs/measuring.md, analysis/metrics/definitions.md",
];

/// Words for all media; not yet escaped.
#[derive(Serialize)]
struct View {
    name: String,
    goal: String,
    targets: Vec<TargetView>,
    headings: Vec<String>,
    legend: [&'static str; 5],
}

#[derive(Serialize)]
struct TargetView {
    name: String,
    slot: usize,
    description: String,
    edge: String,
    notes: Vec<String>,
    rows: Vec<RowView>,
}

#[derive(Serialize)]
struct RowView {
    cells: Vec<String>,
    holds: Option<bool>,
    /// Address of the value's report relative to the page.
    report: String,
    why: String,
}

fn view(report: &SearchReport) -> View {
    let unit = report.searched.unit();
    let headings = HEADINGS.map(str::to_owned).into_iter().enumerate();
    View {
        name: report.name.clone(),
        goal: format!(
            "max {} meeting the SLO ({}), to {} %, at most {} trials each",
            report.searched.name(),
            report.slo.join(", "),
            significant(report.tolerance * 100.0),
            report.most_trials
        ),
        targets: report.targets.iter().enumerate().map(|(slot, t)| target_view(report, t, slot)).collect(),
        headings: headings.map(|(i, heading)| if i == 0 { unit.to_owned() } else { heading }).collect(),
        legend: LEGEND,
    }
}

fn target_view(report: &SearchReport, target: &TargetSearch, slot: usize) -> TargetView {
    let mut notes: Vec<String> = target.error.iter().cloned().collect();
    if let Some(cause) = target.values.iter().flat_map(|value| &value.untrusted).next() {
        notes.push(format!("UNTRUSTED: {cause}"));
    }
    if let Some(rps) = target.saturation_rps {
        notes.push(format!("saturation {} requests/s in a closed loop", significant(rps)));
    }
    TargetView {
        name: target.name.clone(),
        slot: slot % 7,
        description: target.description.clone(),
        edge: edge_words(report.searched, target),
        notes,
        rows: target.values.iter().map(|value| row(report.searched, value)).collect(),
    }
}

fn number(searched: Searched, value: f64) -> String {
    match searched {
        Searched::Users => format!("{value:.0}"),
        // Neighbouring values differ by a few per cent.
        Searched::Rate | Searched::Load => {
            let digits = (3 - value.log10().floor() as i32).clamp(0, 6) as usize;
            format!("{value:.digits$}")
        }
    }
}

/// "12.40 requests/s (12.88 missed; clear below 11.50 and above 13.30)"
fn edge_words(searched: Searched, target: &TargetSearch) -> String {
    let (show, unit) = (|value: f64| number(searched, value), searched.unit());
    let clear = match target.interval {
        (Some(low), Some(high)) => format!("clear up to {} and from {}", show(low), show(high)),
        (Some(low), None) => format!("clear up to {}", show(low)),
        (None, Some(high)) => format!("clear from {}", show(high)),
        (None, None) => "no value was clear".into(),
    };
    match target.edge {
        Some(Edge::Between { held, missed }) => {
            format!("{} {unit} ({} missed; {clear})", show(held), show(missed))
        }
        Some(Edge::AtLeast { held }) => {
            format!("at least {} {unit}, the highest value tried ({clear})", show(held))
        }
        Some(Edge::Below { missed }) => {
            format!("none: even {} {unit}, the lowest value tried, missed the SLO", show(missed))
        }
        None => "not found".into(),
    }
}

fn row(searched: Searched, value: &TriedValue) -> RowView {
    let CurvePoint { achieved_rps, goodput_rps, output_tokens_per_s, .. } = value.curve;
    let plain_number = |value: Option<f64>| value.map_or("–".into(), significant);
    let time = |value: Option<f64>| value.map_or("–".into(), duration);
    let met = value.trials.iter().filter(|trial| trial.met).count();
    let stopped = value.trials.iter().filter(|trial| trial.stopped.is_some()).count();
    let trials = match stopped {
        0 => format!("{met}/{}", value.trials.len()),
        _ => format!("{met}/{} +{stopped}", value.trials.len()),
    };
    let verdict = match &value.decision {
        Some(decision) => {
            let held = if decision.holds { "held" } else { "missed" };
            if decision.clear { format!("{held}, clear") } else { held.to_owned() }
        }
        None => "undecided".into(),
    };
    let stop = value.trials.iter().find_map(|trial| trial.stopped.clone());
    let why = value.decision.as_ref().map(|decision| decision.why.clone());
    let why = match (why, stop) {
        (Some(why), Some(stop)) if why != stop => format!("{why}; {stop}"),
        (Some(why), _) => why,
        (None, stop) => stop.unwrap_or_default(),
    };
    RowView {
        cells: vec![
            number(searched, value.value),
            plain_number(achieved_rps),
            plain_number(goodput_rps),
            plain_number(output_tokens_per_s),
            time(value.curve.ttft_p50_ns),
            time(value.curve.ttft_p95_ns),
            time(value.curve.tpot_p50_ns),
            time(value.curve.tpot_p95_ns),
            trials,
            verdict,
        ],
        holds: value.decision.as_ref().map(|decision| decision.holds),
        report: format!("{}/report.html", value.dir),
        why,
    }
}

/// Names from outside cannot inject escape sequences.
pub fn search_terminal(report: &SearchReport, color: bool) -> String {
    let code = |code: &str, text: &str| {
        if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let v = view(report);
    let mut out = format!("{}\n{}\n", code("1", &plain(&v.name)), code("2", &plain(&v.goal)));
    for target in &v.targets {
        out.push_str(&format!("\n{}: {}\n", code("1", &plain(&target.name)), plain(&target.edge)));
        for note in &target.notes {
            let bad = !note.starts_with("saturation");
            out.push_str(&format!("  {}\n", code(if bad { "31" } else { "2" }, &plain(note))));
        }
        let width = |column: usize| {
            let cells = target.rows.iter().map(|row| row.cells[column].chars().count());
            cells.chain([v.headings[column].chars().count()]).max().unwrap_or(0)
        };
        let line = |cells: &[String]| {
            let cells = cells.iter().enumerate().map(|(i, cell)| {
                let width = width(i);
                if i + 1 == cells.len() { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") }
            });
            cells.collect::<String>().trim_end().to_owned()
        };
        if target.rows.is_empty() {
            continue;
        }
        out.push_str(&format!("{}\n", code("2", &line(&v.headings))));
        for row in &target.rows {
            let tone = match row.holds {
                Some(true) => "32",
                Some(false) => "31",
                None => "0",
            };
            out.push_str(&format!("{}\n", code(tone, &line(&row.cells))));
        }
    }
    out.push('\n');
    for line in v.legend {
        out.push_str(&format!("{}\n", code("2", line)));
    }
    out
}

pub fn search_markdown(report: &SearchReport) -> String {
    page::markdown_page("search.md", include_str!("../../templates/search.md"), &view(report))
}

/// One page that loads nothing; it links to the report of each value.
pub fn search_html(report: &SearchReport) -> String {
    #[derive(Serialize)]
    struct Page {
        #[serde(flatten)]
        view: View,
        charts: Vec<(&'static str, String)>,
    }
    let charts = curves(report).into_iter().map(|(_, title, svg)| (title, svg)).collect();
    let page = Page { view: view(report), charts };
    page::html_page("search.html", include_str!("../../templates/search.html"), &page)
}

/// Every chart as a file: (name with extension, SVG).
pub fn search_svgs(report: &SearchReport) -> Vec<(String, String)> {
    curves(report).into_iter().map(|(name, _, svg)| (format!("{name}.svg"), standalone(&svg))).collect()
}

/// (file stem, title, SVG). No text from outside is in them.
fn curves(report: &SearchReport) -> Vec<(&'static str, &'static str, String)> {
    type Pick = fn(&CurvePoint) -> Option<f64>;
    let kinds: [(&str, &str, Pick, bool); 6] = [
        ("curve-ttft-p50", "Time to first token, p50", |c| c.ttft_p50_ns, true),
        ("curve-ttft-p95", "Time to first token, p95", |c| c.ttft_p95_ns, true),
        ("curve-tpot-p50", "Time per output token, p50", |c| c.tpot_p50_ns, true),
        ("curve-tpot-p95", "Time per output token, p95", |c| c.tpot_p95_ns, true),
        ("curve-achieved", "Requests per second achieved", |c| c.achieved_rps, false),
        ("curve-goodput", "Requests per second that met every limit", |c| c.goodput_rps, false),
    ];
    let over = match report.searched {
        Searched::Users => "users",
        Searched::Rate | Searched::Load => "requests/s offered",
    };
    let offered = |value: &TriedValue| Some(value.curve.offered_rps.unwrap_or(value.value));
    let mut charts = Vec::new();
    for (name, title, pick, time) in kinds {
        charts.extend(curve(report, over, &offered, pick, time).map(|svg| (name, title, svg)));
    }
    let achieved = |value: &TriedValue| value.curve.achieved_rps;
    for (name, title, pick) in [
        ("throughput-ttft-p95", "Time to first token, p95, over throughput", (|c| c.ttft_p95_ns) as Pick),
        ("throughput-tpot-p95", "Time per output token, p95, over throughput", |c| c.tpot_p95_ns),
    ] {
        let svg = curve(report, "requests/s achieved", &achieved, pick, true);
        charts.extend(svg.map(|svg| (name, title, svg)));
    }
    charts
}

/// One line per target. `None` where nobody has two points.
fn curve(
    report: &SearchReport,
    label: &str,
    x_of: &dyn Fn(&TriedValue) -> Option<f64>,
    y_of: fn(&CurvePoint) -> Option<f64>,
    time: bool,
) -> Option<String> {
    let points = |target: &TargetSearch| -> Points {
        target.values.iter().filter_map(|value| Some((x_of(value)?, y_of(&value.curve)?))).collect()
    };
    let all: Vec<(usize, Points)> =
        report.targets.iter().map(points).enumerate().filter(|(_, points)| points.len() > 1).collect();
    let ys = || all.iter().flat_map(|(_, points)| points.iter().map(|(_, y)| *y));
    let most_x = all.iter().flat_map(|(_, points)| points.iter().map(|(x, _)| *x)).reduce(f64::max)?;
    let x = Axis::from_zero(label, most_x, Unit::Number);
    let most_y = ys().reduce(f64::max)?;
    if !time {
        return Some(lines(SMALL, &x, &Axis::from_zero("", most_y, Unit::Number), &all));
    }
    let y = Axis::log_ns("", ys().reduce(f64::min)?, most_y);
    let logged: Vec<(usize, Points)> = all
        .into_iter()
        .map(|(slot, points)| (slot, points.into_iter().map(|(x, y)| (x, y.max(1.0).log10())).collect()))
        .collect();
    Some(lines(SMALL, &x, &y, &logged))
}
