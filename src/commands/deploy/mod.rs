//! `llmlab deploy loadgen`: a Kubernetes Indexed Job whose pods are the shards of a scenario. Prints YAML and talks to no
//! cluster: what is applied, and by whom, stays with the reader.

mod manifests;

use llmlab_scenarios::spec::{ArrivalSpec, Cell, LengthSpec, REMOTE_MODEL, RunSpec, TargetChoice};
use time::OffsetDateTime;

use crate::cli::{DeployCommand, DeployLoadgenArgs};
use crate::commands::run::can_be_shared;
use crate::exit::{Code, Failure};
use crate::{host, text};

/// What a ConfigMap holds at most.
const LARGEST_SCENARIO_BYTES: usize = 1 << 20;
/// A DNS label; the pods' host names are the job's name, a hyphen and the index.
const LONGEST_NAME: usize = 63;

pub fn deploy(command: DeployCommand) -> Result<Code, Failure> {
    match command {
        DeployCommand::Loadgen(args) => loadgen(&args),
    }
}

fn loadgen(args: &DeployLoadgenArgs) -> Result<Code, Failure> {
    let path = std::path::Path::new(&args.scenario);
    let (scenario, cells) = llmlab_scenarios::load_cells(path).map_err(Failure::usage)?;
    let [Cell { point: None, spec }] = cells.as_slice() else {
        return Err(wrong("a sweep has many runs and shards can agree on one start only"));
    };
    check(args, spec, &scenario)?;
    let job = manifests::Loadgen {
        name: name(args, spec)?,
        scenario,
        start_at: start_at(args)?,
        api_key: api_key(args, spec)?,
        args,
    };
    let yaml = job.yaml().map_err(Failure::internal)?;
    text::print(&yaml)?;
    eprint!("{}", job.next_steps());
    Ok(Code::Pass)
}

fn wrong(why: impl std::fmt::Display) -> Failure {
    Failure::bad_input(format!("deploy loadgen: {why}"))
}

/// What would fail in every pod is said here once.
fn check(args: &DeployLoadgenArgs, spec: &RunSpec, scenario: &str) -> Result<(), Failure> {
    can_be_shared(spec).map_err(wrong)?;
    let (what, have) = match spec.workload.arrivals {
        ArrivalSpec::Closed { users, .. } => ("users", users.min(spec.workload.requests)),
        _ => ("requests", spec.workload.requests),
    };
    if args.shards > have {
        return Err(wrong(format!(
            "{have} {what} cannot be dealt out to {} shards: each needs one",
            args.shards
        )));
    }
    if scenario.len() > LARGEST_SCENARIO_BYTES {
        return Err(wrong(format!("the scenario has {} bytes; a ConfigMap holds 1 MiB", scenario.len())));
    }
    // A pod gets the scenario and no other file of this machine.
    let source = spec.model.source.as_str();
    if source != REMOTE_MODEL && !source.starts_with("synthetic:") && !source.starts_with("spec:") {
        return Err(wrong(format!(
            "model.source {source} is a file, and pods get the scenario alone; leave the model out, or name a shape (synthetic:, spec:)"
        )));
    }
    if let LengthSpec::Trace { path, .. } = &spec.workload.lengths {
        return Err(wrong(format!(
            "the trace {path} is a file, and pods get the scenario alone; llmlab fit writes a scenario with its lengths"
        )));
    }
    for value in [&args.cpu, &args.memory] {
        if !is_quantity(value) {
            return Err(wrong(format!(
                "{value:?} is no quantity; accepted are such as 2, 500m, 1.5 and 512Mi, 2Gi"
            )));
        }
    }
    for (option, value) in [
        ("--namespace", args.namespace.as_deref()),
        ("--results-claim", Some(args.results_claim.as_str())),
        ("--api-key-secret", args.api_key_secret.as_deref()),
    ] {
        if let Some(value) = value.filter(|value| !is_label(value, LONGEST_NAME)) {
            return Err(wrong(format!("{option} {value:?}: {LABEL}")));
        }
    }
    if args.image.is_empty() || args.image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong("--image: accepted is a name such as registry.example.com/llmlab:0.1"));
    }
    endpoint(spec)
}

/// Every shard must reach the one server, and with what it finds in a pod.
fn endpoint(spec: &RunSpec) -> Result<(), Failure> {
    let Some(TargetChoice::Endpoint(endpoint)) = spec.targets.first().map(|target| &target.kind) else {
        return Ok(());
    };
    let host = endpoint.url.split("://").nth(1).unwrap_or_default();
    if ["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own)) {
        return Err(wrong(format!(
            "{} is the pod itself when a pod asks; name the server's service or address",
            endpoint.url
        )));
    }
    for (key, file) in [("ca_file", &endpoint.ca_file), ("api_key_file", &endpoint.api_key_file)] {
        if let Some(file) = file {
            return Err(wrong(format!(
                "{key} {file}: pods get the scenario alone; for a key use api_key_env"
            )));
        }
    }
    Ok(())
}

/// The variable that the scenario takes its key from, and the secret that fills it.
fn api_key<'a>(args: &'a DeployLoadgenArgs, spec: &RunSpec) -> Result<Option<(String, &'a str)>, Failure> {
    let variable = spec.targets.iter().find_map(|target| match &target.kind {
        TargetChoice::Endpoint(endpoint) => endpoint.api_key_env.clone(),
        _ => None,
    });
    match (variable, &args.api_key_secret) {
        (Some(variable), Some(secret)) => Ok(Some((variable, secret))),
        (None, None) => Ok(None),
        (Some(variable), None) => Err(wrong(format!(
            "the scenario takes a key from {variable}; name the secret that holds it under this key with --api-key-secret"
        ))),
        (None, Some(_)) => {
            Err(wrong("--api-key-secret: the scenario names no api_key_env to put the key into"))
        }
    }
}

const LABEL: &str =
    "accepted are lower-case letters, digits and hyphens, a letter or digit at both ends, 63 at most";

fn is_label(text: &str, longest: usize) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= longest
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A Kubernetes quantity as people write it: digits, a point, and a unit.
fn is_quantity(text: &str) -> bool {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let positive =
        number.parse::<f64>().is_ok_and(|n| n > 0.0) && number.starts_with(|c: char| c.is_ascii_digit());
    positive && matches!(unit, "" | "m" | "k" | "M" | "G" | "Ki" | "Mi" | "Gi" | "Ti")
}

fn name(args: &DeployLoadgenArgs, spec: &RunSpec) -> Result<String, Failure> {
    let longest = LONGEST_NAME - "-".len() - args.shards.to_string().len();
    let name = args.name.clone().unwrap_or_else(|| label_of(&spec.name, longest));
    match is_label(&name, longest) {
        true => Ok(name),
        false => Err(wrong(format!("--name {name:?}: {LABEL}, less the index"))),
    }
}

/// A scenario's name made a label: "llmlab-" and what may stay of it.
fn label_of(name: &str, longest: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut label: String = format!("llmlab-{}", name.to_lowercase().chars().map(plain).collect::<String>());
    label.truncate(longest);
    label.trim_end_matches('-').to_owned()
}

fn start_at(args: &DeployLoadgenArgs) -> Result<OffsetDateTime, Failure> {
    let start = match args.start_at {
        Some(start) => Some(start),
        None => host::utc_now().checked_add(args.start_in.try_into().map_err(wrong)?),
    };
    let start = start.ok_or_else(|| wrong("--start-in is too far away"))?;
    let ahead = start - host::wall_clock();
    match ahead.is_negative() || ahead > time::Duration::hours(24) {
        true => Err(wrong(format!("a start at {} is not within the next 24 hours", host::rfc3339(start)))),
        false => Ok(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_quantities_are_what_kubernetes_takes() {
        for good in ["a", "llmlab-1", "0"] {
            assert!(is_label(good, 63), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", "$(X)", &"a".repeat(64)] {
            assert!(!is_label(bad, 63), "{bad}");
        }
        for good in ["2", "500m", "1.5", "512Mi", "2Gi", "1k"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "0", "-1", ".5", "1 Gi", "1GiB", "1e3", "inf", "Mi", "1\n"] {
            assert!(!is_quantity(bad), "{bad}");
        }
        assert_eq!(label_of("VLLM vs. TGI!", 50), "llmlab-vllm-vs--tgi");
        assert!(is_label(&label_of(&"日本".repeat(100), 60), 60));
    }
}
