//! A scenario with `[sweep]`: one run after the other in a directory of their own, then one table over them.

use std::path::Path;

use llmlab_metrics::sweep::CellResult;
use llmlab_results::RunDir;
use llmlab_results::manifest::RunStatus;
use llmlab_results::sweep::{SWEEP_SCHEMA_VERSION, SweepCell, SweepManifest};
use llmlab_scenarios::spec::SweepPoint;
use tokio_util::sync::CancellationToken;

use super::drive;
use super::plan::Plan;
use crate::cli::RunArgs;
use crate::commands::{report, sweep_report};
use crate::exit::{Code, Failure};
use crate::host;

/// A cell that cannot be measured does not keep the others from it. A sweep looks for limits, so a missed SLO is a result
/// and no failure.
pub fn run(
    args: &RunArgs,
    name: &str,
    cells: Vec<(SweepPoint, Plan)>,
    cancel: &CancellationToken,
) -> Result<Code, Failure> {
    let dir = RunDir::create(&args.results, name, host::utc_now()).map_err(Failure::internal)?;
    let mut manifest = manifest(args, name, &cells);
    dir.write_sweep(&manifest).map_err(Failure::internal)?;
    let count = cells.len();
    let mut results = Vec::with_capacity(count);
    let mut code = Code::Pass;
    for (index, (_, plan)) in cells.into_iter().enumerate() {
        let cell = &mut manifest.cells[index];
        eprintln!("cell {} of {count}: {}", index + 1, cell.label);
        let (result, ended) = measure(args, plan, cell, dir.path(), cancel)?;
        results.push(result);
        dir.write_sweep(&manifest).map_err(Failure::internal)?;
        code = graver(code, ended);
        // A cell that was only being calibrated is complete.
        if ended == Code::Interrupted || cancel.is_cancelled() {
            code = if results.len() < count { Code::Interrupted } else { code };
            break;
        }
    }
    let left = manifest.cells.iter().skip(results.len());
    results.extend(left.map(|cell| sweep_report::result(cell, None)));
    sweep_report::finish(dir.path(), name, &results, args.json)?;
    Ok(code)
}

/// Runs a cell and reads its run back. What went wrong in it is told in its place; `Err` means that nothing can go on.
fn measure(
    args: &RunArgs,
    plan: Plan,
    cell: &mut SweepCell,
    parent: &Path,
    cancel: &CancellationToken,
) -> Result<(CellResult, Code), Failure> {
    let driven = drive(args, plan, parent, cancel);
    let (analysis, ended) = match driven {
        Ok(done) => {
            cell.dir = done.path.file_name().map(|name| name.to_string_lossy().into_owned());
            let written = report::write(&done.path)?;
            let ended = match done.status {
                RunStatus::Interrupted => Code::Interrupted,
                _ if written.analysis.trusted => Code::Pass,
                _ => Code::Invalid,
            };
            (Some(written.analysis), ended)
        }
        Err(failure) => {
            eprintln!("{:?}", failure.error);
            cell.error = Some(failure.words());
            (None, failure.code)
        }
    };
    Ok((sweep_report::result(cell, analysis), ended))
}

/// Of what the cells ended with, the one to tell: a stop, then the first failure, then numbers not to be used.
pub(super) fn graver(so_far: Code, next: Code) -> Code {
    match (so_far, next) {
        (_, Code::Interrupted) => next,
        (Code::Pass, _) | (Code::Invalid, Code::Internal | Code::Usage | Code::Target) => next,
        _ => so_far,
    }
}

fn manifest(args: &RunArgs, name: &str, cells: &[(SweepPoint, Plan)]) -> SweepManifest {
    let cells = cells.iter().map(|(point, _)| SweepCell {
        mix: point.mix.clone(),
        arrivals: point.arrivals.clone(),
        label: point.to_string(),
        dir: None,
        error: None,
    });
    SweepManifest {
        schema_version: SWEEP_SCHEMA_VERSION,
        name: name.to_owned(),
        started_at: host::rfc3339(host::utc_now()),
        command_line: std::env::args().collect(),
        scenario_path: Some(args.scenario.clone()),
        cells: cells.collect(),
    }
}
