//! The main path through real processes: engine children, HTTP, records, report; and what a killed run leaves behind.

mod common;

use std::process::Stdio;

use common::{
    children_in, llmlab, only_run, processes_gone, signal, stderr, stdout, tiny_scenario, wait_for_records,
};
use llmlab_results::read_run;

#[test]
fn a_scenario_runs_to_a_comparison_and_a_report() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 12);
    let output = llmlab(dir.path()).args(["run", "tiny.toml", "--no-client-calibration"]).output().unwrap();
    // A busy test machine may make the client late; then the run says so and must still report.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    let said = stdout(&output);
    for part in ["TTFT p95", "Against vllm", "static", "report.html", "Trust"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }

    let run = only_run(dir.path());
    for file in ["manifest.json", "report.html", "report.md", "requests.parquet", "token_events.parquet"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let (manifest, trials) = read_run(&run).unwrap();
    let order: Vec<&str> = trials.iter().map(|t| t.facts.dir.as_str()).collect();
    assert_eq!(order, ["vllm-r1", "static-r1", "static-r2", "vllm-r2"], "interleaved A B B A");
    for trial in &trials {
        assert_eq!(trial.records.len(), 12);
        assert!(trial.facts.complete);
        for record in &trial.records {
            assert!(record.outcome.is_success(), "{record:?}");
            assert_eq!((record.prompt_tokens, record.output_tokens), (24, 12));
        }
        // The server's own log agrees with what clients were told: every prompt and output token was computed once,
        // except the last token of each request, which nothing follows.
        let computed: u64 = trial.steps.iter().flat_map(|s| &s.seqs).map(|s| u64::from(s.new_tokens)).sum();
        assert_eq!(computed, 12 * (24 + 12 - 1), "{}", trial.facts.dir);
    }
    assert_eq!(manifest.trials.len(), 4);

    let again = llmlab(dir.path()).args(["report", "--json"]).output().unwrap();
    let analysis: serde_json::Value = serde_json::from_str(&stdout(&again)).unwrap();
    assert_eq!(analysis.pointer("/targets/0/name").unwrap(), "vllm");
}

#[test]
fn a_killed_run_keeps_every_finished_request_and_leaves_no_server() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 20_000);
    let mut child = llmlab(dir.path())
        .args(["run", "tiny.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let journal = wait_for_records(dir.path(), "vllm-r1", 40);
    child.kill().unwrap();
    child.wait().unwrap();
    let lines = std::fs::read(&journal).unwrap().iter().filter(|b| **b == b'\n').count();

    let run = only_run(dir.path());
    let (_, trials) = read_run(&run).unwrap();
    assert_eq!(trials.iter().map(|t| t.records.len()).sum::<usize>(), lines);
    assert!(lines >= 40);
    let report = llmlab(dir.path()).arg("report").output().unwrap();
    assert_eq!(report.status.code(), Some(4), "an incomplete run must not pass: {}", stderr(&report));
    assert!(stdout(&report).contains("vllm"), "{}", stdout(&report));
    assert!(processes_gone(dir.path()), "the engine must not outlive the run that started it");
}

#[test]
fn an_engine_that_dies_fails_the_run() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 5_000);
    let child = llmlab(dir.path())
        .args(["run", "tiny.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_records(dir.path(), "vllm-r1", 10);
    let engine =
        children_in(dir.path()).into_iter().find(|pid| *pid != child.id()).expect("an engine is running");
    signal(engine, "KILL");
    // Thousands of requests fail at once against nothing; the run must end by itself and say what happened.
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("the engine failed"), "{}", stderr(&output));
    let report = llmlab(dir.path()).arg("report").output().unwrap();
    assert_eq!(report.status.code(), Some(4), "{}", stderr(&report));
}

#[test]
fn ctrl_c_saves_what_finished_and_exits_130() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 20_000);
    let child = llmlab(dir.path())
        .args(["run", "tiny.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_records(dir.path(), "vllm-r1", 20);
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stdout(&output).contains("was interrupted"), "{}", stdout(&output));
    assert!(processes_gone(dir.path()));
}
