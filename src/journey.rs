//! A scenario's journey: in words, checked against what the targets hold, and as the plan that its client gets.

use std::collections::BTreeMap;
use std::time::Duration;

use llmlab_journeys::{Action, EndpointPlan, Flow, JourneyPlan, Method, PageBody, Step};
use llmlab_loadgen::{Endpoint, LengthDist};
use llmlab_scenarios::spec::{ActionSpec, BodySpec, FlowSpec, JourneySpec, LengthDist as SpecDist, StepSpec};

use crate::exit::Failure;
use crate::text::count;

/// The plan for one target. `limit` is what it holds of a conversation, in tokens.
pub fn plan(
    spec: &JourneySpec,
    endpoint: &Endpoint,
    seed: u64,
    tokens_per_word: f64,
    limit: u32,
    drain: Duration,
) -> JourneyPlan {
    let output_max = (limit / 2).max(1);
    JourneyPlan {
        endpoint: EndpointPlan::from(endpoint),
        seed,
        iterations: spec.iterations,
        hatch_rate: spec.hatch_rate,
        pause: spec.pause,
        tokens_per_word,
        input_max: (limit - output_max).max(1),
        output_max,
        drain,
        flows: spec.flows.iter().map(flow).collect(),
    }
}

fn flow(spec: &FlowSpec) -> Flow {
    Flow { name: spec.name.clone(), users: spec.users, steps: spec.steps.iter().map(step).collect() }
}

fn step(spec: &StepSpec) -> Step {
    let page = |method, path: &String, body, expect: &Option<u16>, save: &BTreeMap<String, String>| {
        Action::Page { method, path: path.clone(), body, expect: *expect, save: save.clone() }
    };
    let action = match &spec.action {
        ActionSpec::Get { path, expect, save } => page(Method::Get, path, None, expect, save),
        ActionSpec::Post { path, body, expect, save } => {
            page(Method::Post, path, body.as_ref().map(page_body), expect, save)
        }
        ActionSpec::Ask { input, output, new_conversation } => {
            Action::Ask { input: length(input), output: length(output), new_conversation: *new_conversation }
        }
    };
    Step { name: spec.name.clone(), headers: spec.headers.clone(), action }
}

fn page_body(body: &BodySpec) -> PageBody {
    match body {
        BodySpec::Json(json) => PageBody::Json(json.clone()),
        BodySpec::Text(text) => PageBody::Text(text.clone()),
    }
}

fn length(dist: &SpecDist) -> LengthDist {
    match dist {
        SpecDist::Fixed { tokens } => LengthDist::Fixed { tokens: *tokens },
        SpecDist::Uniform { min, max } => LengthDist::Uniform { min: *min, max: *max },
        SpecDist::Lognormal { median, p95 } => LengthDist::Lognormal { median: *median, p95: *p95 },
    }
}

/// A conversation that no target can hold is an error before anything starts. Lengths without an end count with their 95th
/// percentile.
pub fn check(spec: &JourneySpec, limit: u32) -> Result<(), Failure> {
    let longest = |dist: &SpecDist| match dist {
        SpecDist::Fixed { tokens } => u64::from(*tokens),
        SpecDist::Uniform { max, .. } => u64::from(*max),
        SpecDist::Lognormal { p95, .. } => p95.ceil() as u64,
    };
    for flow in &spec.flows {
        let mut tokens = 0;
        for step in &flow.steps {
            let ActionSpec::Ask { input, output, new_conversation } = &step.action else { continue };
            if *new_conversation {
                tokens = 0;
            }
            tokens += longest(input) + longest(output);
            if tokens > u64::from(limit) {
                return Err(Failure::bad_input(format!(
                    "flow {}, step {:?}: the conversation may reach {tokens} tokens, and the smallest target holds {limit}; \
                     ask for less, or begin anew with conversation = \"new\"",
                    flow.name, step.name
                )));
            }
        }
    }
    Ok(())
}

/// "2 flows: chat (6 users, 4 steps), models (2 users, 1 step)"
pub fn in_words(spec: &JourneySpec) -> String {
    let flow = |flow: &FlowSpec| {
        format!(
            "{} ({} users, {} steps, {} of them asks)",
            flow.name,
            flow.users,
            flow.steps.len(),
            flow.asks()
        )
    };
    let flows: Vec<String> = spec.flows.iter().map(flow).collect();
    format!("journey of {} flow(s): {}", flows.len(), flows.join(", "))
}

pub fn arrivals_in_words(spec: &JourneySpec) -> String {
    let pause = match spec.pause {
        (_, Duration::ZERO) => "no pause".to_owned(),
        (least, most) if least == most => format!("{least:?}"),
        (least, most) => format!("{least:?} to {most:?}"),
    };
    format!(
        "closed loop, {} users, {} iterations each, {pause} after each step, {} users started per second",
        spec.users(),
        spec.iterations,
        spec.hatch_rate
    )
}

/// The steps, for `--explain`.
pub fn explain(spec: &JourneySpec) {
    println!("journey   {}", in_words(spec));
    println!("          {} asks a trial", count(spec.asks() as f64));
    for flow in &spec.flows {
        for step in &flow.steps {
            println!("          {}: {:<24} {}", flow.name, step.name, action_in_words(&step.action));
        }
    }
}

pub fn action_in_words(action: &ActionSpec) -> String {
    match action {
        ActionSpec::Get { path, .. } => format!("GET {path}"),
        ActionSpec::Post { path, .. } => format!("POST {path}"),
        ActionSpec::Ask { .. } => "ask".into(),
    }
}
