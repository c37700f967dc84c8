//! A small run to write and read back.

use llmlab_results::manifest::{
    ClientFacts, HostFacts, Manifest, ModelFacts, RunStatus, SCHEMA_VERSION, ServerSample, Slo, TrialFacts,
    TrialKind, WorkloadFacts,
};
use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent};

pub fn manifest(trials: Vec<TrialFacts>) -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION,
        llmlab_version: "0.1.0".into(),
        git_commit: None,
        name: "test".into(),
        seed: 42,
        started_at: "2026-11-21T10:15:00Z".into(),
        finished_at: None,
        command_line: vec!["llmlab".into(), "run".into()],
        scenario_path: None,
        scenario_text: "name = \"test\"\n".into(),
        resolved: serde_json::json!({ "name": "test" }),
        host: HostFacts::default(),
        model: ModelFacts::default(),
        workload: WorkloadFacts::default(),
        slo: Slo { ttft: vec![(99.9, 200_000_000)], ..Slo::default() },
        cost: None,
        targets: Vec::new(),
        trials,
        status: RunStatus::Running,
        sharding: None,
        client_calibration: None,
    }
}

pub fn facts(dir: &str, start_monotonic_ns: u64) -> TrialFacts {
    TrialFacts {
        dir: dir.into(),
        target: "vllm".into(),
        repeat: 1,
        kind: TrialKind::Measure,
        start_monotonic_ns,
        elapsed_ns: 0,
        client: ClientFacts::default(),
        prompt_fit: None,
        complete: false,
        journey: None,
    }
}

/// Times above 2^63 would show a signed column; the even ones failed.
pub fn record(index: u64) -> RequestRecord {
    let failed = index.is_multiple_of(2);
    let event = |i: u64| TokenEvent { at_ns: 1000 * index + i, tokens: 1 + i as u32 };
    RequestRecord {
        index,
        scheduled_ns: 1000 * index,
        sent_ns: (!failed).then_some(1000 * index + 1),
        connect_ns: None,
        resends: 0,
        headers_ns: None,
        first_byte_ns: None,
        role_ns: None,
        first_reasoning_ns: None,
        events: if failed { Vec::new() } else { (2..5).map(event).collect() },
        done_ns: (!failed).then_some(u64::MAX - index),
        prompt_tokens_requested: 8,
        prompt_tokens: 8,
        prompt_tokens_source: CountSource::TokenIds,
        output_tokens_requested: 12,
        output_tokens: if failed { 0 } else { 12 },
        output_tokens_source: CountSource::Usage,
        outcome: if failed { Outcome::Http } else { Outcome::Ok },
        turn: None,
        http_status: Some(if failed { 503 } else { 200 }),
        finish_reason: (!failed).then(|| "length".into()),
        error: failed.then(|| "queue is full".into()),
    }
}

pub fn sample(at_ns: u64) -> ServerSample {
    ServerSample {
        at_ns,
        running: Some(3.0),
        kv_usage: Some(0.25),
        generation_tokens_total: Some(120.0),
        ..ServerSample::default()
    }
}
