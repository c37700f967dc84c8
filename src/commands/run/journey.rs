//! A trial whose requests come from users' journeys: the client process that makes them, and what it tells.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use llmlab_journeys::event::End;
use llmlab_journeys::{Event, GooseStep, StepSample};
use llmlab_loadgen::{DriveFacts, Ended, Endpoint, Observer};
use llmlab_metrics::journey::StepTimes;
use llmlab_results::journey::{GooseFacts, JourneyFacts, Percentiles, StepFacts};
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_scenarios::spec::{ActionSpec, JourneySpec};
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::trial::DRAIN;
use crate::exit::Failure;
use crate::journey;
use crate::target::own_command;
use crate::tethered::{Role, Tethered};

/// Longer than the client gives itself after its input closed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// Makes the journey and blocks until it ends. Records go to `sink` as they come.
pub fn drive(
    plan: &Plan,
    spec: &JourneySpec,
    endpoint: &Endpoint,
    dir: &Path,
    sink: &mut dyn RecordSink,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<(DriveFacts, JourneyFacts), Failure> {
    let seed = plan.spec.seed;
    let plan =
        journey::plan(spec, endpoint, seed, plan.tokens_per_word(), plan.max_tokens_per_request, DRAIN);
    let mut command = own_command()?;
    command.arg("journey-client").stdout(Stdio::piped());
    let mut process = Tethered::spawn(&mut command, Role::Client, dir.join("client.log"), STOP_TIMEOUT)?;
    let (Some(stdin), Some(stdout)) = (process.take_stdin(), process.take_stdout()) else {
        return Err(Failure::internal("the journeys' client has no pipes"));
    };
    let line = serde_json::to_vec(&plan).map_err(Failure::internal)?;
    let over = CancellationToken::new();
    let told = std::thread::scope(|scope| {
        scope.spawn(|| hold(stdin, &line, cancel, &over));
        let told = Told::read(spec, BufReader::new(stdout), sink, observer);
        over.cancel();
        told
    })?;
    let Some(end) = told.end.clone() else {
        let why = match &told.failed {
            Some(words) => format!("the journey could not be made: {words}"),
            None => format!("the journeys' client ended early; {}", process.last_words()),
        };
        return Err(Failure::target(why));
    };
    process.stop()?;
    Ok((told.drive_facts(&end), told.facts(spec, &end)))
}

/// Hands the plan over and keeps the client's input open until it is to stop.
fn hold(mut stdin: ChildStdin, line: &[u8], cancel: &CancellationToken, over: &CancellationToken) {
    // A client that died says so by the end of its output.
    let _ = stdin.write_all(line).and_then(|()| stdin.write_all(b"\n"));
    while !cancel.is_cancelled() && !over.is_cancelled() {
        std::thread::sleep(POLL);
    }
}

/// Everything the client told, by the step's place: flow, then step.
#[derive(Default)]
struct Told {
    start_monotonic_ns: u64,
    issued: u64,
    steps: HashMap<(u32, u32), StepTimes>,
    /// An ask's record until its step comes, which is next.
    last: Option<Box<RequestRecord>>,
    end: Option<End>,
    failed: Option<String>,
}

impl Told {
    fn read(
        spec: &JourneySpec,
        lines: impl BufRead,
        sink: &mut dyn RecordSink,
        observer: &dyn Observer,
    ) -> Result<Told, Failure> {
        let mut told = Told::default();
        for line in lines.lines() {
            let line = line.map_err(Failure::internal)?;
            let event = serde_json::from_str(&line).map_err(|error| {
                Failure::internal(format!("the journeys' client said {error}: {line:.200}"))
            })?;
            told.take(spec, event, sink, observer)?;
        }
        Ok(told)
    }

    fn take(
        &mut self,
        spec: &JourneySpec,
        event: Event,
        sink: &mut dyn RecordSink,
        observer: &dyn Observer,
    ) -> Result<(), Failure> {
        match event {
            Event::Started { start_monotonic_ns } => self.start_monotonic_ns = start_monotonic_ns,
            Event::Sent { index } => observer.sent(index),
            Event::FirstToken { index, ttft_ns } => {
                observer.first_token(index, Duration::from_nanos(ttft_ns))
            }
            Event::Tokens { tokens } => observer.tokens(tokens),
            Event::Record { record } => {
                self.issued += 1;
                sink.record(&record).map_err(Failure::internal)?;
                observer.finished(&record);
                self.last = Some(record);
            }
            Event::Step(sample) => self.step(spec, &sample),
            Event::Ended(end) => self.end = Some(end),
            Event::Failed { words } => self.failed = Some(words),
        }
        Ok(())
    }

    fn step(&mut self, spec: &JourneySpec, sample: &StepSample) {
        let written =
            spec.flows.get(sample.flow as usize).and_then(|flow| flow.steps.get(sample.step as usize));
        if written.is_none() {
            return;
        }
        let times = self.steps.entry((sample.flow, sample.step)).or_default();
        let record = self.last.take().filter(|record| Some(record.index) == sample.index);
        match (&sample.failure, record) {
            _ if sample.skipped => times.skipped += 1,
            (Some(words), _) => times.failed(words),
            (None, Some(record)) => times.ask(&record),
            (None, None) => times.page(sample.elapsed_ns),
        }
    }

    fn drive_facts(&self, end: &End) -> DriveFacts {
        DriveFacts {
            start_monotonic_ns: self.start_monotonic_ns,
            elapsed: Duration::from_nanos(end.elapsed_ns),
            client: end.client.clone(),
            issued: self.issued,
            ended: if end.complete { Ended::Complete } else { Ended::Cancelled },
            scrapes: 0,
            scrape_failures: 0,
        }
    }

    fn facts(mut self, spec: &JourneySpec, end: &End) -> JourneyFacts {
        let mut steps = Vec::new();
        for (flow, written) in (0..).zip(&spec.flows) {
            for (step, named) in (0..).zip(&written.steps) {
                let goose = end.goose.iter().find(|of| (of.flow, of.step) == (flow, step));
                let mut facts = StepFacts {
                    flow: written.name.clone(),
                    name: named.name.clone(),
                    action: journey::action_in_words(&named.action),
                    goose: goose.map(goose_facts).unwrap_or_default(),
                    ..StepFacts::default()
                };
                let times = self.steps.remove(&(flow, step)).unwrap_or_default();
                times.fill(&mut facts, matches!(named.action, ActionSpec::Ask { .. }));
                steps.push(facts);
            }
        }
        JourneyFacts { users: spec.users(), iterations: spec.iterations, steps }
    }
}

fn goose_facts(step: &GooseStep) -> GooseFacts {
    let percentiles = |us: Option<[u64; 3]>| {
        let [p50_ns, p95_ns, p99_ns] = us.map_or([None; 3], |us| us.map(|us| Some(us as f64 * 1e3)));
        Percentiles { p50_ns, p95_ns, p99_ns }
    };
    GooseFacts {
        requests: step.requests,
        failures: step.failures,
        transactions: step.transactions,
        request: percentiles(step.request_us),
        transaction: percentiles(step.transaction_us),
    }
}
