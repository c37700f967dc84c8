//! Whole trials: pacing, connections, stopping, saving, scraping.

mod support;

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, DriveError, DriveOptions, Ended, Observer, Prompt, Protocol, Scrape, Silent, Turn, drive,
    drive_with, generate,
};
use llmlab_results::record::{Outcome, RecordSink, RequestRecord};
use support::*;
use tokio_util::sync::CancellationToken;

#[test]
fn an_open_loop_keeps_its_schedule_when_the_server_stalls() {
    let mut stalled = normal(2);
    stalled.insert(1, pause_ms(150));
    let server = FakeServer::always(stalled);
    let workload = generate(&config(40, 2, Arrivals::Poisson { rate_rps: 1000.0 })).unwrap();
    let (records, facts) = run(&endpoint(server.url()), &workload);
    assert_eq!((records.len(), facts.issued, facts.ended), (40, 40, Ended::Complete));
    for (record, planned) in records.iter().zip(&workload.requests) {
        assert_eq!(record.scheduled_ns, planned.at.as_nanos() as u64);
        assert_eq!(record.outcome, Outcome::Ok, "{record:?}");
    }
    // The whole schedule takes 40 ms, the first answer 150 ms: a client that waited would have one in flight.
    assert!(server.seen.lock().unwrap().max_in_flight > 5);
    assert!(facts.client.cpu_ns > 0 && facts.client.peak_rss_bytes > 0);
    assert!(facts.elapsed >= Duration::from_millis(150) && facts.start_monotonic_ns > 0);
}

#[test]
fn a_closed_loop_never_exceeds_its_users_and_reuses_connections() {
    let server = FakeServer::always(normal(3));
    let (records, _) = run(&endpoint(server.url()), &closed(60, 3, 3));
    assert!(records.iter().all(|r| r.outcome == Outcome::Ok), "{records:?}");
    let seen = server.seen.lock().unwrap();
    assert!(seen.max_in_flight <= 3, "{} in flight", seen.max_in_flight);
    assert!(seen.connections < 30, "{} connections for 60 requests", seen.connections);
    assert!(records.iter().any(|r| r.connect_ns.is_none()));
    let opened = records.iter().filter(|r| r.connect_ns.is_some()).count();
    assert_eq!(opened, seen.connections);
}

#[test]
fn think_time_separates_a_users_requests() {
    let server = FakeServer::always(normal(1));
    let think_time = Duration::from_millis(30);
    let workload = generate(&config(4, 1, Arrivals::Closed { users: 1, think_time })).unwrap();
    let (records, _) = run(&endpoint(server.url()), &workload);
    for pair in records.windows(2) {
        assert!(pair[1].scheduled_ns >= pair[0].done_ns.unwrap() + 30_000_000, "{pair:?}");
    }
}

#[test]
fn a_server_that_closes_idle_connections_costs_a_connection_not_a_request() {
    let mut closing = normal(2);
    closing.push(Act::Close);
    let server = FakeServer::always(closing);
    // The pause lets the FIN arrive first, as it does when a server times an idle connection out.
    let think_time = Duration::from_millis(40);
    let workload = generate(&config(8, 2, Arrivals::Closed { users: 1, think_time })).unwrap();
    let (records, _) = run(&endpoint(server.url()), &workload);
    for r in &records {
        assert!(r.outcome == Outcome::Ok && r.connect_ns.is_some(), "{r:?}");
    }
    assert_eq!(server.requests(), 8);
}

/// Two requests of one user; `second` is what the connection kept from the first brings.
fn on_a_reused_connection(second: Vec<Act>) -> (Vec<RequestRecord>, FakeServer) {
    let server = FakeServer::start(vec![normal(2), second, normal(2)]);
    let think_time = Duration::from_millis(40);
    let workload = generate(&config(2, 2, Arrivals::Closed { users: 1, think_time })).unwrap();
    (run(&endpoint(server.url()), &workload).0, server)
}

#[test]
fn a_reused_connection_that_closes_without_a_byte_is_a_resend_not_a_failure() {
    for end in [Act::Close, Act::Reset] {
        let (records, server) = on_a_reused_connection(vec![pause_ms(20), end]);
        assert_eq!((records[0].outcome, records[0].resends), (Outcome::Ok, 0));
        let second = &records[1];
        assert_eq!((second.outcome, second.resends), (Outcome::Ok, 1), "{second:?}");
        assert!(second.connect_ns.is_some());
        // The wait of 20 ms was the server's, so the time of the first sending stands.
        assert!(second.headers_ns.unwrap() - second.sent_ns.unwrap() >= 20_000_000, "{second:?}");
        let seen = server.seen.lock().unwrap();
        let ids: Vec<&str> = seen
            .requests
            .iter()
            .filter_map(|r| r.lines().find_map(|l| l.strip_prefix("x-request-id: ")))
            .collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(ids[2], format!("{}-again", ids[1]));
        assert_eq!(seen.connections, 2);
    }
}

#[test]
fn a_reused_connection_that_fails_after_a_byte_is_a_failure() {
    let (records, server) = on_a_reused_connection(vec![Act::Send(b"HTTP/1.1 2".to_vec()), Act::Close]);
    assert_eq!((records[1].outcome, records[1].resends), (Outcome::NoResponse, 0), "{:?}", records[1]);
    assert_eq!(server.requests(), 2);
}

#[test]
fn a_request_is_sent_again_only_once() {
    let server = FakeServer::start(vec![normal(2), vec![Act::Close]]);
    let think_time = Duration::from_millis(40);
    let workload = generate(&config(2, 2, Arrivals::Closed { users: 1, think_time })).unwrap();
    let (records, _) = run(&endpoint(server.url()), &workload);
    assert_eq!((records[1].outcome, records[1].resends), (Outcome::NoResponse, 1), "{:?}", records[1]);
    assert_eq!(server.requests(), 3);
}

#[test]
fn connection_refused() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (records, facts) = run(&endpoint(format!("http://{free}")), &closed(3, 1, 2));
    assert_eq!(facts.issued, 3);
    for r in records {
        assert_eq!(r.outcome, Outcome::Connect);
        assert!(r.sent_ns.is_none() && r.connect_ns.is_none());
    }
}

#[test]
fn connect_timeout() {
    // A listener that never accepts: once its queue is full, the kernel drops every further SYN.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (listener, waiting) = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let connect =
            || tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(addr));
        while let Ok(stream) = connect().await {
            waiting.push(stream);
            assert!(waiting.len() < 100, "the queue never fills");
        }
        (listener, waiting)
    });
    let mut endpoint = endpoint(format!("http://{}", listener.local_addr().unwrap()));
    endpoint.timeouts.connect = Duration::from_millis(100);
    let (records, _) = run(&endpoint, &closed(1, 1, 2));
    assert_eq!(records[0].outcome, Outcome::Timeout);
    assert!(records[0].error.as_ref().unwrap().starts_with("connect timeout"), "{records:?}");
    drop(waiting);
}

/// Cancels once `after` first tokens were seen.
struct CancelAfter {
    after: u64,
    seen: AtomicU64,
    token: CancellationToken,
}

impl Observer for CancelAfter {
    fn first_token(&self, _: u64, _: Duration) {
        if self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.after {
            self.token.cancel();
        }
    }
}

#[test]
fn cancelling_records_what_is_in_flight_and_issues_no_more() {
    let server = FakeServer::always(vec![head(), event(&token(Some(1))), Act::Hang]);
    let observer = CancelAfter { after: 3, seen: AtomicU64::new(0), token: CancellationToken::new() };
    let mut records = Records::default();
    let options = DriveOptions { drain: Duration::from_millis(20), ..DriveOptions::default() };
    let facts = drive_with(
        &endpoint(server.url()),
        &closed(50, 3, 4),
        options,
        &mut records,
        &observer,
        &observer.token,
    )
    .unwrap();
    assert_eq!((facts.ended, facts.issued, records.0.len()), (Ended::Cancelled, 3, 3));
    for r in &records.0 {
        check_order(r);
        assert_eq!((r.outcome, r.events.len(), r.output_tokens), (Outcome::Cancelled, 1, 1));
    }
}

#[test]
fn giving_up_does_not_wait_for_the_drain() {
    let server = FakeServer::always(vec![head(), event(&token(Some(1))), Act::Hang]);
    // Also where nobody said stop before.
    for stopped in [true, false] {
        let observer = CancelAfter { after: 3, seen: AtomicU64::new(0), token: CancellationToken::new() };
        let give_up = observer.token.clone();
        let stop = if stopped { give_up.clone() } else { CancellationToken::new() };
        let mut records = Records::default();
        let options = DriveOptions { drain: Duration::MAX, give_up, ..DriveOptions::default() };
        let facts =
            drive_with(&endpoint(server.url()), &closed(50, 3, 4), options, &mut records, &observer, &stop)
                .unwrap();
        assert_eq!((facts.ended, facts.issued, records.0.len()), (Ended::Cancelled, 3, 3));
        assert!(records.0.iter().all(|r| r.outcome == Outcome::Cancelled), "{:?}", records.0);
    }
}

/// The answers are kept for turns that never come.
#[test]
fn first_turns_alone_are_sent_like_any_request() {
    let server = FakeServer::always(normal(3));
    let mut workload = closed(20, 2, 3);
    for request in &mut workload.requests {
        request.turn = Some(Turn {
            session: request.index,
            turn: 0,
            last: false,
            new_tokens: request.prompt_tokens,
            think_time: Duration::ZERO,
            stand_in: Prompt::Tokens(Vec::new()),
        });
    }
    let never = CancellationToken::new();
    let (records, facts) = run_with(&endpoint(server.url()), &workload, DriveOptions::default(), &never);
    assert_eq!((facts.unwrap().ended, records.len()), (Ended::Complete, 20));
    assert!(records.iter().all(|r| (r.outcome, r.events.len()) == (Outcome::Ok, 3)), "{records:?}");
    let mut sent: Vec<u64> = records.iter().map(|r| r.index).collect();
    sent.sort_unstable();
    assert_eq!(sent, (0..20).collect::<Vec<_>>());
}

#[test]
fn draining_lets_requests_finish() {
    let server = FakeServer::always({
        let mut acts = normal(2);
        acts.insert(2, pause_ms(50));
        acts
    });
    let observer = CancelAfter { after: 2, seen: AtomicU64::new(0), token: CancellationToken::new() };
    let mut records = Records::default();
    let options = DriveOptions { drain: Duration::from_secs(30), ..DriveOptions::default() };
    let facts = drive_with(
        &endpoint(server.url()),
        &closed(50, 2, 2),
        options,
        &mut records,
        &observer,
        &observer.token,
    )
    .unwrap();
    assert_eq!((facts.ended, facts.issued), (Ended::Cancelled, 2));
    assert!(records.0.iter().all(|r| r.outcome == Outcome::Ok), "{:?}", records.0);
}

#[test]
fn a_time_limit_ends_a_run() {
    let server = FakeServer::always(normal(2));
    let options = DriveOptions {
        drain: Duration::ZERO,
        time_limit: Some(Duration::from_millis(100)),
        ..DriveOptions::default()
    };
    let workload = generate(&config(100, 2, Arrivals::Constant { rate_rps: 50.0 })).unwrap();
    let (records, facts) = run_with(&endpoint(server.url()), &workload, options, &CancellationToken::new());
    let facts = facts.unwrap();
    assert_eq!(facts.ended, Ended::TimeLimit);
    assert_eq!(facts.issued, records.len() as u64);
    assert!(facts.issued < 100, "{facts:?}");
}

struct FullDisk(u32);

impl RecordSink for FullDisk {
    fn record(&mut self, _: &RequestRecord) -> io::Result<()> {
        self.0 += 1;
        if self.0 < 3 { Ok(()) } else { Err(io::Error::other("disk full")) }
    }
}

#[test]
fn a_result_that_cannot_be_saved_stops_the_run() {
    let server = FakeServer::always(normal(2));
    let mut sink = FullDisk(0);
    let workload = generate(&config(10_000, 2, Arrivals::Constant { rate_rps: 200.0 })).unwrap();
    let result = drive(&endpoint(server.url()), &workload, &mut sink, &Silent, &CancellationToken::new());
    assert!(matches!(result, Err(DriveError::Sink(_))), "{result:?}");
    assert_eq!(sink.0, 3, "nothing is saved after a failure");
    assert!(server.requests() < 10_000);
}

#[test]
fn scraping_runs_beside_the_requests() {
    let mut slow = normal(2);
    slow.insert(1, pause_ms(200));
    let server = FakeServer::always(slow);
    let metrics = FakeServer::start(vec![
        plain("200 OK", "", "vllm:num_requests_running{engine=\"0\"} 3\nvllm:kv_cache_usage_perc 0.5\n"),
        plain("500 Oops", "", ""),
        plain("200 OK", "", "vllm:num_requests_running 1\n"),
    ]);
    let samples = Mutex::new(Vec::new());
    let mut keep = |sample: &_| {
        samples.lock().unwrap().push(llmlab_results::manifest::ServerSample::clone(sample));
        Ok(())
    };
    let scrape =
        Scrape { url: metrics.url() + "/metrics", interval: Duration::from_millis(20), on_sample: &mut keep };
    let options = DriveOptions { scrape: Some(scrape), ..DriveOptions::default() };
    let (_, facts) = run_with(&endpoint(server.url()), &closed(1, 1, 2), options, &CancellationToken::new());
    let facts = facts.unwrap();
    let samples = samples.into_inner().unwrap();
    assert_eq!(samples.len() as u64, facts.scrapes);
    assert_eq!(facts.scrape_failures, 1);
    assert_eq!((samples[0].running, samples[0].kv_usage, samples[0].waiting), (Some(3.0), Some(0.5), None));
    assert_eq!(samples[1].running, Some(1.0));
    assert!(samples.windows(2).all(|w| w[0].at_ns < w[1].at_ns));
    assert!(metrics.seen.lock().unwrap().requests[0].starts_with("GET /metrics HTTP/1.1"));
}

/// The requests for the metrics page at `metrics`, in a trial of `server` with a key.
fn scrape_with_key(server: &FakeServer, metrics: &FakeServer, page: &str) -> Vec<String> {
    let mut keep = |_: &_| Ok(());
    let scrape =
        Scrape { url: metrics.url() + page, interval: Duration::from_millis(20), on_sample: &mut keep };
    let options = DriveOptions { scrape: Some(scrape), ..DriveOptions::default() };
    let mut endpoint = endpoint(server.url() + "/v1");
    endpoint.api_key = Some(llmlab_loadgen::Secret::new("s3cret"));
    run_with(&endpoint, &closed(1, 1, 2), options, &CancellationToken::new()).1.unwrap();
    let seen = metrics.seen.lock().unwrap();
    seen.requests.iter().filter(|r| r.starts_with("GET ")).cloned().collect()
}

#[test]
fn scraping_sends_the_key_to_the_endpoints_own_host_and_port_only() {
    let mut slow = normal(2);
    slow.insert(1, pause_ms(200));
    let server = FakeServer::always(slow);
    let own = scrape_with_key(&server, &server, "/metrics");
    assert!(!own.is_empty() && own.iter().all(|r| r.contains("authorization: Bearer s3cret\r\n")), "{own:?}");
    let other = FakeServer::always(plain("200 OK", "", "vllm:num_requests_running 1\n"));
    let foreign = scrape_with_key(&server, &other, "/metrics");
    assert!(!foreign.is_empty() && foreign.iter().all(|r| !r.contains("s3cret")), "{foreign:?}");
}

#[test]
fn scraping_keeps_path_and_query() {
    let mut slow = normal(2);
    slow.insert(1, pause_ms(200));
    let server = FakeServer::always(slow);
    for (page, target) in [("/m/?format=text&x=a/b", "/m/?format=text&x=a/b"), ("", "/"), ("?all", "/?all")] {
        let metrics = FakeServer::always(plain("200 OK", "", "vllm:num_requests_running 1\n"));
        let requests = scrape_with_key(&server, &metrics, page);
        assert!(requests[0].starts_with(&format!("GET {target} HTTP/1.1")), "{requests:?}");
    }
}

#[test]
fn impossible_targets_are_refused_before_anything_is_sent() {
    let error = |url: &str, change: &dyn Fn(&mut llmlab_loadgen::Endpoint)| {
        let mut endpoint = endpoint(url.into());
        change(&mut endpoint);
        let (records, facts) =
            run_with(&endpoint, &closed(1, 1, 1), DriveOptions::default(), &CancellationToken::new());
        assert!(records.is_empty());
        facts.unwrap_err()
    };
    assert!(matches!(error("ftp://h", &|_| ()), DriveError::Scheme { scheme } if scheme == "ftp"));
    assert!(matches!(error("localhost:80", &|_| ()), DriveError::Url { .. }));
    assert!(matches!(error("http://", &|_| ()), DriveError::Url { .. }));
    let userinfo = error("http://me:pass@h", &|_| ()).to_string();
    assert!(!userinfo.contains("pass@"), "{userinfo}");
    let chat = error("http://127.0.0.1:1", &|e| e.protocol = Protocol::OpenAiChat);
    assert!(matches!(chat, DriveError::PromptKind { index: 0, protocol: "openai-chat" }));
    let key = error("http://127.0.0.1:1", &|e| e.api_key = Some(llmlab_loadgen::Secret::new("a\nb")));
    assert!(matches!(key, DriveError::ApiKey));
}
