//! `[[target]]` tables.

use toml::Spanned;

use super::engine;
use crate::error::{Finding, PLANNED_KEYS, unknown_value};
use crate::scenario::{EndpointTable, TargetTable};
use crate::spec::{EndpointSpec, TargetChoice, TargetSpec};

pub const PROTOCOLS: [&str; 2] = ["openai-completions", "openai-chat"];
const MAX_NAME_LEN: usize = 40;
const MAX_TARGETS: usize = 32;
const KINDS: &str =
    "a target has exactly one of `engine` (our engine as a child process) and `endpoint` (a running server)";

pub(super) fn resolve(tables: &[Spanned<TargetTable>]) -> Result<Vec<TargetSpec>, Finding> {
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
        let name = target_name(&table.get_ref().name)?;
        if targets.iter().any(|t| t.name == name) {
            return Err(Finding::new(
                table.get_ref().name.span(),
                format!("two targets are named \"{name}\""),
            )
            .label("the second one")
            .help("names tell targets apart in the report; give each its own"));
        }
        targets.push(TargetSpec { name, kind: kind(table)? });
    }
    Ok(targets)
}

/// Target names become directory names and metric labels.
fn target_name(name: &Spanned<String>) -> Result<String, Finding> {
    let text = name.get_ref();
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > MAX_NAME_LEN || text.starts_with('.') || !text.chars().all(harmless) {
        return Err(Finding::new(name.span(), "the target's name is not usable").label(format!(
            "must be 1 to {MAX_NAME_LEN} letters, digits, '.', '_' or '-', not starting with '.'"
        )));
    }
    Ok(text.clone())
}

fn kind(table: &Spanned<TargetTable>) -> Result<TargetChoice, Finding> {
    let target = table.get_ref();
    for (planned, written) in PLANNED_KEYS.into_iter().zip([&target.command, &target.simulate]) {
        if let Some(written) = written {
            return Err(Finding::new(written.span(), format!("`{planned}` targets are not available yet"))
                .label("not accepted now")
                .help(KINDS));
        }
    }
    match (&target.engine, &target.endpoint) {
        (Some(table), None) => Ok(TargetChoice::Engine(engine::resolve(table.get_ref(), table.span())?)),
        (None, Some(table)) => Ok(TargetChoice::Endpoint(endpoint(table.get_ref())?)),
        (None, None) => {
            Err(Finding::new(target.name.span(), "the target is neither an engine nor an endpoint")
                .label("what is it?")
                .help(KINDS))
        }
        (Some(_), Some(second)) => {
            Err(Finding::new(second.span(), "the target is both an engine and an endpoint").help(KINDS))
        }
    }
}

fn endpoint(table: &EndpointTable) -> Result<EndpointSpec, Finding> {
    let protocol = match &table.protocol {
        None => PROTOCOLS[0].to_owned(),
        Some(written) if PROTOCOLS.contains(&written.get_ref().as_str()) => written.get_ref().clone(),
        Some(written) => {
            return Err(unknown_value(written.span(), "protocol", written.get_ref(), &PROTOCOLS));
        }
    };
    let api_key_env = table.api_key_env.as_ref().map(environment_variable).transpose()?;
    let metrics_path = table.metrics.as_ref().map(metrics_path).transpose()?;
    Ok(EndpointSpec {
        url: url(&table.url)?,
        protocol,
        model: table.model.clone(),
        api_key_env,
        metrics_path,
    })
}

fn url(written: &Spanned<String>) -> Result<String, Finding> {
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

fn metrics_path(written: &Spanned<String>) -> Result<String, Finding> {
    let path = written.get_ref();
    if !path.starts_with('/') || path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Finding::new(written.span(), "metrics is not a path on the server")
            .help("e.g. metrics = \"/metrics\""));
    }
    Ok(path.clone())
}
