//! `llmlab run FOLDER`: its scenarios one after the other, and what their claims came to.

use std::path::{Path, PathBuf};

use llmlab_metrics::Analysis;
use llmlab_metrics::claims::{self, Claim, ClaimMetric, Row};
use llmlab_metrics::compat::Scored;
use llmlab_scenarios::spec::ClaimSpec;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Finished, SimulateOn, one};
use crate::cli::RunArgs;
use crate::exit::{Code, Failure};
use crate::host;

/// A run of the folder, for `--json`.
#[derive(Serialize)]
struct Entry {
    scenario: String,
    run: Option<PathBuf>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compat: Vec<Scored>,
}

/// Every scenario is an ordinary run. One that fails is told and the rest goes on; the code is that of the first that did
/// not pass. An interruption ends all.
pub fn run(
    args: &RunArgs,
    simulate: Option<&SimulateOn>,
    cancel: &CancellationToken,
) -> Result<Code, Failure> {
    let files = scenarios(Path::new(&args.scenario))?;
    let (mut entries, mut rows, mut code) = (Vec::new(), Vec::new(), Code::Pass);
    for (number, file) in files.iter().enumerate() {
        let scenario = file.display().to_string();
        eprintln!("\n[{} of {}] {scenario}", number + 1, files.len());
        let finished =
            one(&RunArgs { scenario: scenario.clone(), ..args.clone() }, simulate, cancel, args.json);
        let (exit, run, compat) = match finished {
            Ok(finished) => {
                collect(&mut rows, &finished);
                (finished.code, finished.path, finished.compat)
            }
            Err(failure) => {
                eprintln!("{:?}", failure.error);
                (failure.code, None, Vec::new())
            }
        };
        if code == Code::Pass {
            code = exit;
        }
        entries.push(Entry { scenario, run, exit_code: exit as u8, compat });
        // A run that was only being calibrated is complete.
        if exit == Code::Interrupted || cancel.is_cancelled() && number + 1 < files.len() {
            code = Code::Interrupted;
            break;
        }
    }
    tell(args, &entries, &rows)?;
    Ok(code)
}

/// The scenario files of a folder, by name.
fn scenarios(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |error: std::io::Error| Failure::bad_input(format!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let toml = path.extension().is_some_and(|extension| extension == "toml");
        // The shipped scenarios lie in a folder that is a crate too.
        if toml && path.is_file() && path.file_name().is_some_and(|name| name != "Cargo.toml") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Failure::bad_input(format!("{} holds no scenario (*.toml)", folder.display())));
    }
    files.sort();
    Ok(files)
}

/// Adds what a run says about its claims.
pub fn collect(rows: &mut Vec<Row>, finished: &Finished) {
    let Some(analysis) = &finished.analysis else { return };
    for spec in &finished.claims {
        add(rows, spec, analysis);
    }
}

fn add(rows: &mut Vec<Row>, spec: &ClaimSpec, analysis: &Analysis) {
    let Some(metric) = ClaimMetric::from_name(&spec.metric) else { return };
    let claim = Claim {
        name: spec.name.clone(),
        says: spec.says.clone(),
        source: spec.source.clone(),
        metric,
        claimed: spec.ratio,
        target: spec.target.clone(),
        against: spec.against.clone(),
    };
    let same = |row: &&Row| row.claim.name == claim.name;
    let found = match rows.iter().find(same) {
        Some(known) if (known.claim.metric, known.claim.claimed) != (claim.metric, claim.claimed) => {
            Err(format!(
                "{} claims something else under this name: metric and ratio must be equal",
                analysis.name
            ))
        }
        _ => claims::judge(&claim, analysis).map_err(|problem| format!("{}: {problem}", analysis.name)),
    };
    claims::join(rows, claim, found);
}

fn tell(args: &RunArgs, entries: &[Entry], rows: &[Row]) -> Result<(), Failure> {
    if args.json {
        let all = serde_json::json!({ "runs": entries, "claims": rows });
        println!("{}", serde_json::to_string_pretty(&all).map_err(Failure::internal)?);
    } else if !args.explain {
        println!();
        for entry in entries.iter().filter(|entry| entry.exit_code != 0) {
            println!("exit code {:>3}  {}", entry.exit_code, entry.scenario);
        }
        if !rows.is_empty() {
            print!("{}", claims::table::terminal(rows));
        }
    }
    // A dry run finds nothing.
    if rows.is_empty() {
        return Ok(());
    }
    let (now, facts) = (host::rfc3339(host::utc_now()), host::facts(None));
    let preface = format!(
        "`llmlab run {}`, {now}, llmlab {}, {}, {} cores.\n\n",
        args.scenario,
        env!("CARGO_PKG_VERSION"),
        facts.cpu_model,
        facts.cores
    );
    let path = args.results.join(format!("claims-{}.md", now.replace(['-', ':'], "")));
    std::fs::write(&path, format!("{preface}{}", claims::table::markdown(rows)))
        .map_err(|error| Failure::internal(format!("cannot write {}: {error}", path.display())))?;
    eprintln!("\nclaims   {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmlab_scenarios::spec::CLAIM_METRICS;

    #[test]
    fn every_metric_that_a_scenario_may_name_can_be_judged() {
        for name in CLAIM_METRICS {
            assert!(ClaimMetric::from_name(name).is_some(), "{name}");
        }
    }
}
