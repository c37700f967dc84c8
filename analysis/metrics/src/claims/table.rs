//! Claims as lines for a terminal and as Markdown.

use std::fmt::Write;

use super::{ClaimMetric, Found, Gap, Row};
use crate::metric::Metric;
use crate::report::format::{plain, significant};

/// A block of lines for each claim.
pub fn terminal(rows: &[Row]) -> String {
    let mut text = String::from("Claims\n");
    for row in rows {
        let claim = &row.claim;
        let _ = writeln!(text, "\n{}: {}", plain(&claim.name), plain(&claim.says));
        let _ = writeln!(
            text,
            "  claimed    {} {}  ({})",
            claimed(row),
            claim.metric.label(),
            plain(&claim.source)
        );
        for (name, found) in sides(row) {
            let Some(found) = found else {
                let _ = writeln!(text, "  {name:<10} no run");
                continue;
            };
            let _ = writeln!(text, "  {name:<10} {}: {}", ratio(found), verdict(found));
            let _ = writeln!(text, "             {}", found.why.words(claim));
        }
        if let Some(why) = difference(row) {
            let _ = writeln!(text, "  difference {why}");
        }
        for problem in &row.missing {
            let _ = writeln!(text, "  missing    {}", plain(problem));
        }
    }
    text
}

/// A table, and below it the reasons.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| claim | claimed | measured | simulated |\n|---|---|---|---|\n");
    for row in rows {
        let cell = |found: &Option<Found>| {
            found
                .as_ref()
                .map_or("no run".into(), |found| format!("{}: **{}**", ratio(found), verdict(found)))
        };
        let _ = writeln!(
            text,
            "| {}: {} | {} | {} | {} |",
            cell_text(&row.claim.name),
            row.claim.metric.label(),
            claimed(row),
            cell(&row.measured),
            cell(&row.simulated)
        );
    }
    for row in rows {
        let claim = &row.claim;
        let _ = writeln!(
            text,
            "\n**{}**: {} ({})\n",
            cell_text(&claim.name),
            cell_text(&claim.says),
            cell_text(&claim.source)
        );
        for (name, found) in sides(row) {
            if let Some(found) = found {
                let _ = writeln!(text, "- {name}: {}", found.why.words(claim));
            }
        }
        if let Some(why) = difference(row) {
            let _ = writeln!(text, "- difference: {why}");
        }
        for problem in &row.missing {
            let _ = writeln!(text, "- missing: {}", cell_text(problem));
        }
    }
    text
}

fn sides(row: &Row) -> [(&'static str, &Option<Found>); 2] {
    [("measured", &row.measured), ("simulated", &row.simulated)]
}

fn claimed(row: &Row) -> String {
    let (least, most) = row.claim.claimed;
    format!("{}-{}x", significant(least), significant(most))
}

/// "2.31x [2.20, 2.42] in 3 repeats".
fn ratio(found: &Found) -> String {
    match found.interval {
        Some((low, high)) => format!(
            "{}x [{}, {}] in {} repeats",
            significant(found.ratio),
            significant(low),
            significant(high),
            found.repeats
        ),
        None => format!("{}x in one repeat", significant(found.ratio)),
    }
}

fn verdict(found: &Found) -> String {
    let doubt = if found.trusted { "" } else { " (the run is not trusted)" };
    format!("{}{doubt}", found.verdict.words())
}

/// Only ratios of throughput are products of the same factors on both sides.
fn difference(row: &Row) -> Option<String> {
    let throughput = matches!(
        row.claim.metric,
        ClaimMetric::Of(Metric::OutputTokensPerS | Metric::RequestsPerS | Metric::Goodput)
    );
    let (measured, simulated) = (row.measured.as_ref()?, row.simulated.as_ref()?);
    let gap = throughput.then(|| Gap::between(&measured.why, &simulated.why))??;
    Some(gap.words())
}

/// Text from a scenario inside a Markdown table.
fn cell_text(text: &str) -> String {
    plain(text).replace('|', "\\|").replace('<', "&lt;")
}
