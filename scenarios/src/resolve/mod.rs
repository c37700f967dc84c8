//! [`Scenario`] to one [`RunSpec`], or to several under `[sweep]`: defaults filled in, units converted, every name and number checked.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::error::Finding;
use crate::scenario::{CostTable, ModelTable, Scenario, WorkloadTable};
use crate::spec::{
    Cell, CostSpec, FindSpec, ModelChoice, PolicySpec, REMOTE_MODEL, RunSpec, TargetChoice, TargetSpec,
    WorkloadSpec,
};

mod autoscale;
mod behaviour;
mod claim;
mod command;
pub(crate) mod engine;
mod find;
mod journey;
mod plan;
mod processes;
mod sharing;
mod slo;
mod sweep;
mod target;
mod traced_day;
mod workload;

pub(crate) use autoscale::defaults as autoscale_defaults;
pub(crate) use behaviour::{TIME_DISTRIBUTIONS, TURN_DISTRIBUTIONS};
pub(crate) use find::FINDS;
pub(crate) use journey::CONVERSATIONS;
pub(crate) use plan::{PRICINGS, resolve as plan};
pub(crate) use sharing::POPULARITIES;
pub(crate) use target::PROTOCOLS;
pub(crate) use workload::{DISTRIBUTIONS, PROCESSES};

const DEFAULT_SEED: u64 = 42;
const MAX_REPEATS: u32 = 100;
const MAX_NAME_CHARS: usize = 100;
/// Model sources that are no path, with an example of each.
const NAMED_SOURCES: [(&str, &str); 2] = [("synthetic:", "llama-15m"), ("spec:", "llama-3.1-8b")];

/// `base` is the scenario's folder; paths in a scenario are relative to it. At least one cell.
pub(crate) fn resolve(scenario: &Scenario, base: &Path) -> Result<Vec<Cell>, Finding> {
    let workload = match (&scenario.workload, &scenario.journey) {
        (Some(workload), None) => Some(workload),
        (None, Some(_)) => None,
        (Some(_), Some(journey)) => {
            return Err(Finding::new(journey.span(), "the scenario has a workload and a journey")
                .label("the second of the two")
                .help("keep one of them: a journey's asks are its workload"));
        }
        (None, None) => {
            return Err(Finding::new(0..0, "missing field `workload`")
                .help("[workload] says what is sent and when, [journey] what users do"));
        }
    };
    let (table, workload) = match (&scenario.sweep, workload) {
        (None, workload) => {
            let spec = run_spec(scenario, workload, base)?;
            return Ok(vec![Cell { point: None, spec }]);
        }
        (Some(table), Some(workload)) => (table, workload),
        (Some(table), None) => {
            return Err(Finding::new(table.span(), "a journey cannot be swept")
                .help("write a scenario for each journey, or sweep a [workload]"));
        }
    };
    find::resolve(scenario, &slo::resolve(&scenario.slo)?)?;
    if let Some(claim) = scenario.claim.first() {
        return Err(Finding::new(claim.span(), "a sweep has no one figure to hold a claim against")
            .help("put the claim into a scenario without [sweep]"));
    }
    let points = sweep::points(table, workload)?;
    points
        .into_iter()
        .map(|(point, workload)| {
            let spec = run_spec(scenario, Some(&workload), base)?;
            Ok(Cell { point: Some(point), spec })
        })
        .collect()
}

/// Without a workload, of the scenario's journey.
fn run_spec(
    scenario: &Scenario,
    workload: Option<&Spanned<WorkloadTable>>,
    base: &Path,
) -> Result<RunSpec, Finding> {
    let targets = target::resolve(&scenario.target, base)?;
    let slo = slo::resolve(&scenario.slo)?;
    let find = find::resolve(scenario, &slo)?;
    let (journey, workload) = match (workload, &scenario.journey) {
        (Some(workload), _) => {
            let workload = match find {
                Some(FindSpec { searched, .. }) => {
                    find::sought(workload::resolve(&find::with_stand_in(workload, searched)?, base)?)
                }
                None => workload::resolve(workload, base)?,
            };
            (None, adapted(workload, scenario, &targets)?)
        }
        (None, Some(journey)) => {
            if let Some(written) = &scenario.find {
                return Err(Finding::new(
                    written.span(),
                    "a journey cannot be searched: its load follows from its users",
                )
                .help("search a [workload], or remove `find`"));
            }
            let (journey, workload) = journey::resolve(journey, &targets)?;
            (Some(journey), workload)
        }
        (None, None) => return Err(Finding::new(0..0, "missing field `workload`")),
    };
    let repeats = match &scenario.compare.repeats {
        Some(written) => in_range(written, "repeats", 1, MAX_REPEATS)?,
        None if targets.len() > 1 || find.is_some() => 3,
        None => 1,
    };
    Ok(RunSpec {
        name: run_name(&scenario.name)?,
        seed: scenario.seed.unwrap_or(DEFAULT_SEED),
        model: chosen_model(scenario, &targets, base)?,
        claims: claim::resolve(&scenario.claim, &targets)?,
        workload,
        journey,
        targets,
        slo,
        repeats,
        cost: scenario.cost.as_ref().map(cost).transpose()?,
        find,
    })
}

/// Of the policies, vLLM's is the one that asks for a request's adapter: those that match prefixes by their tokens would
/// share them between adapters.
fn adapted(
    workload: WorkloadSpec,
    scenario: &Scenario,
    targets: &[TargetSpec],
) -> Result<WorkloadSpec, Finding> {
    if workload.adapters.is_none() {
        return Ok(workload);
    }
    for (target, table) in targets.iter().zip(&scenario.target) {
        let engine = match &target.kind {
            TargetChoice::Engine(engine) => engine,
            TargetChoice::Simulate(simulate) => &simulate.engine,
            TargetChoice::Endpoint(_) | TargetChoice::Command(_) => continue,
        };
        let span = || table.get_ref().name.span();
        if !matches!(engine.policy, PolicySpec::Vllm { .. }) {
            return Err(Finding::new(span(), "the workload has adapters, this target's policy knows none")
                .help("policy \"vllm\" does"));
        }
        if engine.executor == "candle" && engine.enable_lora {
            return Err(Finding::new(span(), "the workload has adapters, executor \"candle\" computes none")
                .help("choose executor \"cpu\", or set enable_lora = false"));
        }
    }
    Ok(workload)
}

fn run_name(name: &Spanned<String>) -> Result<String, Finding> {
    let text = name.get_ref();
    if text.trim().is_empty() || text.chars().any(char::is_control) || text.chars().count() > MAX_NAME_CHARS {
        return Err(Finding::new(name.span(), "the name is not usable")
            .label(format!("must be 1 to {MAX_NAME_CHARS} printable characters")));
    }
    Ok(text.clone())
}

/// A server that somebody else wrote has its model already; what it is called is the target's business.
fn chosen_model(scenario: &Scenario, targets: &[TargetSpec], base: &Path) -> Result<ModelChoice, Finding> {
    let needs =
        |target: &&TargetSpec| matches!(target.kind, TargetChoice::Engine(_) | TargetChoice::Simulate(_));
    match (&scenario.model, targets.iter().find(needs)) {
        (Some(table), _) => model(table, base),
        (None, None) => Ok(ModelChoice { source: REMOTE_MODEL.into(), max_model_len: None }),
        (None, Some(target)) => {
            let message = format!("missing field `model`, and target {} runs our own engine", target.name);
            Err(Finding::new(0..0, message).help("e.g. [model] with source = \"synthetic:llama-15m\""))
        }
    }
}

fn model(table: &ModelTable, base: &Path) -> Result<ModelChoice, Finding> {
    let written = &table.source;
    let named = NAMED_SOURCES
        .iter()
        .find_map(|(prefix, example)| Some((*prefix, *example, written.get_ref().strip_prefix(prefix)?)));
    let source = match named {
        Some((prefix, example, "")) => {
            return Err(Finding::new(written.span(), format!("no name after \"{prefix}\""))
                .help(format!("e.g. \"{prefix}{example}\"")));
        }
        Some(_) => written.get_ref().clone(),
        None => {
            let path = beside(base, written.get_ref());
            let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
            let found = if gguf { path.is_file() } else { path.is_dir() };
            if !found {
                let kind = if gguf { "file" } else { "folder" };
                let message = format!("no model {kind} at {}", path.display());
                return Err(Finding::new(written.span(), message).help(
                    "accepted: \"synthetic:<preset>\" (e.g. \"synthetic:llama-15m\"), the path of a Hugging Face folder, or \
                     of a .gguf file, relative to this file; in simulations also \"spec:<name>\" (e.g. \"spec:llama-3.1-8b\")",
                ));
            }
            path.display().to_string()
        }
    };
    let max_model_len =
        table.max_model_len.as_ref().map(|n| in_range(n, "max_model_len", 2, 10_000_000)).transpose()?;
    Ok(ModelChoice { source, max_model_len })
}

fn cost(table: &Spanned<CostTable>) -> Result<CostSpec, Finding> {
    let CostTable { hardware, usd_per_hour } = table.get_ref();
    let price = usd_per_hour.as_ref().map(|p| positive(p, "usd_per_hour", 1e6)).transpose()?;
    match (hardware, price) {
        (Some(name), None) => Ok(CostSpec { hardware: Some(name.get_ref().clone()), usd_per_hour: None }),
        (None, Some(price)) => Ok(CostSpec { hardware: None, usd_per_hour: Some(price) }),
        _ => Err(Finding::new(table.span(), "[cost] needs exactly one of hardware and usd_per_hour")),
    }
}

fn beside(base: &Path, path: &str) -> PathBuf {
    // `join` with an absolute path yields the absolute path.
    base.join(path)
}

fn in_range(value: &Spanned<u32>, name: &str, min: u32, max: u32) -> Result<u32, Finding> {
    let number = *value.get_ref();
    if !(min..=max).contains(&number) {
        return Err(out_of_range(value.span(), name, number, format!("must be from {min} to {max}")));
    }
    Ok(number)
}

/// More than 0 and at most `max`; NaN is neither.
fn positive(value: &Spanned<f64>, name: &str, max: f64) -> Result<f64, Finding> {
    let number = *value.get_ref();
    if !(number > 0.0 && number <= max) {
        return Err(out_of_range(value.span(), name, number, format!("must be more than 0, at most {max}")));
    }
    Ok(number)
}

fn out_of_range(span: Range<usize>, name: &str, number: impl std::fmt::Display, range: String) -> Finding {
    Finding::new(span, format!("{name} is {number}")).label(range)
}
