//! A trial, and a step of a probe, in virtual time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use llmlab_loadgen::saturation::Ramp;
use llmlab_loadgen::{Ended, Observer, Timeouts, Workload};
use llmlab_results::RunDir;
use llmlab_results::manifest::{TrialFacts, TrialKind};
use llmlab_results::record::RecordSink;
use llmlab_sim::driver::JsonSteps;
use llmlab_sim::{Facts, Options, SimulationError, simulate};
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::trial::{facts_before, timeouts};
use crate::exit::Failure;
use crate::live::Live;
use crate::simulation::ResolvedSimulation;

/// Virtual seconds are cheap: steps long enough that the start and the end of a ramp's step do not matter, and users
/// enough for a large device.
pub const RAMP: Ramp = Ramp {
    start_users: 4,
    max_users: 4096,
    min_gain: 0.05,
    step_time: Duration::from_secs(60),
    total_time: Duration::from_secs(3600),
};

pub fn measure(
    plan: &Plan,
    target: &ResolvedSimulation,
    index: usize,
    repeat: u32,
    workload: &Workload,
    dir: &RunDir,
    live: &Arc<Live>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<TrialFacts, Failure> {
    let name = &plan.targets[index].facts.name;
    let of = plan.spec.repeats;
    live.phase(index, "running", format!("{name}: simulating, repeat {repeat} of {of}"));
    live.begin_trial(index, workload.requests.len() as u64);
    let mut facts = facts_before(name, repeat, TrialKind::Measure);
    let mut writer = dir.start_trial(&facts).map_err(Failure::internal)?;
    let log = writer.steps_path();
    let cannot_write =
        |error: std::io::Error| Failure::internal(format!("cannot write {}: {error}", log.display()));
    let mut steps = JsonSteps(BufWriter::new(File::create(&log).map_err(cannot_write)?));
    let options = Options { steps: Some(&mut steps), ..options(plan, target) };
    let ran = run(plan, target, workload, options, &mut writer, observer, cancel)?;
    steps.0.flush().map_err(cannot_write)?;
    writer.finish().map_err(Failure::internal)?;
    facts.elapsed_ns = ran.elapsed.as_nanos() as u64;
    facts.complete = ran.ended == Ended::Complete;
    live.end_trial();
    live.phase(index, "done", format!("{name}: repeat {repeat} of {of} done"));
    Ok(facts)
}

/// Drives the workload against a fresh engine.
pub fn run(
    plan: &Plan,
    target: &ResolvedSimulation,
    workload: &Workload,
    options: Options<'_>,
    sink: &mut dyn RecordSink,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<Facts, Failure> {
    let mut engine = target.start(plan.spec.seed)?;
    simulate(workload, &mut engine, options, sink, observer, &|| cancel.is_cancelled())
        .map_err(|error: SimulationError| Failure::internal(error))
}

pub fn options<'a>(plan: &Plan, target: &ResolvedSimulation) -> Options<'a> {
    let timeouts: Timeouts = timeouts(plan);
    Options { overhead: target.overhead, max_queue: target.max_queue, ..Options::new(timeouts) }
}
