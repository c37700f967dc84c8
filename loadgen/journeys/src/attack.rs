//! The journey as a goose attack: a scenario for each flow, a transaction for each step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::goose::{
    GooseUser, Scenario, Transaction, TransactionError, TransactionFunction, TransactionResult,
};
use goose::metrics::{GooseMetrics, GooseRequestMetricTimingData};
use goose::{GooseAttack, GooseError};
use llmlab_loadgen::{Address, ClientWatch, Clock, Endpoint, chain};
use reqwest::Client;
use tokio_util::sync::CancellationToken;

use crate::ask::{Place, ask, planned};
use crate::client::Events;
use crate::event::{Event, GooseStep, StepSample};
use crate::page::{Visited, request, visit};
use crate::plan::{Action, Flow, JourneyPlan, Step};
use crate::session::Session;

/// What all users share.
pub(crate) struct Shared {
    pub plan: JourneyPlan,
    pub endpoint: Endpoint,
    pub address: Address,
    /// By user.
    pub clients: Vec<Client>,
    pub clock: Clock,
    /// Starts with the first step, because what goose does before delays nobody.
    pub watch: Mutex<Option<ClientWatch>>,
    pub events: Arc<Events>,
    /// Fires when steps in flight are given up.
    pub abandon: CancellationToken,
    /// Of the next ask: indices go by the order in which asks start.
    pub next_index: AtomicU64,
    pub last_end_ns: AtomicU64,
    pub iterations_done: AtomicU64,
}

/// Goose's own words leave out what is wrong with an option.
pub(crate) fn words(error: &GooseError) -> String {
    match error {
        GooseError::InvalidOption { detail, .. } => detail.clone(),
        other => chain(other),
    }
}

impl Shared {
    fn begin_watch(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.is_none() {
            *watch = ClientWatch::start(self.clock).ok();
        }
    }
}

pub(crate) async fn attack(shared: Arc<Shared>) -> Result<GooseMetrics, GooseError> {
    let plan = &shared.plan;
    let mut configuration = GooseConfiguration::default();
    configuration.host = Some(shared.address.base.clone());
    configuration.users = Some(plan.users() as usize);
    configuration.increase_rate = Some(plan.hatch_rate.to_string());
    configuration.iterations = Some(plan.iterations as usize);
    configuration.quiet = 2;
    configuration.no_print_metrics = true;
    configuration.no_telnet = true;
    // Users have our clients, with cookies; one shared client keeps goose from building one each.
    let mut attack = GooseAttack::initialize_with_config(configuration)?
        .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())?;
    for (index, flow) in (0..).zip(&plan.flows) {
        attack = attack.register_scenario(scenario(&shared, index, flow)?);
    }
    attack.execute().await
}

fn scenario(shared: &Arc<Shared>, flow: u32, written: &Flow) -> Result<Scenario, GooseError> {
    let (least, most) = shared.plan.pause;
    // With the number of users as weight, the users are dealt out exactly so.
    let mut scenario = Scenario::new(&written.name).set_weight(written.users as usize)?;
    if !most.is_zero() {
        scenario = scenario.set_wait_time(least, most)?;
    }
    for (step, written) in (0..).zip(&written.steps) {
        let shared = Arc::clone(shared);
        let function: TransactionFunction = Arc::new(move |user| {
            let shared = Arc::clone(&shared);
            Box::pin(async move { take(&shared, flow, step, user).await })
        });
        scenario = scenario.register_transaction(Transaction::new(function).set_name(&written.name));
    }
    Ok(scenario)
}

/// One step of one user.
async fn take(shared: &Shared, flow: u32, step: u32, user: &mut GooseUser) -> TransactionResult {
    let mut session = user.get_session_data_mut::<Session>().map(std::mem::take).unwrap_or_default();
    let place =
        Place { flow, step, user: user.weighted_users_index as u32, iteration: user.get_iterations() as u32 };
    shared.begin_watch();
    let taken = within(shared, place, &mut session).await;
    user.set_session_data(session);
    let steps = &shared.plan.flows[flow as usize].steps;
    if step as usize + 1 == steps.len() {
        shared.iterations_done.fetch_add(1, Ordering::Relaxed);
    }
    let Some(Taken { sample, status }) = taken else { return Ok(()) };
    shared.last_end_ns.fetch_max(sample.started_ns + sample.elapsed_ns, Ordering::Relaxed);
    let failure = sample.failure.clone();
    let elapsed = Duration::from_nanos(sample.elapsed_ns);
    shared.events.tell(Event::Step(sample));
    let written = &steps[step as usize];
    let (method, name) = (written.action.method(), goose_name(flow, step, written));
    user.record_custom_request_duration(
        method,
        &name,
        elapsed,
        failure.is_none(),
        status,
        failure.as_deref(),
    )
    .await?;
    failure.map_or(Ok(()), |words| Err(Box::new(TransactionError::Custom(words))))
}

/// Unique, because goose adds up requests of one name.
fn goose_name(flow: u32, step: u32, written: &Step) -> String {
    format!("{flow}.{step} {}", written.name)
}

struct Taken {
    sample: StepSample,
    status: Option<u16>,
}

/// `None` for a step that was skipped, which goose should not count as a request.
async fn within(shared: &Shared, place: Place, session: &mut Session) -> Option<Taken> {
    if place.step == 0 {
        session.begin_iteration(place.user, place.iteration);
    }
    let mut sample = StepSample {
        flow: place.flow,
        step: place.step,
        user: place.user,
        iteration: place.iteration,
        index: None,
        started_ns: ns(shared.clock.now()),
        elapsed_ns: 0,
        skipped: session.failed,
        failure: None,
    };
    if session.failed || shared.abandon.is_cancelled() {
        sample.skipped = true;
        shared.events.tell(Event::Step(sample));
        return None;
    }
    let client = shared.clients.get(place.user as usize).cloned()?;
    let step = &shared.plan.flows[place.flow as usize].steps[place.step as usize];
    let status = match &step.action {
        Action::Ask { input, output, new_conversation } => {
            if *new_conversation {
                session.conversation = Default::default();
            }
            let index = shared.next_index.fetch_add(1, Ordering::Relaxed);
            match planned(shared, place, input, output, index) {
                Ok(request) => {
                    let record = ask(shared, &client, step, &request, session).await;
                    sample.index = Some(index);
                    sample.started_ns = record.scheduled_ns;
                    let end_ns = record.done_ns.unwrap_or_else(|| ns(shared.clock.now()));
                    sample.elapsed_ns = end_ns.saturating_sub(record.scheduled_ns);
                    // A server that stops early still answered, and the user goes on.
                    session.failed = !record.outcome.is_success();
                    let why = || record.error.clone().unwrap_or_default();
                    sample.failure = session.failed.then(why);
                    let status = record.http_status;
                    shared.events.tell(Event::Record { record });
                    status
                }
                Err(words) => {
                    sample.failure = Some(words);
                    session.failed = true;
                    None
                }
            }
        }
        Action::Page { .. } => {
            let ready = request(shared, &client, step, &session.values);
            sample.started_ns = ns(shared.clock.now());
            let visited = match ready {
                Ok(http) => tokio::select! {
                    biased;
                    visited = visit(&client, http, &step.action, &mut session.values) => visited,
                    () = shared.abandon.cancelled() => failed("run ended while in flight"),
                    () = tokio::time::sleep(shared.endpoint.timeouts.total) => failed("total timeout"),
                },
                Err(words) => failed(&words),
            };
            sample.elapsed_ns = ns(shared.clock.now()).saturating_sub(sample.started_ns);
            session.failed = visited.failure.is_some();
            sample.failure = visited.failure.map(|words| shared.endpoint.presentable(&words));
            visited.status
        }
    };
    Some(Taken { sample, status })
}

fn failed(words: &str) -> Visited {
    Visited { status: None, failure: Some(words.to_owned()) }
}

pub(crate) fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Goose's own figures, step by step.
pub(crate) fn figures(plan: &JourneyPlan, metrics: &GooseMetrics) -> Vec<GooseStep> {
    let steps = |(flow, written): (u32, &Flow)| {
        let named = |(step, written): (u32, &Step)| {
            (flow, step, format!("{} {}", written.action.method(), goose_name(flow, step, written)))
        };
        (0..).zip(&written.steps).map(named).collect::<Vec<_>>()
    };
    let figures = |(flow, step, key): (u32, u32, String)| {
        let requests = metrics.requests.get(&key);
        let transactions = metrics.transactions.get(flow as usize).and_then(|of| of.get(step as usize));
        GooseStep {
            flow,
            step,
            requests: requests.map_or(0, |r| (r.success_count + r.fail_count) as u64),
            failures: requests.map_or(0, |r| r.fail_count as u64),
            transactions: transactions.map_or(0, |t| (t.success_count + t.fail_count) as u64),
            request_us: requests.and_then(|r| percentiles(&r.raw_data)),
            transaction_us: transactions.and_then(|t| percentiles(&t.run_times)),
        }
    };
    (0..).zip(&plan.flows).flat_map(steps).map(figures).collect()
}

/// Nearest rank among goose's buckets.
fn percentiles(times: &GooseRequestMetricTimingData) -> Option<[u64; 3]> {
    let mut buckets: Vec<(u64, usize)> = times.times_us.iter().map(|(us, count)| (*us, *count)).collect();
    buckets.sort_unstable();
    let total: usize = buckets.iter().map(|(_, count)| count).sum();
    let at = |percent: usize| {
        let rank = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        })
    };
    Some([at(50)?.0, at(95)?.0, at(99)?.0])
}
