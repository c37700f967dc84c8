//! `find` through the binary: the edge of a server whose edge can be worked out, what is stored, and the way back from it.

mod common;

use std::path::Path;

use common::{llmlab, only_run, stderr, stdout};
use llmlab_results::{read_run, read_search};
use serde_json::Value;

/// One request at a time, each as long as the others: an M/D/1 queue.
fn scenario(dir: &Path, find: &str, limit: &str, rest: &str) {
    let text = format!(
        r#"
name = "edge"
find = "{find}"
[model]
source = "spec:llama-3.1-8b"
max_model_len = 512
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 100 }}, output = {{ distribution = "fixed", tokens = 8 }} }}
requests = 700
arrivals = {{ {} }}
[[target]]
name = "one-at-a-time"
simulate = {{ hardware = "h100-sxm", policy = "static", batch_size = 1 }}
[slo]
ttft_p95 = "{limit}"
{rest}
"#,
        if find.contains("users") { "" } else { "process = \"poisson\"" }
    );
    std::fs::write(dir.join("edge.toml"), text).unwrap();
}

fn run(dir: &Path, code: i32) -> Value {
    let output = llmlab(dir).args(["run", "edge.toml", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(&output), stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// P(W <= t) of M/D/1 with arrivals `rate` and service time `d` (Erlang 1909; Tijms, A First Course in Stochastic Models).
fn waits_at_most(t: f64, rate: f64, d: f64) -> f64 {
    let mut sum = 0.0;
    for k in 0..=(t / d).floor() as i32 {
        let x = rate * (t - f64::from(k) * d);
        let factorial: f64 = (1..=k).map(f64::from).product();
        sum += (-x).powi(k) / factorial * x.exp();
    }
    (1.0 - rate * d) * sum
}

/// The rate at which 95 % wait at most `t`.
fn edge(t: f64, d: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0 / d);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if waits_at_most(t, middle, d) >= 0.95 { low = middle } else { high = middle }
    }
    low
}

#[test]
fn the_closed_form_is_right_where_it_is_known() {
    // Nobody waits with probability 1 - rho; the mean wait is rho d / (2 (1 - rho)).
    assert!((waits_at_most(0.0, 0.5, 1.0) - 0.5).abs() < 1e-12);
    let (rate, step) = (0.5, 0.001);
    let mean: f64 =
        (0..15_000).map(|i| (1.0 - waits_at_most((f64::from(i) + 0.5) * step, rate, 1.0)) * step).sum();
    assert!((mean - 0.5).abs() < 0.002, "{mean}");
}

/// TTFT is the wait, and what a request takes without one. The service time is what a server that never rests needs a request.
#[test]
fn the_edge_of_an_m_d_1_queue_is_found() {
    let dir = tempfile::tempdir().unwrap();
    scenario(dir.path(), "max rate meeting the SLO", "200ms", "[search]\ntolerance = 0.06");
    let report = run(dir.path(), 0);
    let target = &report["targets"][0];
    let number = |value: &Value| value.as_f64().unwrap();
    let (held, missed) = (number(&target["edge"]["held"]), number(&target["edge"]["missed"]));
    assert!(held < missed && missed / held <= 1.06 + 1e-9, "{held} {missed}");

    let search = only_run(dir.path());
    let stored = read_search(&search).unwrap().unwrap();
    let mut shortest = f64::MAX;
    for value in &stored.targets[0].values {
        let (_, trials) = read_run(&search.join(&value.dir)).unwrap();
        for record in trials.iter().flat_map(|trial| &trial.records) {
            if let Some(first) = record.first_token_ns() {
                shortest = shortest.min((first - record.scheduled_ns) as f64 / 1e9);
            }
        }
    }
    let service_s = 1.0 / stored.targets[0].saturation_rps.unwrap();
    let want = edge(0.2 - shortest, service_s);
    assert!((0.85..1.1).contains(&(held / want)), "found {held}, closed form {want}, service {service_s} s");
    // The interval of what was clear holds it.
    let clear = &target["interval"];
    assert!(number(&clear[0]) <= held && number(&clear[1]) >= missed, "{clear}");

    // A trial far above the edge is not run to its end, and is kept.
    let stopped: Vec<_> = stored.targets[0].values.iter().filter(|value| !value.stopped.is_empty()).collect();
    assert!(!stopped.is_empty());
    for value in &stopped {
        let (_, trials) = read_run(&search.join(&value.dir)).unwrap();
        let cut = trials.iter().find(|trial| trial.facts.dir == value.stopped[0].dir).unwrap();
        assert!(!cut.facts.complete && !cut.records.is_empty() && cut.records.len() < 700);
    }

    for file in ["search.html", "search.md", "charts/curve-ttft-p95.svg", "charts/throughput-ttft-p95.svg"] {
        assert!(search.join(file).is_file(), "{file}");
    }
    // The same from what is stored.
    std::fs::remove_file(search.join("search.html")).unwrap();
    let again = llmlab(dir.path()).args(["report", "--json"]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_eq!(serde_json::from_str::<Value>(&stdout(&again)).unwrap(), report);
    assert!(search.join("search.html").is_file());
}

#[test]
fn users_are_searched_in_whole_numbers_and_shares_of_saturation_as_shares() {
    let dir = tempfile::tempdir().unwrap();
    scenario(
        dir.path(),
        "max users meeting the SLO",
        "300ms",
        "[search]\ntolerance = 0.001\n[compare]\nrepeats = 1",
    );
    let report = run(dir.path(), 0);
    let edge = &report["targets"][0]["edge"];
    let (held, missed) = (edge["held"].as_f64().unwrap(), edge["missed"].as_f64().unwrap());
    // In a closed loop of equal requests each waits for all others: the next user makes the wait longer by one service.
    assert_eq!(missed, held + 1.0);
    let dir = tempfile::tempdir().unwrap();
    scenario(dir.path(), "max load meeting the SLO", "200ms", "[compare]\nrepeats = 1");
    let report = run(dir.path(), 0);
    let held = report["targets"][0]["edge"]["held"].as_f64().unwrap();
    assert!((0.3..1.0).contains(&held), "{held}");
}

#[test]
fn an_slo_that_no_rate_meets_fails_with_code_10() {
    let dir = tempfile::tempdir().unwrap();
    scenario(dir.path(), "max rate meeting the SLO", "1ms", "[compare]\nrepeats = 1");
    let report = run(dir.path(), 10);
    assert_eq!(report["targets"][0]["edge"]["is"], "below");
}
