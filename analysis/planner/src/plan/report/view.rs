//! What every form of the report says, as words.

use serde::Serialize;

use super::super::answer::Plan;
use super::super::limits::Limit;
use super::super::words::{digits, dollars, seconds, thousands};
use super::caveats::{assumptions, risks};
use super::points::points;
use super::tables::{self, HEADINGS, Line, Reason, Table};

#[derive(Debug, Serialize)]
pub struct View {
    pub name: String,
    /// The answer in one line.
    pub headline: String,
    pub answered: bool,
    /// What would have to change, where there is no answer.
    pub change: Option<String>,
    /// What follows from it, a sentence each.
    pub points: Vec<String>,
    /// What was asked: term and description.
    pub question: Vec<(&'static str, String)>,
    pub headings: Vec<&'static str>,
    #[serde(skip)]
    pub narrow: Vec<usize>,
    pub rows: Vec<Line>,
    /// Below the table.
    pub notes: Vec<String>,
    /// The best row in figures, with where each is from.
    pub details: Vec<(String, String)>,
    pub refused: Vec<Reason>,
    /// Rows that were simulated as clusters.
    pub clusters: Table,
    pub apis: Table,
    pub sensitivities: Table,
    pub risks: Vec<String>,
    pub assumptions: Vec<String>,
}

pub fn view(plan: &Plan) -> View {
    let best = plan.best();
    let rows = tables::lines(plan);
    View {
        name: plan.spec.name.clone(),
        headline: headline(plan),
        answered: best.is_some(),
        change: plan.refusal().map(|refusal| refusal.change),
        points: best.map_or_else(Vec::new, |best| points(plan, best)),
        question: question(plan),
        headings: HEADINGS.to_vec(),
        narrow: tables::narrow(plan),
        notes: notes(plan, &rows),
        rows,
        details: best.map_or_else(Vec::new, tables::details),
        refused: tables::reasons(plan),
        clusters: tables::clusters(plan),
        apis: tables::apis(plan),
        sensitivities: tables::sensitivities(plan),
        risks: risks(plan),
        assumptions: assumptions(plan),
    }
}

fn headline(plan: &Plan) -> String {
    match (plan.best(), plan.refusal()) {
        (Some(best), _) => format!(
            "{} replica{} of {}, {}: {} a month",
            best.replicas,
            if best.replicas == 1 { "" } else { "s" },
            best.sized.candidate.words(),
            best.price.pricing.name(),
            dollars(best.bill.usd_per_month)
        ),
        (None, Some(refusal)) => format!("No: {}", refusal.reason),
        (None, None) => "No answer".into(),
    }
}

fn notes(plan: &Plan, rows: &[Line]) -> Vec<String> {
    let shown = rows.iter().filter(|line| line.simulated).count();
    let mut notes = Vec::new();
    if plan.rows.len() > shown {
        notes.push(format!("{} more serve; plan.json has them.", plan.rows.len() - shown));
    }
    if !plan.skipped.is_empty() {
        notes.push(format!(
            "{} were not simulated: even at best, as their limits (≥) say, another row is cheaper and quicker (plan.json says which). --exhaustive simulates them too.",
            plan.skipped.len()
        ));
    }
    notes
}

fn question(plan: &Plan) -> Vec<(&'static str, String)> {
    let spec = &plan.spec;
    let demand = &spec.demand;
    let limits: Vec<String> = plan.limits.iter().map(Limit::words).collect();
    let mut question = vec![
        ("model", spec.model.clone()),
        (
            "traffic",
            format!(
                "{} requests/s over the day, {} in the busiest hour; {} tokens in and {} out on average",
                digits(demand.mean_rps),
                digits(demand.peak_rps),
                thousands(plan.served.input_tokens),
                thousands(plan.served.output_tokens)
            ),
        ),
        ("SLO", limits.join(", ")),
    ];
    if let Some(sessions) = &plan.conversations {
        question.push((
            "sessions",
            format!(
                "{} turns each, {} from an answer to the next turn; {} sessions/s in the busiest hour",
                digits(sessions.turns),
                seconds(sessions.think_s),
                digits(demand.peak_rps / sessions.turns)
            ),
        ));
    }
    if let Some(budget) = spec.usd_per_month {
        question.push(("budget", format!("{} a month", dollars(budget))));
    }
    let complete = if plan.complete { "" } else { "; interrupted, the table is partial" };
    question.push((
        "looked at",
        format!(
            "{} configurations, {} serve, {} simulations{complete}",
            plan.configurations,
            plan.rows.len(),
            plan.simulations
        ),
    ));
    question
}
