//! What a token costs the client apart from the socket: the chunks of one answer taken off, its events cut and read, its record
//! filled. One answer of 100 tokens as vLLM streams it, running counts included, in one read.

#![allow(clippy::disallowed_methods, reason = "criterion times with the wall clock")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmlab_loadgen::http1::{BodyReader, Piece};
use llmlab_loadgen::sse::SseReader;
use llmlab_loadgen::{Endpoint, Exchange, PlannedRequest, Prompt, Protocol, Silent, Timeouts};

const TOKENS: u32 = 100;

fn event(protocol: Protocol, so_far: u32) -> String {
    let choice = match protocol {
        Protocol::OpenAiChat => r#""delta":{"content":" tok"}"#,
        Protocol::Tgi => return r#"{"index":1,"token":{"id":5,"text":" tok","logprob":-0.5,"special":false},"generated_text":null,"details":null}"#.into(),
        _ => r#""text":" tok""#,
    };
    format!(
        r#"{{"id":"cmpl-7f3a","object":"text_completion","created":1764000000,"model":"model","choices":[{{"index":0,{choice},"logprobs":null,"finish_reason":null}}],"usage":{{"prompt_tokens":128,"total_tokens":{},"completion_tokens":{so_far}}}}}"#,
        128 + so_far
    )
}

fn stream(protocol: Protocol) -> Vec<u8> {
    let mut stream = Vec::new();
    for so_far in 1..=TOKENS {
        let data = format!("data: {}\n\n", event(protocol, so_far));
        stream.extend_from_slice(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes());
    }
    stream
}

fn unchunked(stream: &[u8], mut take: impl FnMut(&[u8])) {
    let (mut body, mut bytes) = (BodyReader::chunked(), stream);
    while let Ok(Piece::Data(data)) = body.next(&mut bytes) {
        take(data);
    }
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("one answer of 100 tokens");
    let completions = stream(Protocol::OpenAiCompletions);
    group.throughput(Throughput::Elements(u64::from(TOKENS)));
    group.bench_function("chunks", |b| {
        b.iter(|| {
            let mut bytes = 0;
            unchunked(black_box(&completions), |data| bytes += data.len());
            bytes
        });
    });
    group.bench_function("chunks and events", |b| {
        b.iter(|| {
            let (mut reader, mut bytes) = (SseReader::new(1 << 20), 0);
            unchunked(black_box(&completions), |data| {
                let _ = reader.visit(data, &mut |_: &[u8], data: &[u8]| {
                    bytes += data.len();
                    ControlFlow::Continue(())
                });
            });
            bytes
        });
    });
    for protocol in [Protocol::OpenAiCompletions, Protocol::OpenAiChat, Protocol::Tgi] {
        let stream = stream(protocol);
        let (endpoint, request) = (endpoint(protocol), request());
        group.bench_function(format!("{}, to the record", protocol.name()), |b| {
            b.iter(|| {
                let mut exchange = Exchange::new(&endpoint, &request, Duration::ZERO, &Silent);
                unchunked(black_box(&stream), |data| {
                    let _ = exchange.push(Duration::from_secs(1), data);
                });
                exchange.finish(Ok(()))
            });
        });
    }
    group.finish();
}

fn endpoint(protocol: Protocol) -> Endpoint {
    Endpoint {
        base_url: "http://host".into(),
        protocol,
        model: "model".into(),
        api_key: None,
        ca_file: None,
        timeouts: Timeouts::default(),
    }
}

fn request() -> PlannedRequest {
    PlannedRequest {
        index: 0,
        at: Duration::ZERO,
        prompt: Prompt::Text("a".into()),
        prompt_tokens: 128,
        max_tokens: TOKENS,
        adapter: None,
        turn: None,
        hang_up: None,
    }
}

criterion_group!(benches, reading);
criterion_main!(benches);
