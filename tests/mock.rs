//! The mock server from the command line: a client checked in one command, and a stored run beside the mock's log.

mod common;

use std::path::Path;

use common::{Mock, llmlab, stderr, stdout};

#[test]
fn the_doctor_checks_the_client_in_one_command() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        llmlab(dir.path()).args(["doctor", "--client", "--streams", "6", "--json"]).output().unwrap();
    let levels: serde_json::Value =
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let level = &levels[0];
    let accuracy = &level["accuracy"];
    let compared = accuracy["compared"].as_u64().unwrap();
    assert!(compared > 20 && accuracy["left_out"] == 0, "{level}");
    assert_eq!(accuracy["itl"]["samples"].as_u64().unwrap(), compared * 63);
    // How exact the client is beside other tests is luck; that the exit code says what the rows say is not.
    let missed = level["missed"].as_array().unwrap();
    assert_eq!(output.status.code(), Some(if missed.is_empty() { 0 } else { 4 }), "{level}");
    assert!(accuracy["ttft"]["p50_ns"].as_u64().unwrap() < 20_000_000, "{level}");
}

#[test]
fn a_stored_run_is_compared_with_the_mocks_log() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(
        dir.path(),
        &["--log", "truth.jsonl", "--ttft", "20ms", "--itl", "2ms", "--fault", "429:0.2", "--seed", "4"],
    );
    let text = format!(
        r#"
name = "checked"
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 8 }}, output = {{ distribution = "fixed", tokens = 5 }} }}
requests = 40
warmup = 0
arrivals = {{ users = 4 }}
[[target]]
name = "mock"
endpoint = {{ url = "{}" }}
"#,
        mock.url
    );
    std::fs::write(dir.path().join("checked.toml"), text).unwrap();
    let run = llmlab(dir.path())
        .args(["run", "checked.toml", "--repeats", "1", "--no-client-calibration"])
        .output()
        .unwrap();
    mock.stop();
    assert!(dir.path().join("results/runs").exists(), "{}\n{}", stdout(&run), stderr(&run));
    let run = std::fs::read_dir(dir.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let check = |run: &Path, log: &str| {
        llmlab(dir.path()).args(["mock", "--log", log, "--check"]).arg(run).output().unwrap()
    };
    let output = check(&run, "truth.jsonl");
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let row = said.lines().find(|line| line.starts_with("mock-r")).expect(&said);
    let counts: Vec<u64> = row.split_whitespace().skip(1).take(2).map(|n| n.parse().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 40, "{row}");
    assert!(counts[0] > 20 && counts[1] > 0, "a fifth met the fault: {row}");

    std::fs::write(dir.path().join("other.jsonl"), "").unwrap();
    let other = check(&run, "other.jsonl");
    assert_eq!(other.status.code(), Some(2), "{}", stdout(&other));
    assert!(stderr(&other).contains("no request of the run is in the log"), "{}", stderr(&other));
}

#[test]
fn what_the_mock_cannot_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("old.jsonl"), "").unwrap();
    for (args, part) in [
        (vec!["--fault", "fire"], "slow-drip"),
        (vec!["--fault", "429:0.7", "--fault", "500:0.7"], "at most 1"),
        (vec!["--stall", "10s every 2s"], "shorter"),
        (vec!["--ttft", "50"], "unit"),
        (vec!["--log", "old.jsonl"], "old.jsonl"),
        (vec!["--core", "100000"], "core 100000"),
        (vec!["--check", "somewhere"], "--log"),
    ] {
        let output = llmlab(dir.path()).args(["mock", "--port", "0"]).args(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}
