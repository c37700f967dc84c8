//! One schedule from two processes: shards against a live server, joined again, and what cannot be shared.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use common::{Mock, llmlab, stderr, stdout};
use llmlab_results::manifest::{Manifest, Sharding};
use llmlab_results::read_run;
use time::OffsetDateTime;

fn scenario(dir: &Path, url: &str, arrivals: &str) {
    let text = format!(
        r#"
name = "shared"
seed = 3
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "uniform", min = 4, max = 20 }}, output = {{ distribution = "fixed", tokens = 5 }} }}
requests = 41
warmup = 4
arrivals = {arrivals}
[[target]]
name = "mock"
endpoint = {{ url = "{url}", protocol = "openai-completions", model = "mock" }}
"#
    );
    std::fs::write(dir.join("shared.toml"), text).unwrap();
}

fn seconds_from_now(seconds: i64) -> String {
    (OffsetDateTime::now_utc().unix_timestamp() + seconds).to_string()
}

fn shard(dir: &Path, which: &str, start_at: &str, results: &str) -> Child {
    llmlab(dir)
        .args([
            "run",
            "shared.toml",
            "--shard",
            which,
            "--start-at",
            start_at,
            "--results",
            results,
            "--no-client-calibration",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Both shards, with a start as far away as this machine needs to get ready.
fn both_shards(dir: &Path) -> [PathBuf; 2] {
    for lead in [4, 15, 60] {
        let start_at = seconds_from_now(lead);
        let results = format!("parts-{lead}");
        let children = ["0/2", "1/2"].map(|which| shard(dir, which, &start_at, &results));
        let outputs: [Output; 2] = children.map(|child| child.wait_with_output().unwrap());
        if outputs.iter().any(|output| stderr(output).contains("passed")) {
            continue;
        }
        for output in &outputs {
            // A busy test machine may make a client late; then its verdict says so.
            assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(output), stderr(output));
        }
        let mut runs: Vec<PathBuf> =
            std::fs::read_dir(dir.join(&results)).unwrap().map(|run| run.unwrap().path()).collect();
        runs.sort_by_key(|run| shard_index(&read_run(run).unwrap().0));
        return runs.try_into().unwrap();
    }
    panic!("two processes were not ready within a minute");
}

fn shard_index(manifest: &Manifest) -> u32 {
    match &manifest.sharding {
        Some(Sharding::Shard(facts)) => facts.index,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_processes_send_one_schedule_and_their_runs_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &["--ttft", "20ms", "--itl", "2ms"]);
    scenario(dir.path(), &mock.url, "{ process = \"poisson\", rate = 40.0 }");
    let parts = both_shards(dir.path());
    // What one machine sends by itself is the yardstick.
    let alone = llmlab(dir.path())
        .args(["run", "shared.toml", "--results", "alone", "--no-client-calibration"])
        .output()
        .unwrap();
    mock.stop();
    assert!(matches!(alone.status.code(), Some(0 | 4)), "{}", stderr(&alone));
    let alone = std::fs::read_dir(dir.path().join("alone")).unwrap().next().unwrap().unwrap().path();
    let (_, mut one) = read_run(&alone).unwrap();

    let joined = llmlab(dir.path()).args(["merge", "--json"]).args(&parts).output().unwrap();
    assert!(matches!(joined.status.code(), Some(0 | 4)), "{}", stderr(&joined));
    let analysis: serde_json::Value = serde_json::from_str(&stdout(&joined)).unwrap();
    assert_eq!(analysis.pointer("/trials/0/requests/measured").unwrap(), 37, "{analysis}");
    let run = common::only_run(dir.path());
    assert!(run.join("requests.parquet").is_file() && run.join("report.html").is_file());
    let (manifest, mut trials) = read_run(&run).unwrap();
    let Some(Sharding::Merged(kept)) = &manifest.sharding else { panic!("{:?}", manifest.sharding) };
    assert_eq!(kept.iter().map(|part| part.requests).collect::<Vec<_>>(), [21, 20]);

    let schedule = |trials: &mut Vec<llmlab_results::TrialFiles>| {
        let mut records = trials.remove(0).records;
        records.sort_by_key(|record| record.index);
        let planned = records.iter().map(|r| {
            (r.index, r.scheduled_ns, r.prompt_tokens_requested, r.output_tokens_requested, r.outcome)
        });
        planned.collect::<Vec<_>>()
    };
    assert_eq!(schedule(&mut trials), schedule(&mut one));
    // On one machine CLOCK_MONOTONIC tells how far the shards' zeros were apart: no further than the two readings of the
    // wall clock by which they were agreed on, and that is time between two instructions, or a preemption.
    let zeros = parts.map(|part| read_run(&part).unwrap().1[0].facts.start_monotonic_ns);
    assert!(zeros[0].abs_diff(zeros[1]) < 1_000_000_000, "{zeros:?}");

    let again = llmlab(dir.path()).args(["report", "--json"]).arg(&run).output().unwrap();
    assert_eq!(stdout(&again), stdout(&joined));
    let as_others =
        llmlab(dir.path()).args(["report", "--json", "--compat", "vllm,mlperf"]).arg(&run).output().unwrap();
    let analysis: serde_json::Value = serde_json::from_str(&stdout(&as_others)).unwrap();
    assert_eq!(analysis.pointer("/compat/1/tool").unwrap(), "mlperf");
    let first = analysis.pointer("/compat/0/trials/0/rows/0").unwrap();
    assert_eq!(
        (&first["name"], &first["value"], &first["ours"]),
        (&"Successful requests".into(), &37.0.into(), &37.0.into())
    );
    let missing = llmlab(dir.path()).args(["merge"]).arg(run).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("is not the run of a shard"), "{}", stderr(&missing));
}

#[test]
fn what_cannot_be_shared_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let soon = seconds_from_now(600);
    let refused = |args: &[&str]| {
        let output = llmlab(dir.path()).args(["run", "shared.toml"]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
        // The drawn error wraps its lines.
        stderr(&output).split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
    };
    scenario(dir.path(), "http://127.0.0.1:9", "{ process = \"poisson\", rate = 40.0 }");
    for (args, words) in [
        (&["--shard", "2/2", "--start-at", &soon][..], "INDEX from 0 to TOTAL - 1"),
        (&["--shard", "0/2"], "--start-at"),
        (&["--start-at", &soon], "--shard"),
        (&["--shard", "0/2", "--start-at", "noon"], "RFC 3339"),
        (&["--shard", "0/2", "--start-at", "2020-01-01T00:00:00Z"], "ago by this machine's clock"),
        (&["--shard", "0/2", "--start-at", "9999999999"], "more than a day away"),
        (&["--shard", "0/2", "--start-at", &soon, "--repeats", "2"], "2 repeats"),
        (&["--shard", "0/50", "--start-at", &soon, "--explain"], "41 requests cannot be dealt out to 50"),
    ] {
        let said = refused(args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let shared = ["--shard", "0/2", "--start-at", &soon];
    scenario(dir.path(), "http://127.0.0.1:9", "{ process = \"poisson\", load = 0.7 }");
    assert!(refused(&shared).contains("need the saturation"));
    scenario(dir.path(), "http://127.0.0.1:9", "{ users = 3 }");
    let closed = llmlab(dir.path()).args(["run", "shared.toml", "--explain"]).args(shared).output().unwrap();
    assert!(stdout(&closed).contains("shard     0/2: 27 of these requests"), "{}", stdout(&closed));
    common::tiny_scenario(dir.path(), 12);
    std::fs::rename(dir.path().join("tiny.toml"), dir.path().join("shared.toml")).unwrap();
    assert!(refused(&shared).contains("2 targets"));
}

/// A server that lives in another year.
#[test]
fn a_machine_with_a_wrong_clock_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    scenario(
        dir.path(),
        &format!("http://{}", listener.local_addr().unwrap()),
        "{ process = \"poisson\", rate = 40.0 }",
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    let child = shard(dir.path(), "0/2", &seconds_from_now(600), "parts");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("ahead of that of"), "{}", stderr(&output));
}

#[test]
fn a_job_is_printed_that_pods_can_run_and_what_they_cannot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let deploy = |args: &[&str]| {
        let common = ["deploy", "loadgen", "shared.toml", "--image", "llmlab:0.1", "--results-claim", "runs"];
        llmlab(dir.path()).args(common).args(args).output().unwrap()
    };
    scenario(dir.path(), "http://vllm.serving:8000", "{ users = 3 }");
    let printed = deploy(&["--shards", "3"]);
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    for part in
        ["kind: ConfigMap", "kind: Job", "completionMode: Indexed", "--shard=$(JOB_COMPLETION_INDEX)/3"]
    {
        assert!(stdout(&printed).contains(part), "{part} is missing in:\n{}", stdout(&printed));
    }
    assert!(stderr(&printed).contains("llmlab merge"), "{}", stderr(&printed));
    let refused = |args: &[&str], words: &str| {
        let output = deploy(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
        let said = stderr(&output).split_whitespace().filter(|w| *w != "│").collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    refused(&["--shards", "4"], "3 users cannot be dealt out to 4 shards");
    refused(&["--shards", "2", "--cpu", "two"], "no quantity");
    refused(&["--shards", "2", "--name", "Über"], "--name");
    refused(&["--shards", "2", "--api-key-secret", "keys"], "names no api_key_env");
    refused(&["--shards", "2", "--start-at", "2020-01-01T00:00:00Z"], "not within the next 24 hours");
    scenario(dir.path(), "http://127.0.0.1:8000", "{ users = 3 }");
    refused(&["--shards", "2"], "is the pod itself");
}
