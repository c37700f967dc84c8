//! One connection: its requests one after the other, each answered at its times or as its fault will have it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use llmlab_loadgen::{At, Clock};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::alarm::Alarms;
use crate::answering::{Answering, Asked};
use crate::dialects::{self, Dialect};
use crate::fault::Fault;
use crate::http::{Reader, Request, answer};
use crate::log::{Entry, Served};
use crate::openai::{self, CHAT, COMPLETIONS};
use crate::reading::{self, EMBEDDINGS, TOKENIZE};
use crate::sending::Sending;
use crate::server::MockConfig;
use crate::stream::Stream;
use crate::timing::Timetable;
use crate::websocket;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub config: MockConfig,
    pub clock: Clock,
    pub alarms: Alarms,
    pub log: Option<Sender<Served>>,
    pub counts: Counts,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests for tokens so far; a request's number is its seed.
    requests: AtomicU64,
    running: AtomicU64,
    prompt_tokens: AtomicU64,
    pub tokens: AtomicU64,
}

impl Counts {
    pub(crate) fn count_prompt(&self, tokens: u64) {
        self.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

impl Shared {
    /// Of the request that is at hand, its seed.
    pub(crate) fn next_number(&self) -> u64 {
        self.counts.requests.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn monotonic_ns(&self, at: At) -> u64 {
        self.clock.start_monotonic_ns.saturating_add(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Independent random numbers of one request, for one purpose.
    pub(crate) fn stream(&self, number: u64, purpose: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        rng.set_stream((number << 1) | purpose);
        rng
    }
}

pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // A client that went away is no news: its request's line says how far it came.
    let _ = async {
        let mut stream = Stream::open(stream, shared.config.tls.as_ref()).await?;
        converse(&mut stream, &shared).await
    }
    .await;
}

async fn converse(stream: &mut Stream, shared: &Shared) -> io::Result<()> {
    let mut reader = Reader::default();
    let mut reused = false;
    loop {
        let request = match reader.next(stream).await? {
            None => return Ok(()),
            Some(Err(refusal)) => {
                let body = openai::error(refusal.words, refusal.status);
                let bytes = answer(refusal.status, "application/json", "connection: close\r\n", &body);
                return stream.write_all(&bytes).await;
            }
            Some(Ok(request)) => request,
        };
        let read = shared.clock.now();
        if let (websocket::STREAM, Some(key)) = (request.path.as_str(), &request.websocket_key) {
            return websocket::serve(stream, shared, key, reader.rest()).await;
        }
        let goes_on = match (request.method.as_str(), request.path.as_str()) {
            ("POST", EMBEDDINGS) => embed(stream, shared, &request, read, reused).await?,
            ("POST", TOKENIZE) => {
                stream.write_all(&told(reading::tokenize(&request))).await?;
                true
            }
            ("POST", path) if generates(path) => generate(stream, shared, &request, read, reused).await?,
            (method, path) => {
                stream.write_all(&control(shared, method, path)).await?;
                true
            }
        };
        if !goes_on || !request.keep_alive {
            return Ok(());
        }
        reused = true;
    }
}

/// Requests to it are for tokens.
fn generates(path: &str) -> bool {
    matches!(path, COMPLETIONS | CHAT) || Dialect::of_path(path).is_some()
}

fn control(shared: &Shared, method: &str, path: &str) -> Vec<u8> {
    let json = |status, body: &str| answer(status, "application/json", "", body);
    match (method, path) {
        ("GET", "/health") => answer(200, "text/plain", "", ""),
        ("GET", "/v1/models") => {
            let model =
                serde_json::json!({ "id": shared.config.model, "object": "model", "owned_by": "llmlab" });
            json(200, &serde_json::json!({ "object": "list", "data": [model] }).to_string())
        }
        ("GET", "/metrics") => answer(200, "text/plain; version=0.0.4", "", &metrics(&shared.counts)),
        (_, "/health" | "/v1/models" | "/metrics" | EMBEDDINGS | TOKENIZE) => {
            json(405, &openai::error("method not allowed", 405))
        }
        (_, path) if generates(path) => json(405, &openai::error("method not allowed", 405)),
        _ => json(404, &openai::error("no such path", 404)),
    }
}

/// An answer, or what is wrong with the request.
fn told(answered: Result<String, String>) -> Vec<u8> {
    match answered {
        Ok(body) => answer(200, "application/json", "", &body),
        Err(words) => answer(400, "application/json", "", &openai::error(&words, 400)),
    }
}

/// An embedding, whole when a first token would be due. Only faults before the answer can strike. False when the
/// connection is over.
async fn embed(
    stream: &mut Stream,
    shared: &Shared,
    request: &Request,
    read: At,
    reused: bool,
) -> io::Result<bool> {
    let number = shared.next_number();
    let _running = Running::of(shared);
    let fault = shared.config.faults.draw(&mut shared.stream(number, 1), reused);
    let mut entry = Entry::new(request.id.clone(), shared.monotonic_ns(read), fault, shared.log.clone());
    let mut timetable = Timetable::new(&shared.config.timing, read, shared.stream(number, 0));
    if let Some(goes_on) = strike(stream, fault).await? {
        return Ok(goes_on);
    }
    let answered = reading::embeddings(request, &shared.config.model).map(|(tokens, body)| {
        shared.counts.count_prompt(tokens);
        body
    });
    shared.alarms.until(timetable.next_event()).await;
    entry.served.done_ns = Some(shared.monotonic_ns(shared.clock.now()));
    stream.write_all(&told(answered)).await?;
    Ok(true)
}

/// What a scraper of vLLM looks for and this server knows.
fn metrics(counts: &Counts) -> String {
    let families = [
        ("num_requests_running", "gauge", &counts.running),
        ("prompt_tokens_total", "counter", &counts.prompt_tokens),
        ("generation_tokens_total", "counter", &counts.tokens),
    ];
    let lines = families.map(|(name, kind, value)| {
        let value = value.load(Ordering::Relaxed);
        format!("# HELP vllm:{name} Of the mock server.\n# TYPE vllm:{name} {kind}\nvllm:{name} {value}\n")
    });
    lines.concat()
}

/// One request counted as running, until dropped.
pub(crate) struct Running<'a>(&'a AtomicU64);

impl<'a> Running<'a> {
    pub(crate) fn of(shared: &'a Shared) -> Self {
        shared.counts.running.fetch_add(1, Ordering::Relaxed);
        Running(&shared.counts.running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a fault does before there is an answer: true when the connection goes on. `None` when none struck.
async fn strike(stream: &mut Stream, fault: Option<Fault>) -> io::Result<Option<bool>> {
    let status = |status, headers: &str, words: &str| {
        answer(status, "application/json", headers, &openai::error(words, status))
    };
    match fault {
        Some(Fault::CloseReused) => Ok(Some(false)),
        Some(Fault::ResetBeforeHeaders) => {
            stream.tcp().set_zero_linger()?;
            Ok(Some(false))
        }
        Some(Fault::Http429) => {
            stream.write_all(&status(429, "retry-after: 1\r\n", "too many requests")).await?;
            Ok(Some(true))
        }
        Some(Fault::Http500) => {
            stream.write_all(&status(500, "", "internal error")).await?;
            Ok(Some(true))
        }
        _ => Ok(None),
    }
}

/// False when the connection is over.
async fn generate(
    stream: &mut Stream,
    shared: &Shared,
    request: &Request,
    read: At,
    reused: bool,
) -> io::Result<bool> {
    let number = shared.next_number();
    let _running = Running::of(shared);
    let fault = shared.config.faults.draw(&mut shared.stream(number, 1), reused);
    let entry = Entry::new(request.id.clone(), shared.monotonic_ns(read), fault, shared.log.clone());
    let timetable = Timetable::new(&shared.config.timing, read, shared.stream(number, 0));
    shared.alarms.until(timetable.at_work()).await;
    if let Some(goes_on) = strike(stream, fault).await? {
        return Ok(goes_on);
    }
    let sending = Sending { stream, shared, entry, timetable, fault, due: Vec::new(), looked: read };
    let (model, ends) = (&shared.config.model, fault != Some(Fault::NoDone));
    let refused = match Dialect::of_path(&request.path) {
        Some(dialect) => match dialect.read(request) {
            Ok(asked) => {
                let model = serde_json::Value::from(model.as_str()).to_string();
                let response = dialects::Answer { dialect, asked: &asked, model, ends };
                return send(sending, &asked, &response).await;
            }
            Err(words) => words,
        },
        None => match openai::Request::read(request) {
            Ok(request) => {
                let each = shared.config.timing.tokens_per_event.max(1);
                let response = openai::Answer::new(&request, number, model, each, ends);
                return send(sending, &request.asked, &response).await;
            }
            Err(words) => words,
        },
    };
    sending.stream.write_all(&told(Err(refused))).await?;
    Ok(true)
}

async fn send(sending: Sending<'_>, asked: &Asked, response: &dyn Answering) -> io::Result<bool> {
    sending.shared.counts.count_prompt(asked.prompt_tokens);
    match asked.stream {
        true => sending.stream(asked, response).await,
        false => sending.whole(asked, response).await,
    }
}
