//! `command = { ... }`: a server to start, by its own words or by a template.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::workload::{need, only};
use super::{beside, target};
use crate::error::{Finding, unknown_value};
use crate::scenario::CommandTable;
use crate::spec::{CommandSpec, EndpointSpec};
use crate::templates::{self, TEMPLATES, Template};
use crate::units::DurationText;

const READY_TIMEOUT: Duration = Duration::from_secs(600);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Beyond this a wait is a mistake.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Names of variables that hold secrets as a rule end so.
const SECRETS: [&str; 5] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS"];

pub(super) fn resolve(table: &Spanned<CommandTable>, base: &Path) -> Result<CommandSpec, Finding> {
    let command = table.get_ref();
    let server = match (&command.run, &command.template) {
        (Some(run), None) => from_words(table, run)?,
        (None, Some(name)) => from_template(table, name)?,
        (Some(_), Some(template)) => {
            return Err(Finding::new(template.span(), "run and template both say what to start")
                .label("the second of the two")
                .help("keep one of them; `args` adds arguments to a template"));
        }
        (None, None) => {
            return Err(Finding::new(table.span(), "the command does not say what to start").help(
                "write run = [\"vllm\", \"serve\", \"my-model\"] with url = \"http://127.0.0.1:8000\", or template = \"vllm\" with model = \"my-model\"",
            ));
        }
    };
    let health_path = match &command.health {
        Some(written) => target::server_path(written, "health")?,
        None => server.health.to_owned(),
    };
    let metrics_path = match &command.metrics {
        Some(written) => Some(target::metrics_page(written)?),
        None => server.metrics.map(str::to_owned),
    };
    let working_dir = match &command.working_dir {
        None => base.to_path_buf(),
        Some(written) => {
            let folder = beside(base, written.get_ref());
            if !folder.is_dir() {
                return Err(Finding::new(written.span(), format!("no folder at {}", folder.display())));
            }
            folder
        }
    };
    let mut env = server.env;
    for (name, value) in &command.env {
        env.insert(variable(name, value)?, value.clone());
    }
    let key = target::ApiKey::resolve(&command.api_key_env, &command.api_key_file, base)?;
    let ca_file = match &command.url {
        Some(url) => target::ca_file(&command.ca_file, url, base)?,
        None => None,
    };
    Ok(CommandSpec {
        run: server.run,
        template: command.template.as_ref().map(|name| name.get_ref().clone()),
        env,
        working_dir: match working_dir.display().to_string() {
            here if here.is_empty() => ".".into(),
            folder => folder,
        },
        health_path,
        ready_timeout: wait(&command.ready_timeout, "ready_timeout", READY_TIMEOUT)?,
        stop_timeout: wait(&command.stop_timeout, "stop_timeout", STOP_TIMEOUT)?,
        endpoint: EndpointSpec {
            url: server.url,
            protocol: target::protocol(command.protocol.as_ref(), server.protocol)?,
            model: server.model,
            api_key_env: key.env,
            api_key_file: key.file,
            ca_file,
            metrics_path,
        },
    })
}

/// What the two ways of writing a command differ in.
struct Server {
    run: Vec<String>,
    env: BTreeMap<String, String>,
    url: String,
    /// To ask for.
    model: Option<String>,
    health: &'static str,
    metrics: Option<&'static str>,
    protocol: &'static str,
}

fn from_words(table: &Spanned<CommandTable>, run: &Spanned<Vec<String>>) -> Result<Server, Finding> {
    let command = table.get_ref();
    let spans = [
        ("port", command.port.as_ref().map(Spanned::span)),
        ("args", command.args.as_ref().map(Spanned::span)),
    ];
    only(&spans, &["url", "model", "health", "metrics", "protocol"], "a command with `run`")?;
    if run.get_ref().first().is_none_or(String::is_empty) {
        return Err(Finding::new(run.span(), "run names no program")
            .help("a list of program and arguments, e.g. run = [\"vllm\", \"serve\", \"my-model\"]"));
    }
    Ok(Server {
        run: words(run)?,
        env: BTreeMap::new(),
        url: target::url(need(&command.url, table.span(), "url")?)?,
        model: command.model.as_ref().map(|model| model.get_ref().clone()),
        health: "/health",
        metrics: None,
        protocol: target::PROTOCOLS[0],
    })
}

fn from_template(table: &Spanned<CommandTable>, name: &Spanned<String>) -> Result<Server, Finding> {
    let command = table.get_ref();
    let of = format!("template \"{}\"", name.get_ref());
    let Some(template) = templates::find(name.get_ref()) else {
        let names = TEMPLATES.map(|template| template.name);
        return Err(unknown_value(name.span(), "template", name.get_ref(), &names));
    };
    let spans = [
        ("url", command.url.as_ref().map(Spanned::span)),
        ("ca_file", command.ca_file.as_ref().map(Spanned::span)),
    ];
    only(&spans, &["model", "port", "args", "health", "metrics", "protocol"], &of)?;
    let model = need(&command.model, table.span(), "model")?;
    if model.get_ref().is_empty() || model.get_ref().starts_with('-') {
        return Err(Finding::new(model.span(), "the model's name is not usable")
            .label("a name or a path, not an option"));
    }
    let port = match &command.port {
        None => template.port,
        Some(written) if *written.get_ref() == 0 => {
            return Err(Finding::new(written.span(), "port is 0").label("must be from 1 to 65535"));
        }
        Some(written) => *written.get_ref(),
    };
    let mut run: Vec<String> = filled(template, model.get_ref(), port);
    if let Some(args) = &command.args {
        run.extend(words(args)?);
    }
    let fill = |text: &str| templates::fill(text, model.get_ref(), port);
    Ok(Server {
        run,
        env: template.env.iter().map(|(name, value)| (name.to_string(), fill(value))).collect(),
        url: format!("http://127.0.0.1:{port}"),
        model: template.model_by_name.then(|| model.get_ref().clone()),
        health: template.health,
        metrics: template.metrics,
        protocol: template.protocol,
    })
}

fn filled(template: &Template, model: &str, port: u16) -> Vec<String> {
    template.run.iter().map(|word| templates::fill(word, model, port)).collect()
}

/// The system ends a word at a NUL byte.
fn words(written: &Spanned<Vec<String>>) -> Result<Vec<String>, Finding> {
    if written.get_ref().iter().any(|word| word.contains('\0')) {
        return Err(Finding::new(written.span(), "an argument holds a NUL character"));
    }
    Ok(written.get_ref().clone())
}

/// What is written in a scenario is stored with every run of it, so a secret is refused and its text not repeated.
fn variable(name: &Spanned<String>, value: &str) -> Result<String, Finding> {
    let text = name.get_ref();
    let wrong = |why: &str| Err(Finding::new(name.span(), format!("env: {why}")));
    if text.is_empty() || text.contains(['=', '\0']) || value.contains('\0') {
        return wrong("not a usable variable");
    }
    if SECRETS.iter().any(|end| text.to_ascii_uppercase().ends_with(end)) {
        let found = Finding::new(name.span(), format!("env: {text} looks like a secret"))
            .label("would be stored with the run")
            .help("set it in the environment of llmlab; the server inherits that");
        return Err(found);
    }
    Ok(text.clone())
}

fn wait(written: &Option<Spanned<DurationText>>, name: &str, default: Duration) -> Result<Duration, Finding> {
    let Some(written) = written else { return Ok(default) };
    let time = written.get_ref().0;
    if time.is_zero() || time > LONGEST {
        return Err(Finding::new(written.span(), format!("{name} is {time:?}"))
            .label("must be more than 0s, at most 24h"));
    }
    Ok(time)
}
