//! Requests over a WebSocket, against servers that answer frame by frame, properly or not.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use llmlab_loadgen::{DriveFacts, Protocol};
use llmlab_results::record::{CountSource, Outcome, RequestRecord};
use serde_json::Value;
use support::{FakeServer, closed, completion_events, endpoint, plain, run, token};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

#[derive(Clone)]
enum Act {
    Text(String),
    Binary,
    Ping,
    CloseWith(u16, &'static str),
    /// The connection goes without a word.
    Drop,
}

/// Request frames, and the handshakes' `authorization`.
type Seen = Arc<Mutex<(Vec<Value>, Vec<Option<String>>)>>;

struct Server {
    url: String,
    seen: Seen,
    _runtime: tokio::runtime::Runtime,
}

/// Every request of every connection is answered with the script, then the next is read.
fn serve(script: Vec<Act>) -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let told = Arc::clone(&seen);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, script.clone(), Arc::clone(&told)));
        }
    });
    Server { url, seen, _runtime: runtime }
}

#[allow(clippy::result_large_err, reason = "the handshake's callback has this type")]
async fn converse(stream: TcpStream, script: Vec<Act>, seen: Seen) {
    let shake = |request: &Request, mut response: Response| {
        assert_eq!(request.uri().path(), "/v1/stream");
        let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        seen.lock().unwrap().1.push(authorization);
        let asked = request.headers()["sec-websocket-protocol"].clone();
        response.headers_mut().insert("sec-websocket-protocol", asked);
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, shake).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        seen.lock().unwrap().0.push(serde_json::from_str(&text).unwrap());
        for act in &script {
            if !play(&mut socket, act).await {
                return;
            }
        }
    }
}

async fn play(socket: &mut WebSocketStream<TcpStream>, act: &Act) -> bool {
    let message = match act {
        Act::Text(text) => Message::text(text.clone()),
        Act::Binary => Message::binary(vec![1, 2]),
        Act::Ping => Message::Ping(vec![7].into()),
        Act::CloseWith(code, reason) => {
            let frame = CloseFrame { code: (*code).into(), reason: (*reason).into() };
            let _ = socket.close(Some(frame)).await;
            // The client's close comes back before the connection goes.
            while let Some(Ok(_)) = socket.next().await {}
            return false;
        }
        Act::Drop => return false,
    };
    socket.send(message).await.is_ok()
}

fn texts(events: &[String]) -> Vec<Act> {
    events.iter().cloned().map(Act::Text).collect()
}

fn drive(server: &Server, requests: u64, output: u32) -> (Vec<RequestRecord>, DriveFacts) {
    let mut endpoint = endpoint(server.url.clone());
    endpoint.protocol = Protocol::WebSocket;
    endpoint.api_key = Some(llmlab_loadgen::Secret::new("s3cret"));
    run(&endpoint, &closed(requests, 1, output))
}

#[test]
fn frames_are_events_and_the_connection_is_kept() {
    let mut script = vec![Act::Ping];
    script.extend(texts(&completion_events(4)));
    let server = serve(script);
    let (records, _) = drive(&server, 3, 4);
    for record in &records {
        assert_eq!(
            (record.outcome, record.output_tokens, record.events.len()),
            (Outcome::Ok, 4, 4),
            "{record:?}"
        );
        assert_eq!((record.output_tokens_source, record.http_status), (CountSource::Usage, Some(101)));
        assert!(record.headers_ns.is_none() && record.first_byte_ns.is_some() && record.done_ns.is_some());
    }
    let opened: Vec<bool> = records.iter().map(|record| record.connect_ns.is_some()).collect();
    assert_eq!(opened, [true, false, false]);
    let (frames, handshakes) = &*server.seen.lock().unwrap();
    assert_eq!(*handshakes, [Some("Bearer s3cret".to_owned())]);
    assert_eq!((frames.len(), &frames[0]["max_tokens"]), (3, &Value::from(4)));
    assert!(frames[2]["id"].as_str().unwrap().ends_with("-2"), "{}", frames[2]["id"]);
}

#[test]
fn a_normal_close_ends_the_stream_too() {
    let mut script = texts(&[token(Some(1)), token(Some(2))]);
    script.push(Act::CloseWith(1000, ""));
    let server = serve(script);
    let (records, _) = drive(&server, 2, 2);
    for record in records {
        assert_eq!((record.outcome, record.output_tokens), (Outcome::Ok, 2), "{record:?}");
        assert_eq!((record.connect_ns.is_some(), record.resends), (true, 0));
    }
}

#[test]
fn each_way_to_fail_has_its_outcome() {
    let begun = |end: Act| vec![Act::Text(token(None)), end];
    let cases: Vec<(Vec<Act>, Outcome, &str)> = vec![
        (begun(Act::CloseWith(1011, "out of memory")), Outcome::StreamCut, "code 1011: out of memory"),
        (vec![Act::CloseWith(1013, "")], Outcome::StreamCut, "code 1013"),
        (vec![Act::CloseWith(1000, "")], Outcome::NoTerminator, "before any token"),
        (begun(Act::Drop), Outcome::StreamCut, ""),
        (vec![Act::Drop], Outcome::NoResponse, ""),
        (begun(Act::Binary), Outcome::Malformed, "binary"),
        (begun(Act::Text("{\"choices\":[".into())), Outcome::Malformed, "event is not websocket"),
        (begun(Act::Text(r#"{"error":{"message":"no blocks"}}"#.into())), Outcome::Malformed, "no blocks"),
        (begun(Act::Text("x".repeat(17 << 20))), Outcome::TooLarge, ""),
    ];
    for (script, outcome, words) in cases {
        let server = serve(script);
        let record = drive(&server, 1, 4).0.remove(0);
        let said = record.error.clone().unwrap_or_default();
        assert_eq!(record.outcome, outcome, "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_kept_connection_that_went_away_is_a_resend() {
    let mut script = texts(&completion_events(2));
    // After the answer the connection is gone, and the next request finds that out.
    script.push(Act::Drop);
    let server = serve(script);
    let (records, _) = drive(&server, 3, 2);
    for record in &records {
        assert_eq!((record.outcome, record.output_tokens), (Outcome::Ok, 2), "{record:?}");
    }
    assert_eq!(server.seen.lock().unwrap().1.len(), 3);
}

#[test]
fn a_kept_connection_that_is_closed_for_idleness_is_a_resend_too() {
    let mut script = texts(&completion_events(2));
    script.push(Act::CloseWith(1001, "idle"));
    let server = serve(script);
    let (records, _) = drive(&server, 3, 2);
    for record in &records {
        assert_eq!((record.outcome, record.output_tokens), (Outcome::Ok, 2), "{record:?}");
    }
}

#[test]
fn a_server_without_websockets_says_so_by_its_status() {
    let server = FakeServer::always(plain("503 Service Unavailable", "", "too busy"));
    let mut endpoint = endpoint(server.url());
    endpoint.protocol = Protocol::WebSocket;
    endpoint.timeouts.connect = Duration::from_secs(20);
    let record = run(&endpoint, &closed(1, 1, 2)).0.remove(0);
    assert_eq!((record.outcome, record.http_status), (Outcome::Http, Some(503)), "{record:?}");
    assert!(record.sent_ns.is_none() && record.error.unwrap().contains("503"));
}
