//! The answer in words.

use serde::Serialize;

use super::super::answer::{Autoscaling, Replayed};
use crate::plan::limits::Limit;
use crate::plan::words::{digits, dollars, percent, seconds, thousands};

#[derive(Debug, Serialize)]
pub struct View {
    pub name: String,
    pub answered: bool,
    pub headline: String,
    pub question: Vec<(&'static str, String)>,
    pub headings: Vec<&'static str>,
    pub rows: Vec<Row>,
    pub points: Vec<String>,
    pub assumptions: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub best: bool,
    pub within: bool,
    pub cells: Vec<String>,
}

const HEADINGS: [&str; 11] = [
    "policy",
    "SLO missed",
    "minutes",
    "failed",
    "GPU hours",
    "a day",
    "starts",
    "turns/h",
    "most waiting",
    "TTFT p95",
    "busy",
];

pub fn view(answer: &Autoscaling) -> View {
    let best = answer.best();
    View {
        name: answer.name.clone(),
        answered: best.is_some(),
        headline: headline(answer, best),
        question: question(answer),
        headings: HEADINGS.to_vec(),
        rows: answer
            .policies
            .iter()
            .map(|policy| Row {
                best: best.is_some_and(|best| best.name == policy.name),
                within: policy.score.violations <= answer.max_violations,
                cells: cells(policy),
            })
            .collect(),
        points: points(answer, best),
        assumptions: assumptions(answer),
    }
}

fn cells(policy: &Replayed) -> Vec<String> {
    let score = &policy.score;
    vec![
        policy.name.clone(),
        percent(score.violations),
        percent(score.violating_minutes),
        score.failed.to_string(),
        digits(score.gpu_hours),
        dollars(score.usd),
        score.cold_starts.to_string(),
        format!("{:.1}", score.reversals_per_hour),
        score.most_waiting.to_string(),
        score.ttft_p95_s.map_or_else(|| "never".to_owned(), seconds),
        percent(score.utilisation),
    ]
}

fn headline(answer: &Autoscaling, best: Option<&Replayed>) -> String {
    let allowed = percent(answer.max_violations);
    match (best, answer.policies.is_empty()) {
        (Some(best), _) => format!(
            "{}: {} a day, {} of the requests miss a limit ({allowed} may)",
            best.name,
            dollars(best.score.usd),
            percent(best.score.violations)
        ),
        (None, true) => "nothing was replayed".to_owned(),
        (None, false) => format!("no policy keeps the requests that miss a limit under {allowed}"),
    }
}

fn question(answer: &Autoscaling) -> Vec<(&'static str, String)> {
    let limits: Vec<String> = answer.limits.iter().map(Limit::words).collect();
    let start = &answer.cold_start;
    let mut lines = vec![
        ("replica", format!("{} on {}, {}", answer.model, answer.configuration, answer.price)),
        (
            "day",
            format!(
                "{} requests, {}/s at the busiest moment; one replica takes {}/s",
                thousands(answer.requests_a_day),
                digits(answer.peak_rps),
                digits(answer.replica_rps)
            ),
        ),
        ("SLO", limits.join(", ")),
        (
            "start",
            format!(
                "{}: machine {}, image {}, weights {} ({} GB), warm-up {}",
                seconds(start.total_s),
                seconds(start.provision_s),
                seconds(start.image_s),
                seconds(start.weights_s),
                digits(answer.weight_bytes as f64 / 1e9),
                seconds(start.warm_up_s)
            ),
        ),
    ];
    if let Some(surge) = &answer.spec.surge {
        let minute = surge.at.as_secs() / 60;
        lines.push((
            "surge",
            format!(
                "{} times the traffic from {:02}:{:02} on, for {}",
                digits(surge.factor),
                minute / 60,
                minute % 60,
                seconds(surge.lasts.as_secs_f64())
            ),
        ));
    }
    if answer.factor > 1 {
        lines.push((
            "size",
            format!(
                "a part of 1/{} of traffic and replicas was replayed; GPU hours and dollars are of the whole",
                answer.factor
            ),
        ));
    }
    lines
}

fn points(answer: &Autoscaling, best: Option<&Replayed>) -> Vec<String> {
    let mut points = Vec::new();
    let fixed =
        answer.policies.iter().find(|policy| matches!(policy.scaler.rule, super::super::Rule::Static { .. }));
    if let (Some(best), Some(fixed)) = (best, fixed)
        && best.name != fixed.name
    {
        points.push(format!(
            "{} saves {} a day against {} ({}).",
            best.name,
            dollars(fixed.score.usd - best.score.usd),
            fixed.name,
            fixed.rule
        ));
    }
    if let Some(best) = best {
        points.push(format!("Its rule: {}.", best.rule));
    }
    if let Some(fixed) = fixed
        && fixed.score.violations > answer.max_violations
    {
        points.push(format!(
            "{} misses limits too ({}): the busiest moment needs more than it holds.",
            fixed.name,
            percent(fixed.score.violations)
        ));
    }
    let cheaper = answer.policies.iter().filter(|policy| {
        policy.score.violations > answer.max_violations
            && best.is_some_and(|best| policy.score.usd < best.score.usd)
    });
    for policy in cheaper {
        points.push(format!(
            "{} costs {} less and misses limits in {} of the requests.",
            policy.name,
            dollars(best.map_or(0.0, |best| best.score.usd) - policy.score.usd),
            percent(policy.score.violations)
        ));
    }
    for policy in answer.policies.iter().filter(|policy| policy.score.reversals_per_hour >= 1.0) {
        points.push(format!(
            "{} turns {} times an hour: {} replicas were started and served, {} let go before they did.",
            policy.name,
            digits(policy.score.reversals_per_hour),
            policy.score.cold_starts,
            policy.score.cancelled_starts
        ));
    }
    for policy in answer.policies.iter().filter(|policy| policy.score.waited_for_a_start > 0) {
        points.push(format!(
            "{}: {} requests came while no replica was ready and waited for a start.",
            policy.name, policy.score.waited_for_a_start
        ));
    }
    if let Some((growth, hour)) = steepest(answer) {
        points.push(format!(
            "While a replica starts, the need grows by up to {} replicas (near {hour:02}:00); a policy that looks at the queue sees it only after.",
            digits(growth)
        ));
    }
    points
}

/// Most growth of the need, in replicas, within a cold start, and its hour.
fn steepest(answer: &Autoscaling) -> Option<(f64, usize)> {
    let width_s = super::super::day::SECONDS / answer.load_rps.len().max(1) as f64;
    let bins = (answer.cold_start.total_s / width_s).ceil().max(1.0) as usize;
    let grown = |place: usize| {
        let later = answer.load_rps.get(place + bins)?;
        Some(((later - answer.load_rps[place]) / answer.replica_rps, place))
    };
    let (growth, place) = (0..answer.load_rps.len()).filter_map(grown).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (growth > 0.0).then(|| (growth, (place as f64 * width_s / 3600.0) as usize))
}

fn assumptions(answer: &Autoscaling) -> Vec<String> {
    let spec = &answer.spec;
    let mut lines = vec![
        format!(
            "Metrics are scraped every {} and can be asked for {} later. A client gives up after {} without a token; a replica that is to go may answer for {} more.",
            seconds(spec.scrape_interval.as_secs_f64()),
            seconds(spec.scrape_lag.as_secs_f64()),
            seconds(spec.patience.as_secs_f64()),
            seconds(spec.drain.as_secs_f64())
        ),
        format!(
            "Replicas: {} to {} in the replay. Each policy begins at midnight with what the traffic takes then; machines are paid from when they are there.",
            answer.min_replicas, answer.max_replicas
        ),
        "The step times have the error of the planner (docs/planning.md), and cold starts are assumptions of the file unless measured; both move the answer.".to_owned(),
        "The forecast of the day before is the day itself without its surge and without noise: as good as a forecast can be.".to_owned(),
    ];
    if answer.factor > 1 {
        lines.push(format!(
            "One replica of the replay stands for {}: sizes between are not seen, so small policies look coarser and costs are off by up to one step, {} a day.",
            answer.factor,
            dollars(24.0 * answer.usd_per_replica_hour * f64::from(answer.factor))
        ));
    }
    lines
}
