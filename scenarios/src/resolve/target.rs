//! `[[target]]` tables.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::{beside, command, engine};
use crate::error::{Finding, unknown_value};
use crate::scenario::{EndpointTable, EngineTable, TargetTable};
use crate::spec::{AUTO, EndpointSpec, SimulateSpec, SpeculationSpec, TargetChoice, TargetSpec};

/// The first one is the default.
pub const PROTOCOLS: [&str; 15] = [
    "openai-completions",
    "openai-chat",
    "tgi",
    "ollama-generate",
    "ollama-chat",
    "llamacpp",
    "sglang",
    "triton",
    "anthropic",
    "kserve",
    "openai-embeddings",
    "tei-embed",
    "ollama-embed",
    "websocket",
    AUTO,
];
/// Keys of `simulate` that `engine` does not have.
const HARDWARE: &str = "hardware";
const UTILIZATION: &str = "gpu_memory_utilization";
const ACCEPTANCE: &str = "speculative_acceptance_rate";
/// Where a number for it comes from.
const ACCEPTANCE_HELP: &str = "the probability that a draft is accepted when all before it are, or a list with one for each draft \
                               of a step; a live run measures it: llmlab run --record, then llmlab replay";
const MAX_NAME_LEN: usize = 40;
const MAX_TARGETS: usize = 32;
const KINDS: &str = "a target has exactly one of `engine` (our engine as a child process), `endpoint` (a running server), \
                     `command` (a server to start) and `simulate` (our engine in virtual time)";

pub(super) fn resolve(tables: &[Spanned<TargetTable>], base: &Path) -> Result<Vec<TargetSpec>, Finding> {
    if tables.is_empty() {
        return Err(Finding::new(0..0, "the scenario has no target")
            .label("nothing to measure")
            .help("add e.g.\n[[target]]\nname = \"vllm\"\nengine = { policy = \"vllm\" }"));
    }
    if let Some(extra) = tables.get(MAX_TARGETS) {
        return Err(Finding::new(extra.span(), format!("more than {MAX_TARGETS} targets")));
    }
    let mut targets: Vec<TargetSpec> = Vec::new();
    for table in tables {
        let name = plain_name(&table.get_ref().name, "target")?;
        if targets.iter().any(|t| t.name == name) {
            return Err(Finding::new(
                table.get_ref().name.span(),
                format!("two targets are named \"{name}\""),
            )
            .label("the second one")
            .help("names tell targets apart in the report; give each its own"));
        }
        targets.push(TargetSpec { name, kind: kind(table, base)? });
    }
    Ok(targets)
}

/// Names of targets and mixes become directory names and metric labels.
pub(super) fn plain_name(name: &Spanned<String>, of: &str) -> Result<String, Finding> {
    let text = name.get_ref();
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > MAX_NAME_LEN || text.starts_with('.') || !text.chars().all(harmless) {
        return Err(Finding::new(name.span(), format!("the {of}'s name is not usable")).label(format!(
            "must be 1 to {MAX_NAME_LEN} letters, digits, '.', '_' or '-', not starting with '.'"
        )));
    }
    Ok(text.clone())
}

fn kind(table: &Spanned<TargetTable>, base: &Path) -> Result<TargetChoice, Finding> {
    let target = table.get_ref();
    let kinds = [
        ("an engine", target.engine.as_ref().map(Spanned::span)),
        ("an endpoint", target.endpoint.as_ref().map(Spanned::span)),
        ("a command", target.command.as_ref().map(Spanned::span)),
        ("a simulation", target.simulate.as_ref().map(Spanned::span)),
    ];
    let written: Vec<_> = kinds.into_iter().filter_map(|(name, span)| Some((name, span?))).collect();
    if let Some((_, second)) = written.get(1) {
        let names: Vec<&str> = written.iter().map(|(name, _)| *name).collect();
        let message = format!("the target is {} at once", names.join(" and "));
        return Err(Finding::new(second.clone(), message).help(KINDS));
    }
    if let Some(table) = &target.engine {
        Ok(TargetChoice::Engine(engine::resolve(table.get_ref(), table.span())?))
    } else if let Some(table) = &target.endpoint {
        Ok(TargetChoice::Endpoint(endpoint(table.get_ref(), base)?))
    } else if let Some(table) = &target.command {
        Ok(TargetChoice::Command(command::resolve(table, base)?))
    } else if let Some(table) = &target.simulate {
        Ok(TargetChoice::Simulate(simulate(table)?))
    } else {
        let message = "the target is neither an engine nor an endpoint nor a command nor a simulation";
        Err(Finding::new(target.name.span(), message).label("what is it?").help(KINDS))
    }
}

/// The keys of `engine`, and those of the device.
fn simulate(table: &Spanned<EngineTable>) -> Result<SimulateSpec, Finding> {
    let mut keys = table.get_ref().clone();
    let Some(written) = keys.remove(HARDWARE) else {
        return Err(Finding::new(table.span(), "the simulation has no hardware")
            .label("on what?")
            .help("write hardware = \"h100-sxm\", or \"this-host\" after llmlab calibrate --engine"));
    };
    let toml::Value::String(hardware) = written.get_ref() else {
        return Err(Finding::new(written.span(), "hardware is not text").label("a name, e.g. \"h100-sxm\""));
    };
    let gpu_memory_utilization = keys.remove(UTILIZATION).map(|written| utilization(&written)).transpose()?;
    let acceptance = keys.remove(ACCEPTANCE);
    let engine = engine::resolve(&keys, table.span())?;
    let method = keys.get("speculative_method").map_or_else(|| table.span(), Spanned::span);
    let speculative_acceptance_rate = acceptance_rate(engine.speculation(), acceptance.as_ref(), method)?;
    match keys.get("executor") {
        Some(executor) if engine.executor != "cpu" => {
            Err(Finding::new(executor.span(), "only the engine's own kernels can be simulated")
                .label("not accepted in a simulation")
                .help("leave `executor` out"))
        }
        _ => Ok(SimulateSpec {
            hardware: hardware.clone(),
            gpu_memory_utilization,
            speculative_acceptance_rate,
            engine,
        }),
    }
}

/// `method` is where the speculation stands.
fn acceptance_rate(
    speculation: Option<&SpeculationSpec>,
    written: Option<&Spanned<toml::Value>>,
    method: Range<usize>,
) -> Result<Vec<f64>, Finding> {
    let (speculation, written) = match (speculation, written) {
        (None, None) => return Ok(Vec::new()),
        (None, Some(written)) => {
            return Err(Finding::new(written.span(), "without speculative_method this has no effect")
                .help("remove it, or choose a speculative_method"));
        }
        (Some(_), None) => {
            return Err(Finding::new(method, format!("a simulation that speculates needs {ACCEPTANCE}"))
                .label("how many drafts are right?")
                .help(ACCEPTANCE_HELP));
        }
        (Some(speculation), Some(written)) => (speculation, written),
    };
    let rates = match written.get_ref() {
        toml::Value::Array(rates) => rates.iter().map(number).collect(),
        rate => vec![number(rate)],
    };
    let most = speculation.num_speculative_tokens as usize;
    if rates.is_empty() || rates.len() > most || rates.iter().any(|rate| !(0.0..=1.0).contains(rate)) {
        return Err(Finding::new(written.span(), format!("{ACCEPTANCE} is not usable"))
            .label(format!(
                "must be a number from 0 to 1, or a list of 1 to {most} of them (num_speculative_tokens)"
            ))
            .help(ACCEPTANCE_HELP));
    }
    Ok(rates)
}

/// NaN for what is no number.
fn number(value: &toml::Value) -> f64 {
    match value {
        toml::Value::Float(number) => *number,
        toml::Value::Integer(number) => *number as f64,
        _ => f64::NAN,
    }
}

fn utilization(written: &Spanned<toml::Value>) -> Result<f64, Finding> {
    let share = number(written.get_ref());
    if !(share > 0.0 && share <= 1.0) {
        return Err(Finding::new(written.span(), format!("{UTILIZATION} is not usable"))
            .label("must be a number above 0, at most 1"));
    }
    Ok(share)
}

fn endpoint(table: &EndpointTable, base: &Path) -> Result<EndpointSpec, Finding> {
    let key = ApiKey::resolve(&table.api_key_env, &table.api_key_file, base)?;
    Ok(EndpointSpec {
        url: url(&table.url)?,
        protocol: protocol(table.protocol.as_ref(), PROTOCOLS[0])?,
        model: table.model.clone(),
        api_key_env: key.env,
        api_key_file: key.file,
        ca_file: ca_file(&table.ca_file, &table.url, base)?,
        metrics_path: table.metrics.as_ref().map(metrics_page).transpose()?,
    })
}

/// Where a key is found; at most one of the two.
pub(super) struct ApiKey {
    pub env: Option<String>,
    pub file: Option<String>,
}

impl ApiKey {
    pub(super) fn resolve(
        env: &Option<Spanned<String>>,
        file: &Option<Spanned<String>>,
        base: &Path,
    ) -> Result<ApiKey, Finding> {
        if let (Some(_), Some(second)) = (env, file) {
            return Err(Finding::new(second.span(), "api_key_env and api_key_file both hold the key")
                .label("the second of the two")
                .help("keep one of them"));
        }
        Ok(ApiKey {
            env: env.as_ref().map(environment_variable).transpose()?,
            file: file.as_ref().map(|file| existing_file(file, "api_key_file", base)).transpose()?,
        })
    }
}

/// The text may be the key itself, pasted in the wrong place, so it is not repeated in the message.
fn existing_file(written: &Spanned<String>, key: &str, base: &Path) -> Result<String, Finding> {
    let path = beside(base, written.get_ref());
    if !path.is_file() {
        return Err(Finding::new(written.span(), format!("{key} is not the path of a file"))
            .label("no file there")
            .help("a path relative to this file"));
    }
    Ok(path.display().to_string())
}

pub(super) fn ca_file(
    written: &Option<Spanned<String>>,
    url: &Spanned<String>,
    base: &Path,
) -> Result<Option<String>, Finding> {
    let Some(written) = written else { return Ok(None) };
    if !url.get_ref().starts_with("https://") {
        return Err(Finding::new(written.span(), "ca_file needs an https:// url").label("would be ignored"));
    }
    existing_file(written, "ca_file", base).map(Some)
}

pub(super) fn protocol(written: Option<&Spanned<String>>, default: &str) -> Result<String, Finding> {
    match written {
        None => Ok(default.to_owned()),
        Some(written) if PROTOCOLS.contains(&written.get_ref().as_str()) => Ok(written.get_ref().clone()),
        Some(written) => Err(unknown_value(written.span(), "protocol", written.get_ref(), &PROTOCOLS)),
    }
}

pub(super) fn url(written: &Spanned<String>) -> Result<String, Finding> {
    let text = written.get_ref();
    let wrong = |why: &str| {
        Err(Finding::new(written.span(), format!("the url {why}"))
            .help("e.g. url = \"http://127.0.0.1:8000\""))
    };
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return wrong("does not start with http:// or https://");
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() || authority.starts_with(':') {
        return wrong("has no host");
    }
    if authority.contains('@') {
        return wrong("holds credentials; use api_key_env");
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("has blanks or control characters in it");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Whoever pastes the key itself here would publish it with the scenario, so anything that is no variable name is
/// refused, and the text is not repeated in the error's message.
fn environment_variable(written: &Spanned<String>) -> Result<String, Finding> {
    let name = written.get_ref();
    let plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if name.is_empty() || !plain || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Finding::new(written.span(), "api_key_env is not the name of an environment variable")
            .label("capital letters, digits and '_'")
            .help("e.g. api_key_env = \"OPENAI_API_KEY\"; the key itself does not belong in a file"));
    }
    Ok(name.clone())
}

/// A path on the server, or the address of a page elsewhere: some servers have it on a port of its own.
pub(super) fn metrics_page(written: &Spanned<String>) -> Result<String, Finding> {
    match written.get_ref().contains("://") {
        true => url(written),
        false => server_path(written, "metrics"),
    }
}

/// A path on the server; `key` is what it is for.
pub(super) fn server_path(written: &Spanned<String>, key: &str) -> Result<String, Finding> {
    let path = written.get_ref();
    if !path.starts_with('/') || path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Finding::new(written.span(), format!("{key} is not a path on the server"))
            .help(format!("e.g. {key} = \"/{key}\"")));
    }
    Ok(path.clone())
}
