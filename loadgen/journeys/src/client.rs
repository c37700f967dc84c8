//! The process that drives a journey: a plan comes in on one line, events go out, and it stops when its input closes,
//! which the system does for it when its parent dies.

use std::io::{BufRead, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use llmlab_loadgen::{Clock, Observer, chain, prepare_users};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::attack::{Shared, attack, figures, ns, words};
use crate::event::{End, Event};
use crate::plan::JourneyPlan;
use crate::session::clients;

/// A plan is a few kilobytes; a longer line is none.
const MAX_PLAN_BYTES: u64 = 64 << 20;
/// What goose may need to end after its users did.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// Of the process, when it did not end in time.
const OVERDUE: i32 = 1;

#[derive(Debug, Error)]
pub enum JourneyError {
    #[error("no plan on standard input: {0}")]
    NoPlan(String),
    #[error("cannot start the client")]
    Client(#[source] std::io::Error),
}

/// Where events go; handing one over never waits for the pipe.
pub struct Events {
    sender: mpsc::Sender<Event>,
}

impl Events {
    pub(crate) fn tell(&self, event: Event) {
        // The writer ends before its senders only when nobody reads any more.
        let _ = self.sender.send(event);
    }
}

/// Called inside the timed path.
impl Observer for Events {
    fn sent(&self, index: u64) {
        self.tell(Event::Sent { index });
    }
    fn first_token(&self, index: u64, ttft: Duration) {
        self.tell(Event::FirstToken { index, ttft_ns: ns(ttft) });
    }
    fn tokens(&self, tokens: u32) {
        self.tell(Event::Tokens { tokens });
    }
}

/// Reads a plan, makes the journey and tells of it. What happens to the journey is an event; an error is returned only
/// where there is none.
pub fn run(
    mut input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), JourneyError> {
    let plan = read_plan(&mut input)?;
    let (sender, receiver) = mpsc::channel();
    let writer = thread("events", move || write(receiver, output))?;
    let events = Arc::new(Events { sender });
    let stop = CancellationToken::new();
    let (closed, drain) = (stop.clone(), plan.drain);
    thread("parent-watch", move || {
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        closed.cancel();
        std::thread::sleep(drain + LAST_GRACE);
        std::process::exit(OVERDUE);
    })?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(JourneyError::Client)?;
    let last = runtime.block_on(journey(plan, Arc::clone(&events), stop));
    events.tell(last.unwrap_or_else(|words| Event::Failed { words }));
    // Users that goose gave up hold the events too; without them the writer sees its end.
    drop(runtime);
    drop(events);
    let _ = writer.join();
    Ok(())
}

fn read_plan(input: &mut impl BufRead) -> Result<JourneyPlan, JourneyError> {
    let mut line = String::new();
    input.take(MAX_PLAN_BYTES).read_line(&mut line).map_err(|e| JourneyError::NoPlan(e.to_string()))?;
    serde_json::from_str(&line).map_err(|error| JourneyError::NoPlan(error.to_string()))
}

fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, JourneyError> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(JourneyError::Client)
}

/// Tokens that wait together are told together. Ends with the last sender, or when nobody reads.
fn write(events: mpsc::Receiver<Event>, mut output: impl Write) {
    let mut next = None;
    while let Some(event) = next.take().or_else(|| events.recv().ok()) {
        let event = match event {
            Event::Tokens { mut tokens } => {
                for more in events.try_iter() {
                    match more {
                        Event::Tokens { tokens: more } => tokens = tokens.saturating_add(more),
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
                Event::Tokens { tokens }
            }
            other => other,
        };
        let Ok(mut line) = serde_json::to_vec(&event) else { continue };
        line.push(b'\n');
        if output.write_all(&line).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

/// The event that ends it; the error is why there was no journey.
async fn journey(plan: JourneyPlan, events: Arc<Events>, stop: CancellationToken) -> Result<Event, String> {
    let endpoint = plan.endpoint.endpoint()?;
    let address = endpoint.address().await.map_err(|error| chain(&error))?;
    prepare_users(plan.users()).map_err(|error| chain(&error))?;
    let clients = clients(&plan, &address)?;
    let clock = Clock::start();
    events.tell(Event::Started { start_monotonic_ns: clock.start_monotonic_ns });
    let abandon = CancellationToken::new();
    tokio::spawn(give_up(stop, abandon.clone(), plan.drain));
    let shared = Arc::new(Shared {
        plan,
        endpoint,
        address,
        clients,
        clock,
        watch: Mutex::new(None),
        events,
        abandon,
        next_index: AtomicU64::new(0),
        last_end_ns: AtomicU64::new(0),
        iterations_done: AtomicU64::new(0),
    });
    let metrics = attack(Arc::clone(&shared)).await.map_err(|error| words(&error))?;
    let plan = &shared.plan;
    let watch = shared.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
    let watch = watch.ok_or("no step was taken")?;
    let wanted = u64::from(plan.users()) * u64::from(plan.iterations);
    Ok(Event::Ended(End {
        elapsed_ns: shared.last_end_ns.load(Ordering::Relaxed),
        complete: !shared.abandon.is_cancelled() && shared.iterations_done.load(Ordering::Relaxed) == wanted,
        client: watch.finish().await,
        goose: figures(plan, &metrics),
    }))
}

/// Once stopped: no new steps, a while for those in flight, then none.
async fn give_up(stop: CancellationToken, abandon: CancellationToken, drain: Duration) {
    stop.cancelled().await;
    goose::trigger_killswitch("stopped");
    tokio::time::sleep(drain).await;
    abandon.cancel();
}
