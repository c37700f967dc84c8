//! Markdown and HTML from templates, with the reports' own style.

use llmlab_metrics::report::kit;
use serde::Serialize;

use super::super::answer::Plan;
use super::charts::{Chart, charts};
use super::view::{View, view};

const HTML: &str = concat!(
    "{% set kind = 'PLAN' %}",
    include_str!("../../../templates/top.html"),
    include_str!("../../../templates/plan.html")
);
const MARKDOWN: &str = include_str!("../../../templates/plan.md");

#[derive(Serialize)]
struct Page {
    #[serde(flatten)]
    view: View,
    charts: Vec<Chart>,
}

/// For a pull request or a wiki.
pub fn markdown(plan: &Plan) -> String {
    kit::markdown_page("plan.md", MARKDOWN, &view(plan))
}

/// One self-contained page with charts.
pub fn html(plan: &Plan) -> String {
    kit::html_page("plan.html", HTML, &Page { view: view(plan), charts: charts(plan) })
}
