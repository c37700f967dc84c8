//! The report as text.

use super::super::answer::Plan;
use super::view::view;

/// For a terminal of any width that shows a table.
pub fn terminal(plan: &Plan) -> String {
    let view = view(plan);
    let mut out = format!("{}\n\n", view.headline);
    for (term, words) in &view.question {
        out.push_str(&format!("{term:>10}  {words}\n"));
    }
    out.push('\n');
    for point in &view.points {
        out.push_str(&format!("  {point}\n"));
    }
    if !view.rows.is_empty() {
        out.push('\n');
        let rows: Vec<Vec<String>> = view
            .rows
            .iter()
            .map(|line| {
                let mark = match (line.best, line.on_front) {
                    (true, _) => ">",
                    (_, true) => "*",
                    _ => "",
                };
                let mut cells = vec![mark.to_owned()];
                cells.extend(line.cells.iter().cloned());
                cells
            })
            .collect();
        let mut headings = vec![""];
        headings.extend(&view.headings);
        out.push_str(&table(&headings, &rows));
        out.push_str("> the answer   * nothing is better in cost, TTFT and TPOT at once\n");
        if view.more_rows > 0 {
            out.push_str(&format!("{} more serve; the report's JSON has them\n", view.more_rows));
        }
    }
    for reason in &view.refused {
        out.push_str(&format!("\n{} x {}\n", reason.count, reason.title));
        for example in &reason.examples {
            out.push_str(&format!("    {example}\n"));
        }
        out.push_str(&format!("    what would help: {}\n", reason.change));
    }
    for (title, headings, rows) in [
        ("As clusters", &view.cluster_headings, &view.clusters),
        ("APIs", &view.api_headings, &view.apis),
        ("What changes the decision", &view.sensitivity_headings, &view.sensitivities),
    ] {
        if !rows.is_empty() {
            out.push_str(&format!("\n{title}\n{}", table(headings, rows)));
        }
    }
    for (title, lines) in [("Risks", &view.risks), ("Assumptions", &view.assumptions)] {
        if !lines.is_empty() {
            out.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| out.push_str(&format!("  - {line}\n")));
        }
    }
    out
}

/// Columns as wide as their longest cell; what begins with a digit or '$' is set right.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '$');
            let gap = " ".repeat(width - cell.chars().count());
            let (before, after) = if number { (gap.as_str(), "") } else { ("", gap.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut out = line(&mut headings.iter().copied());
    rows.iter().for_each(|row| out.push_str(&line(&mut row.iter().map(String::as_str))));
    out
}
