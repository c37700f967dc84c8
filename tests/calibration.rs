//! Every live run measures its own client, and its verdict knows what was found.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use common::{Mock, llmlab, only_run, signal, stderr, stdout};
use llmlab_results::calibration::ClientCalibration;
use llmlab_results::manifest::{Manifest, RunStatus};
use llmlab_results::read_run;
use serde_json::{Value, json};

fn scenario(dir: &Path, url: &str) {
    let text = format!(
        r#"
name = "calibrated"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 20 }}, output = {{ distribution = "fixed", tokens = 15 }} }}
requests = 40
warmup = 2
arrivals = {{ users = 4 }}
[[target]]
name = "server"
endpoint = {{ url = "{url}", protocol = "openai-chat" }}
"#
    );
    std::fs::write(dir.join("calibrated.toml"), text).unwrap();
}

fn run(dir: &Path, more: &[&str]) -> Output {
    let output = llmlab(dir).args(["run", "calibrated.toml"]).args(more).output().unwrap();
    // A busy test machine may make the client late.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    output
}

fn manifest(dir: &Path) -> Manifest {
    read_run(&only_run(dir)).unwrap().0
}

/// What `llmlab report` says once `change` was made to the stored manifest.
fn report_after(dir: &Path, change: impl FnOnce(&mut Value)) -> Output {
    let path = only_run(dir).join("manifest.json");
    let mut manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    std::fs::write(&path, manifest.to_string()).unwrap();
    llmlab(dir).arg("report").output().unwrap()
}

#[test]
fn a_run_measures_its_own_client() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &["--ttft", "30ms", "--itl", "5ms"]);
    scenario(dir.path(), &mock.url);
    let output = run(dir.path(), &[]);
    mock.stop();
    let said = stdout(&output);
    let html = std::fs::read_to_string(only_run(dir.path()).join("report.html")).unwrap();
    let stored = manifest(dir.path());
    assert_eq!(stored.status, RunStatus::Complete);
    match stored.client_calibration {
        Some(ClientCalibration::Measured(facts)) => {
            assert!(said.contains("client error at"), "{said}\n{}", stderr(&output));
            assert!(html.contains("client error at"));
            assert_eq!((facts.trial.as_str(), facts.protocol.as_str()), ("server-r1", "openai-chat"));
            assert!((1..=8).contains(&facts.streams), "four users: {facts:?}");
            assert!(facts.ttft.samples > 0 && facts.itl.samples > facts.ttft.samples, "{facts:?}");
            assert!(facts.itl_ns >= 1_000_000, "{facts:?}");
        }
        // On a busy test machine no timing server may be on time; nothing else may go wrong, and it is said.
        Some(ClientCalibration::Failed { why }) => {
            assert!(why.contains("the timing server was late itself"), "{why}");
            assert!(said.contains("client not calibrated"), "{said}");
            assert!(html.contains("client not calibrated"));
        }
        other => panic!("{other:?}"),
    }
}

/// Over TLS, in a protocol that only serde reads, with answers that a later turn needs.
#[test]
fn the_client_is_calibrated_as_it_was_used() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &["--tls", "ca.pem"]);
    assert!(mock.url.starts_with("https://"), "{}", mock.url);
    let text = format!(
        r#"
name = "calibrated"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 20 }}, output = {{ distribution = "fixed", tokens = 15 }} }}
sessions = {{ turns = {{ distribution = "fixed", count = 2 }} }}
requests = 20
arrivals = {{ users = 4 }}
[[target]]
name = "server"
endpoint = {{ url = "{}", protocol = "anthropic", model = "mock", ca_file = "ca.pem" }}
"#,
        mock.url
    );
    std::fs::write(dir.path().join("calibrated.toml"), text).unwrap();
    let output = run(dir.path(), &[]);
    mock.stop();
    let stored = manifest(dir.path());
    match stored.client_calibration {
        Some(ClientCalibration::Measured(facts)) => {
            assert_eq!((facts.protocol.as_str(), facts.tls, facts.keep_answers), ("anthropic", true, true));
            assert!(facts.ttft.samples > 0 && facts.itl.samples > facts.ttft.samples, "{facts:?}");
        }
        Some(ClientCalibration::Failed { why }) => {
            assert!(why.contains("the timing server was late itself"), "{why}");
        }
        other => panic!("{other:?}\n{}", stderr(&output)),
    }
}

#[test]
fn a_report_judges_the_run_by_what_its_client_got_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &[]);
    scenario(dir.path(), &mock.url);
    run(dir.path(), &["--no-client-calibration"]);
    mock.stop();

    let with_p99 = |p99_ms: u64| {
        move |manifest: &mut Value| {
            let errors =
                |p99_ns: u64| json!({"samples": 40, "p50_ns": 1, "p99_ns": p99_ns, "max_ns": p99_ns});
            manifest["client_calibration"] = json!({
                "state": "measured", "trial": "server-r1", "protocol": "openai-chat", "streams": 4, "requests": 40,
                "rate_rps": 40.0, "events_per_s": 600.0, "ttft_ns": 30_000_000, "itl_ns": 5_000_000,
                "elapsed_ns": 2_000_000_000_u64, "left_out": 0, "send_lag": errors(1),
                "ttft": errors(p99_ms * 1_000_000), "itl": errors(1), "served_late": errors(1),
            });
        }
    };
    let slow = report_after(dir.path(), with_p99(400));
    assert_eq!(slow.status.code(), Some(4), "{}", stderr(&slow));
    assert!(stdout(&slow).replace(['\n', ' '], "").contains("getsTTFTwrong(p99400.0ms"), "{}", stdout(&slow));
    let exact = report_after(dir.path(), with_p99(1));
    assert!(stdout(&exact).contains("client error at"), "{}", stdout(&exact));
    assert!(!stdout(&exact).contains("wrong (p99"), "{}", stdout(&exact));
    let old = report_after(dir.path(), |manifest| {
        manifest.as_object_mut().unwrap().remove("client_calibration");
    });
    assert!(matches!(old.status.code(), Some(0 | 4)), "{}", stderr(&old));
    assert!(!stdout(&old).contains("client error at"), "{}", stdout(&old));
}

#[test]
fn it_can_be_left_out_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &[]);
    scenario(dir.path(), &mock.url);
    let output = run(dir.path(), &["--no-client-calibration"]);
    mock.stop();
    assert!(
        stdout(&output).contains("client not calibrated: --no-client-calibration"),
        "{}",
        stdout(&output)
    );
    assert!(matches!(manifest(dir.path()).client_calibration, Some(ClientCalibration::Skipped { .. })));
}

#[test]
fn ctrl_c_in_the_calibration_keeps_the_run() {
    let dir = tempfile::tempdir().unwrap();
    // Trials long enough for a copy of two seconds.
    let mock = Mock::start(dir.path(), &["--ttft", "200ms", "--itl", "10ms"]);
    scenario(dir.path(), &mock.url);
    let child = llmlab(dir.path())
        .args(["run", "calibrated.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let complete = || {
        let run = std::fs::read_dir(dir.path().join("results/runs")).ok()?.next()?.ok()?.path();
        Some(read_run(&run).ok()?.0.status == RunStatus::Complete)
    };
    let ended = (0..9000).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        complete() == Some(true)
    });
    assert!(ended, "the run did not complete within three minutes");
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    mock.stop();
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    let stored = manifest(dir.path());
    assert_eq!(stored.status, RunStatus::Complete);
    match stored.client_calibration {
        Some(ClientCalibration::Skipped { why }) => assert_eq!(why, "interrupted"),
        other => panic!("{other:?}\n{}", stderr(&output)),
    }
}
