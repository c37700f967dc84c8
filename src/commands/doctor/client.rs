//! `llmlab doctor --client`: the load generator against a server whose timing is known, each on cores of its own.

use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Protocol, Workload, WorkloadConfig, generate,
};
use llmlab_mock::{Accuracy, affinity};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cli::DoctorArgs;
use crate::commands::client_check::{self, Checked, Load};
use crate::commands::mock::table;
use crate::exit::{Code, Failure};
use crate::{interrupt, text};

const TTFT: Duration = Duration::from_millis(50);
const SHORTEST_ITL: Duration = Duration::from_millis(10);
/// More streams get longer gaps: what is checked is many streams, not how many events a second a core can read.
const EVENTS_PER_S: f64 = 20_000.0;
const TOKENS: u32 = 64;
const SHORTEST_SPAN: Duration = Duration::from_secs(5);

/// What a client that is trusted with milliseconds should reach, at the 99th percentile.
const SENT_LATE_NS: u64 = 500_000;
const ERROR_NS: u64 = 500_000;
const ERROR_OF_MANY_NS: u64 = 5_000_000;
const MANY: u32 = 500;

#[derive(Debug, Serialize)]
struct Level {
    /// On average, once the first have ended.
    streams: u32,
    itl_ns: u64,
    rate_rps: f64,
    /// Of one core.
    client_cpu: f64,
    accuracy: Accuracy,
    /// What was missed, in words.
    missed: Vec<String>,
}

pub fn check(args: &DoctorArgs) -> Result<Code, Failure> {
    interrupt::once();
    let cores = affinity::allowed_cores().map_err(Failure::internal)?;
    // With one core there is nothing to divide.
    let (mock_core, client_cores) = match cores.split_last() {
        Some((last, rest)) if !rest.is_empty() => (Some(*last), rest),
        _ => (None, &cores[..]),
    };
    let mut levels = Vec::new();
    for streams in &args.streams {
        eprintln!("{streams} streams ...");
        levels.push(level(*streams, mock_core, client_cores)?);
    }
    let passed = levels.iter().all(|level| level.missed.is_empty());
    let code = if passed { Code::Pass } else { Code::Invalid };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&levels).map_err(Failure::internal)?);
        return Ok(code);
    }
    let rows: Vec<_> =
        levels.iter().map(|level| (level.streams.to_string(), level.accuracy.clone())).collect();
    let mut out = table("streams", &rows);
    match mock_core {
        Some(core) => out.push_str(&format!("mock on core {core}, client on {client_cores:?}\n")),
        None => out.push_str("mock and client share one core: the errors are those of both\n"),
    }
    for level in &levels {
        let itl_ms = level.itl_ns as f64 / 1e6;
        out.push_str(&format!(
            "{} streams: ITL {itl_ms} ms, {:.0} requests/s, client at {:.0} % of a core\n",
            level.streams,
            level.rate_rps,
            level.client_cpu * 100.0
        ));
        level.missed.iter().for_each(|missed| out.push_str(&format!("      MISSED: {missed}\n")));
    }
    if passed {
        out.push_str("the client keeps its schedule and its timestamps\n");
    } else {
        out.push_str("the client, or something beside it on this machine, is too slow for these loads\n");
    }
    text::print(&out)?;
    Ok(code)
}

fn level(streams: u32, mock_core: Option<usize>, client_cores: &[usize]) -> Result<Level, Failure> {
    let itl = SHORTEST_ITL.max(Duration::from_secs_f64(f64::from(streams) / EVENTS_PER_S));
    let service = TTFT + itl * (TOKENS - 1);
    // Little's law: streams in flight = arrivals per second times the seconds each takes.
    let rate_rps = f64::from(streams) / service.as_secs_f64();
    let span = SHORTEST_SPAN.max(service * 2);
    let workload = workload(rate_rps, (rate_rps * span.as_secs_f64()).ceil() as u64)?;
    let load = Load {
        workload: &workload,
        protocol: Protocol::OpenAiCompletions,
        tls: false,
        ttft: TTFT,
        itl,
        mock_core,
        client_cores: Some(client_cores),
        time_limit: None,
    };
    let Checked { driven, accuracy } = client_check::check(&load, &CancellationToken::new())?;
    Ok(Level {
        streams,
        itl_ns: itl.as_nanos() as u64,
        rate_rps,
        client_cpu: driven.client.cpu_ns as f64 / driven.elapsed.as_nanos().max(1) as f64,
        missed: missed(streams, &accuracy),
        accuracy,
    })
}

fn workload(rate_rps: f64, requests: u64) -> Result<Workload, Failure> {
    generate(&WorkloadConfig {
        seed: 1,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Fixed { tokens: 16 },
            output: LengthDist::Fixed { tokens: TOKENS },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 16),
        output_range: (1, TOKENS),
        arrivals: Arrivals::Poisson { rate_rps },
        prompts: PromptStyle::TokenIds { first: 3, end: 500 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .map_err(Failure::internal)
}

fn missed(streams: u32, accuracy: &Accuracy) -> Vec<String> {
    let error_ns = if streams <= MANY { ERROR_NS } else { ERROR_OF_MANY_NS };
    let limits = [
        ("requests sent late", accuracy.send_lag, SENT_LATE_NS),
        ("TTFT error", accuracy.ttft, error_ns),
        ("ITL error", accuracy.itl, error_ns),
    ];
    let ms = |ns: u64| ns as f64 / 1e6;
    let mut missed: Vec<String> = limits
        .iter()
        .filter(|(_, errors, most)| errors.p99_ns > *most)
        .map(|(what, errors, most)| {
            format!("{what}: p99 {:.3} ms, at most {:.1} ms expected", ms(errors.p99_ns), ms(*most))
        })
        .collect();
    if accuracy.left_out > 0 {
        missed.push(format!("{} requests failed or are not in the mock's log", accuracy.left_out));
    }
    missed
}
