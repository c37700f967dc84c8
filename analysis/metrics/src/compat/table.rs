//! A scored run for a terminal: the tool's lines with its figures, ours beside them.

use super::{Row, Scored};
use crate::report::format::{plain, significant, wrap};

/// One table for each trial, lines at most `width` characters where names allow it.
pub fn terminal(scored: &Scored, width: usize) -> String {
    let mut out = String::new();
    for trial in &scored.trials {
        out.push_str(&format!("\n{}, as defined by {}\n\n", plain(&trial.trial), scored.version));
        let name_width = trial.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        out.push_str(&format!("  {:<name_width$}  {:>12}  {:>12}\n", "", scored.tool.name(), "llmlab"));
        for row in &trial.rows {
            out.push_str(&line(row, name_width));
        }
        for note in &trial.notes {
            out.push_str(&wrap(&format!("  {note}"), width, "  "));
            out.push('\n');
        }
    }
    out.push_str("\nEach difference has a reason: docs/compat.md\n");
    out
}

fn line(row: &Row, name_width: usize) -> String {
    let number = |value: Option<f64>| match value {
        // Counts and nanoseconds are whole, and six digits of one would be a lie.
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        Some(value) => significant(value),
        None => "–".to_owned(),
    };
    let value = number(row.value);
    let line = match row.our_name {
        Some(ours) => format!("  {:<name_width$}  {value:>12}  {:>12}  {ours}", row.name, number(row.ours)),
        None => format!("  {:<name_width$}  {value:>12}", row.name),
    };
    format!("{}\n", line.trim_end())
}
