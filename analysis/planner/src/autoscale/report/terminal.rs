//! The report as text.

use super::super::answer::Autoscaling;
use super::view::view;
use crate::plan::report::table;

/// For a terminal of any width that shows a table.
pub fn terminal(answer: &Autoscaling) -> String {
    let view = view(answer);
    let mut out = format!("{}\n\n", view.headline);
    for (term, words) in &view.question {
        out.push_str(&format!("{term:>10}  {words}\n"));
    }
    let rows: Vec<Vec<String>> = view
        .rows
        .iter()
        .map(|row| {
            let mark = match (row.best, row.within) {
                (true, _) => ">",
                (_, true) => "+",
                _ => "",
            };
            std::iter::once(mark.to_owned()).chain(row.cells.iter().cloned()).collect()
        })
        .collect();
    let headings: Vec<&str> = std::iter::once("").chain(view.headings.iter().copied()).collect();
    out.push('\n');
    out.push_str(&table(&headings, &rows));
    out.push_str("> the cheapest within the share that may miss a limit   + within it too\n\n");
    view.points.iter().for_each(|point| out.push_str(&format!("  {point}\n")));
    out.push_str("\nAssumptions\n");
    view.assumptions.iter().for_each(|line| out.push_str(&format!("  - {line}\n")));
    out
}
