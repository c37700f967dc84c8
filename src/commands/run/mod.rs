//! `llmlab run`: plan, start targets, drive them, record, analyse, report.

mod calibration;
mod execute;
mod folder;
mod journey;
mod plan;
mod probe;
mod progress;
mod search;
mod shard;
mod simulated;
mod stretch;
mod sweep;
mod trial;
mod workload;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmlab_metrics::Analysis;
use llmlab_metrics::claims;
use llmlab_metrics::compat::Scored;
use llmlab_results::manifest::RunStatus;
use llmlab_scenarios::spec::ClaimSpec;
use llmlab_tui::Leave;
use tokio_util::sync::CancellationToken;

pub use plan::{How, Plan, Planned, PlannedTarget, SimulateOn};
pub use shard::{ShardPlan, can_be_shared};
pub use workload::workload_config;

use crate::cli::RunArgs;
use crate::commands::{explain, report};
use crate::exit::{Code, Failure};
use crate::interrupt;
use crate::live::Live;
use execute::Done;

/// What a scenario came to.
struct Finished {
    code: Code,
    /// The run's directory, where there is one.
    path: Option<PathBuf>,
    analysis: Option<Analysis>,
    claims: Vec<ClaimSpec>,
    /// As other tools define their metrics, for those asked for.
    compat: Vec<Scored>,
}

/// With `simulate`, every engine of the scenario runs in virtual time.
pub fn run(args: RunArgs, simulate: Option<SimulateOn>) -> Result<Code, Failure> {
    let cancel = CancellationToken::new();
    let first = cancel.clone();
    interrupt::saving(move || {
        eprintln!("\nstopping: finishing what is in flight, then saving (Ctrl-C again leaves at once)");
        first.cancel();
    });
    if Path::new(&args.scenario).is_dir() {
        if args.shard.is_some() {
            return Err(Failure::bad_input("--shard: accepted is one scenario or a URL, not a folder"));
        }
        return folder::run(&args, simulate.as_ref(), &cancel);
    }
    let finished = one(&args, simulate.as_ref(), &cancel, false)?;
    let mut rows = Vec::new();
    folder::collect(&mut rows, &finished);
    if !args.json && !rows.is_empty() {
        print!("\n{}", claims::table::terminal(&rows));
    }
    Ok(finished.code)
}

/// One scenario from plan to report; `quiet` leaves the report unprinted.
fn one(
    args: &RunArgs,
    simulate: Option<&SimulateOn>,
    cancel: &CancellationToken,
    quiet: bool,
) -> Result<Finished, Failure> {
    let nothing =
        |code| Finished { code, path: None, analysis: None, claims: Vec::new(), compat: Vec::new() };
    let mut planned = plan::plan(args, simulate)?;
    if args.record {
        planned.record_calls()?;
    }
    match &mut planned {
        Planned::Run(plan) => plan.shard = shard::ShardPlan::of(args, plan)?,
        Planned::Sweep { .. } if args.shard.is_some() => {
            return Err(Failure::bad_input(
                "--shard: a sweep has many runs and shards can agree on one start only",
            ));
        }
        Planned::Sweep { .. } if !args.compat.is_empty() => {
            return Err(Failure::bad_input(
                "--compat: accepted is one run, not a sweep; use llmlab report on a cell",
            ));
        }
        Planned::Sweep { .. } => {}
    }
    if args.explain {
        return explain::explain(&planned).map(nothing);
    }
    let plan = match planned {
        Planned::Run(plan) => plan,
        Planned::Sweep { name, cells } => return sweep::run(args, &name, cells, cancel).map(nothing),
    };
    if let Some(find) = plan.spec.find {
        if !args.compat.is_empty() {
            return Err(Failure::bad_input(
                "--compat: accepted is one run; use llmlab report on a trial of the search",
            ));
        }
        return search::run(args, *plan, find, cancel).map(nothing);
    }
    let claims = plan.spec.claims.clone();
    let done = drive(args, *plan, &args.results, cancel)?;
    if interrupt::insisted().is_cancelled() {
        eprintln!("what was recorded is in {}; llmlab report makes its report", done.path.display());
        return Ok(nothing(Code::Interrupted));
    }
    let written = report::write_with(&done.path, &args.compat)?;
    if !quiet {
        report::print(&written, &done.path, args.json)?;
    }
    let code = match done.status {
        RunStatus::Interrupted => Code::Interrupted,
        _ => report::verdict_code(&written.analysis),
    };
    let (analysis, compat) = (Some(written.analysis), written.compat);
    Ok(Finished { code, path: Some(done.path), analysis, claims, compat })
}

/// Runs the plan under `results` while people watch.
fn drive(args: &RunArgs, plan: Plan, results: &Path, cancel: &CancellationToken) -> Result<Done, Failure> {
    let live = Arc::new(Live::new(
        &plan.spec.name,
        &plan.targets.iter().map(|t| (t.facts.name.clone(), t.facts.description.clone())).collect::<Vec<_>>(),
        plan.targets.len() * plan.spec.repeats as usize,
    ));
    on_worker(args, &live, || execute::execute(&plan, results, live.clone(), cancel.clone()))
}

/// Does the work on a thread of its own while people watch it.
fn on_worker<T: Send>(
    args: &RunArgs,
    live: &Arc<Live>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let finish = Finish(live.clone());
        let worker = std::thread::Builder::new()
            .name("run".into())
            .spawn_scoped(scope, move || {
                let _finish = finish;
                work()
            })
            .map_err(Failure::internal)?;
        watch(args, live);
        worker.join().map_err(|_| Failure::internal("the run stopped on an internal error"))?
    })
}

/// Tells the watchers that the run is over, also when it ends in a panic.
struct Finish(Arc<Live>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Shows the run until it ends: the live view when asked for and possible, else progress lines.
fn watch(args: &RunArgs, live: &Arc<Live>) {
    if args.tui && std::io::stdout().is_terminal() {
        match llmlab_tui::run(|| live.snapshot(), || ()) {
            Ok(Leave::Interrupt) => interrupt::press(),
            Ok(Leave::Finished | Leave::Quit) => {}
            Err(error) => eprintln!("no live view: {error}"),
        }
    } else if args.tui {
        eprintln!("--tui needs a terminal; showing progress lines instead");
    }
    progress::follow(live);
}
