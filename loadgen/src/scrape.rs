//! Polls a server's metrics during a trial, over a connection of its own.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use llmlab_results::manifest::ServerSample;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::driver::{DriveError, Report, Scraped, report_scraped};
use crate::endpoint::Server;
use crate::http::{Pool, Sender};

/// A busy server answers late; after this the sample is given up.
pub(crate) const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// A vLLM page is about 100 KB; anything beyond this is not metrics.
const MAX_PAGE_BYTES: usize = 8 << 20;

pub struct Scrape<'a> {
    /// Of the metrics page, e.g. `http://127.0.0.1:8000/metrics`; may have a query. The endpoint's key is sent along
    /// if host and port are the endpoint's, never elsewhere.
    pub url: String,
    pub interval: Duration,
    /// Called on the thread that called `drive_with`; An error stops the run.
    pub on_sample: &'a mut dyn FnMut(&ServerSample) -> io::Result<()>,
}

impl Scrape<'_> {
    pub(crate) fn source(&self) -> ScrapeSource {
        ScrapeSource { url: self.url.clone(), interval: self.interval.max(Duration::from_millis(10)) }
    }
}

pub(crate) type PageRequest = Request<Full<Bytes>>;

#[derive(Debug, Clone)]
pub(crate) struct ScrapeSource {
    pub url: String,
    pub interval: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScrapeCounts {
    pub samples: u64,
    pub failures: u64,
}

impl ScrapeSource {
    /// Polls until `done`. A failed poll is counted and the next one tried: metrics are a side show.
    pub(crate) async fn run(
        self,
        pool: Pool<Sender>,
        request: PageRequest,
        clock: Clock,
        reports: mpsc::Sender<Report>,
        done: CancellationToken,
    ) -> ScrapeCounts {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counts = ScrapeCounts::default();
        loop {
            tokio::select! {
                biased;
                () = done.cancelled() => return counts,
                _ = ticks.tick() => {}
            }
            let page = tokio::select! {
                biased;
                () = done.cancelled() => return counts,
                page = tokio::time::timeout(SCRAPE_TIMEOUT, fetch(&pool, clock, request.clone())) => page.ok().flatten(),
            };
            match page {
                Some(page) => {
                    counts.samples += 1;
                    report_scraped(&reports, page);
                }
                None => counts.failures += 1,
            }
        }
    }
}

async fn fetch(pool: &Pool<Sender>, clock: Clock, request: PageRequest) -> Option<Scraped> {
    let mut sender = match pool.take_idle() {
        Some(sender) => sender,
        None => pool.connect().await.ok()?,
    };
    let asked = clock.now();
    let response = sender.send(request).await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    let page = read_page(response.into_body()).await?;
    let arrived = clock.now();
    if sender.ready().await {
        pool.put_back(sender);
    }
    Some(Scraped { asked, arrived, page })
}

/// The request for a page. Path and query stay as they were given.
pub(crate) fn page_request(
    url: &str,
    server: &Server,
    authorization: Option<HeaderValue>,
) -> Result<PageRequest, DriveError> {
    let uri: Uri = url.parse().map_err(|_| DriveError::url(url, "it is not a URL"))?;
    let target = uri.path_and_query().cloned().ok_or_else(|| DriveError::url(url, "it has no path"))?;
    let host = HeaderValue::from_str(server.authority.as_str())
        .map_err(|_| DriveError::url(url, "its host is not valid in a header"))?;
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from(target);
    request.headers_mut().insert(header::HOST, host);
    if let Some(value) = authorization {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// The whole body, unless it breaks off or is no page any more.
pub(crate) async fn read_page(mut body: Incoming) -> Option<Bytes> {
    let mut page = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            page.extend_from_slice(&data);
        }
        if page.len() > MAX_PAGE_BYTES {
            return None;
        }
    }
    Some(page.freeze())
}
