//! One trial: a fresh server, the workload driven once, everything recorded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use llmlab_loadgen::{
    DriveError, DriveFacts, DriveOptions, Ended, Endpoint, Fitted, Observer, Scrape, Timeouts, Workload,
    drive_with, fit_prompts,
};
use llmlab_results::manifest::{ClientFacts, ServerSample, TrialFacts, TrialKind};
use llmlab_results::{RunDir, TrialWriter};
use llmlab_scenarios::spec::EndpointSpec;
use tokio_util::sync::CancellationToken;

use super::plan::{How, Plan, PlannedTarget};
use super::{journey, simulated};
use crate::command;
use crate::exit::Failure;
use crate::host;
use crate::interrupt;
use crate::live::Live;
use crate::machine::Watch;
use crate::target::{self, EngineProcess};
use crate::tethered::Tethered;
use crate::text::with_causes;

/// How long requests in flight may finish after the first Ctrl-C.
pub const DRAIN: Duration = Duration::from_secs(5);
/// Often enough to see a batch fill and drain, rare enough to cost nothing.
const SCRAPE_EVERY: Duration = Duration::from_millis(200);

/// A target that answers: where, and under which name and key.
#[derive(Debug)]
pub struct Ready {
    pub endpoint: Endpoint,
    pub metrics_url: Option<String>,
    process: Option<Tethered>,
}

impl Ready {
    /// Starts the target if it is ours to start; otherwise asks the live server what it serves. Logs go to `dir`.
    pub fn start(
        plan: &Plan,
        index: usize,
        dir: &Path,
        live: &Live,
        cancel: &CancellationToken,
    ) -> Result<Ready, Failure> {
        let planned = &plan.targets[index];
        match &planned.how {
            How::Engine { launch, .. } => {
                let EngineProcess { process, url } = EngineProcess::start(launch, dir)?;
                let metrics_url = Some(format!("{url}/metrics"));
                let (protocol, timeouts) = (planned.protocol()?, timeouts(plan));
                let endpoint = Endpoint {
                    base_url: url,
                    protocol,
                    model: "llmlab".into(),
                    api_key: None,
                    ca_file: None,
                    timeouts,
                };
                Ok(Ready { endpoint, metrics_url, process: Some(process) })
            }
            How::Endpoint(spec) => Ready::reach(plan, planned, spec, None),
            How::Command(spec) => {
                let name = &planned.facts.name;
                let waiting = |waited: Duration| {
                    let words = format!(
                        "{name}: starting, {} s, waiting for {}",
                        waited.as_secs(),
                        target::server_url(&spec.endpoint.url, &spec.health_path)
                    );
                    live.phase(index, "starting", words);
                };
                let process =
                    command::start(spec, dir, &waiting, cancel).map_err(|failure| failure.of_target(name))?;
                Ready::reach(plan, planned, &spec.endpoint, Some(process))
            }
            How::Simulate(_) => Err(Failure::internal("a simulation has no address")),
        }
    }

    /// A server that is up, whoever started it.
    fn reach(
        plan: &Plan,
        planned: &PlannedTarget,
        spec: &EndpointSpec,
        process: Option<Tethered>,
    ) -> Result<Ready, Failure> {
        let api_key = target::api_key(spec)?;
        let protocol = planned.protocol()?;
        let model = match &spec.model {
            Some(model) => model.clone(),
            None if !protocol.names_model() => String::new(),
            None => target::first_served_model(spec, api_key.as_ref())?,
        };
        let metrics_url =
            spec.metrics_path.as_ref().and_then(|path| target::metrics_url(spec, path, api_key.as_ref()));
        let endpoint = Endpoint {
            base_url: spec.url.clone(),
            protocol,
            model,
            api_key,
            ca_file: spec.ca_file.as_ref().map(Into::into),
            timeouts: timeouts(plan),
        };
        Ok(Ready { endpoint, metrics_url, process })
    }

    /// Watches the machine, if that is the one the server runs on.
    fn watch(&self, writer: &TrialWriter) -> Result<Option<Watch>, Failure> {
        if self.process.is_none() && !is_local(&self.endpoint.base_url) {
            return Ok(None);
        }
        let journal = writer.machine_journal().map_err(Failure::internal)?;
        Watch::start(journal, self.process.as_ref().map(Tethered::id)).map(Some)
    }

    /// A server of ours that did not end well makes the trial a failure, however good its answers look.
    pub fn stop(self) -> Result<(), Failure> {
        self.process.map_or(Ok(()), Tethered::stop)
    }
}

pub fn timeouts(plan: &Plan) -> Timeouts {
    let wait = &plan.spec.workload.timeout;
    Timeouts {
        connect: wait.connect,
        first_token: wait.first_token,
        inter_token: wait.inter_token,
        total: wait.total,
    }
}

/// Only what the target did is its fault.
pub fn drive_failure(target: &str, error: DriveError) -> Failure {
    let message = format!("target {target}: {}", with_causes(&error));
    match error {
        DriveError::Sink(_) | DriveError::Client(_) => Failure::internal(message),
        DriveError::Url { .. }
        | DriveError::Scheme { .. }
        | DriveError::CaFile { .. }
        | DriveError::ApiKey
        | DriveError::PromptKind { .. }
        | DriveError::AdapterName { .. }
        | DriveError::ModelInPath { .. } => Failure::bad_input(message),
        DriveError::Resolve { .. } | DriveError::FdLimit { .. } => Failure::target(message),
    }
}

/// Prompts as each target counts them, found in its first trial and the same in all: repeats differ in nothing else.
#[derive(Debug, Default)]
pub struct Fits(HashMap<usize, Option<Fitted>>);

impl Fits {
    /// `None` where prompts need no fitting.
    fn of(
        &mut self,
        target: usize,
        endpoint: &Endpoint,
        workload: &Workload,
        cancel: &CancellationToken,
        at_work: impl FnOnce(),
    ) -> Result<&Option<Fitted>, DriveError> {
        match self.0.entry(target) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                at_work();
                Ok(vacant.insert(fit_prompts(endpoint, workload, cancel)?))
            }
        }
    }
}

/// By its address; another name of this machine counts as another machine.
fn is_local(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Facts of a trial before it ran; the driver fills in the rest.
pub fn facts_before(target: &str, repeat: u32, kind: TrialKind) -> TrialFacts {
    let dir = match kind {
        TrialKind::Probe => format!("{target}-probe"),
        TrialKind::Measure => format!("{target}-r{repeat}"),
    };
    TrialFacts {
        dir,
        target: target.to_string(),
        repeat,
        kind,
        start_monotonic_ns: 0,
        elapsed_ns: 0,
        client: ClientFacts::default(),
        prompt_fit: None,
        complete: false,
        journey: None,
    }
}

pub fn fill(facts: &mut TrialFacts, driven: &DriveFacts) {
    facts.start_monotonic_ns = driven.start_monotonic_ns;
    facts.elapsed_ns = driven.elapsed.as_nanos() as u64;
    facts.client = driven.client.clone();
    facts.complete = driven.ended == Ended::Complete;
}

/// `live` shows the trial, `observer` is told of every request in it.
pub fn measure(
    plan: &Plan,
    index: usize,
    repeat: u32,
    workload: &Workload,
    fits: &mut Fits,
    dir: &RunDir,
    live: &Arc<Live>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<TrialFacts, Failure> {
    let planned = &plan.targets[index];
    let workload = &*plan.for_target(index, workload);
    if let How::Simulate(target) = &planned.how {
        return simulated::measure(plan, target, index, repeat, workload, dir, live, observer, cancel);
    }
    let name = &planned.facts.name;
    let of = plan.spec.repeats;
    live.phase(index, "starting", format!("{name}: starting, repeat {repeat} of {of}"));
    let mut facts = facts_before(name, repeat, TrialKind::Measure);
    let mut writer = dir.start_trial(&facts).map_err(Failure::internal)?;
    let ready = Ready::start(plan, index, writer.dir(), live, cancel)?;

    let fitted = fits.of(index, &ready.endpoint, workload, cancel, || {
        live.phase(index, "starting", format!("{name}: making prompts as long as they should be"));
    });
    let fitted = fitted.map_err(|error| drive_failure(name, error))?;
    facts.prompt_fit = fitted.as_ref().map(|fitted| fitted.facts.clone());
    let workload = fitted.as_ref().map_or(workload, |fitted| &fitted.workload);

    let start_monotonic_ns = match &plan.shard {
        Some(shard) => {
            let at = host::rfc3339(shard.start_at);
            live.phase(index, "waiting", format!("{name}: shard {} waits for {at}", shard.shard));
            Some(shard.wait(cancel)?)
        }
        None => None,
    };
    live.phase(index, "running", format!("{name}: measuring, repeat {repeat} of {of}"));
    live.begin_trial(index, plan.requests(workload));
    let samples = writer.sample_writer();
    let mut on_sample = |sample: &ServerSample| {
        live.server(sample);
        samples.write_sample(sample).map_err(std::io::Error::from)
    };
    let scrape = ready.metrics_url.clone().map(|url| Scrape {
        url,
        interval: SCRAPE_EVERY,
        on_sample: &mut on_sample,
    });
    let give_up = interrupt::insisted().clone();
    let options =
        DriveOptions { drain: DRAIN, scrape, start_monotonic_ns, give_up, ..DriveOptions::default() };
    let watch = ready.watch(&writer)?;
    let driven = match &plan.spec.journey {
        None => drive_with(&ready.endpoint, workload, options, &mut writer, observer, cancel)
            .map_err(|error| drive_failure(name, error))?,
        Some(spec) => {
            let dir = writer.dir().to_path_buf();
            let (driven, journey) =
                journey::drive(plan, spec, &ready.endpoint, &dir, &mut writer, observer, cancel)
                    .map_err(|failure| failure.of_target(name))?;
            facts.journey = Some(journey);
            driven
        }
    };
    if driven.scrapes == 0 && driven.scrape_failures > 0 {
        live.log(format!("{name}: its metrics page could not be read, so queue and batch are not shown"));
    }
    if let Some(watch) = watch {
        watch.stop()?;
    }
    let stopped = ready.stop();
    writer.finish().map_err(Failure::internal)?;
    stopped?;
    fill(&mut facts, &driven);
    live.end_trial();
    live.phase(index, "done", format!("{name}: repeat {repeat} of {of} done"));
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn a_loopback_address_is_this_machine() {
        for (url, expected) in [
            ("http://127.0.0.1:8000/v1", true),
            ("http://LocalHost", true),
            ("https://[::1]:8000", true),
            ("http://127.example.com", false),
            ("http://10.0.0.1:8000", false),
        ] {
            assert_eq!(is_local(url), expected, "{url}");
        }
    }
}
