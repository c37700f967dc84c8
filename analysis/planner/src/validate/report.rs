//! How far predictions were off, in tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use llmlab_sim::cost_model::calibration::Spread;
use serde::Serialize;

use super::case::{Case, Metric};
use super::held_out::Outcome;
use super::table::Row;

/// Errors of some rows, as shares of what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Errors {
    pub rows: u32,
    pub median: f64,
    /// Mean absolute percentage error, as a share.
    pub mape: f64,
    /// Mean of the signed errors: above 0 the planner says too much.
    pub bias: f64,
    /// Nine in ten are below.
    pub p90: f64,
}

impl Errors {
    pub fn of(errors: impl IntoIterator<Item = f64>) -> Option<Errors> {
        let errors: Vec<f64> = errors.into_iter().collect();
        let count = errors.len() as f64;
        let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let at = |share: f64| sizes[((sizes.len() - 1) as f64 * share).round() as usize];
        (!errors.is_empty()).then(|| Errors {
            rows: errors.len() as u32,
            median: at(0.5),
            mape: sizes.iter().sum::<f64>() / count,
            bias: errors.iter().sum::<f64>() / count,
            p90: at(0.9),
        })
    }
}

/// One cell of the tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    pub metric: &'static str,
    /// "all", or a device, a model, a software.
    pub of: String,
    #[serde(flatten)]
    pub errors: Errors,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unusable {
    pub line: u64,
    pub reason: String,
}

/// One row and what the planner said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub line: u64,
    pub metric: &'static str,
    pub model: String,
    pub gpu: String,
    pub framework: String,
    pub measured: f64,
    pub predicted: Option<f64>,
}

/// One way to ask: the shipped figures, or a fit that has not seen what it is asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    pub name: &'static str,
    pub all: Vec<Cell>,
    pub by_gpu: Vec<Cell>,
    pub by_model: Vec<Cell>,
    pub by_framework: Vec<Cell>,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub table: String,
    pub rows: usize,
    pub usable: usize,
    pub unusable: Vec<Unusable>,
    pub sections: Vec<Section>,
}

/// The rows of a table, taken apart.
pub fn sorted(rows: &[Row]) -> (Vec<Case>, Vec<Unusable>) {
    let mut cases = Vec::new();
    let mut unusable = Vec::new();
    for row in rows {
        match Case::of(row) {
            Ok(case) => cases.push(case),
            Err(reason) => unusable.push(Unusable { line: row.line, reason }),
        }
    }
    (cases, unusable)
}

impl Section {
    pub fn of(name: &'static str, outcomes: &[Outcome<'_>]) -> Section {
        Section {
            name,
            all: cells(outcomes, |_| "all"),
            by_gpu: cells(outcomes, |case| &case.gpu),
            by_model: cells(outcomes, |case| &case.model),
            by_framework: cells(outcomes, |case| &case.framework),
            lines: outcomes
                .iter()
                .map(|outcome| Line {
                    line: outcome.case.line,
                    metric: outcome.case.metric.name(),
                    model: outcome.case.model.clone(),
                    gpu: outcome.case.gpu.clone(),
                    framework: outcome.case.framework.clone(),
                    measured: outcome.case.measured,
                    predicted: outcome.predicted,
                })
                .collect(),
        }
    }
}

fn cells(outcomes: &[Outcome<'_>], key: impl Fn(&Case) -> &str) -> Vec<Cell> {
    let mut groups: BTreeMap<(Metric, &str), Vec<f64>> = BTreeMap::new();
    for outcome in outcomes {
        if let Some(error) = outcome.error() {
            groups.entry((outcome.case.metric, key(outcome.case))).or_default().push(error);
        }
    }
    groups
        .into_iter()
        .filter_map(|((metric, of), errors)| {
            Some(Cell { metric: metric.name(), of: of.to_string(), errors: Errors::of(errors)? })
        })
        .collect()
}

/// How far cases of one class, software and metric were from what was fitted to them.
pub fn spreads(outcomes: &[Outcome<'_>]) -> Vec<Spread> {
    let mut groups: BTreeMap<(&str, &str, Metric), Vec<&Outcome<'_>>> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.predicted.is_some()) {
        let case = outcome.case;
        let key = (case.class().name(), case.deployment.runtime.as_str(), case.metric);
        groups.entry(key).or_default().push(outcome);
    }
    groups
        .into_iter()
        .filter_map(|((class, runtime, metric), outcomes)| {
            let logarithms = outcomes.iter().filter_map(|outcome| Some((1.0 + outcome.error()?).ln()));
            let errors = Errors::of(logarithms)?;
            let mut devices: Vec<String> = outcomes.iter().map(|outcome| outcome.case.gpu.clone()).collect();
            devices.sort();
            devices.dedup();
            Some(Spread {
                class: class.to_string(),
                runtime: runtime.to_string(),
                metric: metric.name().to_string(),
                rows: errors.rows,
                devices,
                median_error: errors.median,
                p90_error: errors.p90,
            })
        })
        .collect()
}

impl Report {
    /// For people and for the documentation: Markdown.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{}: {} rows, {} usable\n", self.table, self.rows, self.usable);
        for section in &self.sections {
            let _ = writeln!(text, "## {}\n", section.name);
            table(&mut text, "", &section.all);
            table(&mut text, "device", &section.by_gpu);
            table(&mut text, "model", &section.by_model);
            table(&mut text, "software", &section.by_framework);
            let without: Vec<&Line> = section.lines.iter().filter(|line| line.predicted.is_none()).collect();
            if !without.is_empty() {
                let lines: Vec<String> = without.iter().map(|line| line.line.to_string()).collect();
                let _ = writeln!(
                    text,
                    "Measured, and by the planner's count the memory has no room for it: lines {}\n",
                    lines.join(", ")
                );
            }
        }
        self.unusable_words(&mut text);
        text
    }

    fn unusable_words(&self, text: &mut String) {
        if self.unusable.is_empty() {
            return;
        }
        let _ = writeln!(text, "## Rows that cannot be used\n\n| reason | rows | lines |\n|---|---|---|");
        let mut reasons: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for row in &self.unusable {
            reasons.entry(&row.reason).or_default().push(row.line);
        }
        for (reason, lines) in reasons {
            let _ = writeln!(text, "| {reason} | {} | {} |", lines.len(), ranges(&lines));
        }
    }
}

fn table(text: &mut String, of: &str, cells: &[Cell]) {
    let _ = writeln!(
        text,
        "| metric | {of} | rows | median | MAPE | bias | p90 |\n|---|---|---|---|---|---|---|"
    );
    for cell in cells {
        let Errors { rows, median, mape, bias, p90 } = cell.errors;
        let _ = writeln!(
            text,
            "| {} | {} | {rows} | {:.1} % | {:.1} % | {:+.1} % | {:.1} % |",
            cell.metric,
            cell.of,
            100.0 * median,
            100.0 * mape,
            100.0 * bias,
            100.0 * p90
        );
    }
    text.push('\n');
}

/// "2-5, 9".
fn ranges(lines: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for line in lines {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *line => *end = *line,
            _ => parts.push((*line, *line)),
        }
    }
    let words: Vec<String> = parts
        .into_iter()
        .map(|(start, end)| if start == end { start.to_string() } else { format!("{start}-{end}") })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_hand() {
        let errors = Errors::of([0.1, -0.2, 0.3]).unwrap();
        assert_eq!((errors.rows, errors.median, errors.p90), (3, 0.2, 0.3));
        assert!((errors.mape - 0.2).abs() < 1e-12 && (errors.bias - 0.2 / 3.0).abs() < 1e-12);
        assert_eq!(Errors::of([]), None);
        assert_eq!(ranges(&[2, 3, 4, 9]), "2-4, 9");
    }
}
