//! `llmlab run`: plan, start targets, drive them, record, analyse, report.

mod execute;
mod plan;
mod probe;
mod progress;
mod simulated;
mod trial;
mod workload;

use std::io::IsTerminal;
use std::sync::Arc;

use llmlab_results::manifest::RunStatus;
use llmlab_tui::Leave;
use tokio_util::sync::CancellationToken;

pub use plan::{How, Plan, PlannedTarget, SimulateOn};

use crate::cli::RunArgs;
use crate::commands::{explain, report};
use crate::exit::{Code, Failure};
use crate::live::Live;

/// With `simulate`, every engine of the scenario runs in virtual time.
pub fn run(args: RunArgs, simulate: Option<SimulateOn>) -> Result<Code, Failure> {
    let mut plan = plan::plan(&args, simulate.as_ref())?;
    if args.record {
        plan.record_calls()?;
    }
    if args.explain {
        return explain::explain(&plan);
    }
    let live = Arc::new(Live::new(
        &plan.spec.name,
        &plan.targets.iter().map(|t| (t.facts.name.clone(), t.facts.description.clone())).collect::<Vec<_>>(),
        plan.targets.len() * plan.spec.repeats as usize,
    ));
    let cancel = CancellationToken::new();
    stop_on_ctrl_c(cancel.clone());

    let worker = {
        let (live, cancel, plan, results) =
            (live.clone(), cancel.clone(), plan.clone(), args.results.clone());
        std::thread::Builder::new()
            .name("run".into())
            .spawn(move || {
                let _finish = Finish(live.clone());
                execute::execute(&plan, &results, live, cancel)
            })
            .map_err(Failure::internal)?
    };
    watch(&args, &live, &cancel);
    let done = worker.join().map_err(|_| Failure::internal("the run stopped on an internal error"))??;

    let written = report::write(&done.path)?;
    report::print(&written, &done.path, args.json)?;
    Ok(match done.status {
        RunStatus::Interrupted => Code::Interrupted,
        _ => report::verdict_code(&written.analysis),
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
fn watch(args: &RunArgs, live: &Arc<Live>, cancel: &CancellationToken) {
    if args.tui && std::io::stdout().is_terminal() {
        match llmlab_tui::run(|| live.snapshot(), || ()) {
            Ok(Leave::Interrupt) => cancel.cancel(),
            Ok(Leave::Finished | Leave::Quit) => {}
            Err(error) => eprintln!("no live view: {error}"),
        }
    } else if args.tui {
        eprintln!("--tui needs a terminal; showing progress lines instead");
    }
    progress::follow(live);
}

/// First Ctrl-C: no new requests, short drain, save, report. Second: leave at once; finished requests are on disk.
fn stop_on_ctrl_c(cancel: CancellationToken) {
    let listen = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                eprintln!(
                    "\nstopping: finishing what is in flight, then saving (Ctrl-C again leaves at once)"
                );
                cancel.cancel();
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(Code::Interrupted as i32);
            }
        });
    };
    // Without the thread Ctrl-C simply kills the process, and the journal keeps what finished.
    let _ = std::thread::Builder::new().name("ctrl-c".into()).spawn(listen);
}
