//! `llmlab plan`: a plan file to a table of configurations, cheapest first.

mod edge;
mod market;
pub mod progress;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use llmlab_loadgen::{PromptStyle, WorkloadConfig};
use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue;
use llmlab_planner::plan::PlanError;
use llmlab_planner::plan::answer::{Market, Plan};
use llmlab_planner::plan::bound::{Lengths, SAMPLE};
use llmlab_planner::plan::conversations::Conversations;
use llmlab_planner::plan::report;
use llmlab_planner::plan::resolve::{Question, limits, max_model_len};
use llmlab_planner::plan::search::{self, Watch};
use llmlab_planner::plan::what_if::what_if;
use llmlab_planner::plan::words::dollars;
use llmlab_scenarios::plan::{PlanSpec, load_plan, parse_plan};
use llmlab_scenarios::spec::RateSpec;
use serde::Serialize;

use super::hardware::print_json;
use super::run::workload_config;
use crate::cli::PlanArgs;
use crate::exit::{Code, Failure};
use crate::{interrupt, text};
use progress::Progress;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn plan(args: PlanArgs) -> Result<Code, Failure> {
    if let Some(device) = &args.device {
        return edge::on_device(device, &args);
    }
    let spec = match (&args.file, args.as_file()) {
        (Some(file), _) => load_plan(file).map_err(Failure::usage)?.1,
        (None, Some(text)) => parse_plan(&text, "command line").map_err(Failure::usage)?,
        (None, None) => return Err(Failure::bad_input("name a plan file, or --model, --rate and limits")),
    };
    let changed: Vec<(String, PlanSpec)> = args
        .what_if
        .iter()
        .map(|changes| Ok((changes.clone(), what_if(&spec, changes).map_err(Failure::bad_input)?)))
        .collect::<Result<_, Failure>>()?;
    interrupt::twice(|| {
        eprintln!("\nstopping: what is done so far is the answer (Ctrl-C again leaves at once)");
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    let plan = decide(&spec, args.exhaustive).map_err(|failure| failure.of_file(args.file.as_deref()))?;
    let folder =
        args.out.clone().unwrap_or_else(|| PathBuf::from("results/plans").join(file_name(&spec.name)));
    let html = write(&plan, &folder)?;
    if !args.json {
        text::print(&report::terminal(&plan))?;
    }
    let mut others = Vec::new();
    for (changes, spec) in &changed {
        if INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
        let other = decide(spec, args.exhaustive)?;
        if !args.json {
            text::print(&format!(
                "\nwhat if {changes}\n  was {}\n  is  {}\n",
                in_a_line(&plan),
                in_a_line(&other)
            ))?;
        }
        others.push(WhatIf { changes, plan: other });
    }
    if args.json {
        print_json(&Answers { plan: &plan, what_if: others })?;
    }
    eprintln!("report: {}", html.display());
    Ok(match (INTERRUPTED.load(Ordering::Relaxed), plan.best()) {
        (true, _) => Code::Interrupted,
        (false, Some(_)) => Code::Pass,
        (false, None) => Code::SloFailed,
    })
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answers<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    what_if: Vec<WhatIf<'a>>,
}

#[derive(Serialize)]
struct WhatIf<'a> {
    changes: &'a str,
    plan: Plan,
}

fn decide(spec: &PlanSpec, exhaustive: bool) -> Result<Plan, Failure> {
    with_question(spec, &INTERRUPTED, |question, market| {
        search_all(question, market, exhaustive, &INTERRUPTED)
    })
}

/// What a plan asks, resolved against the catalogue.
pub fn with_question<R>(
    spec: &PlanSpec,
    interrupted: &AtomicBool,
    then: impl FnOnce(&Question<'_>, &Market) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let model = architecture(&spec.model)?;
    let limit = max_model_len(spec, model);
    if limit > model.max_positions {
        return Err(Failure::bad_input(format!(
            "model.max_model_len is {limit}; {} was made for {} tokens: accepted are 2 to {}",
            model.name, model.max_positions, model.max_positions
        )));
    }
    let mut workload = spec.workload.clone();
    if let Some(rate) = workload.arrivals.rate_mut() {
        *rate = RateSpec::Sought;
    }
    let prompts = PromptStyle::TokenIds { first: 0, end: model.vocab_size.max(1) };
    let arriving = |rate: f64, requests: u64| WorkloadConfig {
        requests,
        ..workload_config(spec.seed, &workload, limit, prompts.clone(), rate)
    };
    // What arrives at a rate are sessions, where there are sessions; a plan counts their turns.
    let conversations = Conversations::of(&arriving, SAMPLE).map_err(failure)?;
    let turns = conversations.map_or(1.0, |sessions| sessions.turns);
    let traffic = |rate_rps: f64, requests: u64| arriving(rate_rps / turns, requests);
    let lengths = Lengths::of(&traffic).map_err(failure)?;
    let market = market::market(spec, model)?;
    let question = Question {
        spec,
        model,
        limits: limits(&spec.slo),
        traffic: &traffic,
        lengths,
        conversations,
        cancelled: &|| interrupted.load(Ordering::Relaxed),
    };
    then(&question, &market)
}

/// Sizes and prices every configuration of the plan.
pub fn search_all(
    question: &Question<'_>,
    market: &Market,
    exhaustive: bool,
    interrupted: &AtomicBool,
) -> Result<Plan, Failure> {
    let progress = Progress::new("configurations");
    let watch = Watch {
        progress: &|done, of| progress.tell(done, of),
        cancelled: &|| interrupted.load(Ordering::Relaxed),
    };
    let plan = search::plan(question, market, exhaustive, &watch).map_err(failure)?;
    progress.end();
    Ok(plan)
}

fn architecture(name: &str) -> Result<&'static Architecture, Failure> {
    let folder = Path::new(name);
    if name.contains('/') && folder.is_dir() {
        let file = folder.join("config.json");
        let text = fs::read_to_string(&file)
            .map_err(|error| Failure::bad_input(format!("model: cannot read {}: {error}", file.display())))?;
        let found = Architecture::from_hf_config(&text, &file)
            .map_err(|error| Failure::bad_input(format!("model: {error}")))?;
        // One for the whole of the process.
        return Ok(Box::leak(Box::new(found)));
    }
    catalogue::architecture(name).map_err(|error| Failure::bad_input(format!("model: {error}")))
}

/// A mistake of the person who asked, but for what the engine says.
pub fn failure(error: PlanError) -> Failure {
    match error {
        PlanError::Engine(_) => Failure::internal(error),
        _ => Failure::bad_input(error),
    }
}

fn in_a_line(plan: &Plan) -> String {
    match (plan.best(), plan.refusal()) {
        (Some(best), _) => format!(
            "{} x ({}), {}: {} a month, TTFT p95 {}, TPOT p95 {}",
            best.replicas,
            best.sized.candidate.words(),
            best.price.pricing.name(),
            dollars(best.bill.usd_per_month),
            llmlab_planner::plan::words::seconds(best.at_peak.observed.ttft_p95_s),
            llmlab_planner::plan::words::seconds(best.at_peak.observed.tpot_p95_s),
        ),
        (None, Some(refusal)) => format!("no: {}", refusal.reason),
        (None, None) => "no answer".into(),
    }
}

/// Letters, digits, '.', '_' and '-' as they are; no name that a file system reads as another folder.
pub fn file_name(name: &str) -> String {
    if name.chars().all(|c| c == '.') {
        return "plan".into();
    }
    name.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' }).collect()
}

/// Returns the path of the page.
fn write(plan: &Plan, folder: &Path) -> Result<PathBuf, Failure> {
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::bad_input(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let json = serde_json::to_string_pretty(plan).map_err(Failure::internal)?;
    let html = folder.join("plan.html");
    for (path, text) in [
        (folder.join("plan.json"), json),
        (folder.join("plan.md"), report::markdown(plan)),
        (html.clone(), report::html(plan)),
    ] {
        fs::write(&path, text).map_err(|error| cannot(&path, error))?;
    }
    Ok(html)
}
