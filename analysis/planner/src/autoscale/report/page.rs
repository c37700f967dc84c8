//! HTML from a template, with the reports' own style.

use llmlab_metrics::report::kit;
use serde::Serialize;

use super::super::answer::Autoscaling;
use super::charts::charts;
use super::view::{View, view};
use crate::plan::report::Chart;

const HTML: &str = concat!(
    "{% set kind = 'AUTOSCALE' %}",
    include_str!("../../../templates/top.html"),
    include_str!("../../../templates/autoscale.html")
);

#[derive(Serialize)]
struct Page {
    #[serde(flatten)]
    view: View,
    charts: Vec<Chart>,
}

pub fn html(answer: &Autoscaling) -> String {
    kit::html_page("autoscale.html", HTML, &Page { view: view(answer), charts: charts(answer) })
}
