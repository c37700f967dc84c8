//! The report of a search, from its file and the runs beside it. The end of a search, and the way back into a stored one.

use std::io::IsTerminal;
use std::path::Path;

use llmlab_metrics::search::{Edge, SearchReport, Searched, StopReason, TargetSearch, TriedValue};
use llmlab_metrics::{search_html, search_markdown, search_svgs, search_terminal};
use llmlab_results::read_run;
use llmlab_results::search::{SearchManifest, SearchedTarget, SearchedValue};

use super::report;
use crate::exit::{Code, Failure};

/// What the trials of a value say, read from its run under `dir`.
pub fn tried(dir: &Path, value: &SearchedValue, most_trials: u32) -> Result<TriedValue, Failure> {
    let (manifest, files) = read_run(&dir.join(&value.dir)).map_err(Failure::bad_input)?;
    let trials = report::trials(files, &mut Vec::new());
    let analysis = llmlab_metrics::analyse(&manifest, &trials);
    let stop = |stop: &llmlab_results::search::StoppedTrial| {
        (stop.dir.clone(), StopReason { words: stop.reason.clone(), diverged: stop.diverged })
    };
    let stops: Vec<_> = value.stopped.iter().map(stop).collect();
    Ok(TriedValue::of(
        value.value,
        value.offered_rps,
        &value.dir,
        &analysis,
        &manifest,
        &trials,
        &stops,
        most_trials,
    ))
}

/// Builds the reports of all values and the search's own, writes them and shows it.
pub fn finish(dir: &Path, search: &SearchManifest, json: bool) -> Result<Code, Failure> {
    let report = rebuild(dir, search)?;
    let mut paths = Vec::new();
    let encoded = serde_json::to_string_pretty(&report).map_err(Failure::internal)?;
    for (file, text) in [
        ("search.html", search_html(&report)),
        ("search.md", search_markdown(&report)),
        ("edge.json", encoded.clone()),
    ] {
        let path = dir.join(file);
        report::save(&path, &text)?;
        paths.push(path);
    }
    let charts = dir.join("charts");
    std::fs::create_dir_all(&charts).map_err(Failure::internal)?;
    for (name, svg) in search_svgs(&report) {
        report::save(&charts.join(name), &svg)?;
    }
    if json {
        println!("{encoded}");
    } else {
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print!("{}", search_terminal(&report, color));
        for (i, path) in paths.iter().enumerate() {
            println!("{}{}", if i == 0 { "\nreport   " } else { "         " }, path.display());
        }
        println!("runs     {}", dir.display());
    }
    Ok(verdict_code(&report))
}

fn rebuild(dir: &Path, search: &SearchManifest) -> Result<SearchReport, Failure> {
    let Some(searched) = Searched::from_name(&search.searched) else {
        return Err(Failure::bad_input(format!(
            "{}: \"{}\" is not rate, load or users",
            dir.join(llmlab_results::search::SEARCH_FILE).display(),
            search.searched
        )));
    };
    let target = |target: &SearchedTarget| -> Result<TargetSearch, Failure> {
        let mut values = Vec::with_capacity(target.values.len());
        for value in &target.values {
            report::write(&dir.join(&value.dir))?;
            values.push(tried(dir, value, search.most_trials)?);
        }
        let found = TargetSearch {
            name: target.name.clone(),
            description: target.description.clone(),
            saturation_rps: target.saturation_rps,
            range: target.range,
            edge: None,
            interval: (None, None),
            values,
            trusted: false,
            error: target.error.clone(),
        };
        Ok(found.concluded())
    };
    Ok(SearchReport {
        schema_version: llmlab_metrics::search::report::SCHEMA_VERSION,
        name: search.name.clone(),
        searched,
        tolerance: search.tolerance,
        most_trials: search.most_trials,
        slo: search.slo.clone(),
        targets: search.targets.iter().map(target).collect::<Result<_, _>>()?,
    })
}

/// Figures that must not be used cannot fail anything; a target that misses the SLO at the lowest load fails it.
fn verdict_code(report: &SearchReport) -> Code {
    let unusable = |target: &TargetSearch| !target.trusted || target.error.is_some() || target.edge.is_none();
    let below = |target: &TargetSearch| matches!(target.edge, Some(Edge::Below { .. }));
    if report.targets.iter().any(unusable) {
        Code::Invalid
    } else if report.targets.iter().any(below) {
        Code::SloFailed
    } else {
        Code::Pass
    }
}
