//! A scenario with `find`: for one target after the other, the highest load at which it meets the SLO. Every value that is
//! tried is an ordinary run in the search's directory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llmlab_loadgen::Observer;
use llmlab_loadgen::saturation::Saturation;
use llmlab_metrics::search::{Bisection, Decision, StopReason, Watch};
use llmlab_results::RunDir;
use llmlab_results::manifest::{Manifest, RunStatus, Slo};
use llmlab_results::record::RequestRecord;
use llmlab_results::search::{
    SEARCH_SCHEMA_VERSION, SearchManifest, SearchedTarget, SearchedValue, StoppedTrial,
};
use llmlab_scenarios::spec::{ArrivalSpec, FindSpec, RateSpec, Searched, SloSpec};
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::trial::Fits;
use super::{calibration, execute, on_worker, probe, sweep, trial};
use crate::cli::RunArgs;
use crate::commands::search_report;
use crate::exit::{Code, Failure};
use crate::host;
use crate::live::Live;

/// Of the saturation: below it a server keeps up, so the search begins near the edge and not with a full queue.
const START_LOAD: f64 = 0.7;
/// Of the saturation, unless the scenario says something else. A closed loop that is still rising finds too little, and a
/// batch of arrivals can be served faster than the ramp saw.
const LOAD_RANGE: (f64, f64) = (1.0 / 64.0, 4.0);
/// Of the users that reached saturation.
const MOST_USERS: f64 = 8.0;
/// For the progress bar: how many trials a search comes to, more or less.
const USUAL_TRIALS: usize = 12;

pub fn run(args: &RunArgs, plan: Plan, find: FindSpec, cancel: &CancellationToken) -> Result<Code, Failure> {
    let dir = RunDir::create(&args.results, &plan.spec.name, host::utc_now()).map_err(Failure::internal)?;
    let mut manifest = manifest(args, &plan, &find);
    dir.write_search(&manifest).map_err(Failure::internal)?;
    let (mut code, count) = (Code::Pass, plan.targets.len());
    for index in 0..count {
        let solo = only(&plan, index);
        let (name, description) = (&solo.targets[0].facts.name, &solo.targets[0].facts.description);
        eprintln!("target {} of {count}: {name}", index + 1);
        let live = Arc::new(Live::new(&plan.spec.name, &[(name.clone(), description.clone())], USUAL_TRIALS));
        let mut found = SearchedTarget { error: None, ..manifest.targets[index].clone() };
        let mut save = |target: &SearchedTarget| {
            manifest.targets[index] = target.clone();
            dir.write_search(&manifest).map_err(Failure::internal)
        };
        let mut search = Search {
            plan: solo.clone(),
            find,
            dir: &dir,
            live: &live,
            cancel,
            highest: None,
            concluded: false,
        };
        let ended = on_worker(args, &live, || search.run(&mut found, &mut save));
        let ended = match ended {
            _ if cancel.is_cancelled() && !search.concluded => {
                found.error = Some("interrupted".into());
                Code::Interrupted
            }
            Ok(()) => Code::Pass,
            Err(failure) => {
                eprintln!("{:?}", failure.error);
                found.error = Some(failure.words());
                failure.code
            }
        };
        save(&found)?;
        code = sweep::graver(code, ended);
        if cancel.is_cancelled() {
            let left = index + 1 < count;
            code = if left { Code::Interrupted } else { code };
            break;
        }
    }
    let verdict = search_report::finish(dir.path(), &manifest, args.json)?;
    Ok(if code == Code::Pass { verdict } else { code })
}

/// The plan with one of its targets. What a request may hold stays what all of them can hold.
fn only(plan: &Plan, index: usize) -> Plan {
    let mut solo = plan.clone();
    solo.targets = vec![plan.targets[index].clone()];
    solo.spec.targets = vec![plan.spec.targets[index].clone()];
    solo
}

fn manifest(args: &RunArgs, plan: &Plan, find: &FindSpec) -> SearchManifest {
    let targets = plan.targets.iter().map(|target| SearchedTarget {
        name: target.facts.name.clone(),
        description: target.facts.description.clone(),
        probe: None,
        saturation_rps: None,
        range: None,
        values: Vec::new(),
        error: Some("not searched".into()),
    });
    SearchManifest {
        schema_version: SEARCH_SCHEMA_VERSION,
        name: plan.spec.name.clone(),
        started_at: host::rfc3339(host::utc_now()),
        command_line: std::env::args().collect(),
        scenario_path: Some(args.scenario.clone()),
        searched: find.searched.name().into(),
        tolerance: find.tolerance,
        most_trials: plan.spec.repeats,
        slo: slo_in_words(&plan.spec.slo),
        targets: targets.collect(),
    }
}

fn slo_in_words(slo: &SloSpec) -> Vec<String> {
    let limits = [("TTFT", &slo.ttft), ("TPOT", &slo.tpot), ("ITL", &slo.itl), ("E2E", &slo.e2e)];
    let words = |(metric, limits): (&str, &Vec<(f64, Duration)>)| -> Vec<String> {
        limits.iter().map(|(percentile, limit)| format!("{metric} p{percentile} <= {limit:?}")).collect()
    };
    limits.into_iter().flat_map(words).collect()
}

/// The search on one target.
struct Search<'a> {
    /// Of this target alone.
    plan: Plan,
    find: FindSpec,
    dir: &'a RunDir,
    live: &'a Arc<Live>,
    cancel: &'a CancellationToken,
    highest: Option<Tried>,
    /// What comes after it may be stopped without loss.
    concluded: bool,
}

/// The run of a value.
struct Tried {
    value: f64,
    run: RunDir,
    manifest: Manifest,
}

/// Stores what is known of a target so far.
type Save<'a> = dyn FnMut(&SearchedTarget) -> Result<(), Failure> + Send + 'a;

impl Search<'_> {
    fn run(&mut self, target: &mut SearchedTarget, save: &mut Save<'_>) -> Result<(), Failure> {
        let (facts, found) = probe::saturation(&self.plan, 0, self.dir, self.live, self.cancel)?;
        target.probe = Some(facts);
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        probe::check(&found, &self.plan.targets[0], self.dir)?;
        target.saturation_rps = Some(found.rps);
        self.plan.targets[0].facts.saturation_rps = Some(found.rps);
        let (start, lowest, highest) = self.range(&found)?;
        target.range = Some((lowest, highest));
        save(target)?;
        let whole = self.find.searched == Searched::Users;
        let mut bisection = Bisection::new(start, lowest, highest, self.find.tolerance, whole);
        while let Some(value) = bisection.next() {
            let Some(Decision { holds, clear, .. }) = self.try_value(value, found.rps, target, save)? else {
                return Ok(());
            };
            let verdict = if holds { "held" } else { "missed" };
            self.live.log(format!("{} {value:.4}: {verdict}", self.find.searched.name()));
            bisection.tell(value, holds, clear);
        }
        self.concluded = true;
        // Nothing asked more of the client.
        if let Some(Tried { run, manifest, .. }) = &mut self.highest {
            calibration::calibrate(&self.plan, run, manifest, self.live, self.cancel);
        }
        Ok(())
    }

    /// Start, lowest and highest value.
    fn range(&self, found: &Saturation) -> Result<(f64, f64, f64), Failure> {
        let (start, low, high) = match self.find.searched {
            Searched::Rate => (START_LOAD * found.rps, LOAD_RANGE.0 * found.rps, LOAD_RANGE.1 * found.rps),
            Searched::Load => (START_LOAD, LOAD_RANGE.0, LOAD_RANGE.1),
            Searched::Users => (f64::from(found.users), 1.0, MOST_USERS * f64::from(found.users)),
        };
        let (low, high) = (self.find.lowest.unwrap_or(low), self.find.highest.unwrap_or(high));
        if low > high {
            return Err(Failure::bad_input(format!(
                "[search]: the lowest value {low} is above the highest, {high}; saturation is {:.3} requests/s with {} users",
                found.rps, found.users
            )));
        }
        Ok((start, low, high))
    }

    /// Runs trials until they decide. `None` when the search was stopped.
    fn try_value(
        &mut self,
        value: f64,
        saturation_rps: f64,
        target: &mut SearchedTarget,
        save: &mut Save<'_>,
    ) -> Result<Option<Decision>, Failure> {
        let rate_rps = match self.find.searched {
            Searched::Rate => Some(value),
            Searched::Load => Some(value * saturation_rps),
            Searched::Users => None,
        };
        let plan = self.plan_at(value, rate_rps);
        let run =
            RunDir::create(self.dir.path(), &plan.spec.name, host::utc_now()).map_err(Failure::internal)?;
        let dir = run.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        target.values.push(SearchedValue { value, offered_rps: rate_rps, dir, stopped: Vec::new() });
        save(target)?;
        let mut manifest = execute::manifest(&plan)?;
        let outcome = self.trials(&plan, rate_rps, &run, &mut manifest, target, save);
        manifest.status = match &outcome {
            _ if self.cancel.is_cancelled() => RunStatus::Interrupted,
            Ok(_) => RunStatus::Complete,
            Err(_) => RunStatus::Failed,
        };
        manifest.finished_at = Some(host::rfc3339(host::utc_now()));
        run.write_manifest(&manifest).map_err(Failure::internal)?;
        if outcome.is_ok() && self.highest.as_ref().is_none_or(|highest| highest.value < value) {
            self.highest = Some(Tried { value, run, manifest });
        }
        outcome
    }

    fn trials(
        &self,
        plan: &Plan,
        rate_rps: Option<f64>,
        run: &RunDir,
        manifest: &mut Manifest,
        target: &mut SearchedTarget,
        save: &mut Save<'_>,
    ) -> Result<Option<Decision>, Failure> {
        let most = plan.spec.repeats;
        for repeat in 1..=most {
            // Each trial draws its own requests, or trials of a simulation would all be one; each value the same ones, so that
            // the luck of the traffic falls on all values alike.
            let workload = plan.workload_of_repeat(rate_rps.unwrap_or(1.0), repeat)?;
            if repeat == 1 {
                execute::describe_workload(plan, &workload, manifest);
                run.write_manifest(manifest).map_err(Failure::internal)?;
            }
            let watched =
                Watched::new(self.live, &manifest.slo, plan, workload.requests.len() as u64, self.cancel);
            // Other prompts each time, so each trial has its own fit.
            let fits = &mut Fits::default();
            let facts =
                trial::measure(plan, 0, repeat, &workload, fits, run, self.live, &watched, &watched.stop)?;
            let stopped = watched.reason().filter(|_| !facts.complete);
            let trial_dir = facts.dir.clone();
            manifest.trials.push(facts);
            run.write_manifest(manifest).map_err(Failure::internal)?;
            if self.cancel.is_cancelled() {
                return Ok(None);
            }
            let Some(value) = target.values.last_mut() else { return Ok(None) };
            if let Some(StopReason { words, diverged }) = stopped {
                value.stopped.push(StoppedTrial { dir: trial_dir, reason: words, diverged });
            }
            let tried = search_report::tried(self.dir.path(), value, most)?;
            save(target)?;
            if tried.decision.is_some() {
                return Ok(tried.decision);
            }
        }
        Err(Failure::target(format!(
            "target {}: no trial at {} came to its end; see {}",
            target.name,
            plan.spec.name,
            run.path().display()
        )))
    }

    fn plan_at(&self, value: f64, rate_rps: Option<f64>) -> Plan {
        let mut plan = self.plan.clone();
        let (name, target) = (&self.plan.spec.name, &self.plan.targets[0].facts.name);
        plan.spec.name = format!("{name} {target} {} {value:.4}", self.find.searched.name());
        plan.spec.find = None;
        match (&mut plan.spec.workload.arrivals, rate_rps) {
            (ArrivalSpec::Closed { users, .. }, _) => *users = value as u32,
            (arrivals, Some(rps)) => {
                if let Some(rate) = arrivals.rate_mut() {
                    *rate = RateSpec::PerSecond { rps };
                }
            }
            (_, None) => {}
        }
        plan
    }
}

/// Passes on what happens in a trial, and stops it when its verdict is known.
struct Watched<'a> {
    live: &'a Live,
    watch: Mutex<Watch>,
    stop: CancellationToken,
}

impl<'a> Watched<'a> {
    fn new(live: &'a Live, slo: &Slo, plan: &Plan, requests: u64, cancel: &CancellationToken) -> Watched<'a> {
        let open_loop = !matches!(plan.spec.workload.arrivals, ArrivalSpec::Closed { .. });
        let may_hang_up = plan.spec.workload.abandon.is_some();
        let watch = Watch::new(slo, requests, plan.warmup_requests, open_loop, may_hang_up);
        let watch = Mutex::new(watch);
        Watched { live, watch, stop: cancel.child_token() }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reason(&self) -> Option<StopReason> {
        self.watch().reason().cloned()
    }

    fn tell(&self, what: impl FnOnce(&mut Watch)) {
        let mut watch = self.watch();
        what(&mut watch);
        if watch.reason().is_some() {
            self.stop.cancel();
        }
    }
}

impl Observer for Watched<'_> {
    fn sent(&self, index: u64) {
        self.live.sent(index);
        self.tell(|watch| watch.sent(index));
    }

    fn first_token(&self, index: u64, ttft: Duration) {
        self.live.first_token(index, ttft);
        self.tell(|watch| watch.first_token(index, ttft));
    }

    fn tokens(&self, tokens: u32) {
        self.live.tokens(tokens);
    }

    fn finished(&self, record: &RequestRecord) {
        self.live.finished(record);
        self.tell(|watch| watch.finished(record));
    }
}
