//! Markdown and HTML pages from templates. The HTML is one file: no request leaves it.

use llmlab_results::manifest::Manifest;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context, escape_formatter};
use serde::Serialize;

use crate::Trial;
use crate::analysis::Analysis;
use crate::report::charts::{Chart, charts};
use crate::report::composition::pictures;
use crate::report::format::{markdown_text, plain_lines};
use crate::report::timeline::{Timeline, timelines};
use crate::report::view::view;

/// Of every page.
const HEAD: &str = include_str!("../../templates/head.html");
const HTML: &str = include_str!("../../templates/report.html");
const MARKDOWN: &str = include_str!("../../templates/report.md");
const STYLE: &str = include_str!("../../templates/report.css");
const SCRIPT: &str = include_str!("../../templates/report.js");

/// A page for a pull request or a wiki: tables and words, no pictures.
pub fn markdown(analysis: &Analysis) -> String {
    markdown_page("report.md", MARKDOWN, &view(analysis))
}

/// A template that prints `view` as `v`, escaped for Markdown.
pub fn markdown_page(name: &'static str, template: &'static str, view: &impl Serialize) -> String {
    let mut env = environment();
    // Markdown has no standard autoescape; every value goes through ours instead.
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(|out, _, value| {
        let text = value.to_string();
        let text = if value.is_safe() { text } else { markdown_text(&text) };
        out.write_str(&text).map_err(minijinja::Error::from)
    });
    env.add_filter("code", |text: String| Value::from_safe_string(code_block(&text)));
    env.add_template(name, template).expect("the template is part of the crate");
    render(&env, name, context! { v => Serde(view) })
}

/// Lines that hold only a tag leave no trace in the page.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the delimiters are the usual ones"));
    env
}

/// The same for HTML, with the reports' style as `style`.
pub fn html_page(name: &'static str, template: &'static str, view: &impl Serialize) -> String {
    let env = html_environment(name, template);
    let style = Value::from_safe_string(STYLE.to_owned());
    render(&env, name, context! { v => Serde(view), style => style })
}

fn html_environment(name: &'static str, template: &'static str) -> Environment<'static> {
    let mut env = environment();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if !value.is_safe() => escape_formatter(out, state, &Value::from(plain_lines(text))),
        _ => escape_formatter(out, state, value),
    });
    env.add_template("head.html", HEAD).expect("the template is part of the crate");
    env.add_template(name, template).expect("the template is part of the crate");
    env
}

/// One self-contained page with charts.
pub fn html(analysis: &Analysis, manifest: &Manifest, trials: &[Trial]) -> String {
    let env = html_environment("report.html", HTML);
    let c = charts(analysis, manifest, trials);
    let page = context! {
        v => Serde(view(analysis)),
        latency => c.latency.iter().map(chart_value).collect::<Vec<Value>>(),
        over_time => c.over_time.iter().map(chart_value).collect::<Vec<Value>>(),
        waterfalls => c.waterfalls.iter().map(chart_value).collect::<Vec<Value>>(),
        timelines => timelines(analysis, manifest, trials).iter().map(timeline_value).collect::<Vec<Value>>(),
        compositions => pictures(analysis, trials)
            .into_iter()
            .map(|picture| Value::from_safe_string(picture.svg))
            .collect::<Vec<Value>>(),
        style => Value::from_safe_string(STYLE.to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        scenario => manifest.scenario_text.clone(),
        simd => manifest.host.simd.join(" "),
        trials => Serde(analysis.trials.clone()),
    };
    render(&env, "report.html", page)
}

/// The SVG is ours (see [`Chart`]); names and tooltips are not and stay subject to escaping.
fn chart_value(chart: &Chart) -> Value {
    let rows = serde_json::to_string(&chart.rows).expect("strings serialise");
    context! {
        name => chart.name.clone(),
        title => chart.title.clone(),
        slot => chart.slot,
        rows => rows,
        svg => Value::from_safe_string(chart.svg.clone()),
    }
}

fn timeline_value(timeline: &Timeline) -> Value {
    context! {
        title => timeline.title.clone(),
        slot => timeline.slot,
        open => timeline.open,
        panels => timeline.panels.iter().map(chart_value).collect::<Vec<Value>>(),
    }
}

/// A fenced block whose fence is longer than any run of backticks inside.
fn code_block(text: &str) -> String {
    let text = plain_lines(text);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{text}\n{fence}")
}

fn render(env: &Environment<'_>, name: &str, page: Value) -> String {
    env.get_template(name)
        .and_then(|template| template.render(page))
        .unwrap_or_else(|e| panic!("template {name} and the view it prints have parted: {e:#}"))
}
