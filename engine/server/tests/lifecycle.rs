//! Requests and servers that do not end the ordinary way: clients that leave, full queues, drains, failures, keys.

mod common;

use common::*;
use futures_util::StreamExt;
use llmlab_server::ServerError;
use llmlab_server::step_log::StepRow;
use serde_json::json;
use std::time::Duration;

async fn idle_again(server: &Server) {
    eventually("nothing runs and all blocks are free", async || {
        let metrics = server.metrics().await;
        let gauge = |name| sample(&metrics, name, "");
        gauge("vllm:num_requests_running")
            + gauge("vllm:num_requests_waiting")
            + gauge("vllm:kv_cache_usage_perc")
            == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_its_blocks() {
    let (executor, gate) = FakeExecutor::gated("abc");
    let server = Setup::new(executor).start().await;
    gate.allow(2);
    let request = json!({"prompt": "hello", "max_tokens": 200, "stream": true});
    let mut events = server.post("/v1/completions", &request).await.bytes_stream();
    assert!(events.next().await.unwrap().is_ok());
    gate.reached().await;
    assert_eq!(server.metric("vllm:num_requests_running", "").await, 1.0);
    assert!(server.metric("vllm:kv_cache_usage_perc", "").await > 0.0);

    drop(events);
    // One step at a time until the abort has arrived; 200 tokens are far away.
    eventually("the abort is counted", async || {
        gate.allow(1);
        server.metric("vllm:request_success_total", "\"abort\"").await == 1.0
    })
    .await;
    gate.open();
    idle_again(&server).await;
    assert_eq!(server.metric("vllm:request_success_total", "\"length\"").await, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_a_whole_answer_frees_its_blocks() {
    let (executor, gate) = FakeExecutor::gated("abc");
    let server = Setup::new(executor).start().await;
    let client = server.client.clone();
    let ask = client.post(server.url("/v1/completions")).json(&json!({"prompt": "hello", "max_tokens": 200}));
    let waiting = tokio::spawn(ask.send());
    gate.reached().await;
    waiting.abort();
    eventually("the abort is counted", async || {
        gate.allow(1);
        server.metric("vllm:request_success_total", "\"abort\"").await == 1.0
    })
    .await;
    gate.open();
    idle_again(&server).await;
}

#[tokio::test]
async fn a_full_queue_answers_429_and_the_others_are_served() {
    let (executor, gate) = FakeExecutor::gated("abc");
    let mut setup = Setup::new(executor).max_num_seqs(1);
    setup.config.max_queue = 1;
    let server = setup.start().await;
    let request = json!({"prompt": "x", "max_tokens": 2});
    let ask = || server.post("/v1/completions", &request);
    let mut first = Box::pin(ask());
    // The first runs (and is stuck in its step), so it no longer counts as waiting.
    tokio::select! {
        _ = &mut first => panic!("answered behind a closed gate"),
        () = gate.reached() => {}
    }
    // Of two more one may wait.
    let (refused, other) =
        futures_util::future::select(Box::pin(ask()), Box::pin(ask())).await.factor_first();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(refused.text().await.unwrap().contains("1 requests are already waiting"));
    gate.open();
    assert_eq!(first.await.status(), 200);
    assert_eq!(other.await.status(), 200);
    idle_again(&server).await;
}

#[tokio::test]
async fn requests_beyond_the_kv_pool_wait_and_all_finish() {
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    // Room for two requests of 40 tokens at a time.
    setup.engine.num_blocks = 7;
    let server = setup.start().await;
    let request = json!({"prompt": "x".repeat(20), "max_tokens": 20});
    let answers =
        futures_util::future::join_all((0..12).map(|_| server.ok("/v1/completions", &request))).await;
    assert!(answers.iter().all(|a| a["usage"]["completion_tokens"] == 20));
    idle_again(&server).await;
}

#[tokio::test]
async fn an_executor_error_fails_its_requests_and_the_health_check() {
    failure(Failure::Error, "injected error").await;
}

#[tokio::test]
async fn a_panic_on_the_engine_thread_fails_its_requests_and_the_health_check() {
    failure(Failure::Panic, "injected panic").await;
}

async fn failure(failure: Failure, reason: &str) {
    let (executor, gate) = FakeExecutor::gated("abc");
    let mut server = Setup::new(FakeExecutor { failure: Some(failure), ..executor }).start().await;
    assert_eq!(server.get("/health").await.status(), 200);
    let whole = json!({"prompt": "x", "max_tokens": 200});
    let streamed = json!({"prompt": "x", "max_tokens": 200, "stream": true});
    let (whole, streamed, ()) = tokio::join!(
        server.post("/v1/completions", &whole),
        async { parse_events(&server.post("/v1/completions", &streamed).await.text().await.unwrap()) },
        // Step by step, so that neither is done before the other has begun.
        eventually("the engine fails", async || {
            gate.allow(1);
            server.get("/health").await.status() == 503
        })
    );
    assert_eq!(whole.status(), 500);
    assert!(whole.text().await.unwrap().contains(reason));
    let error = common::json(&streamed[streamed.len() - 2]);
    assert!(error["error"]["message"].as_str().unwrap().contains(reason), "{error}");
    assert_eq!(error["error"]["code"], 500);
    assert_eq!(streamed.last().unwrap(), "[DONE]");

    let health = server.get("/health").await;
    assert_eq!(health.status(), 503);
    assert!(health.text().await.unwrap().contains(reason));
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "x"})).await.status(), 503);
    assert_eq!(server.metric("vllm:request_success_total", "\"error\"").await, 2.0);
    assert!(matches!(server.stop().await, Err(ServerError::Engine(why)) if why.contains(reason)));
}

#[tokio::test]
async fn a_drain_refuses_new_requests_and_finishes_those_in_flight() {
    let (executor, gate) = FakeExecutor::gated("abcdef");
    let mut server = Setup::new(executor).start().await;
    gate.allow(1);
    let request = json!({"prompt": "x", "max_tokens": 6, "stream": true});
    let in_flight = server.post("/v1/completions", &request).await;
    server.signal_shutdown();
    eventually("the drain has begun", async || server.get("/health").await.status() == 503).await;
    let refused = server.post("/v1/completions", &request).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    gate.open();
    let events = events(in_flight).await;
    let text: String = events[..6]
        .iter()
        .map(|e| common::json(e)["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((text.as_str(), events[6].as_str()), ("abcdef", "[DONE]"));
    server.stopped().await.unwrap();
    assert!(server.client.get(server.url("/health")).send().await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_drain_cancels_what_outlasts_the_grace_period() {
    let executor = FakeExecutor { step_time: Duration::from_millis(1), ..FakeExecutor::text("abc") };
    let mut setup = Setup::new(executor);
    setup.config.drain_grace = Duration::ZERO;
    setup.config.max_model_len = 1_000_000;
    setup.engine.max_model_len = 1_000_000;
    setup.engine.num_blocks = 70_000;
    let mut server = setup.start().await;
    let request = json!({"prompt": "x", "max_tokens": 900_000, "stream": true});
    let in_flight = server.post("/v1/completions", &request).await;
    server.signal_shutdown();
    let events = events(in_flight).await;
    let error = common::json(&events[events.len() - 2]);
    assert!(error["error"]["message"].as_str().unwrap().contains("shutting down"), "{error}");
    assert_eq!(events.last().unwrap(), "[DONE]");
    server.stopped().await.unwrap();
}

#[tokio::test]
async fn an_idle_server_stops_at_once_even_with_idle_connections() {
    let mut server = Setup::new(FakeExecutor::text("abc")).start().await;
    // Leaves a connection in the client's pool.
    server.get("/health").await.text().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_api_key_guards_everything_but_health_version_and_metrics() {
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    setup.config.api_key = Some("correct horse".to_owned());
    assert!(!format!("{:?}", setup.config).contains("horse"));
    let server = setup.start().await;
    for path in ["/health", "/ping", "/version", "/metrics"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
    let body = json!({"prompt": "x", "max_tokens": 1});
    let ask = async |path: &str, key: Option<&str>| {
        let mut request = server.client.post(server.url(path)).json(&body);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        request.send().await.unwrap()
    };
    for path in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"] {
        for key in [None, Some("Bearer wrong"), Some("Bearer correct hors"), Some("correct horse")] {
            let response = ask(path, key).await;
            assert_eq!(response.status(), 401, "{path} {key:?}");
            assert!(!response.text().await.unwrap().contains("horse"));
        }
    }
    assert_eq!(server.get("/v1/models").await.status(), 401);
    assert_eq!(ask("/v1/completions", Some("Bearer correct horse")).await.status(), 200);
}

#[tokio::test]
async fn the_step_log_tells_what_ran() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("steps.jsonl");
    let mut setup = Setup::new(FakeExecutor::text("abc"));
    setup.config.step_log = Some(path.clone());
    let mut server = setup.start().await;
    let body = server.ok("/v1/completions", &json!({"prompt": "x".repeat(20), "max_tokens": 5})).await;
    server.stop().await.unwrap();

    let text = std::fs::read_to_string(&path).unwrap();
    let rows: Vec<StepRow> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let id: u64 = body["id"].as_str().unwrap().strip_prefix("cmpl-").unwrap().parse().unwrap();
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|r| r.seqs.len() == 1 && r.seqs[0].id == id && r.running == 1 && r.waiting == 0));
    let work: Vec<(u32, u32)> = rows.iter().map(|r| (r.seqs[0].context, r.seqs[0].new_tokens)).collect();
    assert_eq!(work, [(0, 20), (20, 1), (21, 1), (22, 1), (23, 1)]);
    assert_eq!(rows.iter().map(|r| r.kv_tokens).collect::<Vec<_>>(), [20, 21, 22, 23, 24]);
    assert!(rows.iter().all(|r| r.total_blocks == 64 && r.free_blocks == 62 && r.block_size == 16));
    assert_eq!(rows.iter().map(|r| r.admitted.len()).collect::<Vec<_>>(), [1, 0, 0, 0, 0]);
    assert!(rows.windows(2).all(|w| w[0].start_monotonic_ns + w[0].elapsed_ns <= w[1].start_monotonic_ns));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = async |change: &dyn Fn(&mut Setup)| {
        let mut setup = Setup::new(FakeExecutor::text("abc"));
        change(&mut setup);
        setup.try_start().await.err().expect("refused").to_string()
    };
    assert!(refused(&|s| s.config.max_queue = 0).await.contains("max_queue"));
    assert!(refused(&|s| s.config.max_model_len = 100_000).await.contains("max_model_len"));
    assert!(refused(&|s| s.config.api_key = Some("k".repeat(257))).await.contains("257"));
    assert!(refused(&|s| s.config.api_key = Some(String::new())).await.contains("API key"));
    assert!(
        refused(&|s| s.config.step_log = Some("/nonexistent/steps".into()))
            .await
            .contains("/nonexistent/steps")
    );
    assert!(
        refused(&|s| s.config.addr = taken.local_addr().unwrap())
            .await
            .contains("cannot listen on 127.0.0.1")
    );
}
