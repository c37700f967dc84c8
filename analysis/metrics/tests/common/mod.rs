//! Made-up runs for tests and for looking at reports: a toy continuous-batching server on a virtual clock.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use llmlab_metrics::Trial;
use llmlab_results::manifest::*;
use llmlab_results::record::*;
use llmlab_results::step::{StepRow, StepSeq};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const MS: u64 = 1_000_000;
/// Where the client's clock stands when a trial starts.
pub const START_NS: u64 = 5_000_000_000;

/// A finished request whose events carry one token each, at the given times.
pub fn record(index: u64, scheduled_ms: u64, events_ms: &[u64]) -> RequestRecord {
    chunked(index, scheduled_ms, &events_ms.iter().map(|at| (*at, 1)).collect::<Vec<_>>())
}

/// A finished request from (time in ms, tokens) events.
pub fn chunked(index: u64, scheduled_ms: u64, events: &[(u64, u32)]) -> RequestRecord {
    let output: u32 = events.iter().map(|e| e.1).sum();
    RequestRecord {
        index,
        scheduled_ns: scheduled_ms * MS,
        sent_ns: Some(scheduled_ms * MS + MS / 10),
        connect_ns: None,
        resends: 0,
        headers_ns: None,
        first_byte_ns: events.first().map(|e| e.0 * MS),
        role_ns: None,
        first_reasoning_ns: None,
        events: events.iter().map(|(at, tokens)| TokenEvent { at_ns: at * MS, tokens: *tokens }).collect(),
        done_ns: events.last().map(|e| e.0 * MS + MS),
        prompt_tokens_requested: 10,
        prompt_tokens: 10,
        prompt_tokens_source: CountSource::TokenIds,
        output_tokens_requested: output,
        output_tokens: output,
        output_tokens_source: CountSource::Usage,
        outcome: Outcome::Ok,
        turn: None,
        http_status: Some(200),
        finish_reason: Some("length".into()),
        error: None,
    }
}

/// A request the server refused.
pub fn refused(index: u64, scheduled_ms: u64) -> RequestRecord {
    RequestRecord {
        outcome: Outcome::Http,
        http_status: Some(503),
        error: Some("queue is full".into()),
        output_tokens: 0,
        output_tokens_requested: 5,
        finish_reason: None,
        ..chunked(index, scheduled_ms, &[])
    }
}

pub fn trial(target: &str, repeat: u32, records: Vec<RequestRecord>) -> Trial {
    Trial {
        facts: TrialFacts {
            dir: format!("{target}-r{repeat}"),
            target: target.into(),
            repeat,
            kind: TrialKind::Measure,
            start_monotonic_ns: START_NS,
            elapsed_ns: 10_000 * MS,
            client: ClientFacts::default(),
            prompt_fit: None,
            complete: true,
            journey: None,
        },
        records,
        steps: Vec::new(),
        server: Vec::new(),
        machine: Vec::new(),
    }
}

pub fn target(name: &str) -> TargetFacts {
    TargetFacts {
        name: name.into(),
        kind: TargetKind::Engine,
        description: format!("engine, policy {name}, q8_0 weights, 2 threads"),
        saturation_rps: None,
        weight_format: Some("q8_0".into()),
        weight_bytes: 116_000_000,
        kv_bytes_per_token: 36_864,
        threads: Some(2),
        max_num_seqs: Some(32),
        kv_blocks: Some(2048),
        block_size: Some(16),
    }
}

pub fn manifest(targets: &[&str]) -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION,
        llmlab_version: "0.1.0".into(),
        git_commit: Some("0123abc".into()),
        name: "two-policies".into(),
        seed: 42,
        started_at: "2025-01-02T03:04:05Z".into(),
        finished_at: Some("2025-01-02T03:14:05Z".into()),
        command_line: ["llmlab", "run", "scenarios/two-policies.toml", "--note", "a b"]
            .map(String::from)
            .to_vec(),
        scenario_path: Some("scenarios/two-policies.toml".into()),
        scenario_text: "name = \"two-policies\"\nseed = 42\n".into(),
        resolved: serde_json::json!({ "workload": { "arrivals": { "process": "poisson" } } }),
        host: HostFacts {
            hostname: "bench-1".into(),
            os: "Linux 6.8".into(),
            cpu_model: "Example CPU 3.0 GHz".into(),
            cores: 4,
            memory_bytes: 16 << 30,
            simd: vec!["avx2".into(), "fma".into()],
            roofline: Some(HostRoofline {
                threads: 2,
                read_bandwidth_bytes_per_s: 38e9,
                f32_flops_per_s: 90e9,
                bf16_flops_per_s: 0.0,
                int8_ops_per_s: 620e9,
                measured_at: "2025-01-02T03:00:00Z".into(),
            }),
        },
        model: ModelFacts {
            source: "synthetic:llama-110m".into(),
            architecture: "llama".into(),
            parameters: 110_000_000,
            linear_flops_per_token: 2.2e8,
            attention_flops_per_token_per_context: 36_864.0,
            layers: 12,
            vocab_size: 32_000,
            max_model_len: 2048,
        },
        workload: WorkloadFacts {
            description: "azure-2023-conversation, input x0.25, output x0.5".into(),
            // Trials of any length are complete; a test of missing records raises it.
            requests: 1,
            prompt_tokens_total: 60_000,
            output_tokens_total: 20_000,
            arrivals: "poisson".into(),
            warmup_requests: 0,
            rate_rps: Some(9.5),
            rate_source: Some("70 % of the lower saturation, 13.6 requests/s".into()),
            ..WorkloadFacts::default()
        },
        slo: Slo::default(),
        cost: None,
        targets: targets.iter().map(|t| target(t)).collect(),
        trials: Vec::new(),
        status: RunStatus::Complete,
        sharding: None,
        client_calibration: None,
    }
}

/// How the toy server spends time and how it mixes work.
#[derive(Debug, Clone, Copy)]
pub struct Toy {
    pub max_batch: usize,
    /// A prompt is computed in pieces of this many tokens, alone (`mixed` false) or beside decodes.
    pub chunk: u32,
    pub mixed: bool,
    pub step_ns: f64,
    pub per_sequence_ns: f64,
    pub per_prefill_token_ns: f64,
    /// Every n-th request is refused; 0 = none.
    pub refuse_every: u64,
}

pub const CHUNKED: Toy = Toy {
    max_batch: 24,
    chunk: 128,
    mixed: true,
    step_ns: 7.0e6,
    per_sequence_ns: 0.35e6,
    per_prefill_token_ns: 0.13e6,
    refuse_every: 0,
};
pub const PREFILL_FIRST: Toy = Toy { chunk: 4096, mixed: false, max_batch: 16, ..CHUNKED };

struct Live {
    index: u64,
    prompt: u32,
    output: u32,
    computed: u32,
    produced: u32,
    enqueued: u64,
    admitted: bool,
    events: Vec<TokenEvent>,
}

/// Serves `requests` Poisson arrivals at `rate` per second; the same seed gives the same arrivals and lengths to every toy.
pub fn simulate(target: &str, repeat: u32, seed: u64, requests: u64, rate: f64, toy: &Toy) -> Trial {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = ChaCha8Rng::seed_from_u64(seed ^ (u64::from(repeat) << 32) ^ target.len() as u64);
    let speed = 1.0 + 0.02 * (noise.random::<f64>() - 0.5);
    let mut at = 0.0;
    let mut arrivals: Vec<(u64, u64, u32, u32)> = Vec::new();
    for index in 0..requests {
        at += -(1.0 - rng.random::<f64>()).ln() / rate;
        let prompt = 16 + (rng.random::<f64>().powi(2) * 400.0) as u32;
        let output = 4 + (rng.random::<f64>() * 110.0) as u32;
        arrivals.push((index, (at * 1e9) as u64, prompt, output));
    }
    let mut t = trial(target, repeat, Vec::new());
    let (mut now, mut next, mut step) = (0_u64, 0_usize, 0_u64);
    let mut waiting: Vec<Live> = Vec::new();
    let mut running: Vec<Live> = Vec::new();
    loop {
        while next < arrivals.len() && arrivals[next].1 <= now {
            let (index, at, prompt, output) = arrivals[next];
            next += 1;
            if toy.refuse_every > 0 && index % toy.refuse_every == toy.refuse_every - 1 {
                t.records.push(RequestRecord { output_tokens_requested: output, ..refused(index, at / MS) });
                continue;
            }
            waiting.push(Live {
                index,
                prompt,
                output,
                computed: 0,
                produced: 0,
                enqueued: at,
                admitted: false,
                events: Vec::new(),
            });
        }
        let mut admitted = Vec::new();
        while running.len() < toy.max_batch && !waiting.is_empty() {
            running.push(waiting.remove(0));
        }
        if running.is_empty() {
            match arrivals.get(next) {
                Some(a) => now = a.1,
                None => break,
            }
            continue;
        }
        let (mut seqs, mut elapsed) = (Vec::new(), toy.step_ns);
        let mut budget = toy.chunk;
        let prefilling = running.iter().any(|r| r.computed < r.prompt);
        for r in &mut running {
            let new = if r.computed < r.prompt {
                (r.prompt - r.computed).min(budget)
            } else if prefilling && !toy.mixed {
                0
            } else {
                1
            };
            if new == 0 {
                continue;
            }
            if r.computed < r.prompt {
                budget -= new;
                elapsed += f64::from(new) * toy.per_prefill_token_ns;
            }
            if !r.admitted {
                r.admitted = true;
                admitted.push((r.index, now - r.enqueued));
            }
            seqs.push(StepSeq { id: r.index, new_tokens: new, context: r.computed, ..StepSeq::default() });
            elapsed += toy.per_sequence_ns;
            r.computed += new;
        }
        let elapsed = (elapsed * speed * (1.0 + 0.1 * noise.random::<f64>())) as u64;
        let kv_tokens: u64 = running.iter().map(|r| u64::from(r.computed)).sum();
        let used: u32 = running.iter().map(|r| r.computed.div_ceil(16)).sum();
        step += 1;
        t.steps.push(StepRow {
            step,
            start_monotonic_ns: START_NS + now,
            elapsed_ns: elapsed,
            running: running.len() as u32,
            waiting: waiting.len() as u32,
            free_blocks: 600_u32.saturating_sub(used),
            total_blocks: 600,
            kv_tokens,
            block_size: 16,
            admitted,
            seqs: seqs.clone(),
            ..StepRow::default()
        });
        now += elapsed;
        for r in &mut running {
            if r.computed >= r.prompt && seqs.iter().any(|s| s.id == r.index) {
                r.produced += 1;
                r.events.push(TokenEvent { at_ns: now + 200_000, tokens: 1 });
            }
        }
        let (done, alive): (Vec<Live>, Vec<Live>) = running.into_iter().partition(|r| r.produced >= r.output);
        running = alive;
        for d in done {
            t.records.push(RequestRecord {
                scheduled_ns: d.enqueued.saturating_sub(300_000),
                sent_ns: Some(d.enqueued.saturating_sub(300_000) + 50_000),
                events: d.events,
                done_ns: Some(now + 250_000),
                prompt_tokens_requested: d.prompt,
                prompt_tokens: d.prompt,
                output_tokens_requested: d.output,
                output_tokens: d.output,
                ..record(d.index, 0, &[1])
            });
        }
    }
    t.facts.elapsed_ns = now;
    t.facts.client = ClientFacts {
        cpu_ns: now / 12,
        steal_ns: now / 200,
        loop_delay_p99_ns: 900_000,
        loop_delay_max_ns: 4 * MS,
        peak_rss_bytes: 40 << 20,
    };
    t
}

/// Two policies, `repeats` interleaved repeats, limits and a price: what a report should look good with.
pub fn example(repeats: u32) -> (Manifest, Vec<Trial>) {
    let mut m = manifest(&["vllm", "tgi"]);
    m.workload.warmup_requests = 20;
    m.slo = Slo {
        ttft: vec![(95.0, 300 * MS)],
        tpot: vec![(95.0, 30 * MS)],
        itl: vec![(99.0, 60 * MS)],
        e2e: Vec::new(),
    };
    m.cost = Some(CostFacts {
        hardware: "4-core VM".into(),
        usd_per_hour: 0.17,
        source: "list price, 2025-01".into(),
    });
    let mut trials = Vec::new();
    for repeat in 1..=repeats {
        let seed = 100 + u64::from(repeat);
        trials.push(simulate("vllm", repeat, seed, 320, 9.5, &CHUNKED));
        trials.push(simulate("tgi", repeat, seed, 320, 9.5, &PREFILL_FIRST));
    }
    m.trials = trials.iter().map(|t| t.facts.clone()).collect();
    (m, trials)
}
