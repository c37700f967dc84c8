//! The table of a sweep for the terminal, as CSV, Markdown and HTML.

use serde::Serialize;

use crate::metric::{Metric, Unit};
use crate::report::format::{cut, percent, plain, significant};
use crate::report::page;
use crate::sweep::{CellTable, Figure, SweepTable};

const NAME_WIDTH: usize = 20;
const LEGEND: [&str; 6] = [
    "* best of its column in its cell, within 0.5 %; unmarked where more than three targets are that good",
    "queue: requests waiting, mean over time and most",
    "padding: rows computed for nothing, of all rows; recomputed: tokens computed again after preemptions, of all tokens",
    "internal fragmentation: KV room that requests hold and do not fill",
    "external fragmentation: free KV room in pieces too short for a request",
    "exact definitions: analysis/metrics/definitions.md",
];

/// Two lines above a column, and the name of it in files for other programs.
fn heading(metric: Metric) -> [&'static str; 3] {
    match metric {
        Metric::OutputTokensPerS => ["output", "tok/s", "output_tok_per_s"],
        Metric::Goodput => ["goodput", "req/s", "goodput_req_per_s"],
        Metric::TtftP50 => ["TTFT", "p50 ms", "ttft_p50_ms"],
        Metric::TtftP95 => ["TTFT", "p95 ms", "ttft_p95_ms"],
        Metric::TpotP50 => ["TPOT", "p50 ms", "tpot_p50_ms"],
        Metric::TpotP95 => ["TPOT", "p95 ms", "tpot_p95_ms"],
        Metric::WaitingMean => ["queue", "mean", "queue_mean"],
        Metric::WaitingMax => ["queue", "max", "queue_max"],
        Metric::PaddingShare => ["padding", "%", "padding_percent"],
        Metric::InternalFragmentation => ["intern.", "frag. %", "internal_fragmentation_percent"],
        Metric::ExternalFragmentation => ["extern.", "frag. %", "external_fragmentation_percent"],
        Metric::Preemptions => ["preemp-", "tions", "preemptions"],
        Metric::RecomputedShare => ["recom-", "puted %", "recomputed_percent"],
        Metric::FailedShare => ["failed", "%", "failed_percent"],
        other => [other.label(), "", other.label()],
    }
}

/// In the unit of the heading: milliseconds, per cent, or as it is.
fn scaled(value: f64, metric: Metric) -> f64 {
    match metric.unit() {
        Unit::Nanoseconds => value / 1e6,
        Unit::Share => value * 100.0,
        Unit::PerSecond | Unit::Count | Unit::UsDollars => value,
    }
}

fn text(figure: &Figure, metric: Metric) -> String {
    match (figure.value, figure.infinite) {
        (Some(value), _) if metric.unit() == Unit::Share => percent(value),
        (Some(value), _) if matches!(metric, Metric::Preemptions | Metric::WaitingMax) => {
            format!("{value:.0}")
        }
        (Some(value), _) if metric == Metric::WaitingMean => format!("{value:.1}"),
        (Some(value), _) => significant(scaled(value, metric)),
        (None, true) => "∞".into(),
        (None, false) => "–".into(),
    }
}

/// About 110 characters wide with thirteen columns. Names from outside cannot inject escape sequences.
pub fn sweep_terminal(table: &SweepTable, color: bool) -> String {
    let code = |code: &str, text: &str| {
        if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let rows = || table.cells.iter().flat_map(|cell| &cell.rows);
    let names = rows().map(|row| cut(&plain(&row.target), NAME_WIDTH).chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = table
        .columns
        .iter()
        .enumerate()
        .map(|(i, metric)| {
            let [top, bottom, _] = heading(*metric);
            let cells = rows().map(|row| text(&row.figures[i], *metric).chars().count());
            cells.chain([top.len(), bottom.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for cell in &table.cells {
        out.push_str(&format!("\n{}", code("1", &plain(&cell.label))));
        for note in &cell.notes {
            out.push_str(&format!("  {}", code("31", &plain(note))));
        }
        out.push('\n');
        if cell.rows.is_empty() {
            continue;
        }
        for line in 0..2 {
            let heads = table.columns.iter().zip(&widths);
            let heads: String = heads.map(|(m, w)| format!(" {:>w$} ", heading(*m)[line])).collect();
            out.push_str(&code("2", format!("{:names$}{heads}", "").trim_end()));
            out.push('\n');
        }
        for row in &cell.rows {
            let mut line = format!("{:names$}", cut(&plain(&row.target), NAME_WIDTH));
            for ((figure, metric), width) in row.figures.iter().zip(&table.columns).zip(&widths) {
                let padded =
                    format!("{:>width$}{}", text(figure, *metric), if figure.best { "*" } else { " " });
                line.push(' ');
                line.push_str(&if figure.best { code("32", &padded) } else { padded });
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out.push('\n');
    for line in LEGEND {
        out.push_str(&format!("{}\n", code("2", line)));
    }
    out
}

/// One line per cell and target; empty where there is no value, `inf` where requests failed.
pub fn sweep_csv(table: &SweepTable) -> Result<String, csv::Error> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let names = table.columns.iter().map(|metric| heading(*metric)[2]);
    out.write_record(["mix", "arrivals", "value", "target"].into_iter().chain(names))?;
    for cell in &table.cells {
        let (key, value) = match &cell.arrivals {
            Some((key, value)) => (key.clone(), value.to_string()),
            None => (String::new(), String::new()),
        };
        for row in &cell.rows {
            let figures = row.figures.iter().zip(&table.columns).map(|(figure, metric)| match figure.value {
                Some(value) => scaled(value, *metric).to_string(),
                None if figure.infinite => "inf".into(),
                None => String::new(),
            });
            let place =
                [cell.mix.clone().unwrap_or_default(), key.clone(), value.clone(), row.target.clone()];
            out.write_record(place.into_iter().chain(figures))?;
        }
    }
    let bytes = out.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Words and cells for the templates; not yet escaped.
#[derive(Serialize)]
struct View<'a> {
    name: &'a str,
    headings: Vec<String>,
    cells: Vec<CellView<'a>>,
    legend: [&'static str; 6],
}

#[derive(Serialize)]
struct CellView<'a> {
    label: &'a str,
    /// Address of the cell's report relative to the page.
    report: Option<String>,
    notes: &'a [String],
    rows: Vec<(&'a str, Vec<(String, bool)>)>,
}

fn view(table: &SweepTable) -> View<'_> {
    let heading = |metric: &Metric| {
        let [top, bottom, _] = heading(*metric);
        match top.strip_suffix('-') {
            Some(start) => format!("{start}{bottom}"),
            None => format!("{top} {bottom}"),
        }
    };
    View {
        name: &table.name,
        headings: table.columns.iter().map(heading).collect(),
        cells: table.cells.iter().map(|cell| cell_view(table, cell)).collect(),
        legend: LEGEND,
    }
}

fn cell_view<'a>(table: &SweepTable, cell: &'a CellTable) -> CellView<'a> {
    let figures = |row: &'a crate::sweep::TargetRow| {
        let figures = row.figures.iter().zip(&table.columns);
        (row.target.as_str(), figures.map(|(figure, metric)| (text(figure, *metric), figure.best)).collect())
    };
    CellView {
        label: &cell.label,
        report: cell.dir.as_ref().map(|dir| format!("{dir}/report.html")),
        notes: &cell.notes,
        rows: cell.rows.iter().map(figures).collect(),
    }
}

pub fn sweep_markdown(table: &SweepTable) -> String {
    page::markdown_page("sweep.md", include_str!("../../templates/sweep.md"), &view(table))
}

/// One page that loads nothing; it links to the report of each cell.
pub fn sweep_html(table: &SweepTable) -> String {
    page::html_page("sweep.html", include_str!("../../templates/sweep.html"), &view(table))
}
