//! `[journey]`: users, flows and steps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::target::{plain_name, server_path};
use super::workload::{MAX_TOKENS, QUANTILES, distribution, only, timeouts, warmup};
use super::{in_range, positive};
use crate::error::{Finding, unknown_value};
use crate::journey::{
    ActionSpec, AskLength, AskTable, BodySpec, FlowSpec, FlowTable, JourneySpec, JourneyTable,
};
use crate::journey::{StepSpec, StepTable};
use crate::spec::{ArrivalSpec, LengthDist, LengthSpec, TargetChoice, TargetSpec, WorkloadSpec};
use crate::units::{TIME_HELP, parse_duration};

/// Protocols whose answers come in one piece, or not over HTTP.
const NOT_STREAMED: [&str; 5] = ["kserve", "openai-embeddings", "tei-embed", "ollama-embed", "websocket"];
const MAX_USERS: u32 = 10_000;
const MAX_ITERATIONS: u32 = 1_000_000;
const MAX_ASKS: u64 = 10_000_000;
const MAX_FLOWS: usize = 100;
const MAX_STEPS: usize = 100;
const MAX_NAME_CHARS: usize = 60;
/// Users per second that start all of them at once, for so many users.
const AT_ONCE: f64 = 100.0;
pub(crate) const CONVERSATIONS: [&str; 2] = ["continued", "new"];
/// Variables that are always there.
const GIVEN: [&str; 2] = ["user", "iteration"];

/// The name and the protocol of a target whose answers are not such streams.
fn without_streams(target: &TargetSpec) -> Option<(&str, &str)> {
    let protocol = match &target.kind {
        TargetChoice::Endpoint(endpoint) => &endpoint.protocol,
        TargetChoice::Command(command) => &command.endpoint.protocol,
        TargetChoice::Engine(_) | TargetChoice::Simulate(_) => return None,
    };
    NOT_STREAMED.contains(&protocol.as_str()).then_some((&target.name, protocol))
}

/// The journey, and the workload of its asks in the words of one: how many, how long, closed loop.
pub(super) fn resolve(
    table: &Spanned<JourneyTable>,
    targets: &[TargetSpec],
) -> Result<(JourneySpec, WorkloadSpec), Finding> {
    let journey = table.get_ref();
    if let Some(target) = targets.iter().find(|t| matches!(t.kind, TargetChoice::Simulate(_))) {
        let message = format!("target {} is simulated, and a journey needs a server", target.name);
        return Err(Finding::new(table.span(), message)
            .label("users who talk to a server")
            .help("use engine, endpoint or command targets, or [workload] with arrivals = { users = ... }"));
    }
    if let Some((target, protocol)) = targets.iter().find_map(without_streams) {
        let message =
            format!("target {target} speaks {protocol}, and a journey reads answers streamed over HTTP");
        return Err(Finding::new(table.span(), message)
            .label("users who read streams")
            .help("use another protocol of the server, such as openai-chat"));
    }
    let users = in_range(&journey.users, "users", 1, MAX_USERS)?;
    let iterations =
        journey.iterations.as_ref().map_or(Ok(1), |n| in_range(n, "iterations", 1, MAX_ITERATIONS))?;
    let hatch_rate = journey
        .hatch_rate
        .as_ref()
        .map_or(Ok(f64::from(users) * AT_ONCE), |r| positive(r, "hatch_rate", 1e6))?;
    let spec = JourneySpec {
        iterations,
        hatch_rate: hatch_rate.max(1e-3),
        pause: journey.pause.as_ref().map_or(Ok(Default::default()), pause)?,
        flows: flows(table, users)?,
    };
    let first_ask = spec.flows.iter().flat_map(|flow| &flow.steps).find_map(|step| match &step.action {
        ActionSpec::Ask { input, output, .. } => Some((input.clone(), output.clone())),
        ActionSpec::Get { .. } | ActionSpec::Post { .. } => None,
    });
    let Some((input, output)) = first_ask else {
        return Err(Finding::new(table.span(), "no step of the journey asks anything")
            .label("nothing to measure")
            .help("e.g. { name = \"question\", ask = { input = 200, output = 100 } }"));
    };
    let requests =
        u32::try_from(spec.asks()).ok().filter(|n| u64::from(*n) <= MAX_ASKS).ok_or_else(|| {
            Finding::new(table.span(), format!("the journey has {} asks", spec.asks()))
                .label(format!("at most {MAX_ASKS}"))
        })?;
    let workload = WorkloadSpec {
        lengths: LengthSpec::Distributions { input, output },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, MAX_TOKENS),
        output_range: (1, MAX_TOKENS),
        requests,
        warmup: warmup(&journey.warmup, requests)?,
        arrivals: ArrivalSpec::Closed { users, think_time: spec.pause.0 },
        shared_prefix_tokens: 0,
        prefixes: None,
        adapters: None,
        sessions: None,
        abandon: None,
        timeout: timeouts(&journey.timeouts)?,
    };
    Ok((spec, workload))
}

fn pause(written: &Spanned<toml::Value>) -> Result<(Duration, Duration), Finding> {
    let wrong = || {
        Finding::new(written.span(), "pause is not usable")
            .label("must be a duration, or [least, most]")
            .help(TIME_HELP)
    };
    let duration = |value: &toml::Value| value.as_str().and_then(|text| parse_duration(text).ok());
    let pause = match written.get_ref() {
        toml::Value::Array(ends) => match ends.as_slice() {
            [least, most] => duration(least).zip(duration(most)),
            _ => None,
        },
        value => duration(value).map(|fixed| (fixed, fixed)),
    };
    // Goose waits in whole milliseconds.
    let whole = |d: Duration| d.subsec_nanos().is_multiple_of(1_000_000);
    match pause {
        Some((least, most)) if least > most => Err(wrong().label("the least is more than the most")),
        Some((least, most)) if !whole(least) || !whole(most) => {
            Err(wrong().label("must be whole milliseconds"))
        }
        Some(pause) => Ok(pause),
        None => Err(wrong()),
    }
}

fn flows(table: &Spanned<JourneyTable>, users: u32) -> Result<Vec<FlowSpec>, Finding> {
    let written = &table.get_ref().flow;
    if written.is_empty() || written.len() > MAX_FLOWS {
        return Err(Finding::new(table.span(), format!("the journey has {} flows", written.len()))
            .label(format!("must be 1 to {MAX_FLOWS}"))
            .help("e.g.\n[[journey.flow]]\nname = \"chat\"\nsteps = [{ name = \"question\", ask = { input = 200, output = 100 } }]"));
    }
    let weight = |flow: &Spanned<FlowTable>| {
        flow.get_ref().weight.as_ref().map_or(Ok(1), |weight| in_range(weight, "weight", 1, 1000))
    };
    let weights = written.iter().map(weight).collect::<Result<Vec<u32>, _>>()?;
    let mut names = BTreeSet::new();
    let mut flows = Vec::with_capacity(written.len());
    for (flow, users) in written.iter().zip(dealt_out(users, &weights)) {
        let FlowTable { name, weight: _, steps } = flow.get_ref();
        let plain = plain_name(name, "flow")?;
        if !names.insert(plain.clone()) {
            return Err(Finding::new(name.span(), format!("two flows are named \"{plain}\"")));
        }
        if users == 0 {
            return Err(Finding::new(flow.span(), format!("no user is left for flow \"{plain}\""))
                .label("its share of the users is less than one")
                .help("raise `users` or the flow's `weight`"));
        }
        if steps.is_empty() || steps.len() > MAX_STEPS {
            return Err(Finding::new(flow.span(), format!("flow \"{plain}\" has {} steps", steps.len()))
                .label(format!("must be 1 to {MAX_STEPS}")));
        }
        flows.push(FlowSpec { name: plain, users, steps: resolve_steps(steps)? });
    }
    Ok(flows)
}

/// Users in proportion to the weights, by largest remainder.
fn dealt_out(users: u32, weights: &[u32]) -> Vec<u32> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let share = |weight: u32| u64::from(users) * u64::from(weight);
    let mut dealt: Vec<u32> = weights.iter().map(|w| (share(*w) / total) as u32).collect();
    let left = users - dealt.iter().sum::<u32>();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(share(weights[*i]) % total));
    by_remainder.into_iter().take(left as usize).for_each(|i| dealt[i] += 1);
    dealt
}

fn resolve_steps(steps: &[Spanned<StepTable>]) -> Result<Vec<StepSpec>, Finding> {
    let mut known: BTreeSet<String> = GIVEN.map(str::to_owned).into();
    steps
        .iter()
        .map(|step| {
            let resolved = resolve_step(step, &known)?;
            known.extend(step.get_ref().save.keys().map(|name| name.get_ref().clone()));
            Ok(resolved)
        })
        .collect()
}

fn resolve_step(step: &Spanned<StepTable>, known: &BTreeSet<String>) -> Result<StepSpec, Finding> {
    let StepTable { name, get, post, ask, conversation, body, headers, expect, save } = step.get_ref();
    let text = name.get_ref();
    if text.trim().is_empty() || text.chars().any(char::is_control) || text.chars().count() > MAX_NAME_CHARS {
        return Err(Finding::new(name.span(), "the step's name is not usable")
            .label(format!("must be 1 to {MAX_NAME_CHARS} printable characters")));
    }
    let span_of = |map: &BTreeMap<Spanned<String>, Spanned<String>>| map.keys().next().map(Spanned::span);
    let written = [
        ("conversation", conversation.as_ref().map(Spanned::span)),
        ("body", body.as_ref().map(Spanned::span)),
        ("expect", expect.as_ref().map(Spanned::span)),
        ("save", span_of(save)),
    ];
    let expect = expect.as_ref().map(status).transpose()?;
    let action = match (get, post, ask) {
        (Some(path), None, None) => {
            only(&written, &["expect", "save"], "a get")?;
            ActionSpec::Get { path: path_of(path, "get", known)?, expect, save: saved(save)? }
        }
        (None, Some(path), None) => {
            only(&written, &["body", "expect", "save"], "a post")?;
            let body = body.as_ref().map(|body| body_of(body, known)).transpose()?;
            ActionSpec::Post { path: path_of(path, "post", known)?, body, expect, save: saved(save)? }
        }
        (None, None, Some(ask)) => {
            only(&written, &["conversation"], "an ask")?;
            let AskTable { input, output } = ask.get_ref();
            ActionSpec::Ask {
                input: length(input)?,
                output: length(output)?,
                new_conversation: conversation.as_ref().map_or(Ok(false), is_new)?,
            }
        }
        _ => {
            return Err(Finding::new(name.span(), "a step is exactly one of get, post and ask").help(
                "e.g. get = \"/v1/models\", post = \"/login\", or ask = { input = 200, output = 100 }",
            ));
        }
    };
    Ok(StepSpec { name: text.clone(), headers: resolve_headers(headers, known)?, action })
}

fn status(written: &Spanned<u16>) -> Result<u16, Finding> {
    let status = *written.get_ref();
    if !(100..=599).contains(&status) {
        return Err(
            Finding::new(written.span(), format!("expect is {status}")).label("must be from 100 to 599")
        );
    }
    Ok(status)
}

fn is_new(written: &Spanned<String>) -> Result<bool, Finding> {
    match written.get_ref().as_str() {
        "new" => Ok(true),
        "continued" => Ok(false),
        other => Err(unknown_value(written.span(), "conversation", other, &CONVERSATIONS)),
    }
}

fn length(written: &Spanned<AskLength>) -> Result<LengthDist, Finding> {
    match written.get_ref() {
        AskLength::Tokens(tokens) => {
            let tokens = in_range(&Spanned::new(written.span(), *tokens), "the length", 1, MAX_TOKENS)?;
            Ok(LengthDist::Fixed { tokens })
        }
        AskLength::Distribution(table) if table.distribution.get_ref() == QUANTILES => {
            Err(Finding::new(table.distribution.span(), "an ask's length cannot be quantiles").help(
                "accepted: a number of tokens, or distribution = \"fixed\", \"uniform\" or \"lognormal\"",
            ))
        }
        AskLength::Distribution(table) => distribution(&Spanned::new(written.span(), (**table).clone())),
    }
}

fn path_of(written: &Spanned<String>, key: &str, known: &BTreeSet<String>) -> Result<String, Finding> {
    names_known(written.get_ref(), written.span(), known)?;
    server_path(written, key)
}

fn body_of(written: &Spanned<toml::Value>, known: &BTreeSet<String>) -> Result<BodySpec, Finding> {
    names_known(&written.get_ref().to_string(), written.span(), known)?;
    match written.get_ref() {
        toml::Value::String(text) => Ok(BodySpec::Text(text.clone())),
        value => serde_json::to_value(value)
            .map(BodySpec::Json)
            .map_err(|_| Finding::new(written.span(), "the body has no form in JSON")),
    }
}

fn resolve_headers(
    headers: &BTreeMap<Spanned<String>, Spanned<String>>,
    known: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, Finding> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    headers
        .iter()
        .map(|(name, value)| {
            if name.get_ref().is_empty() || !name.get_ref().bytes().all(is_token) {
                return Err(
                    Finding::new(name.span(), "not the name of a header").label("letters, digits and '-'")
                );
            }
            if value.get_ref().chars().any(char::is_control) {
                return Err(Finding::new(value.span(), "the header's value has control characters"));
            }
            names_known(value.get_ref(), value.span(), known)?;
            Ok((name.get_ref().to_ascii_lowercase(), value.get_ref().clone()))
        })
        .collect()
}

fn saved(save: &BTreeMap<Spanned<String>, Spanned<String>>) -> Result<BTreeMap<String, String>, Finding> {
    save.iter()
        .map(|(name, pointer)| {
            if !is_variable(name.get_ref()) || GIVEN.contains(&name.get_ref().as_str()) {
                return Err(Finding::new(name.span(), "not usable as the name of a value")
                    .label("small letters, digits and '_', a letter first")
                    .help("user and iteration are taken"));
            }
            if !pointer.get_ref().is_empty() && !pointer.get_ref().starts_with('/') {
                return Err(Finding::new(pointer.span(), "not a JSON pointer")
                    .help("e.g. save = { token = \"/access_token\" }"));
            }
            Ok((name.get_ref().clone(), pointer.get_ref().clone()))
        })
        .collect()
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Every `{name}` in the text is a value that some earlier step saves. Other braces are braces.
fn names_known(text: &str, span: Range<usize>, known: &BTreeSet<String>) -> Result<(), Finding> {
    for (at, _) in text.match_indices('{') {
        let Some((name, _)) = text[at + 1..].split_once('}') else { return Ok(()) };
        if is_variable(name) && !known.contains(name) {
            let names: Vec<&str> = known.iter().map(String::as_str).collect();
            return Err(Finding::new(span, format!("no earlier step saves {{{name}}}"))
                .help(format!("accepted here: {}", names.join(", "))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::dealt_out;

    #[test]
    fn users_go_by_weight_and_none_is_lost() {
        assert_eq!(dealt_out(8, &[3, 1]), [6, 2]);
        assert_eq!(dealt_out(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(dealt_out(1, &[1, 5]), [0, 1]);
    }
}
