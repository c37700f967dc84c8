//! The real client against the mock, in one process.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, DriveFacts, Endpoint, LengthDist, Lengths, Prefixes, PromptStyle, Protocol, Silent, Timeouts,
    Workload, WorkloadConfig, drive, generate,
};
use llmlab_mock::{Mock, Timing};
use llmlab_results::record::RequestRecord;
use tokio_util::sync::CancellationToken;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn quick() -> Timing {
    Timing::steady(ms(5), ms(1))
}

pub fn workload(requests: u64, tokens: u32, arrivals: Arrivals) -> Workload {
    let prompts = PromptStyle::TokenIds { first: 3, end: 500 };
    workload_of(requests, tokens, arrivals, prompts)
}

pub fn workload_of(requests: u64, tokens: u32, arrivals: Arrivals, prompts: PromptStyle) -> Workload {
    let fixed = |tokens| LengthDist::Fixed { tokens };
    generate(&WorkloadConfig {
        seed: 7,
        requests,
        lengths: Lengths::Independent { input: fixed(8), output: fixed(tokens) },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 1000),
        output_range: (1, 1000),
        arrivals,
        prompts,
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .unwrap()
}

pub fn users(users: u32) -> Arrivals {
    Arrivals::Closed { users, think_time: Duration::ZERO }
}

pub fn endpoint(mock: &Mock) -> Endpoint {
    Endpoint {
        base_url: mock.url(),
        protocol: Protocol::OpenAiCompletions,
        model: "mock".into(),
        api_key: None,
        ca_file: None,
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(30),
            inter_token: Duration::from_secs(30),
            total: Duration::from_secs(60),
        },
    }
}

/// Records in order of their index: one for each request of the workload.
pub fn run(endpoint: &Endpoint, workload: &Workload) -> (Vec<RequestRecord>, DriveFacts) {
    let mut records = Vec::new();
    let facts = drive(endpoint, workload, &mut records, &Silent, &CancellationToken::new()).unwrap();
    records.sort_by_key(|record: &RequestRecord| record.index);
    let indexes: Vec<u64> = records.iter().map(|record| record.index).collect();
    assert_eq!(indexes, (0..workload.requests.len() as u64).collect::<Vec<_>>(), "one record per request");
    (records, facts)
}
