//! The order of a run: host facts, probes if the rate needs them, then interleaved trials; the manifest is rewritten
//! after each, so that whatever kills the run leaves a run that can be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmlab_loadgen::Workload;
use llmlab_loadgen::saturation::{RampEnd, Saturation};
use llmlab_results::RunDir;
use llmlab_results::manifest::{Manifest, RunStatus, SCHEMA_VERSION, Sharding, TrialFacts, WorkloadFacts};
use tokio_util::sync::CancellationToken;

use super::plan::{How, Plan};
use super::trial::Fits;
use super::{calibration, probe, trial};
use crate::exit::Failure;
use crate::host;
use crate::live::Live;
use crate::wire;

/// What the run left behind.
#[derive(Debug)]
pub struct Done {
    pub path: PathBuf,
    pub status: RunStatus,
}

pub fn execute(
    plan: &Plan,
    results: &Path,
    live: Arc<Live>,
    cancel: CancellationToken,
) -> Result<Done, Failure> {
    let dir = RunDir::create(results, &plan.spec.name, host::utc_now()).map_err(Failure::internal)?;
    live.log(format!("run directory {}", dir.path().display()));
    let mut manifest = manifest(plan)?;
    dir.write_manifest(&manifest).map_err(Failure::internal)?;

    let outcome = measure(plan, &dir, &mut manifest, &live, &cancel);
    manifest.status = match &outcome {
        // Whatever broke after the person said stop, the run was interrupted.
        _ if cancel.is_cancelled() => RunStatus::Interrupted,
        Ok(()) => RunStatus::Complete,
        Err(_) => RunStatus::Failed,
    };
    manifest.finished_at = Some(host::rfc3339(host::utc_now()));
    dir.write_manifest(&manifest).map_err(Failure::internal)?;
    if manifest.status == RunStatus::Complete {
        calibration::calibrate(plan, &dir, &mut manifest, &live, &cancel);
    }
    if manifest.status == RunStatus::Interrupted {
        return Ok(Done { path: dir.path().to_path_buf(), status: manifest.status });
    }
    outcome.map_err(|failure| Failure {
        code: failure.code,
        error: failure
            .error
            .wrap_err(format!("run failed; what was recorded is in {}", dir.path().display())),
    })?;
    Ok(Done { path: dir.path().to_path_buf(), status: manifest.status })
}

fn measure(
    plan: &Plan,
    dir: &RunDir,
    manifest: &mut Manifest,
    live: &Arc<Live>,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let Some(workloads) = workload(plan, dir, manifest, live, cancel)? else { return Ok(()) };
    let Workloads { first, rate_rps } = workloads;
    let mut fits = Fits::default();
    for repeat in 1..=plan.spec.repeats {
        // Equal repeats of a simulation would be equal to the last digit, and an interval over them a lie. What a repeat can
        // show is the luck of the traffic: each draws its own, the same for all targets.
        let drawn = match repeat {
            1 => None,
            _ if plan.all_simulated() => Some(plan.workload_of_repeat(rate_rps, repeat)?),
            _ => None,
        };
        let workload = drawn.as_ref().unwrap_or(&first);
        for index in order(plan.targets.len(), repeat) {
            if cancel.is_cancelled() {
                return Ok(());
            }
            let observer = live.as_ref();
            let facts =
                trial::measure(plan, index, repeat, workload, &mut fits, dir, live, observer, cancel)?;
            if facts.journey.is_some() && facts.complete {
                // Asks behind a step that failed were never sent, and are not missing.
                manifest.workload.requests = manifest.workload.requests.min(asked(&facts));
            }
            manifest.trials.push(facts);
            dir.write_manifest(manifest).map_err(Failure::internal)?;
        }
    }
    Ok(())
}

fn asked(facts: &TrialFacts) -> u64 {
    let steps = facts.journey.iter().flat_map(|journey| &journey.steps);
    steps.filter(|step| step.ttft.is_some()).map(|step| step.count).sum()
}

/// A B, B A, A B, ...: slow drift of the machine falls on both targets alike.
fn order(targets: usize, repeat: u32) -> Vec<usize> {
    let forward = 0..targets;
    if repeat % 2 == 1 { forward.collect() } else { forward.rev().collect() }
}

/// The same requests at the same times for every trial. When the rate is a share of saturation, that is measured first
/// and the lowest one among the targets counts, so that no target is driven beyond what was asked. `None` when the run was
/// stopped meanwhile.
fn workload(
    plan: &Plan,
    dir: &RunDir,
    manifest: &mut Manifest,
    live: &Arc<Live>,
    cancel: &CancellationToken,
) -> Result<Option<Workloads>, Failure> {
    let mut rate_rps = 1.0;
    if let Some(share) = plan.load_share() {
        let mut lowest: Option<(Saturation, &str)> = None;
        for (index, target) in plan.targets.iter().enumerate() {
            let (facts, found) = probe::saturation(plan, index, dir, live, cancel)?;
            manifest.trials.push(facts);
            if cancel.is_cancelled() {
                return Ok(None);
            }
            probe::check(&found, target, dir)?;
            manifest.targets[index].saturation_rps = Some(found.rps);
            live.log(format!("{} saturates at {:.1} requests/s", target.facts.name, found.rps));
            if lowest.as_ref().is_none_or(|(least, _)| found.rps < least.rps) {
                lowest = Some((found, &target.facts.name));
            }
        }
        let Some((saturation, name)) = lowest else { return Err(Failure::internal("no target to probe")) };
        rate_rps = share * saturation.rps;
        let bound = match saturation.end {
            RampEnd::MaxUsers | RampEnd::TimeUp => ", a lower bound: the probe ended while it still rose",
            RampEnd::NoGain | RampEnd::NothingCompleted => "",
        };
        manifest.workload.rate_source = Some(format!(
            "{:.0} % of {:.1} requests/s, the lowest measured saturation (target {name}){bound}",
            share * 100.0,
            saturation.rps
        ));
    }
    let mut workload = plan.workload(rate_rps)?;
    describe_workload(plan, &workload, manifest);
    if let Some(shard) = &plan.shard {
        let (part, facts) = shard.part(plan, &workload, &manifest.workload)?;
        live.log(format!(
            "shard {}: {} of {} requests",
            shard.shard,
            part.requests.len(),
            workload.requests.len()
        ));
        workload = part;
        describe_workload(plan, &workload, manifest);
        manifest.sharding = Some(Sharding::Shard(facts));
    }
    dir.write_manifest(manifest).map_err(Failure::internal)?;
    Ok(Some(Workloads { first: workload, rate_rps }))
}

/// The requests of the first repeat, and the rate that a share of saturation came to.
struct Workloads {
    first: Workload,
    rate_rps: f64,
}

pub(super) fn describe_workload(plan: &Plan, workload: &Workload, manifest: &mut Manifest) {
    manifest.workload.requests = plan.requests(workload);
    manifest.workload.prompt_tokens_total = workload.prompt_tokens_total();
    manifest.workload.output_tokens_total = workload.output_tokens_total();
    manifest.workload.rate_rps = workload.planned_rate_rps();
    manifest.workload.warmup_requests = plan.warmup_requests;
    manifest.workload.sessions = workload.sessions;
    manifest.workload.prefix_hit_rate = workload.prefix_hit_rate;
}

pub(super) fn manifest(plan: &Plan) -> Result<Manifest, Failure> {
    let threads = plan.targets.iter().find_map(|target| match &target.how {
        How::Engine { resolved, .. } => Some(resolved.runtime.threads as u32),
        How::Endpoint(_) | How::Command(_) | How::Simulate(_) => None,
    });
    Ok(Manifest {
        schema_version: SCHEMA_VERSION,
        llmlab_version: env!("CARGO_PKG_VERSION").into(),
        git_commit: option_env!("LLMLAB_GIT_COMMIT").map(str::to_string),
        name: plan.spec.name.clone(),
        seed: plan.spec.seed,
        started_at: host::rfc3339(host::utc_now()),
        finished_at: None,
        command_line: std::env::args().collect(),
        scenario_path: plan.path.clone(),
        scenario_text: plan.text.clone(),
        resolved: serde_json::to_value(&plan.spec).map_err(Failure::internal)?,
        // The roofline of a machine that only sends requests says nothing about the server.
        host: host::facts(threads.map(host::roofline)),
        model: plan.model.clone(),
        workload: WorkloadFacts {
            description: super::super::explain::lengths_in_words(plan),
            arrivals: super::super::explain::arrivals_in_words(plan),
            ..WorkloadFacts::default()
        },
        slo: wire::slo(&plan.spec.slo),
        cost: plan.cost.clone(),
        targets: plan.targets.iter().map(|t| t.facts.clone()).collect(),
        trials: Vec::new(),
        status: RunStatus::Running,
        sharding: None,
        client_calibration: None,
    })
}
