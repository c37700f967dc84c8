//! The table of a journey's steps, one for each trial.

use llmlab_results::journey::{JourneyFacts, Percentiles, StepFacts};
use serde::Serialize;

use crate::analysis::Analysis;
use crate::report::format::{cut, duration, plain, wrap};

const STEP_WIDTH: usize = 28;
const INFINITE: &str = "–";

/// One trial's steps as text.
#[derive(Debug, Clone, Serialize)]
pub struct JourneyView {
    pub title: String,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub goose_head: Vec<&'static str>,
    pub goose_rows: Vec<Vec<String>>,
    /// Steps that failed, and why the first of them did.
    pub failures: Vec<String>,
}

const HEAD: [&str; 10] =
    ["Step", "Taken", "Failed", "Left out", "p50", "p95", "p99", "TTFT p50", "TTFT p95", "TPOT p50"];
const GOOSE_HEAD: [&str; 9] = [
    "Step",
    "Requests",
    "Failed",
    "p50",
    "p95",
    "Transactions",
    "Transaction p50",
    "Transaction p95",
    "Transaction p99",
];

/// Under the tables.
pub const NOTE: &str = "Every step, warm-up too: to a page's last byte or an ask's last token, a failure as infinitely slow (–). \
    Steps behind a failed one are left out.";
pub const GOOSE_NOTE: &str = "By goose's own definitions: failures with the time they took, streams to their terminator, transactions \
    with what the user does around the request and with steps left out.";

pub fn journeys(a: &Analysis) -> Vec<JourneyView> {
    let of_trial = |trial: &crate::analysis::TrialAnalysis| {
        let journey = trial.journey.as_ref()?;
        let title = format!(
            "{}, repeat {}: {} users, {} iterations each",
            trial.target, trial.repeat, journey.users, journey.iterations
        );
        Some(journey_view(title, journey))
    };
    a.trials.iter().filter_map(of_trial).collect()
}

fn journey_view(title: String, journey: &JourneyFacts) -> JourneyView {
    let failure = |step: &StepFacts| {
        let why = step.example.as_ref()?;
        Some(format!("{}: {} of {} failed, e.g. \"{why}\"", name(step), step.failures, step.count))
    };
    JourneyView {
        title,
        head: HEAD.to_vec(),
        rows: journey.steps.iter().map(row).collect(),
        goose_head: GOOSE_HEAD.to_vec(),
        goose_rows: journey.steps.iter().map(goose_row).collect(),
        failures: journey.steps.iter().filter_map(failure).collect(),
    }
}

fn name(step: &StepFacts) -> String {
    format!("{}: {}", step.flow, step.name)
}

fn time(ns: Option<f64>) -> String {
    ns.map_or(INFINITE.to_owned(), duration)
}

fn row(step: &StepFacts) -> Vec<String> {
    let of = |p: &Option<Percentiles>, pick: fn(&Percentiles) -> Option<f64>| {
        p.as_ref().map_or(String::new(), |p| time(pick(p)))
    };
    vec![
        name(step),
        step.count.to_string(),
        step.failures.to_string(),
        step.skipped.to_string(),
        time(step.e2e.p50_ns),
        time(step.e2e.p95_ns),
        time(step.e2e.p99_ns),
        of(&step.ttft, |p| p.p50_ns),
        of(&step.ttft, |p| p.p95_ns),
        of(&step.tpot, |p| p.p50_ns),
    ]
}

fn goose_row(step: &StepFacts) -> Vec<String> {
    let goose = &step.goose;
    vec![
        name(step),
        goose.requests.to_string(),
        goose.failures.to_string(),
        time(goose.request.p50_ns),
        time(goose.request.p95_ns),
        goose.transactions.to_string(),
        time(goose.transaction.p50_ns),
        time(goose.transaction.p95_ns),
        time(goose.transaction.p99_ns),
    ]
}

/// For the terminal: without goose's own figures, which the pages have.
pub fn terminal(views: &[JourneyView], width: usize) -> String {
    let mut out = String::new();
    for view in views {
        out.push_str(&format!("\n{}\n", wrap(&plain(&view.title), width, "  ")));
        let head: Vec<String> = view.head.iter().map(|h| (*h).to_owned()).collect();
        let shown = |row: &Vec<String>| {
            let mut row = row.clone();
            row[0] = cut(&plain(&row[0]), STEP_WIDTH);
            row
        };
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(view.rows.iter().map(shown)).collect();
        let widths: Vec<usize> = (0..HEAD.len())
            .map(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0))
            .collect();
        for row in rows {
            let mut line = format!("{:<w$}", row[0], w = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        for failure in &view.failures {
            out.push_str(&wrap(&plain(failure), width, "  "));
            out.push('\n');
        }
        out.push_str(&wrap(NOTE, width, ""));
        out.push('\n');
    }
    out
}
