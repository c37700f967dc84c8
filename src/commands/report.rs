//! `llmlab report`: records in, report out. The end of every run, and the way back into a stored or killed one.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use llmlab_metrics::analysis::TargetAnalysis;
use llmlab_metrics::compat::{self, Scored, Tool, score};
use llmlab_metrics::{Analysis, Trial};
use llmlab_results::{TrialFiles, latest_run, read_run, read_search, read_sweep, write_parquet};
use serde::Serialize;

use super::{hdr_log, search_report, sweep_report};
use crate::cli::ReportArgs;
use crate::exit::{Code, Failure};

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'w> {
    #[serde(flatten)]
    analysis: &'w Analysis,
    #[serde(skip_serializing_if = "<[Scored]>::is_empty")]
    compat: &'w [Scored],
}

/// A report on disk, and what it says.
#[derive(Debug)]
pub struct Written {
    pub analysis: Analysis,
    pub html: PathBuf,
    pub markdown: PathBuf,
    /// What reading the run found damaged.
    pub warnings: Vec<String>,
    /// The same records under the definitions of the tools asked for.
    pub compat: Vec<Scored>,
}

pub fn report(args: ReportArgs) -> Result<Code, Failure> {
    let run = match args.run {
        Some(run) => run,
        None => latest_run(&args.results).map_err(Failure::bad_input)?.ok_or_else(|| {
            Failure::bad_input(format!("no runs under {}; make one with llmlab run", args.results.display()))
        })?,
    };
    if let Some(sweep) = read_sweep(&run).map_err(Failure::bad_input)? {
        if !args.compat.is_empty() {
            return Err(Failure::bad_input("--compat: accepted is one run; choose a cell of the sweep"));
        }
        return sweep_report::rebuild(&run, &sweep, args.json);
    }
    if let Some(search) = read_search(&run).map_err(Failure::bad_input)? {
        if !args.compat.is_empty() {
            return Err(Failure::bad_input("--compat: accepted is one run; choose a trial of the search"));
        }
        return search_report::finish(&run, &search, args.json);
    }
    let written = write_with(&run, &args.compat)?;
    print(&written, &run, args.json)?;
    Ok(verdict_code(&written.analysis))
}

/// Reads a run, analyses it, and writes parquet files, SVG charts and both reports beside the records.
pub fn write(run: &Path) -> Result<Written, Failure> {
    write_with(run, &[])
}

/// The same, scored under other tools' definitions too.
pub fn write_with(run: &Path, tools: &[Tool]) -> Result<Written, Failure> {
    let (manifest, files) = read_run(run).map_err(Failure::bad_input)?;
    write_parquet(run, &files).map_err(Failure::internal)?;
    let mut warnings = Vec::new();
    let trials = trials(files, &mut warnings);
    let analysis = llmlab_metrics::analyse(&manifest, &trials);
    let save = |name: &str, text: &str| -> Result<PathBuf, Failure> {
        let path = run.join(name);
        save(&path, text)?;
        Ok(path)
    };
    save("analysis.json", &serde_json::to_string_pretty(&analysis).map_err(Failure::internal)?)?;
    let markdown = save("report.md", &llmlab_metrics::markdown(&analysis))?;
    let html = save("report.html", &llmlab_metrics::html(&analysis, &manifest, &trials))?;
    let charts = run.join("charts");
    std::fs::create_dir_all(&charts).map_err(Failure::internal)?;
    for (name, svg) in llmlab_metrics::svgs(&analysis, &manifest, &trials) {
        save(&format!("charts/{name}"), &svg)?;
    }
    for (name, svg) in llmlab_metrics::compositions(&analysis, &trials) {
        save(&name, &svg)?;
    }
    let latencies = hdr_log::log(&manifest, &trials).map_err(Failure::internal)?;
    let path = run.join(hdr_log::FILE);
    std::fs::write(&path, latencies)
        .map_err(|error| Failure::internal(format!("cannot write {}: {error}", path.display())))?;
    let compat = tools.iter().map(|tool| score(*tool, &manifest, &trials, &analysis)).collect();
    Ok(Written { analysis, html, markdown, warnings, compat })
}

/// A stored trial as the analysis takes it.
pub fn trial(file: TrialFiles) -> Trial {
    Trial {
        facts: file.facts,
        records: file.records,
        steps: file.steps,
        server: file.server,
        machine: file.machine,
    }
}

/// What was read, as analysis takes it; damage goes to `warnings`.
pub fn trials(files: Vec<TrialFiles>, warnings: &mut Vec<String>) -> Vec<Trial> {
    let told = |mut file: TrialFiles| {
        warnings.append(&mut file.warnings);
        trial(file)
    };
    files.into_iter().map(told).collect()
}

pub fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::internal(format!("cannot write {}: {error}", path.display())))
}

pub fn print(written: &Written, run: &Path, json: bool) -> Result<(), Failure> {
    if json {
        let printed = Printed { analysis: &written.analysis, compat: &written.compat };
        println!("{}", serde_json::to_string_pretty(&printed).map_err(Failure::internal)?);
        written.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        return Ok(());
    }
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = crossterm_width();
    print!("{}", llmlab_metrics::terminal(&written.analysis, color, width));
    for scored in &written.compat {
        print!("{}", compat::terminal(scored, width));
    }
    for warning in &written.warnings {
        println!("warning: {warning}");
    }
    println!("\nreport   {}", written.html.display());
    println!("         {}", written.markdown.display());
    println!("records  {}", run.display());
    Ok(())
}

fn crossterm_width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    columns.unwrap_or(100).clamp(60, 200)
}

/// Invalid beats a missed SLO: a number that must not be used cannot fail anything. A limit counts as missed when a
/// target broke it in more than half of its repeats.
pub fn verdict_code(analysis: &Analysis) -> Code {
    let missed = |target: &TargetAnalysis| target.slo.iter().any(|slo| slo.judged > 2 * slo.met);
    if !analysis.trusted {
        Code::Invalid
    } else if analysis.targets.iter().any(missed) {
        Code::SloFailed
    } else {
        Code::Pass
    }
}
