//! A step that is a turn of a conversation: a streamed answer, timed event by event.

use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, Exchange, Failure, LengthDist, Lengths, PlannedRequest, Prefixes, Prompt, PromptStyle,
    SaidTurn, WorkloadConfig, chain, generate, request_id,
};
use llmlab_results::record::{Outcome, RequestRecord};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Response};

use crate::attack::Shared;
use crate::page::add_headers;
use crate::plan::Step;
use crate::session::Session;

/// How long what follows a stream's terminator may take before the connection is given up.
const MAX_REST: Duration = Duration::from_secs(1);
/// Text of an answer beyond this is not carried into the next prompt.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Which ask it is: the same numbers make the same prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub flow: u32,
    pub step: u32,
    pub user: u32,
    pub iteration: u32,
}

/// The request of one ask. Everybody draws from the seed and the ask's place alone, never from what others do.
pub(crate) fn planned(
    shared: &Shared,
    place: Place,
    input: &LengthDist,
    output: &LengthDist,
    index: u64,
) -> Result<PlannedRequest, String> {
    let plan = &shared.plan;
    let numbers = [place.flow, place.step, place.user, place.iteration].map(u64::from);
    let config = WorkloadConfig {
        seed: numbers.into_iter().fold(plan.seed, mix),
        requests: 1,
        lengths: Lengths::Independent { input: input.clone(), output: output.clone() },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, plan.input_max),
        output_range: (1, plan.output_max),
        arrivals: Arrivals::Closed { users: 1, think_time: Duration::ZERO },
        prompts: PromptStyle::Words { tokens_per_word: plan.tokens_per_word },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    };
    let mut workload = generate(&config).map_err(|error| error.to_string())?;
    let request = workload.requests.pop().ok_or("no request was drawn")?;
    Ok(PlannedRequest { index, ..request })
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbouring places get seeds that have nothing in common.
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Asks, and adds the turn to the conversation where there is an answer.
pub(crate) async fn ask(
    shared: &Shared,
    client: &Client,
    step: &Step,
    request: &PlannedRequest,
    session: &mut Session,
) -> Box<RequestRecord> {
    let mut headers = shared.address.headers.clone();
    let id = request_id(shared.clock.start_monotonic_ns, request.index);
    headers.extend(HeaderValue::try_from(id).map(|id| (HeaderName::from_static("x-request-id"), id)));
    let ready = add_headers(&mut headers, &step.headers, &session.values).and_then(|()| {
        let body = shared.endpoint.conversation_body(request, &session.conversation);
        let post = client.post(&shared.address.url).headers(headers).body(body);
        post.build().map_err(|error| chain(&error.without_url()))
    });
    // Latencies count from here: what comes before is the client's own work and no part of what the user waits for.
    let scheduled = shared.clock.now();
    let mut exchange = Exchange::new(&shared.endpoint, request, scheduled, shared.events.as_ref());
    let mut body = Vec::new();
    let end = match ready {
        Ok(http) => tokio::select! {
            biased;
            end = converse(shared, client, http, &mut exchange, &mut body) => end,
            () = shared.abandon.cancelled() => {
                Err(Failure::new(Outcome::Cancelled, "run ended while in flight"))
            }
            () = tokio::time::sleep(shared.endpoint.timeouts.total) => {
                let total = shared.endpoint.timeouts.total;
                Err(Failure::new(Outcome::Timeout, format!("total timeout: not finished within {total:?}")))
            }
        },
        Err(words) => Err(Failure::new(Outcome::Client, words)),
    };
    let record = exchange.finish(end);
    if let (true, Prompt::Text(prompt)) = (record.outcome.is_success(), &request.prompt) {
        let answer = printable(&shared.endpoint.protocol.answer_text(&body));
        session.conversation.turns.push(SaidTurn { prompt: prompt.clone(), answer });
    }
    record
}

/// A model may write a NUL, which servers refuse in a prompt.
fn printable(answer: &str) -> String {
    answer.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

async fn converse(
    shared: &Shared,
    client: &Client,
    http: reqwest::Request,
    exchange: &mut Exchange<'_>,
    kept: &mut Vec<u8>,
) -> Result<(), Failure> {
    exchange.sent(shared.clock.now());
    let (until, on_expiry) = exchange.patience();
    let answer = tokio::time::timeout_at(shared.clock.deadline(until), client.execute(http)).await;
    let mut response = match answer {
        Err(_) => return Err(on_expiry()),
        Ok(Err(error)) => return Err(broken(error, Outcome::NoResponse)),
        Ok(Ok(response)) => response,
    };
    if let Err(failure) = exchange.head(shared.clock.now(), response.status(), response.headers()) {
        return Err(Exchange::failed_with(failure, &rest(response).await));
    }
    loop {
        let (until, on_expiry) = exchange.patience();
        let read = tokio::time::timeout_at(shared.clock.deadline(until), response.chunk()).await;
        // Taken before parsing: all events of one chunk share the time they arrived at.
        let at = shared.clock.now();
        match read {
            Err(_) => return Err(on_expiry()),
            Ok(Err(error)) => return Err(broken(error, Outcome::StreamCut)),
            Ok(Ok(None)) => return exchange.body_ended(at),
            Ok(Ok(Some(bytes))) => {
                if kept.len() + bytes.len() <= MAX_KEPT_BYTES {
                    kept.extend_from_slice(&bytes);
                }
                if exchange.push(at, &bytes)? {
                    // Read to its end, the connection serves the user's next step.
                    rest(response).await;
                    return Ok(());
                }
            }
        }
    }
}

/// The start of what is left of a body, as far as it comes soon.
async fn rest(mut response: Response) -> Vec<u8> {
    let mut start = Vec::new();
    let reading = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            if start.len() < 4096 {
                start.extend_from_slice(&bytes);
            }
        }
    };
    let _ = tokio::time::timeout(MAX_REST, reading).await;
    start
}

/// `outcome` unless the connection was never there.
fn broken(error: reqwest::Error, outcome: Outcome) -> Failure {
    let (outcome, place) = match outcome {
        _ if error.is_connect() => (Outcome::Connect, "connection failed"),
        Outcome::StreamCut => (outcome, "connection failed mid-stream"),
        _ => (outcome, "connection failed before the response's headers"),
    };
    Failure::new(outcome, format!("{place}: {}", chain(&error.without_url())))
}
