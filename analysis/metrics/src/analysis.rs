//! What comes out: plain data, one entry per trial, per target and per comparison. [`analyse`] is the data path.

use llmlab_results::calibration::ClientCalibration;
use llmlab_results::journey::JourneyFacts;
use llmlab_results::manifest::{
    HostRoofline, Manifest, ModelFacts, RunStatus, SessionFacts, TargetFacts, TargetKind, TrialFacts,
    TrialKind,
};
use llmlab_results::prompt_fit::PromptFit;
use llmlab_results::record::Outcome;
use serde::Serialize;

use crate::Trial;
use crate::compare::{Comparison, Spread, compare, spread};
use crate::cost::{Cost, cost};
use crate::engine_log::{EngineLog, engine_log};
use crate::latency::{Latency, LatencySamples};
use crate::machine::{MachineView, machine_view};
use crate::metric::Metric;
use crate::prefix_hits::prefix_hit_share;
use crate::rates::{
    ErrorCount, PromptLengths, Rates, RequestCounts, TokenSources, errors, prompt_lengths, rates,
    token_sources,
};
use crate::roofline::{Roofline, roofline};
use crate::server_view::{ServerView, server_view};
use crate::slo::{Goodput, SloCheck, check, goodput};
use crate::trust::{TrialTrust, trust};
use crate::turns::{TurnGroup, turn_groups};
use crate::warning::Warning;
use crate::window::{Window, is_closed_loop, window};
use crate::{client_error, frame, quantile, shards};

pub const SCHEMA_VERSION: u32 = 1;

/// Values that do not exist are `None`; no NaN and no infinity is ever stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    pub schema_version: u32,
    pub name: String,
    pub setting: Setting,
    /// The first target; the others are compared with it.
    pub baseline: Option<String>,
    pub targets: Vec<TargetAnalysis>,
    /// Measured trials in the order they ran; probes are left out.
    pub trials: Vec<TrialAnalysis>,
    pub comparisons: Vec<Comparison>,
    /// Every measured trial is trusted and there is at least one.
    pub trusted: bool,
    /// What the run's client was found to get wrong by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_calibration: Option<ClientCalibration>,
    pub warnings: Vec<Warning>,
}

/// Where and how, in the words a report needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    pub started_at: String,
    pub finished_at: Option<String>,
    pub status: RunStatus,
    pub seed: u64,
    pub llmlab_version: String,
    pub git_commit: Option<String>,
    pub command_line: Vec<String>,
    pub scenario_path: Option<String>,
    pub host: String,
    pub cores: u32,
    pub roofline: Option<HostRoofline>,
    pub model: String,
    pub workload: String,
    pub arrivals: String,
    pub rate_rps: Option<f64>,
    pub rate_source: Option<String>,
    pub sessions: Option<SessionFacts>,
    /// What a prefix cache of any size would find, where the workload was made for it.
    pub prefix_hit_rate: Option<f64>,
    pub warmup_requests: u64,
    pub closed_loop: bool,
    /// Most repeats of any target.
    pub repeats: u64,
    pub price: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetAnalysis {
    pub name: String,
    pub kind: Option<TargetKind>,
    pub description: String,
    pub saturation_rps: Option<f64>,
    /// Trials that the figures below are made of: the complete ones, or all when none is complete.
    pub repeats: u64,
    /// One entry per [`Metric::ALL`], in that order.
    pub metrics: Vec<Spread>,
    /// Per limit: in how many of the repeats it was met, and judged.
    pub slo: Vec<SloSummary>,
    /// Over all repeats.
    pub errors: Vec<ErrorCount>,
    pub token_sources: TokenSources,
    pub prompt_lengths: Option<PromptLengths>,
    pub prompt_fit: Option<PromptFit>,
    /// Of the first repeat that has one.
    pub roofline: Option<Roofline>,
    pub trusted: bool,
}

impl TargetAnalysis {
    pub fn metric(&self, metric: Metric) -> Option<&Spread> {
        self.metrics.iter().find(|s| s.metric == metric)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SloSummary {
    /// Of the first repeat; value and verdict per repeat are in the trials.
    pub limit: SloCheck,
    pub met: u64,
    pub judged: u64,
    /// Median over repeats; `None` when infinite or missing.
    pub median_ns: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialAnalysis {
    pub dir: String,
    pub target: String,
    pub repeat: u32,
    pub complete: bool,
    pub elapsed_ns: u64,
    pub requests: RequestCounts,
    pub window: Option<Window>,
    pub latency: Latency,
    pub rates: Option<Rates>,
    pub goodput: Option<Goodput>,
    pub slo: Vec<SloCheck>,
    /// By place in a conversation; empty where requests stand alone.
    pub turns: Vec<TurnGroup>,
    pub engine: Option<EngineLog>,
    /// Of the prompt tokens of measured requests, those that the engine's prefix cache had; `None` where it found none, because
    /// the log does not tell that from having no cache.
    pub prefix_hit_share: Option<f64>,
    pub server: Option<ServerView>,
    pub machine: Option<MachineView>,
    pub roofline: Option<Roofline>,
    pub cost: Option<Cost>,
    pub errors: Vec<ErrorCount>,
    pub token_sources: TokenSources,
    pub trust: TrialTrust,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journey: Option<JourneyFacts>,
}

/// Everything the reports print. Pure: the same manifest and trials give the same analysis.
pub fn analyse(manifest: &Manifest, trials: &[Trial]) -> Analysis {
    let mut warnings = Vec::new();
    let measured: Vec<&Trial> = trials.iter().filter(|t| t.facts.kind == TrialKind::Measure).collect();
    let analysed: Vec<TrialAnalysis> =
        measured.iter().map(|t| analyse_trial(manifest, t, &mut warnings)).collect();
    if analysed.is_empty() {
        warnings.push(Warning::NoTrials);
    }

    let targets = target_list(manifest, &analysed, &mut warnings);
    let used: Vec<Vec<&TrialAnalysis>> = targets.iter().map(|t| usable_trials(&t.name, &analysed)).collect();
    let summaries: Vec<TargetAnalysis> = targets
        .iter()
        .zip(&used)
        .map(|(target, trials)| {
            let prompts = prompts_of(manifest, &measured, trials);
            summarise(target, trials, prompts, &analysed, &mut warnings)
        })
        .collect();

    let mut comparisons = Vec::new();
    for (target, trials) in targets.iter().zip(&used).skip(1) {
        match compare(&target.name, &targets[0].name, trials, &used[0]) {
            Some(comparison) => comparisons.push(comparison),
            None => warnings.push(Warning::Unpaired { target: target.name.clone() }),
        }
    }
    if manifest.status != RunStatus::Complete {
        warnings.push(Warning::RunNotComplete { status: manifest.status });
    }
    if let Some(ClientCalibration::Failed { why }) = &manifest.client_calibration {
        warnings.push(Warning::ClientNotCalibrated { why: why.clone() });
    }
    let repeats = summaries.iter().map(|t| t.repeats).max().unwrap_or(0);
    if repeats == 1 && targets.len() > 1 {
        warnings.push(Warning::OneRepeat);
    }
    for target in &manifest.targets {
        if let (Some(roof), Some(used)) = (&manifest.host.roofline, target.threads)
            && roof.threads != used
            && summaries.iter().any(|t| t.name == target.name && t.roofline.is_some())
        {
            let target = target.name.clone();
            warnings.push(Warning::RooflineThreads { target, calibrated: roof.threads, used });
        }
    }
    let fewest = used.iter().flatten().map(|t| t.requests.succeeded).min();
    if let Some(measured) = fewest.filter(|n| (1..100).contains(n)) {
        warnings.push(Warning::FewRequests { measured });
    }
    let simulated =
        |name: &str| manifest.targets.iter().any(|t| t.name == name && t.kind == TargetKind::Simulate);
    let live_steps = |t: &&Trial| !t.steps.is_empty() && !simulated(&t.facts.target);
    if manifest.host.roofline.is_none() && measured.iter().any(live_steps) {
        warnings.push(Warning::HostNotCalibrated);
    }
    Analysis {
        schema_version: SCHEMA_VERSION,
        name: manifest.name.clone(),
        setting: setting(manifest, repeats),
        baseline: targets.first().map(|t| t.name.clone()),
        // A run that ended early may lack a repeat or a whole target; what is there is shown, not vouched for.
        trusted: manifest.status == RunStatus::Complete
            && !analysed.is_empty()
            && analysed.iter().all(|t| t.trust.trusted),
        client_calibration: manifest.client_calibration.clone(),
        targets: summaries,
        trials: analysed,
        comparisons,
        warnings,
    }
}

fn analyse_trial(manifest: &Manifest, trial: &Trial, warnings: &mut Vec<Warning>) -> TrialAnalysis {
    let warmup = manifest.workload.warmup_requests;
    let records = &trial.records;
    let start = trial.facts.start_monotonic_ns;
    let requests = frame::requests(records, warmup);
    let events = frame::token_events(records, warmup);
    let steps = frame::steps(&trial.steps, start);
    let counts = RequestCounts::of(&requests);
    let window = window(&requests, is_closed_loop(manifest));
    let samples = LatencySamples::collect(&requests, &events, &trial.steps, start, window.as_ref());
    let latency = samples.reduce();
    let rates = window.map(|w| rates(records, &requests, &events, &w));
    let target = manifest.targets.iter().find(|t| t.name == trial.facts.target);
    // Records may be missing from a trial that says it finished: a damaged journal, a copy cut short.
    let complete = trial.facts.complete && records.len() as u64 >= manifest.workload.requests;
    let facts = TrialFacts { complete, ..trial.facts.clone() };
    let trust = trust(&facts, &latency, records, counts.succeeded, counts.measured, manifest.host.cores);
    // A simulated client is in no process.
    let calibration = manifest
        .client_calibration
        .as_ref()
        .filter(|_| target.is_none_or(|target| target.kind != TargetKind::Simulate));
    let own_errors = client_error::causes(calibration, &latency, trust.late_limit_ns);
    let analysis = TrialAnalysis {
        dir: trial.facts.dir.clone(),
        target: trial.facts.target.clone(),
        repeat: trial.facts.repeat,
        complete,
        elapsed_ns: trial.facts.elapsed_ns,
        requests: counts,
        window,
        rates,
        goodput: window.and_then(|w| goodput(&manifest.slo, records, warmup, &w)),
        slo: check(&manifest.slo, &samples),
        turns: turn_groups(records, warmup),
        engine: window.and_then(|w| engine_log(&steps, &w)),
        prefix_hit_share: window.and_then(|w| prefix_hit_share(records, &trial.steps, start, &w)),
        server: window.and_then(|w| server_view(&trial.server, &w)),
        machine: window.and_then(|w| machine_view(&trial.machine, start, &w, rates.as_ref())),
        roofline: window
            .zip(target)
            // What this machine can do says nothing about one that is simulated.
            .filter(|(_, t)| t.kind != TargetKind::Simulate)
            .and_then(|(w, t)| roofline(&steps, &w, manifest.host.roofline.as_ref(), &manifest.model, t)),
        cost: manifest.cost.as_ref().zip(rates).and_then(|(facts, rates)| cost(facts, &rates)),
        errors: errors(records, warmup),
        token_sources: token_sources(records, warmup),
        trust: trust.with(own_errors).with(shards::causes(shards::parts(manifest))),
        latency,
        journey: trial.facts.journey.clone(),
    };
    trial_warnings(manifest, trial, &analysis, warnings);
    analysis
}

fn trial_warnings(manifest: &Manifest, trial: &Trial, a: &TrialAnalysis, warnings: &mut Vec<Warning>) {
    let name = || a.dir.clone();
    let r = &a.requests;
    if r.measured == 0 {
        let warmup = manifest.workload.warmup_requests;
        warnings.push(Warning::NothingMeasured { trial: name(), recorded: r.recorded, warmup });
    } else if r.succeeded == 0 {
        warnings.push(Warning::NothingSucceeded { trial: name(), measured: r.measured });
    } else if r.failed > 0 {
        warnings.push(Warning::Failures { trial: name(), failed: r.failed, measured: r.measured });
    }
    if !a.complete || r.cancelled > 0 {
        warnings.push(Warning::Interrupted { trial: name(), cancelled: r.cancelled });
    }
    let backwards = trial.records.iter().filter(|r| clock_backwards(r)).count() as u64;
    if backwards > 0 {
        warnings.push(Warning::ClockBackwards { trial: name(), records: backwards });
    }
    let itl = a.latency.itl.as_ref().and_then(|d| d.raw.p50_ns).unwrap_or(0.0);
    let delay = a.trust.loop_delay_p99_ns as f64;
    if itl > 0.0 && delay > itl / 2.0 && a.trust.trusted {
        warnings.push(Warning::LoopDelayNearItl {
            trial: name(),
            loop_delay_ms: delay / 1e6,
            itl_ms: itl / 1e6,
        });
    }
    if !is_closed_loop(manifest)
        && let Some((early, late)) = divergence(trial, manifest.workload.warmup_requests)
    {
        warnings.push(Warning::Diverging {
            trial: name(),
            early_ttft_ms: early / 1e6,
            late_ttft_ms: late / 1e6,
        });
    }
}

/// Scheduled, sent, token events and the end, in this order, must not go back in time.
fn clock_backwards(r: &llmlab_results::record::RequestRecord) -> bool {
    let mut stages = vec![r.scheduled_ns];
    stages.extend(r.sent_ns);
    stages.extend(r.events.iter().map(|e| e.at_ns));
    stages.extend(r.done_ns);
    !stages.is_sorted()
}

/// Median TTFT of the first and last third by schedule, when it grew at least threefold and by 100 ms: the queue never drained.
fn divergence(trial: &Trial, warmup: u64) -> Option<(f64, f64)> {
    const LEAST_REQUESTS: usize = 30;
    let mut ok: Vec<_> =
        trial.records.iter().filter(|r| r.index >= warmup && r.outcome.is_success()).collect();
    if ok.len() < LEAST_REQUESTS {
        return None;
    }
    ok.sort_by_key(|r| (r.scheduled_ns, r.index));
    let third = ok.len() / 3;
    let median = |part: &[&llmlab_results::record::RequestRecord]| {
        quantile::median(&part.iter().filter_map(|r| frame::ttft_ns(r)).collect::<Vec<f64>>())
    };
    let (early, late) = (median(&ok[..third])?, median(&ok[ok.len() - third..])?);
    (late > 3.0 * early && late - early > 100e6).then_some((early, late))
}

/// Targets of the manifest in order (first = baseline), then names that only trials know.
fn target_list(
    manifest: &Manifest,
    trials: &[TrialAnalysis],
    warnings: &mut Vec<Warning>,
) -> Vec<TargetFacts> {
    let mut targets = manifest.targets.clone();
    for trial in trials {
        if !targets.iter().any(|t| t.name == trial.target) {
            warnings.push(Warning::UnknownTarget { target: trial.target.clone() });
            targets.push(TargetFacts::endpoint(&trial.target, "not in the manifest".into()));
        }
    }
    targets
}

/// Half a trial is not a repeat: complete trials if there are any.
fn usable_trials<'a>(target: &str, trials: &'a [TrialAnalysis]) -> Vec<&'a TrialAnalysis> {
    let own = || trials.iter().filter(|t| t.target == target);
    let complete: Vec<&TrialAnalysis> = own().filter(|t| t.complete).collect();
    if complete.is_empty() { own().collect() } else { complete }
}

/// How long a target's prompts were, and how they came to be so.
struct Prompts {
    lengths: Option<PromptLengths>,
    fit: Option<PromptFit>,
}

fn prompts_of(manifest: &Manifest, measured: &[&Trial], used: &[&TrialAnalysis]) -> Prompts {
    let own: Vec<&&Trial> = measured.iter().filter(|t| used.iter().any(|u| u.dir == t.facts.dir)).collect();
    let warmup = manifest.workload.warmup_requests;
    // What a journey asks for is the length of a turn; its prompt has what was said before it too.
    let records = own.iter().filter(|t| t.facts.journey.is_none()).flat_map(|t| &t.records);
    Prompts {
        lengths: prompt_lengths(records.filter(|r| r.index >= warmup && r.outcome.is_success())),
        fit: own.iter().find_map(|t| t.facts.prompt_fit.clone()),
    }
}

fn summarise(
    facts: &TargetFacts,
    used: &[&TrialAnalysis],
    prompts: Prompts,
    all: &[TrialAnalysis],
    warnings: &mut Vec<Warning>,
) -> TargetAnalysis {
    let mut sources = TokenSources::default();
    for t in used {
        sources.usage += t.token_sources.usage;
        sources.server_detail += t.token_sources.server_detail;
        sources.token_ids += t.token_sources.token_ids;
        sources.client_tokenizer += t.token_sources.client_tokenizer;
        sources.chunk_count += t.token_sources.chunk_count;
    }
    let target = TargetAnalysis {
        name: facts.name.clone(),
        kind: Some(facts.kind),
        description: facts.description.clone(),
        saturation_rps: facts.saturation_rps.filter(|v| v.is_finite()),
        repeats: used.len() as u64,
        metrics: Metric::ALL.into_iter().map(|m| spread(m, used)).collect(),
        slo: slo_summary(used),
        errors: merge_errors(used),
        token_sources: sources,
        prompt_lengths: prompts.lengths,
        prompt_fit: prompts.fit,
        roofline: used.iter().find_map(|t| t.roofline.clone()),
        trusted: !used.is_empty() && all.iter().filter(|t| t.target == facts.name).all(|t| t.trust.trusted),
    };
    target_warnings(facts, used, &target, warnings);
    target
}

fn target_warnings(
    facts: &TargetFacts,
    used: &[&TrialAnalysis],
    target: &TargetAnalysis,
    warnings: &mut Vec<Warning>,
) {
    let name = || facts.name.clone();
    for slo in target.slo.iter().filter(|slo| slo.judged == 0) {
        let limit = format!("the {} limit at p{}", slo.limit.metric.label(), slo.limit.percentile);
        warnings.push(Warning::SloNotJudged { target: name(), limit });
    }
    if target.token_sources.chunk_count > 0 {
        warnings
            .push(Warning::CountsFromChunks { target: name(), requests: target.token_sources.chunk_count });
    }
    if let Some(lengths) = target.prompt_lengths.filter(|lengths| lengths.exact < lengths.counted) {
        let PromptLengths { counted, exact, median_off, most_off, .. } = lengths;
        let off = counted - exact;
        warnings.push(Warning::PromptLengths { target: name(), off, counted, median_off, most_off });
    }
    if let Some(e) = target.errors.iter().find(|e| e.outcome == Outcome::WrongLength) {
        warnings.push(Warning::WrongLength { target: name(), requests: e.count });
    }
    let (tokens, gaps) = used.iter().fold((0, 0), |(tokens, gaps), t| {
        let count = |d: &Option<crate::latency::Distribution>| d.as_ref().map_or(0, |d| d.count);
        (tokens + count(&t.latency.itl), gaps + count(&t.latency.icl))
    });
    if gaps > 0 && tokens as f64 / gaps as f64 > 1.2 {
        let tokens_per_event = tokens as f64 / gaps as f64;
        warnings.push(Warning::CoalescedTokens { target: name(), tokens_per_event });
    }
    if let Some(share) = target.roofline.as_ref().map(|r| r.share).filter(|s| *s > 1.0) {
        warnings.push(Warning::RooflineExceeded { target: name(), share });
    }
}

fn slo_summary(used: &[&TrialAnalysis]) -> Vec<SloSummary> {
    let Some(first) = used.first() else { return Vec::new() };
    first
        .slo
        .iter()
        .enumerate()
        .map(|(i, limit)| {
            let checks: Vec<&SloCheck> = used.iter().filter_map(|t| t.slo.get(i)).collect();
            let finite: Vec<f64> = checks.iter().filter_map(|c| c.value_ns).collect();
            SloSummary {
                limit: limit.clone(),
                met: checks.iter().filter(|c| c.met == Some(true)).count() as u64,
                judged: checks.iter().filter(|c| c.met.is_some()).count() as u64,
                median_ns: if finite.len() == checks.len() { quantile::median(&finite) } else { None },
            }
        })
        .collect()
}

fn merge_errors(used: &[&TrialAnalysis]) -> Vec<ErrorCount> {
    let mut merged: Vec<ErrorCount> = Vec::new();
    for e in used.iter().flat_map(|t| &t.errors) {
        match merged.iter_mut().find(|m| m.outcome == e.outcome && m.http_status == e.http_status) {
            Some(m) => m.count += e.count,
            None => merged.push(e.clone()),
        }
    }
    merged.sort_by_key(|e| std::cmp::Reverse(e.count));
    merged
}

fn setting(m: &Manifest, repeats: u64) -> Setting {
    let gib = m.host.memory_bytes as f64 / (1024.0 * 1024.0 * 1024.0);
    Setting {
        started_at: m.started_at.clone(),
        finished_at: m.finished_at.clone(),
        status: m.status,
        seed: m.seed,
        llmlab_version: m.llmlab_version.clone(),
        git_commit: m.git_commit.clone(),
        command_line: m.command_line.clone(),
        scenario_path: m.scenario_path.clone(),
        host: format!(
            "{}, {} cores, {gib:.0} GiB, {} ({})",
            m.host.cpu_model,
            m.host.cores,
            m.host.os,
            match shards::hosts(shards::parts(m)).as_slice() {
                [] | [_] => m.host.hostname.clone(),
                several => format!("first of {}: {}", several.len(), several.join(", ")),
            }
        ),
        cores: m.host.cores,
        roofline: m.host.roofline.clone().filter(finite_roofline),
        model: model_in_words(&m.model),
        workload: m.workload.description.clone(),
        arrivals: m.workload.arrivals.clone(),
        rate_rps: m.workload.rate_rps.filter(|v| v.is_finite()),
        rate_source: m.workload.rate_source.clone(),
        sessions: m.workload.sessions,
        prefix_hit_rate: m.workload.prefix_hit_rate.filter(|v| v.is_finite()),
        warmup_requests: m.workload.warmup_requests,
        closed_loop: is_closed_loop(m),
        repeats,
        price: m
            .cost
            .as_ref()
            .map(|c| format!("{} at {} USD per hour ({})", c.hardware, c.usd_per_hour, c.source)),
    }
}

fn finite_roofline(r: &HostRoofline) -> bool {
    [r.read_bandwidth_bytes_per_s, r.f32_flops_per_s, r.bf16_flops_per_s, r.int8_ops_per_s]
        .iter()
        .all(|v| v.is_finite())
}

/// A server we do not hold the model of tells nothing about it.
fn model_in_words(model: &ModelFacts) -> String {
    if model.parameters == 0 {
        return format!("{} (unknown size)", model.source);
    }
    format!("{} ({}, {:.1} M parameters)", model.source, model.architecture, model.parameters as f64 / 1e6)
}
