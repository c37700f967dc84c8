//! From a scenario to everything a run needs, checked before anything starts: models, engine sizes, workload limits.

use std::path::Path;
use std::time::Duration;

use llmlab_core::config::PolicyConfig;
use llmlab_loadgen::{PromptStyle, Protocol};
use llmlab_models::{LoadedModel, ModelSpec};
use llmlab_results::manifest::{CostFacts, ModelFacts, TargetFacts, TargetKind};
use llmlab_scenarios::spec::{
    AUTO, ArrivalSpec, Cell, CommandSpec, EndpointSpec, LengthDist as SpecDist, LengthSpec, ModelChoice,
    REMOTE_MODEL, RunSpec, SimulateSpec, SloSpec, SweepPoint, TargetChoice, TargetSpec, TimeoutSpec,
    WarmupSpec, WorkloadSpec,
};

use super::shard::ShardPlan;
use crate::adapters;
use crate::cli::RunArgs;
use crate::detect::Known;
use crate::exit::Failure;
use crate::simulation::{self, ResolvedSimulation};
use crate::target::EngineLaunch;
use crate::wire::{self, ResolvedEngine};

/// A run with nothing left open but the rate, when that is a share of a saturation yet to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    pub spec: RunSpec,
    /// The scenario as read, or the one that stands for a bare URL.
    pub text: String,
    pub path: Option<String>,
    pub model: ModelFacts,
    pub targets: Vec<PlannedTarget>,
    pub prompts: PromptStyle,
    /// Prompt plus output at most, so that every target can hold every request.
    pub max_tokens_per_request: u32,
    pub warmup_requests: u64,
    pub cost: Option<CostFacts>,
    /// This machine sends a part of the schedule only.
    pub shard: Option<ShardPlan>,
    /// Once the trials are done.
    pub calibrate_client: bool,
}

#[derive(Debug, Clone)]
pub struct PlannedTarget {
    pub facts: TargetFacts,
    pub how: How,
}

#[derive(Debug, Clone)]
pub enum How {
    Engine { launch: EngineLaunch, resolved: Box<ResolvedEngine> },
    Endpoint(EndpointSpec),
    Command(Box<CommandSpec>),
    Simulate(Box<ResolvedSimulation>),
}

impl Plan {
    /// For prompts of words: a byte-level tokenizer spends a token on every letter, common ones about 1.3 on an English word.
    pub fn tokens_per_word(&self) -> f64 {
        if (1..=1024).contains(&self.model.vocab_size) { BYTES_PER_WORD } else { TOKENS_PER_WORD }
    }

    fn record_calls(&mut self) -> Result<(), Failure> {
        let mut recorded = false;
        for target in &mut self.targets {
            if let How::Engine { launch, .. } = &mut target.how {
                launch.record = true;
                recorded = true;
            }
        }
        if recorded {
            Ok(())
        } else {
            Err(Failure::bad_input("--record: no target is an engine of llmlab's that runs"))
        }
    }
}

/// A model by its shape, with its checkpoint where it has one.
struct PlannedModel {
    spec: ModelSpec,
    loaded: Option<LoadedModel>,
}

/// What a scenario comes to.
#[derive(Debug)]
pub enum Planned {
    Run(Box<Plan>),
    Sweep { name: String, cells: Vec<(SweepPoint, Plan)> },
}

impl Planned {
    /// Lets the engines write down every call to their schedulers.
    pub fn record_calls(&mut self) -> Result<(), Failure> {
        match self {
            Planned::Run(plan) => plan.record_calls(),
            Planned::Sweep { cells, .. } => cells.iter_mut().try_for_each(|(_, plan)| plan.record_calls()),
        }
    }
}

/// With `simulate`, every engine of the scenario runs in virtual time.
pub fn plan(args: &RunArgs, simulate: Option<&SimulateOn>) -> Result<Planned, Failure> {
    if args.scenario.starts_with("http://") || args.scenario.starts_with("https://") {
        let mut spec = spec_for_url(&args.scenario);
        if simulate.is_some() {
            return Err(Failure::bad_input(format!("{}: a live server cannot be simulated", args.scenario)));
        }
        apply_overrides(&mut spec, args)?;
        if !args.explain {
            Known::default().resolve(&mut spec)?;
        }
        let mut plan = resolve(spec, format!("# llmlab run {}\n", args.scenario), None)?;
        plan.calibrate_client = !args.no_client_calibration;
        return Ok(Planned::Run(Box::new(plan)));
    }
    let (text, cells) = llmlab_scenarios::load_cells(Path::new(&args.scenario)).map_err(Failure::usage)?;
    let mut name = String::new();
    let mut planned = Vec::with_capacity(cells.len());
    let mut known = Known::default();
    for Cell { point, mut spec } in cells {
        apply_overrides(&mut spec, args)?;
        if let Some(on) = simulate {
            simulate_targets(&mut spec, on)?;
        }
        if !args.explain {
            known.resolve(&mut spec)?;
        }
        name.clone_from(&spec.name);
        if let Some(point) = &point {
            spec.name = format!("{name} {point}");
        }
        let mut plan = resolve(spec, text.clone(), Some(args.scenario.clone()))?;
        plan.calibrate_client = !args.no_client_calibration;
        match point {
            Some(point) => planned.push((point, plan)),
            None => return Ok(Planned::Run(Box::new(plan))),
        }
    }
    Ok(Planned::Sweep { name, cells: planned })
}

/// Where `llmlab simulate` runs.
#[derive(Debug, Clone)]
pub struct SimulateOn {
    /// `None`: where the scenario says, else on this host.
    pub hardware: Option<String>,
}

fn simulate_targets(spec: &mut RunSpec, on: &SimulateOn) -> Result<(), Failure> {
    if spec.journey.is_some() {
        return Err(Failure::bad_input(
            "a journey needs a server that answers and cannot be simulated; use llmlab run, or a scenario with [workload]",
        ));
    }
    for target in &mut spec.targets {
        match &mut target.kind {
            TargetChoice::Engine(engine) if engine.executor == "candle" => {
                return Err(Failure::bad_input(format!(
                    "target {}: executor \"candle\" cannot be simulated, only the engine's own kernels can",
                    target.name
                )));
            }
            TargetChoice::Engine(engine) if engine.speculation().is_some() => {
                return Err(Failure::bad_input(format!(
                    "target {}: how many drafts are accepted cannot be simulated; write it as simulate = {{ hardware = ..., speculative_acceptance_rate = ... }} \
                     with the rate that llmlab run --record and llmlab replay measure",
                    target.name
                )));
            }
            TargetChoice::Engine(engine) => {
                let hardware = on.hardware.clone().unwrap_or_else(|| simulation::THIS_HOST.into());
                let engine = engine.clone();
                target.kind = TargetChoice::Simulate(SimulateSpec {
                    hardware,
                    gpu_memory_utilization: None,
                    speculative_acceptance_rate: Vec::new(),
                    engine,
                });
            }
            TargetChoice::Simulate(simulate) => {
                if let Some(hardware) = &on.hardware {
                    simulate.hardware = hardware.clone();
                }
            }
            TargetChoice::Endpoint(_) | TargetChoice::Command(_) => {
                return Err(Failure::bad_input(format!(
                    "target {} is a live server; llmlab simulate takes engine and simulate targets",
                    target.name
                )));
            }
        }
    }
    Ok(())
}

fn apply_overrides(spec: &mut RunSpec, args: &RunArgs) -> Result<(), Failure> {
    if let (Some(requests), Some(_)) = (args.requests, &spec.journey) {
        return Err(Failure::bad_input(format!(
            "--requests {requests}: a journey's requests follow from its users and iterations; change them in the scenario"
        )));
    }
    if let Some(requests) = args.requests {
        if requests == 0 {
            return Err(Failure::bad_input("--requests 0: accepted are 1 and above"));
        }
        spec.workload.requests = requests;
    }
    if let Some(repeats) = args.repeats {
        if repeats == 0 || repeats > 100 {
            return Err(Failure::bad_input(format!("--repeats {repeats}: accepted are 1 to 100")));
        }
        spec.repeats = repeats;
    }
    if let Some(seed) = args.seed {
        spec.seed = seed;
    }
    Ok(())
}

/// A first look at an unknown server: chat-sized requests from four users, text prompts, no tokenizer needed.
fn spec_for_url(url: &str) -> RunSpec {
    let chat = |median: f64, p95: f64| SpecDist::Lognormal { median, p95 };
    RunSpec {
        name: "first-look".into(),
        seed: 1,
        model: ModelChoice { source: REMOTE_MODEL.into(), max_model_len: None },
        journey: None,
        workload: WorkloadSpec {
            lengths: LengthSpec::Distributions { input: chat(100.0, 400.0), output: chat(64.0, 200.0) },
            scale_input: 1.0,
            scale_output: 1.0,
            input_range: (4, 1024),
            output_range: (2, 256),
            requests: 40,
            warmup: WarmupSpec::Auto,
            arrivals: ArrivalSpec::Closed { users: 4, think_time: Duration::ZERO },
            shared_prefix_tokens: 0,
            prefixes: None,
            adapters: None,
            sessions: None,
            abandon: None,
            timeout: TimeoutSpec {
                connect: Duration::from_secs(5),
                first_token: Duration::from_secs(120),
                inter_token: Duration::from_secs(60),
                total: Duration::from_secs(600),
            },
        },
        targets: vec![TargetSpec {
            name: "server".into(),
            kind: TargetChoice::Endpoint(EndpointSpec {
                url: url.trim_end_matches('/').into(),
                protocol: AUTO.into(),
                model: None,
                api_key_env: None,
                api_key_file: None,
                ca_file: None,
                metrics_path: Some("/metrics".into()),
            }),
        }],
        slo: SloSpec::default(),
        repeats: 1,
        cost: None,
        claims: Vec::new(),
        find: None,
    }
}

/// Tokens of one of our words with a byte-level tokenizer, and with a common one.
const BYTES_PER_WORD: f64 = 5.6;
const TOKENS_PER_WORD: f64 = 1.3;

fn resolve(spec: RunSpec, text: String, path: Option<String>) -> Result<Plan, Failure> {
    let model = match spec.model.source.as_str() {
        REMOTE_MODEL => None,
        source => Some(planned_model(source, spec.seed)?),
    };
    let targets = spec
        .targets
        .iter()
        .map(|target| plan_target(target, &spec, model.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    let model_limit =
        model.as_ref().map(|model| max_model_len(&spec, &model.spec)).or(spec.model.max_model_len);
    let limit = targets.iter().filter_map(PlannedTarget::token_limit).chain(model_limit).min();
    let max_tokens_per_request = limit.unwrap_or(u32::MAX);
    if max_tokens_per_request < 8 {
        return Err(Failure::bad_input(format!(
            "the smallest target holds {max_tokens_per_request} tokens, too few for any request; raise num_blocks or kv_memory"
        )));
    }
    if let Some(journey) = &spec.journey {
        crate::journey::check(journey, max_tokens_per_request)?;
    }
    let model_facts = match &model {
        Some(model) => wire::model_facts(&spec.model.source, &model.spec, max_model_len(&spec, &model.spec)),
        None => ModelFacts { source: spec.model.source.clone(), ..ModelFacts::default() },
    };
    let warmup_requests = match spec.workload.warmup {
        WarmupSpec::Requests { count } => u64::from(count),
        WarmupSpec::Auto => u64::from(spec.workload.requests / 10).clamp(2, 50),
    };
    if warmup_requests >= u64::from(spec.workload.requests) {
        return Err(Failure::bad_input(format!(
            "{} requests with {warmup_requests} of them warm-up leave nothing to measure; raise `requests`",
            spec.workload.requests
        )));
    }
    let prompts = prompt_style(&targets, model.as_ref().map(|model| &model.spec));
    let cost = cost(&spec)?;
    Ok(Plan {
        text,
        path,
        model: model_facts,
        prompts,
        max_tokens_per_request,
        warmup_requests,
        cost,
        shard: None,
        calibrate_client: true,
        targets,
        spec,
    })
}

fn max_model_len(spec: &RunSpec, model: &ModelSpec) -> u32 {
    spec.model.max_model_len.unwrap_or(model.max_position_embeddings).min(model.max_position_embeddings)
}

fn planned_model(source: &str, seed: u64) -> Result<PlannedModel, Failure> {
    let (spec, loaded) = wire::shape(source, seed).map_err(Failure::bad_input)?;
    Ok(PlannedModel { spec, loaded })
}

fn plan_target(
    target: &TargetSpec,
    run: &RunSpec,
    model: Option<&PlannedModel>,
) -> Result<PlannedTarget, Failure> {
    let wrong =
        |error: &dyn std::fmt::Display| Failure::bad_input(format!("target {}: {error}", target.name));
    match &target.kind {
        TargetChoice::Engine(engine) => {
            let Some(model) = model else {
                return Err(wrong(&"an engine needs a model; set [model] source"));
            };
            let Some(loaded) = &model.loaded else {
                return Err(wrong(&format!(
                    "{} is a shape without weights; write simulate = {{ hardware = \"...\", ... }} in place of engine, or use llmlab simulate",
                    run.model.source
                )));
            };
            let length = max_model_len(run, &model.spec);
            let resolved =
                wire::resolve_engine(engine, loaded, Some(length)).map_err(|error| wrong(&error))?;
            resolved.engine.validate().map_err(|error| wrong(&error))?;
            let launch = EngineLaunch {
                model: run.model.source.clone(),
                model_seed: run.seed,
                max_model_len: resolved.engine.max_model_len,
                threads: resolved.runtime.threads,
                record: false,
                engine: engine.clone(),
                lora_modules: match adapters::of(run, engine) {
                    Some(adapters) => adapters::lora_modules(adapters, &model.spec).map_err(|e| wrong(&e))?,
                    None => Vec::new(),
                },
            };
            let facts = resolved.facts(&target.name);
            Ok(PlannedTarget { facts, how: How::Engine { launch, resolved: Box::new(resolved) } })
        }
        TargetChoice::Simulate(simulate) => {
            let Some(model) = model else {
                return Err(wrong(&"a simulation needs a model; set [model] source"));
            };
            let length = max_model_len(run, &model.spec);
            let resolved = simulation::resolve_simulation(
                simulate,
                &run.model.source,
                &model.spec,
                model.loaded.as_ref(),
                Some(length),
                adapters::of(run, &simulate.engine),
            )
            .map_err(|error| wrong(&error))?;
            resolved.engine.validate().map_err(|error| wrong(&error))?;
            let facts = resolved.facts(&target.name);
            Ok(PlannedTarget { facts, how: How::Simulate(Box::new(resolved)) })
        }
        TargetChoice::Endpoint(endpoint) => {
            drivable(&target.name, endpoint)?;
            let when =
                if endpoint.protocol == AUTO { ": the server is asked when the run starts" } else { "" };
            let description =
                format!("live server at {}, protocol {}{when}", endpoint.url, endpoint.protocol);
            let facts = TargetFacts::endpoint(&target.name, description);
            Ok(PlannedTarget { facts, how: How::Endpoint(endpoint.clone()) })
        }
        TargetChoice::Command(command) => {
            drivable(&target.name, &command.endpoint)?;
            if command.endpoint.protocol == AUTO {
                return Err(Failure::bad_input(format!(
                    "target {}: protocol \"auto\" asks a server that is up; name the protocol of one that llmlab starts",
                    target.name
                )));
            }
            let of = command.template.as_ref().map_or(String::new(), |name| format!(" (template {name})"));
            let description = format!(
                "started server{of}: {}; protocol {}",
                crate::command::shell_words(&command.run),
                command.endpoint.protocol
            );
            let mut facts = TargetFacts::endpoint(&target.name, description);
            facts.kind = TargetKind::Command;
            Ok(PlannedTarget { facts, how: How::Command(Box::new(command.clone())) })
        }
    }
}

/// What is wrong with a server's address or key is found before the first target starts, not when its turn comes.
fn drivable(name: &str, endpoint: &EndpointSpec) -> Result<(), Failure> {
    if let Some(file) = &endpoint.ca_file {
        llmlab_loadgen::check_ca_file(Path::new(file))
            .map_err(|error| Failure::bad_input(format!("target {name}: {error}")))?;
    }
    crate::target::api_key(endpoint).map(drop)
}

impl PlannedTarget {
    /// Prompt plus output tokens of the largest request this target can hold; `None` when it does not tell.
    fn token_limit(&self) -> Option<u32> {
        let engine = match &self.how {
            How::Engine { resolved, .. } => &resolved.engine,
            How::Simulate(resolved) => &resolved.engine,
            How::Endpoint(_) | How::Command(_) => return None,
        };
        let pool = (engine.num_blocks - 1).saturating_mul(engine.block_size);
        let whole_prompt = match &engine.policy {
            // Without chunking a prompt must fit into one prefill.
            PolicyConfig::Tgi(tgi) => {
                let prefill = if tgi.prefill_chunking { u32::MAX } else { tgi.max_batch_prefill_tokens };
                prefill.min(tgi.max_input_tokens.unwrap_or(u32::MAX))
            }
            _ => u32::MAX,
        };
        Some(engine.max_model_len.min(pool).min(whole_prompt))
    }

    pub fn is_simulated(&self) -> bool {
        matches!(self.how, How::Simulate(_))
    }

    pub fn speaks_tls(&self) -> bool {
        let url = match &self.how {
            How::Engine { .. } | How::Simulate(_) => return false,
            How::Endpoint(endpoint) => &endpoint.url,
            How::Command(command) => &command.endpoint.url,
        };
        url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
    }

    pub fn protocol(&self) -> Result<Protocol, Failure> {
        match &self.how {
            How::Engine { .. } | How::Simulate(_) => Ok(Protocol::OpenAiCompletions),
            How::Endpoint(endpoint) => endpoint.protocol.parse().map_err(Failure::bad_input),
            How::Command(command) => command.endpoint.protocol.parse().map_err(Failure::bad_input),
        }
    }
}

/// Token ids where every target can take them, because only they give exact prompt lengths; else words.
fn prompt_style(targets: &[PlannedTarget], model: Option<&ModelSpec>) -> PromptStyle {
    let takes_ids = |target: &PlannedTarget| target.protocol().is_ok_and(Protocol::takes_token_ids);
    match model {
        Some(model) if targets.iter().all(takes_ids) => ordinary_ids(model),
        Some(model) if model.vocab_size <= 1024 => PromptStyle::Words { tokens_per_word: BYTES_PER_WORD },
        _ => PromptStyle::Words { tokens_per_word: TOKENS_PER_WORD },
    }
}

/// The widest range of ids without begin- and end-of-sequence tokens, which sit at one end of the vocabulary.
fn ordinary_ids(model: &ModelSpec) -> PromptStyle {
    let special = || model.eos_token_ids.iter().copied().chain(model.bos_token_id);
    let middle = model.vocab_size / 4;
    let first = special().filter(|id| *id < middle).max().map_or(0, |id| id + 1);
    let end = special().filter(|id| *id >= middle).min().unwrap_or(model.vocab_size);
    PromptStyle::TokenIds { first, end }
}

fn cost(spec: &RunSpec) -> Result<Option<CostFacts>, Failure> {
    let Some(cost) = &spec.cost else { return Ok(None) };
    let name = cost.hardware.clone().unwrap_or_else(|| "this machine".into());
    if let Some(usd_per_hour) = cost.usd_per_hour {
        return Ok(Some(CostFacts { hardware: name, usd_per_hour, source: "given in the scenario".into() }));
    }
    let Some(price) = llmlab_models::catalogue::find_price(&name).map_err(Failure::bad_input)? else {
        return Err(Failure::bad_input(format!("no price is known for {name}; set cost.usd_per_hour")));
    };
    let source = format!("{}, {}", price.source, price.date);
    Ok(Some(CostFacts { hardware: name, usd_per_hour: price.usd_per_hour, source }))
}
