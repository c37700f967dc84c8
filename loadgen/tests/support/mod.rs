//! A server that does exactly what its script says, byte by byte, and the pieces to write such scripts.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, DriveError, DriveFacts, DriveOptions, Endpoint, LengthDist, Lengths, Prefixes, PromptStyle,
    Protocol, Silent, Timeouts, Workload, WorkloadConfig, drive_with, generate,
};
use llmlab_results::record::{RecordSink, RequestRecord};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub enum Act {
    Send(Vec<u8>),
    Pause(Duration),
    /// Close with a FIN.
    Close,
    /// Close with a RST.
    Reset,
    /// Keep the connection open and say nothing more.
    Hang,
}

/// What the server saw, and how busy it was.
#[derive(Debug, Default)]
pub struct Seen {
    /// Head and body of every request.
    pub requests: Vec<String>,
    pub connections: usize,
    pub in_flight: usize,
    pub max_in_flight: usize,
}

pub struct FakeServer {
    pub addr: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeServer {
    /// Request `n` is answered with `scripts[n]`, those beyond the end with the last one.
    pub fn start(scripts: Vec<Vec<Act>>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        runtime.spawn(accept(listener, Arc::new(scripts), Arc::clone(&seen)));
        FakeServer { addr, seen, runtime: Some(runtime) }
    }

    pub fn always(script: Vec<Act>) -> Self {
        FakeServer::start(vec![script])
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().requests.len()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, scripts: Arc<Vec<Vec<Act>>>, seen: Arc<Mutex<Seen>>) {
    while let Ok((stream, _)) = listener.accept().await {
        seen.lock().unwrap().connections += 1;
        tokio::spawn(serve(stream, Arc::clone(&scripts), Arc::clone(&seen)));
    }
}

async fn serve(mut stream: TcpStream, scripts: Arc<Vec<Vec<Act>>>, seen: Arc<Mutex<Seen>>) {
    stream.set_nodelay(true).unwrap();
    while let Some(request) = read_request(&mut stream).await {
        let script = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(request);
            seen.in_flight += 1;
            seen.max_in_flight = seen.max_in_flight.max(seen.in_flight);
            scripts[(seen.requests.len() - 1).min(scripts.len() - 1)].clone()
        };
        let goes_on = play(&mut stream, script, &seen).await;
        if !goes_on {
            return;
        }
    }
}

/// False when the connection is over. The request stops counting as in flight before its last bytes are written, so
/// that a quick client cannot be seen twice.
async fn play(stream: &mut TcpStream, script: Vec<Act>, seen: &Mutex<Seen>) -> bool {
    let last_send = script.iter().rposition(|act| matches!(act, Act::Send(_)));
    for (i, act) in script.into_iter().enumerate() {
        match act {
            Act::Send(bytes) => {
                if Some(i) == last_send {
                    seen.lock().unwrap().in_flight -= 1;
                }
                if stream.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            Act::Pause(time) => tokio::time::sleep(time).await,
            Act::Close => return false,
            Act::Reset => {
                stream.set_zero_linger().unwrap();
                return false;
            }
            Act::Hang => std::future::pending::<()>().await,
        }
    }
    true
}

pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text
                .lines()
                .find_map(|l| {
                    l.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().to_owned())
                })
                .map_or(0, |v| v.parse::<usize>().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

// ---- scripts ----

pub fn head() -> Act {
    Act::Send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
    )
}

pub fn chunk(data: &str) -> Act {
    Act::Send(format!("{:x}\r\n{data}\r\n", data.len()).into_bytes())
}

pub fn event(data: &str) -> Act {
    chunk(&format!("data: {data}\n\n"))
}

pub fn end() -> Act {
    Act::Send(b"0\r\n\r\n".to_vec())
}

pub fn pause_ms(ms: u64) -> Act {
    Act::Pause(Duration::from_millis(ms))
}

/// A completions event with text and, if given, running usage.
pub fn token(so_far: Option<u32>) -> String {
    let usage = so_far.map_or(String::new(), |n| {
        format!(r#","usage":{{"prompt_tokens":8,"completion_tokens":{n},"total_tokens":{}}}"#, 8 + n)
    });
    format!(r#"{{"id":"c","choices":[{{"index":0,"text":"ab","finish_reason":null}}]{usage}}}"#)
}

pub fn final_usage(tokens: u32) -> String {
    format!(r#"{{"id":"c","choices":[],"usage":{{"prompt_tokens":8,"completion_tokens":{tokens}}}}}"#)
}

/// `tokens` events of one token each, usage at the end, terminator.
pub fn completion_events(tokens: u32) -> Vec<String> {
    let mut events: Vec<String> = (0..tokens).map(|_| token(None)).collect();
    events.push(final_usage(tokens));
    events.push("[DONE]".into());
    events
}

pub fn normal(tokens: u32) -> Vec<Act> {
    let mut acts = vec![head()];
    acts.extend(completion_events(tokens).iter().map(|e| event(e)));
    acts.push(end());
    acts
}

pub fn plain(status: &str, headers: &str, body: &str) -> Vec<Act> {
    vec![Act::Send(
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
    )]
}

// ---- driving ----

#[derive(Default)]
pub struct Records(pub Vec<RequestRecord>);

impl RecordSink for Records {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()> {
        self.0.push(record.clone());
        Ok(())
    }
}

/// 8 prompt tokens as ids, `output` tokens out.
pub fn config(requests: u64, output: u32, arrivals: Arrivals) -> WorkloadConfig {
    WorkloadConfig {
        seed: 7,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Fixed { tokens: 8 },
            output: LengthDist::Fixed { tokens: output },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 100_000),
        output_range: (1, 100_000),
        arrivals,
        prompts: PromptStyle::TokenIds { first: 3, end: 500 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}

pub fn closed(requests: u64, users: u32, output: u32) -> Workload {
    generate(&config(requests, output, Arrivals::Closed { users, think_time: Duration::ZERO })).unwrap()
}

pub fn endpoint(url: String) -> Endpoint {
    Endpoint {
        base_url: url,
        protocol: Protocol::OpenAiCompletions,
        model: "m".into(),
        api_key: None,
        ca_file: None,
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(20),
            inter_token: Duration::from_secs(20),
            total: Duration::from_secs(60),
        },
    }
}

pub fn run(endpoint: &Endpoint, workload: &Workload) -> (Vec<RequestRecord>, DriveFacts) {
    let (records, facts) = run_with(endpoint, workload, DriveOptions::default(), &CancellationToken::new());
    (records, facts.unwrap())
}

/// Drives and checks what must hold for every record, whatever happened.
pub fn run_with(
    endpoint: &Endpoint,
    workload: &Workload,
    options: DriveOptions<'_>,
    cancel: &CancellationToken,
) -> (Vec<RequestRecord>, Result<DriveFacts, DriveError>) {
    let mut records = Records::default();
    let facts = drive_with(endpoint, workload, options, &mut records, &Silent, cancel);
    let mut records = records.0;
    records.sort_by_key(|r| r.index);
    records.iter().for_each(check_order);
    (records, facts)
}

/// One request against a server with one script.
pub fn one(script: Vec<Act>, output: u32) -> RequestRecord {
    let server = FakeServer::always(script);
    let (mut records, facts) = run(&endpoint(server.url()), &closed(1, 1, output));
    assert_eq!((records.len(), facts.issued), (1, 1));
    assert_eq!(server.requests(), 1, "a request is never retried");
    records.remove(0)
}

/// scheduled <= sent <= headers <= first byte <= role, events in order <= done.
pub fn check_order(r: &RequestRecord) {
    let events = r.events.iter().map(|e| e.at_ns);
    let chain = [Some(r.scheduled_ns), r.sent_ns, r.headers_ns, r.first_byte_ns].into_iter();
    let times: Vec<u64> = chain.chain(events.map(Some)).chain([r.done_ns]).flatten().collect();
    assert!(times.is_sorted(), "times out of order: {r:?}");
    assert!(r.events.iter().all(|e| e.tokens > 0), "an event without tokens: {r:?}");
    if let (Some(role), Some(first)) = (r.role_ns, r.first_token_ns()) {
        assert!(role <= first, "{r:?}");
    }
    assert_eq!(r.error.is_none(), r.outcome == llmlab_results::record::Outcome::Ok, "{r:?}");
}
