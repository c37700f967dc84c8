//! `llmlab merge`: the runs of all shards as one run, and its report.

use std::path::Path;

use llmlab_metrics::Trial;
use llmlab_results::merge::{Part, merge};
use llmlab_results::record::RecordSink;
use llmlab_results::{RunDir, read_run};

use super::report;
use crate::cli::MergeArgs;
use crate::exit::{Code, Failure};
use crate::host;

pub fn run(args: MergeArgs) -> Result<Code, Failure> {
    let parts = args.runs.iter().map(|run| part(run)).collect::<Result<Vec<_>, _>>()?;
    let (mut manifest, trial) =
        merge(parts).map_err(|error| Failure::bad_input(format!("cannot merge: {error}")))?;
    manifest.command_line = std::env::args().collect();

    let dir = RunDir::create(&args.results, &manifest.name, host::utc_now()).map_err(Failure::internal)?;
    let mut writer = dir.start_trial(&trial.facts).map_err(Failure::internal)?;
    trial.records.iter().try_for_each(|record| writer.record(record)).map_err(Failure::internal)?;
    trial.server.iter().try_for_each(|sample| writer.write_sample(sample)).map_err(Failure::internal)?;
    writer.finish().map_err(Failure::internal)?;
    // Last, so that a merge cut short is no run.
    dir.write_manifest(&manifest).map_err(Failure::internal)?;

    let mut written = report::write(dir.path())?;
    written.warnings.extend(trial.warnings);
    report::print(&written, dir.path(), args.json)?;
    Ok(report::verdict_code(&written.analysis))
}

/// A run with the verdict on it alone.
fn part(path: &Path) -> Result<Part, Failure> {
    let (manifest, files) = read_run(path).map_err(Failure::bad_input)?;
    let trials: Vec<Trial> = files.iter().cloned().map(report::trial).collect();
    let analysis = llmlab_metrics::analyse(&manifest, &trials);
    let causes = analysis.trials.iter().flat_map(|trial| &trial.trust.causes).map(ToString::to_string);
    Ok(Part {
        run: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        causes: causes.collect(),
        trusted: analysis.trusted,
        manifest,
        trials: files,
    })
}
