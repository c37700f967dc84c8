//! Other tools' definitions: the figures of their own metric code on the same requests, and by hand where a tool's code
//! cannot be run by itself.

mod common;

use std::collections::BTreeMap;

use common::{MS, chunked, manifest, record, refused, trial};
use llmlab_metrics::compat::{Row, Scored, Tool, score, terminal};
use llmlab_metrics::{Trial, analyse};
use llmlab_results::manifest::{Manifest, Slo};
use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent};
use serde_json::Value;

const FIXTURE: &str = include_str!("fixtures/compat.json");

fn scored(tool: Tool, m: &Manifest, records: Vec<RequestRecord>) -> Scored {
    let trials: Vec<Trial> = vec![trial("a", 1, records)];
    score(tool, m, &trials, &analyse(m, &trials))
}

fn row<'s>(scored: &'s Scored, name: &str) -> &'s Row {
    let found = scored.trials[0].rows.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no row {name} in {:?}", scored.trials[0].rows))
}

/// The fixture's requests as records, its warm-up and its limits.
fn fixture() -> (Manifest, Vec<RequestRecord>, Value) {
    let json: Value = serde_json::from_str(FIXTURE).unwrap();
    let records = json["requests"].as_array().unwrap().iter().map(|r| {
        let number = |key: &str| r[key].as_u64();
        let tokens = |key: &str| number(key).unwrap() as u32;
        let outcome: Outcome = serde_json::from_value(r["outcome"].clone()).unwrap();
        let event =
            |e: &Value| TokenEvent { at_ns: e[0].as_u64().unwrap(), tokens: e[1].as_u64().unwrap() as u32 };
        RequestRecord {
            scheduled_ns: number("scheduled_ns").unwrap(),
            sent_ns: number("sent_ns"),
            connect_ns: number("connect_ns"),
            events: r["events"].as_array().unwrap().iter().map(event).collect(),
            done_ns: number("done_ns"),
            prompt_tokens_requested: tokens("prompt_tokens_requested"),
            prompt_tokens: tokens("prompt_tokens"),
            output_tokens_requested: tokens("output_tokens_requested"),
            output_tokens: tokens("output_tokens"),
            outcome,
            ..record(number("index").unwrap(), 0, &[])
        }
    });
    let limit = |key: &str| vec![(99.0, json["slo_ns"][key].as_u64().unwrap())];
    let mut m = manifest(&["a"]);
    m.workload.warmup_requests = json["warmup"].as_u64().unwrap();
    m.slo = Slo { ttft: limit("ttft"), tpot: limit("tpot"), e2e: limit("e2e"), itl: Vec::new() };
    (m, records.collect(), json)
}

/// What each tool's own code made of these requests is in the fixture; every line of it is a line of ours.
#[test]
fn agrees_with_the_tools_own_code() {
    let (m, records, json) = fixture();
    for tool in [Tool::Vllm, Tool::Sglang, Tool::Guidellm, Tool::Aiperf] {
        let scored = scored(tool, &m, records.clone());
        let expected: BTreeMap<String, Option<f64>> =
            serde_json::from_value(json["expected"][tool.name()].clone()).unwrap();
        assert!(expected.len() > 20);
        for (name, want) in expected {
            let got = row(&scored, &name).value;
            let close = match (got, want) {
                (Some(got), Some(want)) => (got - want).abs() <= 1e-6 * want.abs().max(1e-3),
                (got, want) => got == want,
            };
            assert!(close, "{} {name}: {got:?}, its own code says {want:?}", tool.name());
        }
    }
}

/// Times in ms: sent 0.1 after the schedule, done 1 after the last token.
#[test]
fn loadgen_counts_from_the_schedule_and_takes_samples_as_percentiles() {
    let records = vec![
        chunked(0, 1_000, &[(1_100, 1), (1_120, 1), (1_160, 2)]),
        chunked(1, 1_050, &[(1_250, 3)]),
        chunked(2, 1_100, &[(1_180, 1)]),
        chunked(3, 1_200, &[(1_400, 2), (1_460, 3)]),
    ];
    let scored = scored(Tool::Mlperf, &manifest(&["a"]), records);
    let value = |name: &str| row(&scored, name).value.unwrap();
    let ms = MS as f64;
    // First tokens after 100, 200, 80, 200; rank 4 * 0.5 = 2 of [80, 100, 200, 200].
    assert_eq!(value("50.00 percentile First Token latency (ns)"), 200.0 * ms);
    assert_eq!(value("Mean First Token latency (ns)"), 145.0 * ms);
    // To the end of the stream: 161, 201, 81, 261.
    assert_eq!(value("Max latency (ns)"), 261.0 * ms);
    // (161 - 100) / 3, (201 - 200) / 2, none, (261 - 200) / 4, in whole nanoseconds.
    assert_eq!(value("Max Time to Output Token (ns)"), 20_333_333.0);
    assert_eq!(value("Min Time to Output Token (ns)"), 0.5 * ms);
    // Three intervals until 1461, 461 ms after the first was due; 13 tokens in the same time.
    assert!((value("Completed samples per second") - 3.0 / 0.461).abs() < 1e-9);
    assert!((value("Completed tokens per second") - 13.0 / 0.461).abs() < 1e-9);
    assert!((value("Scheduled samples per second") - 3.0 / 0.2).abs() < 1e-9);
}

#[test]
fn ours_stand_beside_and_differ_where_the_definition_does() {
    // Connected within the request, eight tokens in the first event, one a millisecond later.
    let mut r = chunked(0, 0, &[(100, 8), (101, 1)]);
    r.sent_ns = Some(5 * MS);
    r.connect_ns = Some(2 * MS);
    let m = manifest(&["a"]);
    let vllm = scored(Tool::Vllm, &m, vec![r.clone()]);
    let ttft = row(&vllm, "Mean TTFT (ms)");
    // From opening the connection at 3 ms; ours from the schedule at 0.
    assert_eq!((ttft.value, ttft.ours, ttft.our_name), (Some(97.0), Some(100.0), Some("TTFT")));
    // 1 ms over eight tokens; ours over the one that came after the first event.
    let tpot = row(&vllm, "Mean TPOT (ms)");
    assert!((tpot.value.unwrap() - 0.125).abs() < 1e-9 && tpot.ours == Some(1.0), "{tpot:?}");
    // GuideLLM's time per output token holds the first one's wait.
    let guidellm = scored(Tool::Guidellm, &m, vec![r]);
    let tpot = row(&guidellm, "time_per_output_token_ms mean");
    assert!((tpot.value.unwrap() - 98.0 / 9.0).abs() < 1e-9 && tpot.our_name.is_none(), "{tpot:?}");
}

#[test]
fn a_single_token_keeps_or_breaks_a_limit_as_each_tool_has_it() {
    let mut m = manifest(&["a"]);
    m.slo = Slo { tpot: vec![(99.0, 1)], ..Slo::default() };
    let one = || vec![chunked(0, 0, &[(100, 1)]), chunked(1, 0, &[(110, 1)])];
    let value = |tool, name: &str| row(&scored(tool, &m, one()), name).value;
    assert!(value(Tool::Vllm, "Request goodput (req/s)").unwrap() > 0.0);
    assert_eq!(value(Tool::Sglang, "SLO attainment (%)"), Some(100.0));
    assert_eq!(value(Tool::Guidellm, "slo_attainment"), None);
    assert_eq!(value(Tool::Aiperf, "Goodput (requests/sec)"), Some(0.0));
}

#[test]
fn what_a_tool_would_have_seen_otherwise_is_noted() {
    let mut no_counts = chunked(0, 0, &[(10, 1), (20, 1)]);
    no_counts.output_tokens_source = CountSource::ChunkCount;
    no_counts.output_tokens_requested = 9;
    let open_end = RequestRecord { outcome: Outcome::NoTerminator, ..chunked(1, 0, &[(10, 1)]) };
    let records = || vec![no_counts.clone(), open_end.clone(), refused(2, 0)];
    for tool in Tool::ALL {
        let notes = scored(tool, &manifest(&["a"]), records()).trials.remove(0).notes;
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert_eq!(tool.name().parse(), Ok(tool));
    }
    // SGLang takes what it asked for where the server does not say.
    let sglang = scored(Tool::Sglang, &manifest(&["a"]), records());
    assert_eq!(row(&sglang, "Total generated tokens").value, Some(10.0));
    assert!("tgi".parse::<Tool>().unwrap_err().contains("vllm, sglang"));
}

#[test]
fn nothing_measured_is_missing_and_no_zero() {
    for tool in Tool::ALL {
        for records in [Vec::new(), vec![refused(0, 5)]] {
            let scored = scored(tool, &manifest(&["a"]), records);
            let latencies = scored.trials[0].rows.iter().filter(|row| row.name.contains("TTFT"));
            assert!(latencies.into_iter().all(|row| row.value.is_none()));
            let text = serde_json::to_string(&scored).unwrap();
            assert!(!text.contains("NaN") && !text.contains("inf\""), "{text}");
        }
    }
}

#[test]
fn the_table_has_the_tools_names_and_ours() {
    let mut m = manifest(&["a"]);
    m.targets[0].name = "a\u{1b}[31m".into();
    let page = terminal(&scored(Tool::Vllm, &m, vec![record(0, 0, &[50, 60]), refused(1, 5)]), 100);
    for part in
        ["as defined by vllm bench serve", "Mean TTFT (ms)", "llmlab", "docs/compat.md", "1 requests failed"]
    {
        assert!(page.contains(part), "{part} is missing in:\n{page}");
    }
    assert!(!page.contains('\u{1b}'));
}
