//! Rows of the table for turns of conversations.

use crate::analysis::{Analysis, TargetAnalysis, TrialAnalysis};
use crate::quantile;
use crate::report::format::{duration, significant};
use crate::report::view::{Cell, Row};
use crate::turns::TurnGroup;

/// A row for each group of turns that some target has: TTFT p50, and beside it p95 and the mean length of the prompts.
pub fn turn_rows(a: &Analysis) -> Vec<Row> {
    let mut groups: Vec<&TurnGroup> = Vec::new();
    for group in a.trials.iter().flat_map(|trial| &trial.turns) {
        if !groups.iter().any(|known| known.first == group.first) {
            groups.push(group);
        }
    }
    groups.sort_by_key(|group| group.first);
    let row = |(i, group): (usize, &TurnGroup)| Row {
        label: format!("TTFT, {}", group.label()),
        group_start: i == 0,
        brief: true,
        cells: a.targets.iter().map(|target| cell(a, target, group.first)).collect(),
    };
    groups.into_iter().enumerate().map(row).collect()
}

/// Medians over the repeats.
fn cell(a: &Analysis, target: &TargetAnalysis, first: u32) -> Cell {
    let of_target = |trial: &&TrialAnalysis| trial.target == target.name;
    let group = |trial: &'_ TrialAnalysis| trial.turns.iter().find(|group| group.first == first).cloned();
    let groups: Vec<TurnGroup> = a.trials.iter().filter(of_target).filter_map(group).collect();
    let median = |pick: &dyn Fn(&TurnGroup) -> Option<f64>| {
        let values: Vec<f64> = groups.iter().filter_map(pick).collect();
        // One infinite percentile among the repeats is told by the table's own rows.
        quantile::median(&values)
    };
    // Where clients hung up before the first token nobody knows it; where requests failed it is infinite.
    let missing = if groups.iter().any(|group| group.ttft.is_some()) { "∞" } else { "–" };
    let words = |ns: Option<f64>| ns.map_or_else(|| missing.into(), duration);
    let prompt = median(&|group| Some(group.prompt_tokens_mean));
    match (groups.is_empty(), prompt) {
        (false, Some(prompt)) => Cell {
            value: words(median(&|group| group.ttft.as_ref()?.adjusted.p50_ns)),
            range: format!(
                "p95 {}, prompt {} tok",
                words(median(&|group| group.ttft.as_ref()?.adjusted.p95_ns)),
                significant(prompt)
            ),
            ..Cell::even()
        },
        _ => Cell { value: "–".into(), ..Cell::even() },
    }
}
