//! A sweep as one table: the figures of each target in each cell, and the best of each column.

use serde::Serialize;

use crate::analysis::{Analysis, TargetAnalysis};
use crate::metric::{Better, Metric, Value};

/// More targets than this with the best value, and it distinguishes nobody.
const MOST_BEST: usize = 3;
/// Values this close to the best are as good: the table would print most of them alike.
const EQUAL_SHARE: f64 = 0.005;

/// In the order of the table. Columns without any value are left out, and those of exceptions that did not happen.
const COLUMNS: [Metric; 14] = [
    Metric::OutputTokensPerS,
    Metric::Goodput,
    Metric::TtftP50,
    Metric::TtftP95,
    Metric::TpotP50,
    Metric::TpotP95,
    Metric::WaitingMean,
    Metric::WaitingMax,
    Metric::PaddingShare,
    Metric::InternalFragmentation,
    Metric::ExternalFragmentation,
    Metric::Preemptions,
    Metric::RecomputedShare,
    Metric::FailedShare,
];

/// What a cell's run came to.
#[derive(Debug, Clone)]
pub struct CellResult {
    pub mix: Option<String>,
    /// The swept key of the arrivals and its value.
    pub arrivals: Option<(String, f64)>,
    pub label: String,
    /// The run's directory, relative to the sweep's.
    pub dir: Option<String>,
    pub analysis: Option<Analysis>,
    /// Why there is no analysis, or an incomplete one.
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepTable {
    pub name: String,
    pub columns: Vec<Metric>,
    pub cells: Vec<CellTable>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellTable {
    pub label: String,
    pub mix: Option<String>,
    pub arrivals: Option<(String, f64)>,
    pub dir: Option<String>,
    /// What must be known before the numbers are used.
    pub notes: Vec<String>,
    pub rows: Vec<TargetRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetRow {
    pub target: String,
    /// One for each column.
    pub figures: Vec<Figure>,
}

/// The median over repeats. `None` is missing, unless it is infinite because requests failed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub value: Option<f64>,
    pub infinite: bool,
    /// Of its column among the targets of the cell.
    pub best: bool,
}

pub fn sweep_table(name: &str, cells: &[CellResult]) -> SweepTable {
    let targets = || cells.iter().filter_map(|cell| cell.analysis.as_ref()).flat_map(|a| &a.targets);
    let columns: Vec<Metric> = COLUMNS
        .into_iter()
        .filter(|metric| {
            targets().any(|target| match value(target, *metric) {
                Value::Missing => false,
                Value::Infinite => true,
                Value::Finite(v) => v > 0.0 || *metric != Metric::FailedShare,
            })
        })
        .collect();
    let cells = cells.iter().map(|cell| cell_table(cell, &columns)).collect();
    SweepTable { name: name.to_owned(), columns, cells }
}

fn cell_table(cell: &CellResult, columns: &[Metric]) -> CellTable {
    let targets = cell.analysis.as_ref().map_or(&[][..], |a| &a.targets);
    let mut rows: Vec<TargetRow> = targets
        .iter()
        .map(|target| TargetRow {
            target: target.name.clone(),
            figures: columns.iter().map(|metric| figure(value(target, *metric))).collect(),
        })
        .collect();
    for (column, metric) in columns.iter().enumerate() {
        mark_best(&mut rows, column, better(*metric));
    }
    let untrusted = cell.analysis.as_ref().is_some_and(|a| !a.trusted);
    let notes =
        cell.error.clone().into_iter().chain(untrusted.then(|| "UNTRUSTED, see its report".to_owned()));
    CellTable {
        label: cell.label.clone(),
        mix: cell.mix.clone(),
        arrivals: cell.arrivals.clone(),
        dir: cell.dir.clone(),
        notes: notes.collect(),
        rows,
    }
}

fn value(target: &TargetAnalysis, metric: Metric) -> Value {
    match target.metric(metric) {
        Some(spread) if spread.n + spread.infinite > 0 => {
            spread.median.map_or(Value::Infinite, Value::Finite)
        }
        _ => Value::Missing,
    }
}

fn figure(value: Value) -> Figure {
    Figure { value: value.finite(), infinite: value == Value::Infinite, best: false }
}

/// Under the same load a shorter queue is better, although a queue as such is neither good nor bad.
fn better(metric: Metric) -> Better {
    match metric {
        Metric::WaitingMean | Metric::WaitingMax => Better::Lower,
        other => other.better(),
    }
}

fn mark_best(rows: &mut [TargetRow], column: usize, better: Better) {
    let values = || rows.iter().filter_map(|row| row.figures[column].value);
    let best = match better {
        Better::Lower => values().reduce(f64::min),
        Better::Higher => values().reduce(f64::max),
        Better::Neither => None,
    };
    let Some(best) = best else { return };
    let is_best = |value: f64| (value - best).abs() <= EQUAL_SHARE * best.abs();
    let holders = values().filter(|value| is_best(*value)).count();
    if holders > MOST_BEST || holders == values().count() {
        return;
    }
    for row in rows {
        let figure = &mut row.figures[column];
        figure.best = figure.value.is_some_and(is_best);
    }
}
