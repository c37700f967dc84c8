//! The wall driver: waits for each request's time, sends it, and passes every record on.
//!
//! Two threads. The client thread runs a single-threaded runtime with all sockets, so that the machine's other cores
//! belong to the server. The calling thread takes finished records from a channel, so that saving one (serialising
//! thousands of events, a write) never delays a timestamp.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use llmlab_results::manifest::ClientFacts;
use llmlab_results::record::{RecordSink, RequestRecord};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::client_facts::{Baseline, heartbeat};
use crate::clock::Clock;
use crate::endpoint::{Endpoint, Protocol, RequestTemplate, Server};
use crate::fd_limit;
use crate::http::Pool;
use crate::issuer::At;
use crate::prometheus;
use crate::scrape::{SCRAPE_TIMEOUT, Scrape, ScrapeSource, page_request};
use crate::tally::ns;
use crate::tls::Tls;
use crate::workload::{Prompt, Workload};

mod bodies;
mod pace_loop;

use pace_loop::PaceLoop;

/// Finished records gather this long before the next are saved: where the two threads share a core, waking one for each
/// record takes the core from the other thousands of times a second.
const GATHER: Duration = Duration::from_millis(1);

/// Watches a trial as it runs. `sent`, `first_token` and `tokens` are called on the client thread and must be quick;
/// `finished` is called on the thread that called [`drive`], after the record was saved.
pub trait Observer: Send + Sync {
    fn sent(&self, _index: u64) {}
    /// `ttft` counts from the scheduled time.
    fn first_token(&self, _index: u64, _ttft: Duration) {}
    fn tokens(&self, _tokens: u32) {}
    fn finished(&self, _record: &RequestRecord) {}
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

pub struct DriveOptions<'a> {
    /// How long requests in flight may go on once the run is stopped; what is left then is recorded as cancelled.
    pub drain: Duration,
    /// Stop issuing after this time, as if cancelled.
    pub time_limit: Option<Duration>,
    pub scrape: Option<Scrape<'a>>,
    /// CLOCK_MONOTONIC at which time zero is to be, for clients that start together; `None`: as soon as all is ready. A moment
    /// that has passed stays time zero, and what is late for it is sent late.
    pub start_monotonic_ns: Option<u64>,
    /// Cancelled: the run is stopped and what is in flight is recorded as cancelled, without waiting for `drain`.
    pub give_up: CancellationToken,
}

impl Default for DriveOptions<'_> {
    fn default() -> Self {
        DriveOptions {
            drain: Duration::from_secs(5),
            time_limit: None,
            scrape: None,
            start_monotonic_ns: None,
            give_up: CancellationToken::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct DriveFacts {
    /// CLOCK_MONOTONIC at time zero of the records.
    pub start_monotonic_ns: u64,
    /// From the start to the end of the last request.
    pub elapsed: Duration,
    pub client: ClientFacts,
    /// Requests issued; each has a record. Fewer than planned when the run was stopped.
    pub issued: u64,
    pub ended: Ended,
    pub scrapes: u64,
    pub scrape_failures: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Complete,
    Cancelled,
    TimeLimit,
}

/// Why nothing could be driven at all, or why a run had to stop. A request that fails is a record, not one of these.
#[derive(Debug, Error)]
pub enum DriveError {
    #[error("{url}: not a usable URL: {reason}")]
    Url { url: String, reason: String },
    #[error("{scheme}:// is not supported; accepted are http:// and https://")]
    Scheme { scheme: String },
    #[error("ca_file {path}: {reason}")]
    CaFile { path: String, reason: String },
    #[error("cannot resolve host {host}")]
    Resolve { host: String, source: io::Error },
    #[error("the API key has characters that cannot be sent in a header")]
    ApiKey,
    #[error("request {index} has a prompt of token ids, but {protocol} takes text only")]
    PromptKind { index: u64, protocol: &'static str },
    #[error("request {index} asks for an adapter by name, which {protocol} cannot; use openai-completions")]
    AdapterName { index: u64, protocol: &'static str },
    #[error(
        "{protocol} names the model in its path, and {model:?} is not usable there: letters, digits, '.', '_' and '-'"
    )]
    ModelInPath { model: String, protocol: &'static str },
    #[error(
        "the workload needs {needed} open files, the limit is {hard}; raise it (ulimit -Hn) or use fewer users"
    )]
    FdLimit { needed: u64, hard: u64 },
    #[error("cannot start the client")]
    Client(#[source] io::Error),
    #[error("cannot save results; the run was stopped")]
    Sink(#[source] io::Error),
}

impl DriveError {
    pub(crate) fn url(url: &str, reason: impl Into<String>) -> Self {
        DriveError::Url { url: url.to_owned(), reason: reason.into() }
    }
}

/// [`drive_with`] with default options.
pub fn drive(
    endpoint: &Endpoint,
    workload: &Workload,
    sink: &mut dyn RecordSink,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<DriveFacts, DriveError> {
    drive_with(endpoint, workload, DriveOptions::default(), sink, observer, cancel)
}

/// Drives the workload to its end and blocks until then. Every issued request reaches `sink`, on this thread, as it
/// finishes: failed and cancelled ones too. An error of the sink stops the run.
pub fn drive_with(
    endpoint: &Endpoint,
    workload: &Workload,
    options: DriveOptions<'_>,
    sink: &mut dyn RecordSink,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<DriveFacts, DriveError> {
    can_be_said(endpoint.protocol, workload)?;
    fd_limit::prepare(workload)?;
    let DriveOptions { drain, time_limit, mut scrape, start_monotonic_ns, give_up } = options;
    let stop = cancel.child_token();
    let (reports, inbox) = mpsc::channel();
    let session = Session {
        endpoint,
        workload,
        observer,
        drain,
        time_limit,
        start_monotonic_ns,
        stop: stop.clone(),
        give_up,
        scrape: scrape.as_ref().map(Scrape::source),
    };
    std::thread::scope(|scope| {
        let client = std::thread::Builder::new()
            .name("llmlab-client".into())
            .spawn_scoped(scope, move || session.run(reports))
            .map_err(DriveError::Client)?;
        let mut saved = Ok(());
        // Ends when the client thread drops its end. After a failure the rest is taken and dropped, so that the client
        // can finish.
        while let Ok(first) = inbox.recv() {
            for report in std::iter::once(first).chain(inbox.try_iter()) {
                if saved.is_ok() {
                    saved = deliver(report, sink, observer, scrape.as_mut());
                    if saved.is_err() {
                        stop.cancel();
                    }
                }
            }
            std::thread::sleep(GATHER);
        }
        let facts = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        saved.map_err(DriveError::Sink)?;
        facts
    })
}

/// Does the protocol have words for every request?
fn can_be_said(protocol: Protocol, workload: &Workload) -> Result<(), DriveError> {
    let wire = protocol.wire();
    for request in &workload.requests {
        let index = request.index;
        if !wire.takes_token_ids && matches!(request.prompt, Prompt::Tokens(_)) {
            return Err(DriveError::PromptKind { index, protocol: wire.name });
        }
        if !wire.takes_adapters && request.adapter.is_some() {
            return Err(DriveError::AdapterName { index, protocol: wire.name });
        }
    }
    Ok(())
}

fn deliver(
    report: Report,
    sink: &mut dyn RecordSink,
    observer: &dyn Observer,
    scrape: Option<&mut Scrape<'_>>,
) -> io::Result<()> {
    match report {
        Report::Finished(record) => {
            sink.record(&record)?;
            observer.finished(&record);
            Ok(())
        }
        // Parsed here, off the client thread.
        Report::Scraped(Scraped { asked, arrived, page }) => match scrape {
            Some(scrape) => {
                // The server wrote the page at some moment between; the middle is off by half of it at most.
                let took = arrived.saturating_sub(asked);
                let sample = prometheus::server_sample(ns(asked + took / 2), ns(took), &page);
                (scrape.on_sample)(&sample)
            }
            None => Ok(()),
        },
    }
}

/// What the client thread tells the calling thread.
pub(crate) enum Report {
    Finished(Box<RequestRecord>),
    Scraped(Scraped),
}

/// A metrics page, and the times between which it was written.
pub(crate) struct Scraped {
    pub asked: At,
    pub arrived: At,
    pub page: Bytes,
}

/// Everything the client thread needs.
struct Session<'a> {
    endpoint: &'a Endpoint,
    workload: &'a Workload,
    observer: &'a dyn Observer,
    drain: Duration,
    time_limit: Option<Duration>,
    start_monotonic_ns: Option<u64>,
    stop: CancellationToken,
    give_up: CancellationToken,
    scrape: Option<ScrapeSource>,
}

impl Session<'_> {
    fn run(self, reports: mpsc::Sender<Report>) -> Result<DriveFacts, DriveError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DriveError::Client)?;
        runtime.block_on(self.trial(reports))
    }

    async fn trial(self, reports: mpsc::Sender<Report>) -> Result<DriveFacts, DriveError> {
        let server = Server::resolve(&self.endpoint.base_url).await?;
        let ca_file = self.endpoint.ca_file.as_deref();
        let tls = Tls::for_server(&server, ca_file)?;
        let template = RequestTemplate::new(&server, self.endpoint)?;
        let scrape = match &self.scrape {
            Some(source) => {
                let page = Server::resolve(&source.url).await?;
                let key = if page.same_origin(&server) { self.endpoint.authorization()? } else { None };
                let request = page_request(&source.url, &page, key)?;
                let tls = Tls::for_server(&page, ca_file)?;
                Some((source.clone(), page, tls, request))
            }
            None => None,
        };
        let clock = match self.start_monotonic_ns {
            Some(agreed) => {
                let clock = Clock::starting_at(agreed);
                tokio::select! {
                    () = clock.started() => {}
                    () = self.stop.cancelled() => {}
                }
                clock
            }
            None => Clock::start(),
        };
        let baseline = Baseline::take();
        let done = CancellationToken::new();
        let beats = heartbeat(clock, done.clone()).map_err(DriveError::Client)?;
        let scraping = scrape.map(|(source, page, tls, request)| {
            let pool = Pool::new(page, tls, clock, SCRAPE_TIMEOUT);
            tokio::spawn(source.run(pool, request, clock, reports.clone(), done.clone()))
        });
        let pool = Pool::new(server, tls, clock, self.endpoint.timeouts.connect);
        let paced =
            PaceLoop::new(&self, clock, template, pool, reports).map_err(DriveError::Client)?.run().await;
        done.cancel();
        let scraped = match scraping {
            Some(task) => task.await.unwrap_or_default(),
            None => Default::default(),
        };
        let delays_ns = beats.await.unwrap_or_default();
        Ok(DriveFacts {
            start_monotonic_ns: clock.start_monotonic_ns,
            elapsed: paced.elapsed,
            client: baseline.facts(delays_ns),
            issued: paced.issued,
            ended: paced.ended,
            scrapes: scraped.samples,
            scrape_failures: scraped.failures,
        })
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Report::Finished(record) => write!(f, "Finished({})", record.index),
            Report::Scraped(scraped) => write!(f, "Scraped({} bytes)", scraped.page.len()),
        }
    }
}

/// Finished records wait here until the calling thread takes them.
pub(crate) fn report_finished(reports: &mpsc::Sender<Report>, record: Box<RequestRecord>) {
    // The receiver outlives the client thread, so this cannot fail; if it did, there would be nobody to tell.
    let _ = reports.send(Report::Finished(record));
}

pub(crate) fn report_scraped(reports: &mpsc::Sender<Report>, scraped: Scraped) {
    let _ = reports.send(Report::Scraped(scraped));
}
