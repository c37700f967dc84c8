//! What to ask. A scenario file becomes a validated [`spec::RunSpec`], or one for each cell of its sweep; every mistake in the file becomes one error
//! with file, line, caret and the accepted values.
//!
//! Knows the keys of a scenario, units, policy knobs and published traffic shapes. Must not know models, prices,
//! servers or clocks: whether a preset or a price exists is for whoever runs the spec. Touches the file system only to
//! read the scenario, its trace, and to see that a model folder exists.
//!
//! Reading order: [`scenario`] (what is typed), [`spec`] (what it resolves to), [`journey`] (both, of users who take steps), `resolve` (from one to the other), [`plan`] (files of `llmlab plan`),
//! [`knobs`] (the engine keys as one table), [`templates`] (command lines of known servers), [`traffic`] and [`trace`] (where lengths come from), [`fit`] (from a log to traffic), [`units`],
//! [`error`], [`schema`].

use std::fs;
use std::path::Path;

pub mod autoscale;
pub mod client_mix;
pub mod error;
pub mod fit;
pub mod journey;
pub mod knobs;
pub mod plan;
pub mod scenario;
pub mod schema;
pub mod spec;
pub mod templates;
pub mod trace;
pub mod traffic;
pub mod units;

mod resolve;

pub use error::ScenarioError;
pub use schema::{json_schema, plan_schema};

use error::{Finding, Source};
use spec::{Cell, EngineSpec, RunSpec};

/// Reads a scenario file. Returns its text, for the manifest, and the runs it resolves to: one, or those of its sweep.
pub fn load_cells(path: &Path) -> Result<(String, Vec<Cell>), ScenarioError> {
    let read_error = |source| ScenarioError::Read { path: path.to_path_buf(), source };
    let text = fs::read_to_string(path).map_err(read_error)?;
    let cells = parse_cells(&text, &path.display().to_string())?;
    Ok((text, cells))
}

/// `name` is the file's path: shown in errors, and paths in the scenario are relative to its folder.
pub fn parse_cells(text: &str, name: &str) -> Result<Vec<Cell>, ScenarioError> {
    let source = Source { name, text };
    let scenario: scenario::Scenario = toml::from_str(text).map_err(|e| source.toml_error(&e))?;
    let base = Path::new(name).parent().unwrap_or(Path::new(""));
    resolve::resolve(&scenario, base).map_err(|finding| source.error(finding))
}

/// A scenario file that is one run.
pub fn load(path: &Path) -> Result<(String, RunSpec), ScenarioError> {
    let (text, cells) = load_cells(path)?;
    let spec = only_run(cells, &Source { name: &path.display().to_string(), text: &text })?;
    Ok((text, spec))
}

/// A scenario that is one run.
pub fn parse(text: &str, name: &str) -> Result<RunSpec, ScenarioError> {
    only_run(parse_cells(text, name)?, &Source { name, text })
}

fn only_run(mut cells: Vec<Cell>, source: &Source<'_>) -> Result<RunSpec, ScenarioError> {
    match cells.pop() {
        Some(Cell { point: None, spec }) => Ok(spec),
        _ => {
            let at = source.text.find("[sweep").unwrap_or(0);
            Err(source.error(
                Finding::new(at..source.text.len(), "the scenario sweeps several runs")
                    .label("one run was expected"),
            ))
        }
    }
}

/// The engine of `llmlab serve`: a policy and `knob=value` pairs with the keys, checks and defaults of a scenario's
/// `engine = { ... }`. Values may be written as in a scenario or without quotes: `weights=q8_0`.
pub fn engine_from_knobs(policy: &str, knobs: &[String]) -> Result<EngineSpec, ScenarioError> {
    // The pairs become TOML lines, so that mistakes get the same errors, pointing at the line that holds the pair.
    let mut text = format!("policy = {}\n", toml::Value::from(policy));
    for knob in knobs {
        let (key, value) = knob.split_once('=').unwrap_or((knob, ""));
        let (key, value) = (key.trim(), value.trim());
        let plain_key =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let key = if plain_key { key.to_owned() } else { toml::Value::from(key).to_string() };
        let is_toml = !value.contains('\n') && toml::from_str::<toml::Table>(&format!("v = {value}")).is_ok();
        let value = if is_toml { value.to_owned() } else { toml::Value::from(value).to_string() };
        text.push_str(&format!("{key} = {value}\n"));
    }
    let source = Source { name: "command line", text: &text };
    let table: scenario::EngineTable = toml::from_str(&text).map_err(|e| source.toml_error(&e))?;
    resolve::engine::resolve(&table, 0..0).map_err(|finding| source.error(finding))
}

/// A commented scenario to start from: what `llmlab init` writes.
pub fn template() -> &'static str {
    include_str!("template.toml")
}
