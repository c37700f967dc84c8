//! The table over the cells of a sweep, written beside their runs. The end of a sweep, and the way back into a stored one.

use std::io::IsTerminal;
use std::path::Path;

use llmlab_metrics::sweep::CellResult;
use llmlab_metrics::{Analysis, sweep_csv, sweep_html, sweep_markdown, sweep_table, sweep_terminal};
use llmlab_results::sweep::{SweepCell, SweepManifest};

use super::report;
use crate::exit::{Code, Failure};

/// `analysis` is missing where the cell has no run that can be read.
pub fn result(cell: &SweepCell, analysis: Option<Analysis>) -> CellResult {
    let error = match (&cell.error, &cell.dir) {
        (None, None) => Some("did not run".into()),
        (error, _) => error.clone(),
    };
    CellResult {
        mix: cell.mix.clone(),
        arrivals: cell.arrivals.clone(),
        label: cell.label.clone(),
        dir: cell.dir.clone(),
        analysis,
        error,
    }
}

/// Builds the reports of all cells and their table again from what is stored.
pub fn rebuild(dir: &Path, sweep: &SweepManifest, json: bool) -> Result<Code, Failure> {
    let mut results = Vec::with_capacity(sweep.cells.len());
    let mut code = Code::Pass;
    for cell in &sweep.cells {
        let written = cell.dir.as_ref().map(|run| report::write(&dir.join(run))).transpose()?;
        if !written.as_ref().is_some_and(|written| written.analysis.trusted) {
            code = Code::Invalid;
        }
        results.push(result(cell, written.map(|written| written.analysis)));
    }
    finish(dir, &sweep.name, &results, json)?;
    Ok(code)
}

/// Writes the table as CSV, Markdown and HTML and shows it.
pub fn finish(dir: &Path, name: &str, cells: &[CellResult], json: bool) -> Result<(), Failure> {
    let table = sweep_table(name, cells);
    let csv = sweep_csv(&table).map_err(Failure::internal)?;
    let mut paths = Vec::new();
    for (file, text) in
        [("sweep.html", sweep_html(&table)), ("sweep.md", sweep_markdown(&table)), ("sweep.csv", csv)]
    {
        let path = dir.join(file);
        report::save(&path, &text)?;
        paths.push(path);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&table).map_err(Failure::internal)?);
        return Ok(());
    }
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print!("{}", sweep_terminal(&table, color));
    for (i, path) in paths.iter().enumerate() {
        println!("{}{}", if i == 0 { "\ntable    " } else { "         " }, path.display());
    }
    println!("runs     {}", dir.display());
    Ok(())
}
