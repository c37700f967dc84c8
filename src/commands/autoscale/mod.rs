//! `llmlab autoscale`: a day of a plan file under autoscaling policies, and the cheapest one that keeps the SLO as YAML.

mod manifests;
mod scaled_object;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use llmlab_planner::autoscale::{Autoscaling, Question, Watch, answer, report};
use llmlab_planner::plan::answer::Plan;
use llmlab_planner::plan::row::Row;
use llmlab_scenarios::autoscale::AutoscaleSpec;
use llmlab_scenarios::plan::{PlanSpec, load_plan};

use super::plan::progress::Progress;
use super::plan::{failure, file_name, search_all, with_question};
use crate::cli::AutoscaleArgs;
use crate::exit::{Code, Failure};
use crate::{interrupt, text};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn autoscale(args: &AutoscaleArgs) -> Result<Code, Failure> {
    let (_, mut plan) = load_plan(&args.file).map_err(Failure::usage)?;
    let mut spec = plan.autoscale.clone().unwrap_or_default();
    keep_named(&mut spec, &args.policy)?;
    narrow(&mut plan, &spec);
    manifests::check(args)?;
    let watch = std::sync::Arc::new(Watch::default());
    let interrupted = watch.clone();
    interrupt::twice(move || {
        eprintln!("\nstopping: the policies that are done make the table (Ctrl-C again leaves at once)");
        INTERRUPTED.store(true, Ordering::Relaxed);
        interrupted.cancelled.store(true, Ordering::Relaxed);
    });
    let found = replay(&plan, &spec, &watch).map_err(|failure| failure.of_file(Some(args.file.as_path())))?;
    let folder =
        args.out.clone().unwrap_or_else(|| PathBuf::from("results/autoscale").join(file_name(&plan.name)));
    let written = write(&found, args, &folder)?;
    if args.json {
        let json = serde_json::to_string_pretty(&found).map_err(Failure::internal)?;
        text::print(&format!("{json}\n"))?;
    } else {
        text::print(&report::terminal(&found))?;
    }
    for path in written {
        eprintln!("written: {}", path.display());
    }
    Ok(match (INTERRUPTED.load(Ordering::Relaxed), found.best()) {
        (true, _) => Code::Interrupted,
        (false, Some(_)) => Code::Pass,
        (false, None) => Code::SloFailed,
    })
}

fn keep_named(spec: &mut AutoscaleSpec, names: &[String]) -> Result<(), Failure> {
    for name in names {
        if !spec.policies.iter().any(|policy| policy.name == *name) {
            let known: Vec<&str> = spec.policies.iter().map(|policy| policy.name.as_str()).collect();
            let name: String = name.chars().take(80).collect();
            return Err(Failure::bad_input(format!(
                "--policy: no policy is called {name:?}; accepted: {}",
                known.join(", ")
            )));
        }
    }
    if !names.is_empty() {
        spec.policies.retain(|policy| names.contains(&policy.name));
    }
    Ok(())
}

/// The search of the plan, with what `[autoscale]` names in place of its lists. A budget is for the peak all month, which is
/// what scaling avoids.
fn narrow(plan: &mut PlanSpec, spec: &AutoscaleSpec) {
    let space = &mut plan.space;
    let named = |name: &Option<String>, list: &mut Option<Vec<String>>| {
        if let Some(name) = name {
            *list = Some(vec![name.clone()]);
        }
    };
    named(&spec.hardware, &mut space.hardware);
    named(&spec.weights, &mut space.weights);
    named(&spec.kv, &mut space.kv);
    if let Some(degree) = spec.tensor_parallel {
        space.tensor_parallel = vec![degree];
    }
    if let Some(degree) = spec.pipeline_parallel {
        space.pipeline_parallel = vec![degree];
    }
    let pricing = spec.pricing.clone().or_else(|| space.pricing.first().cloned());
    space.pricing = pricing.into_iter().collect();
    // Autoscaling is of replicas that are alike.
    space.disaggregated = false;
    plan.usd_per_month = None;
}

fn replay(plan: &PlanSpec, spec: &AutoscaleSpec, watch: &Watch) -> Result<Autoscaling, Failure> {
    with_question(plan, &INTERRUPTED, |question, market| {
        let searched = search_all(question, market, false, &INTERRUPTED)?;
        let row = cheapest(&searched)?;
        let candidate = &row.sized.candidate;
        let Some(at_capacity) = &row.sized.capacity.best else {
            return Err(Failure::internal("a configuration that serves has no capacity"));
        };
        let serving = question.serving(candidate).map_err(failure)?;
        let day = Question {
            name: &plan.name,
            model: &plan.model,
            configuration: candidate.words(),
            device: serving.device,
            tensor_parallel: candidate.tensor_parallel,
            pipeline_parallel: candidate.pipeline_parallel,
            spec,
            demand: &plan.demand,
            limits: &question.limits,
            traffic: question.traffic,
            tokens: (question.lengths.input, question.lengths.output),
            conversations: question.conversations,
            pool: serving.pool,
            weight_bytes: serving.weight_bytes,
            usd_per_device_hour: row.price.usd,
            price: format!(
                "{} dollars a GPU hour {} ({})",
                row.price.usd,
                row.price.pricing.name(),
                row.price.from
            ),
            at_capacity,
            seed: plan.seed,
        };
        let progress = Progress::new("simulated hours");
        let hours = |seconds: u64| (seconds / 3600) as usize;
        let found = answer(&day, watch, &|done, of| {
            if hours(done) > 0 {
                progress.tell(hours(done), hours(of));
            }
        })
        .map_err(Failure::bad_input)?;
        progress.end();
        Ok(found)
    })
}

fn cheapest(plan: &Plan) -> Result<&Row, Failure> {
    if let Some(row) = plan.best() {
        return Ok(row);
    }
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(Failure::bad_input("interrupted before a configuration was found: nothing was replayed"));
    }
    let refusal = plan.refusal().map_or_else(String::new, |refusal| format!(": {}", refusal.reason));
    Err(Failure::bad_input(format!("no configuration to scale{refusal}")))
}

/// Returns what was written; no YAML without a winner.
fn write(found: &Autoscaling, args: &AutoscaleArgs, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::bad_input(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let json = serde_json::to_string_pretty(found).map_err(Failure::internal)?;
    let mut files = vec![("autoscale.html", report::html(found)), ("autoscale.json", json)];
    let yaml = folder.join("autoscale.yaml");
    match found.best() {
        Some(best) => files.push(("autoscale.yaml", manifests::yaml(found, best, args)?)),
        // One of an earlier run would be taken for this one's.
        None if yaml.exists() => fs::remove_file(&yaml).map_err(|error| cannot(&yaml, error))?,
        None => {}
    }
    let mut written = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| cannot(&path, error))?;
        written.push(path);
    }
    Ok(written)
}
