//! How far off is this run's own client? What the busiest trial asked of it is asked again for a few seconds, by a server
//! that writes down the truth.

use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, Ended, Lengths, PlannedRequest, Prefixes, Prompt, PromptStyle, Protocol, Turn, Workload,
    WorkloadConfig, generate,
};
use llmlab_metrics::trust::LATE_NS;
use llmlab_results::RunDir;
use llmlab_results::calibration::{CalibrationFacts, ClientCalibration};
use llmlab_results::manifest::{Manifest, TrialKind};
use llmlab_results::read_run;
use llmlab_results::record::RequestRecord;
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::stretch::{Stretch, busiest};
use crate::commands::client_check::{self, Checked, Load};
use crate::exit::Failure;
use crate::live::Live;

/// Of the time that trials took.
const SHARE_OF_RUN: f64 = 0.1;
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(5);
/// A mock that cannot keep up ends after this much more.
const GRACE: Duration = Duration::from_secs(2);
/// A server that is late itself says nothing of the client, and may be on time the next time.
const ATTEMPTS: u32 = 3;
const TOKENS_PER_WORD: f64 = 1.3;
const INTERRUPTED: &str = "interrupted";

/// Calibrates the client of a run that is complete and stored, and stores the finding with it. Nothing that goes wrong here,
/// and no Ctrl-C, takes anything from the run.
pub fn calibrate(
    plan: &Plan,
    dir: &RunDir,
    manifest: &mut Manifest,
    live: &Live,
    cancel: &CancellationToken,
) {
    if plan.all_simulated() {
        return;
    }
    let found = match not_wanted(plan) {
        Some(why) => ClientCalibration::Skipped { why: why.into() },
        None => {
            live.activity("measuring the client itself, against a server with known timing");
            measured(plan, dir, cancel)
                .unwrap_or_else(|failure| ClientCalibration::Failed { why: failure.words() })
        }
    };
    manifest.client_calibration = Some(found);
    // The trials are stored; that this could not be takes nothing from them.
    if let Err(error) = dir.write_manifest(manifest) {
        eprintln!("the client's calibration could not be stored: {error}");
    }
}

fn not_wanted(plan: &Plan) -> Option<&'static str> {
    if !plan.calibrate_client {
        return Some("--no-client-calibration");
    }
    plan.spec.journey.is_some().then_some("the users of a journey have a client of their own")
}

fn measured(plan: &Plan, dir: &RunDir, cancel: &CancellationToken) -> Result<ClientCalibration, Failure> {
    let skipped = |why: &str| Ok(ClientCalibration::Skipped { why: why.into() });
    let (_, trials) = read_run(dir.path()).map_err(Failure::internal)?;
    let mut driven = Vec::new();
    for trial in &trials {
        let target = plan.targets.iter().find(|target| target.facts.name == trial.facts.target);
        if let Some(target) = target.filter(|target| !target.is_simulated())
            && trial.facts.kind == TrialKind::Measure
        {
            driven.push((target, trial));
        }
    }
    let elapsed_ns: u64 = driven.iter().map(|(_, trial)| trial.facts.elapsed_ns).sum();
    let most = Duration::from_nanos(elapsed_ns).mul_f64(SHARE_OF_RUN).clamp(SHORTEST, LONGEST);
    let records: Vec<&[RequestRecord]> = driven.iter().map(|(_, trial)| &trial.records[..]).collect();
    let Some(stretch) = busiest(&records, most) else { return skipped("nothing was sent") };
    let (target, trial) = driven[stretch.trial];
    let protocol = spoken(target.protocol()?);
    let copy = Copy {
        trial: &trial.facts.dir,
        protocol,
        tls: target.speaks_tls(),
        keep_answers: plan.spec.workload.sessions.is_some(),
        workload: workload(plan, protocol, &stretch)?,
    };
    let Some(mut best) = copy.with_a_server_on_time(&stretch, cancel)? else {
        return skipped(INTERRUPTED);
    };
    // What else the machine did for a moment after the trials is nothing against them; a client that is too slow is so twice.
    if (best.worst_p99_ns() as f64 > LATE_NS || best.is_behind())
        && let Ok(Some(again)) = copy.with_a_server_on_time(&stretch, cancel)
    {
        best = best.better_of(again);
    }
    Ok(ClientCalibration::Measured(best))
}

/// The protocol itself where it streams, else one that asks more of the client.
fn spoken(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::OpenAiCompletions
        | Protocol::OpenAiChat
        | Protocol::Tgi
        | Protocol::OllamaGenerate
        | Protocol::OllamaChat
        | Protocol::LlamaCpp
        | Protocol::SgLang
        | Protocol::Triton
        | Protocol::Anthropic
        | Protocol::WebSocket => protocol,
        // Answers in one piece have no events to be timed.
        Protocol::KServe | Protocol::OpenAiEmbeddings | Protocol::TeiEmbed | Protocol::OllamaEmbed => {
            Protocol::OpenAiCompletions
        }
    }
}

fn workload(plan: &Plan, protocol: Protocol, stretch: &Stretch) -> Result<Workload, Failure> {
    let prompts = match &plan.prompts {
        ids @ PromptStyle::TokenIds { .. } if protocol.takes_token_ids() => ids.clone(),
        PromptStyle::TokenIds { .. } => PromptStyle::Words { tokens_per_word: TOKENS_PER_WORD },
        words @ PromptStyle::Words { .. } => words.clone(),
    };
    let mut workload = generate(&WorkloadConfig {
        seed: plan.spec.seed,
        requests: stretch.rows.len() as u64,
        lengths: Lengths::Trace { rows: stretch.rows.clone() },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, u32::MAX),
        output_range: (1, u32::MAX),
        arrivals: Arrivals::Trace { speed: 1.0, jitter: Duration::ZERO },
        prompts,
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .map_err(Failure::internal)?;
    if plan.spec.workload.sessions.is_some() {
        workload.requests.iter_mut().for_each(as_first_turn);
    }
    Ok(workload)
}

/// The answer is read as the trial's were: for a later turn, which here never comes.
fn as_first_turn(request: &mut PlannedRequest) {
    let stand_in = match &request.prompt {
        Prompt::Tokens(_) => Prompt::Tokens(Vec::new()),
        Prompt::Text(_) | Prompt::Messages(_) => Prompt::Text(String::new()),
    };
    request.turn = Some(Turn {
        session: request.index,
        turn: 0,
        last: false,
        new_tokens: request.prompt_tokens,
        think_time: Duration::ZERO,
        stand_in,
    });
}

/// What is driven against the mock, and where it is from.
struct Copy<'a> {
    trial: &'a str,
    protocol: Protocol,
    tls: bool,
    keep_answers: bool,
    workload: Workload,
}

impl Copy<'_> {
    /// `None`: stopped.
    fn with_a_server_on_time(
        &self,
        stretch: &Stretch,
        cancel: &CancellationToken,
    ) -> Result<Option<CalibrationFacts>, Failure> {
        let mut late_ns = u64::MAX;
        for _ in 0..ATTEMPTS {
            let Some(facts) = self.measure(stretch, cancel)? else { return Ok(None) };
            if facts.served_late.p99_ns as f64 <= LATE_NS {
                return Ok(Some(facts));
            }
            late_ns = late_ns.min(facts.served_late.p99_ns);
        }
        Err(Failure::internal(format!(
            "the timing server was late itself, by {:.1} ms (p99, the best of {ATTEMPTS} times): give it a core of its own",
            late_ns as f64 / 1e6
        )))
    }

    /// `None`: stopped.
    fn measure(
        &self,
        stretch: &Stretch,
        cancel: &CancellationToken,
    ) -> Result<Option<CalibrationFacts>, Failure> {
        let load = Load {
            workload: &self.workload,
            protocol: self.protocol,
            tls: self.tls,
            ttft: stretch.ttft,
            itl: stretch.itl,
            // As in the trials, where client and server are put.
            mock_core: None,
            client_cores: None,
            time_limit: Some(stretch.length * 2 + GRACE),
        };
        let Checked { driven, accuracy } = client_check::check(&load, cancel)?;
        if driven.ended == Ended::Cancelled {
            return Ok(None);
        }
        let requests = self.workload.requests.len() as u64;
        let left_out = requests.saturating_sub(accuracy.compared);
        Ok(Some(CalibrationFacts {
            trial: self.trial.into(),
            protocol: self.protocol.name().into(),
            tls: self.tls,
            keep_answers: self.keep_answers,
            streams: stretch.streams,
            requests,
            rate_rps: stretch.rate_rps,
            events_per_s: stretch.events_per_s,
            ttft_ns: stretch.ttft.as_nanos() as u64,
            itl_ns: stretch.itl.as_nanos() as u64,
            elapsed_ns: driven.elapsed.as_nanos() as u64,
            left_out,
            send_lag: accuracy.send_lag,
            ttft: accuracy.ttft,
            itl: accuracy.itl,
            served_late: accuracy.served_late,
        }))
    }
}
