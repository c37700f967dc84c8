//! What a target can take at most: the reference for `load = 0.7`.

use std::sync::Arc;
use std::time::Duration;

use llmlab_loadgen::saturation::{Ramp, Saturation, Throughput, find_saturation, step_workload};
use llmlab_loadgen::{
    DriveError, DriveOptions, Endpoint, Fitted, Fitter, Silent, Workload, drive_with, generate,
};
use llmlab_results::RunDir;
use llmlab_results::manifest::{TrialFacts, TrialKind};
use llmlab_results::prompt_fit::PromptFit;
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_sim::Options;
use tokio_util::sync::CancellationToken;

use super::plan::{How, Plan, PlannedTarget};
use super::simulated;
use super::trial::{Ready, drive_failure, facts_before};
use crate::exit::Failure;
use crate::live::Live;

/// Keeps the step's records for its throughput besides journalling them.
struct Keep<'a> {
    sink: &'a mut dyn RecordSink,
    records: Vec<RequestRecord>,
}

impl RecordSink for Keep<'_> {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()> {
        self.records.push(record.clone());
        self.sink.record(record)
    }
}

/// Brings the prompts of each step to their length, as those of the trials will be: others would be another load.
#[derive(Default)]
struct StepFits {
    /// From the first step on; `Some(None)` where prompts need no fitting.
    fitter: Option<Option<Fitter>>,
    facts: Option<PromptFit>,
}

impl StepFits {
    /// `None` where prompts need no fitting. Takes up to `time`, in which a tokenizer counts more prompts than most servers
    /// answer.
    fn fit(
        &mut self,
        endpoint: &Endpoint,
        workload: &Workload,
        time: Duration,
        cancel: &CancellationToken,
    ) -> Result<Option<Workload>, DriveError> {
        let fitter = match &mut self.fitter {
            Some(known) => known,
            none => none.insert(Fitter::ask(endpoint, workload, cancel)?),
        };
        let Some(fitter) = fitter else { return Ok(None) };
        let Fitted { workload, facts } = fitter.fit(workload, time, cancel);
        let missed = facts.missed + self.facts.as_ref().map_or(0, |facts| facts.missed);
        self.facts = Some(PromptFit { missed, ..facts });
        Ok(Some(workload))
    }
}

/// Runs the ramp against a fresh server of target `index`. A ramp cut short by a stop says little; see [`check`].
pub fn saturation(
    plan: &Plan,
    index: usize,
    dir: &RunDir,
    live: &Arc<Live>,
    cancel: &CancellationToken,
) -> Result<(TrialFacts, Saturation), Failure> {
    let planned = &plan.targets[index];
    let name = &planned.facts.name;
    live.phase(index, "probing", format!("{name}: starting, to find its saturation"));
    let mut facts = facts_before(name, 0, TrialKind::Probe);
    let mut writer = dir.start_trial(&facts).map_err(Failure::internal)?;
    let simulated = match &planned.how {
        How::Simulate(target) => Some(target),
        How::Engine { .. } | How::Endpoint(_) | How::Command(_) => None,
    };
    let ready = match simulated {
        Some(_) => None,
        None => Some(Ready::start(plan, index, writer.dir(), live, cancel)?),
    };

    let config = plan.workload_config(1.0);
    let ramp = if simulated.is_some() { simulated::RAMP } else { Ramp::default() };
    let mut fits = StepFits::default();
    let found = find_saturation(&ramp, |users| -> Result<(Throughput, Duration), Failure> {
        live.phase(index, "probing", format!("{name}: finding saturation, {users} users"));
        let workload = generate(&step_workload(&config, users)).map_err(Failure::bad_input)?;
        let workload = plan.for_target(index, &workload);
        let mut keep = Keep { sink: &mut writer, records: Vec::new() };
        let elapsed = match (&ready, simulated) {
            (Some(ready), _) => {
                let options = DriveOptions {
                    drain: Duration::ZERO,
                    time_limit: Some(ramp.step_time),
                    ..DriveOptions::default()
                };
                let driven =
                    fits.fit(&ready.endpoint, &workload, ramp.step_time, cancel).and_then(|fitted| {
                        let workload = fitted.as_ref().unwrap_or(&workload);
                        drive_with(&ready.endpoint, workload, options, &mut keep, &Silent, cancel)
                    });
                let driven = driven.map_err(|error| drive_failure(name, error))?;
                if facts.start_monotonic_ns == 0 {
                    facts.start_monotonic_ns = driven.start_monotonic_ns;
                }
                driven.elapsed
            }
            (None, Some(target)) => {
                let options = simulated::options(plan, target);
                let options = Options { time_limit: Some(ramp.step_time), ..options };
                simulated::run(plan, target, &workload, options, &mut keep, &Silent, cancel)?.elapsed
            }
            (None, None) => return Err(Failure::internal("a target is live or simulated")),
        };
        facts.elapsed_ns += elapsed.as_nanos() as u64;
        Ok((Throughput::from_records(&keep.records, elapsed), elapsed))
    })?;
    if let Some(ready) = ready {
        ready.stop()?;
    }
    writer.finish().map_err(Failure::internal)?;
    facts.complete = !cancel.is_cancelled();
    facts.prompt_fit = fits.facts;
    live.log(format!("{name}: {}", found.describe()));
    live.phase(index, "waiting", format!("{name}: saturation {:.1} requests/s", found.rps));
    Ok((facts, found))
}

/// A rate can only be a share of something.
pub fn check(found: &Saturation, target: &PlannedTarget, dir: &RunDir) -> Result<(), Failure> {
    if found.rps > 0.0 {
        return Ok(());
    }
    let name = &target.facts.name;
    Err(Failure::target(format!(
        "target {name} completed nothing while its saturation was probed ({}); see {}",
        found.describe(),
        dir.path().join(format!("{name}-probe")).display()
    )))
}
