//! `/metrics` as a scraper reads it.

mod common;

use std::collections::{HashMap, HashSet};

use common::*;
use serde_json::json;

/// Name, labels, value.
type Sample = (String, String, f64);

/// Families of the classic text format: name to type, in order of appearance; panics on anything malformed.
fn parse(text: &str) -> (HashMap<String, String>, Vec<Sample>) {
    let (mut types, mut helped, mut samples) = (HashMap::new(), HashSet::new(), Vec::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap_or_else(|| panic!("empty help: {line}"));
            assert!(!words.trim().is_empty(), "{line}");
            assert!(helped.insert(name.to_owned()), "twice: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name), "no help before {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("malformed: {line:?}"));
            let (name, labels) = series.split_once('{').unwrap_or_else(|| panic!("no labels: {line:?}"));
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("malformed: {line:?}"));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|base| types.get(*base).is_some_and(|kind| kind == "histogram"))
            });
            let family = family.unwrap_or(name);
            assert!(types.contains_key(family), "a sample of no family: {line}");
            samples.push((name.to_owned(), labels.to_owned(), value.parse().unwrap()));
        }
    }
    assert_eq!(helped.len(), types.len());
    (types, samples)
}

#[tokio::test]
async fn the_exposition_is_well_formed_and_has_vllms_families() {
    let server = Setup::new(FakeExecutor::text("abc")).start().await;
    for max_tokens in [1, 5, 9] {
        server.ok("/v1/completions", &json!({"prompt": "hello", "max_tokens": max_tokens})).await;
    }
    let response = server.get("/metrics").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    let (types, samples) = parse(&text);
    #[rustfmt::skip]
    let expected = [
        ("num_requests_running", "gauge"), ("num_requests_waiting", "gauge"), ("kv_cache_usage_perc", "gauge"),
        ("num_preemptions_total", "counter"), ("prompt_tokens_total", "counter"), ("generation_tokens_total", "counter"),
        ("request_success_total", "counter"), ("prefix_cache_queries_total", "counter"), ("prefix_cache_hits_total", "counter"),
        ("spec_decode_num_draft_tokens_total", "counter"), ("spec_decode_num_accepted_tokens_total", "counter"),
        ("time_to_first_token_seconds", "histogram"), ("inter_token_latency_seconds", "histogram"),
        ("e2e_request_latency_seconds", "histogram"), ("request_queue_time_seconds", "histogram"),
        ("request_prompt_tokens", "histogram"), ("request_generation_tokens", "histogram"), ("iteration_tokens_total", "histogram"),
    ];
    for (name, kind) in expected {
        assert_eq!(types.get(&format!("vllm:{name}")).map(String::as_str), Some(kind), "{name}");
    }
    assert!(
        samples
            .iter()
            .all(|(_, labels, _)| labels.contains("model_name=\"tiny\"") && labels.contains("engine=\"0\""))
    );
    check_histograms(&types, &samples);
}

/// Buckets only grow, and the last holds every observation.
fn check_histograms(types: &HashMap<String, String>, samples: &[Sample]) {
    for name in types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
        let of = |suffix: &str| {
            let wanted = format!("{name}{suffix}");
            samples.iter().filter(move |(n, ..)| *n == wanted).collect::<Vec<_>>()
        };
        let buckets = of("_bucket");
        assert!(buckets.windows(2).all(|w| w[0].2 <= w[1].2), "{name}");
        let last = buckets.last().unwrap();
        assert!(last.1.contains("le=\"+Inf\""), "{name}: {last:?}");
        assert_eq!(last.2, of("_count")[0].2, "{name}");
        assert_eq!(of("_sum").len(), 1, "{name}");
    }
}

#[tokio::test]
async fn totals_add_up_over_finished_requests() {
    let server = Setup::new(FakeExecutor::text("abc")).start().await;
    for max_tokens in [1, 5, 9] {
        server.ok("/v1/completions", &json!({"prompt": "hello", "max_tokens": max_tokens})).await;
    }
    // The last request's numbers are there before its answer is.
    let metrics = server.metrics().await;
    let value = |name: &str| sample(&metrics, name, "");
    assert_eq!(value("vllm:prompt_tokens_total"), 15.0);
    assert_eq!(value("vllm:generation_tokens_total"), 15.0);
    assert_eq!(sample(&metrics, "vllm:request_success_total", "\"length\""), 3.0);
    assert_eq!(value("vllm:time_to_first_token_seconds_count"), 3.0);
    assert_eq!(value("vllm:inter_token_latency_seconds_count"), 12.0);
    assert_eq!(value("vllm:e2e_request_latency_seconds_count"), 3.0);
    assert_eq!(value("vllm:request_queue_time_seconds_count"), 3.0);
    assert_eq!(value("vllm:request_prompt_tokens_sum"), 15.0);
    assert_eq!(value("vllm:request_generation_tokens_sum"), 15.0);
    // Three prefills of five tokens, and one token per further step.
    assert_eq!(value("vllm:iteration_tokens_total_sum"), 15.0 + 12.0);
    // A mean above the end-to-end time would mean clocks of different origin.
    assert!(value("vllm:time_to_first_token_seconds_sum") <= value("vllm:e2e_request_latency_seconds_sum"));
    assert!(value("vllm:request_queue_time_seconds_sum") <= value("vllm:time_to_first_token_seconds_sum"));
}

#[tokio::test]
async fn open_metrics_on_request() {
    let server = Setup::new(FakeExecutor::text("abc")).start().await;
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let response = server.client.get(server.url("/metrics")).header("accept", accept).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = response.text().await.unwrap();
    assert!(text.contains("# TYPE vllm:prompt_tokens counter\n") && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn scrapes_during_load_are_whole() {
    let server = Setup::new(FakeExecutor::text("abc")).start().await;
    let request = json!({"prompt": "hello", "max_tokens": 100});
    let load = futures_util::future::join_all((0..8).map(|_| server.ok("/v1/completions", &request)));
    let scrapes = async {
        for _ in 0..20 {
            parse(&server.metrics().await);
        }
    };
    tokio::join!(load, scrapes);
    assert_eq!(server.metric("vllm:generation_tokens_total", "").await, 800.0);
}
