//! Clients that do not speak HTTP as they should. Each case also checks that the server still serves others.

mod common;

use std::time::Duration;

use common::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n{body}")
}

/// Sends raw bytes and reads until the server closes. A reset after the answer is a close too.
async fn exchange(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    read_to_close(&mut stream).await
}

async fn read_to_close(stream: &mut TcpStream) -> String {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let reading = async {
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..n]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn assert_status(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status} expected: {answer:?}");
}

async fn still_serves(server: &Server) {
    server.ok("/v1/completions", &json!({"prompt": "x", "max_tokens": 2})).await;
}

#[tokio::test]
async fn headers_that_are_too_long_or_too_many() {
    let server = Setup::new(FakeExecutor::text("abc")).start().await;
    let long = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(1 << 20));
    assert_status(&exchange(&server, long.as_bytes()).await, 431);
    let many = (0..10_000).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    let many = format!("GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    assert_status(&exchange(&server, many.as_bytes()).await, 431);
    still_serves(&server).await;
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    setup.config.limits.max_body_bytes = 1000;
    let server = setup.start().await;
    // Refused from the announced length alone; the gigabyte is never sent.
    let announced = post("/v1/completions", "content-length: 1073741824\r\n", "");
    assert_status(&exchange(&server, announced.as_bytes()).await, 413);
    let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    let chunked = post("/v1/completions", "transfer-encoding: chunked\r\n", &chunk.repeat(2));
    assert_status(&exchange(&server, chunked.as_bytes()).await, 413);
    still_serves(&server).await;
}

#[tokio::test]
async fn requests_that_never_end() {
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    setup.config.limits.header_timeout = Duration::from_millis(100);
    setup.config.limits.body_timeout = Duration::from_millis(100);
    let server = setup.start().await;
    let half_head = exchange(&server, b"GET /health HTTP/1.1\r\nhost:").await;
    assert!(half_head.is_empty() || half_head.starts_with("HTTP/1.1 408"), "{half_head:?}");
    let half_body = post("/v1/completions", "content-length: 100\r\n", "{\"prompt\":");
    assert_status(&exchange(&server, half_body.as_bytes()).await, 408);
    let no_last_chunk = post("/v1/completions", "transfer-encoding: chunked\r\n", "1\r\n{\r\n");
    assert_status(&exchange(&server, no_last_chunk.as_bytes()).await, 408);
    still_serves(&server).await;
}

#[tokio::test]
async fn requests_with_two_ways_to_read_them() {
    let server = Setup::new(FakeExecutor::text("abc")).start().await;
    let smuggled = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
    // Whatever hyper makes of the first request, the bytes behind it must not become a second one.
    let both = post(
        "/v1/completions",
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        &format!("0\r\n\r\n{smuggled}"),
    );
    let answer = exchange(&server, both.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:?}");
    assert_status(&answer, 400);
    let lengths = post("/v1/completions", "content-length: 2\r\ncontent-length: 50\r\n", "{}");
    assert_status(&exchange(&server, lengths.as_bytes()).await, 400);
    let bad_chunk = post("/v1/completions", "transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n");
    assert_status(&exchange(&server, bad_chunk.as_bytes()).await, 400);
    assert_status(&exchange(&server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await, 400);
    still_serves(&server).await;
}

#[tokio::test]
async fn idle_connections_beyond_the_limit_leave_health_reachable() {
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    setup.config.limits.max_connections = 8;
    let server = setup.start().await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let health = exchange(&server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_status(&health, 200);
    let refused = exchange(&server, post("/v1/completions", "content-length: 2\r\n", "{}").as_bytes()).await;
    assert_status(&refused, 503);
    assert!(refused.contains("too many connections"), "{refused}");
    // A place that becomes free is used again.
    drop(idle);
    eventually("full service is back", async || {
        let request = server.client.post(server.url("/v1/completions")).json(&json!({"prompt": "x"}));
        request.send().await.is_ok_and(|r| r.status() == 200)
    })
    .await;
}

/// A server whose few events fill a socket's buffers, and a client that asked for many and reads none.
async fn deaf_client(change: impl FnOnce(&mut Setup)) -> (Server, TcpStream) {
    let executor = FakeExecutor { step_time: Duration::from_micros(100), ..FakeExecutor::text("abc") };
    let mut setup = Setup::new(executor);
    // Every event carries the name.
    setup.config.served_model_name = "m".repeat(4000);
    setup.config.max_model_len = 100_000;
    setup.engine.max_model_len = 100_000;
    setup.engine.num_blocks = 7000;
    change(&mut setup);
    let server = setup.start().await;
    let body = json!({"prompt": "x", "max_tokens": 99_000, "stream": true}).to_string();
    let mut deaf = TcpStream::connect(server.addr).await.unwrap();
    let head = format!("connection: close\r\ncontent-length: {}\r\n", body.len());
    deaf.write_all(post("/v1/completions", &head, &body).as_bytes()).await.unwrap();
    eventually("it is cancelled", async || {
        server.metric("vllm:request_success_total", "\"abort\"").await == 1.0
    })
    .await;
    eventually("its blocks are free", async || server.metric("vllm:kv_cache_usage_perc", "").await == 0.0)
        .await;
    (server, deaf)
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cancelled_and_told_so() {
    let (server, mut deaf) = deaf_client(|s| {
        s.config.limits.max_unread_tokens = 1000;
        s.config.limits.write_stall_timeout = PATIENCE;
    })
    .await;
    still_serves(&server).await;
    let answer = read_to_close(&mut deaf).await;
    assert!(answer.contains("read too slowly"));
    assert!(answer.trim_end().ends_with("data: [DONE]\n\n\r\n0"), "{:?}", &answer[answer.len() - 100..]);
}

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected() {
    let (server, mut deaf) =
        deaf_client(|s| s.config.limits.write_stall_timeout = Duration::from_millis(500)).await;
    still_serves(&server).await;
    let answer = read_to_close(&mut deaf).await;
    assert!(!answer.contains("[DONE]"));
}
