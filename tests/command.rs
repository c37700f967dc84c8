//! Command targets through real processes: the server of the tests is `llmlab serve`, started as anybody's server.

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::{children_in, llmlab, only_run, processes_gone, signal, stderr, stdout, wait_for_records};
use llmlab_results::manifest::TargetKind;
use llmlab_results::read_run;

/// Free a moment ago; the tests of one machine do not fight over ports often enough to matter.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `run = [...]` of a small server on `port`.
fn serve(port: u16) -> String {
    let binary = env!("CARGO_BIN_EXE_llmlab");
    format!(
        r#"["{binary}", "serve", "--model", "synthetic:llama-15m", "--weights", "q8_0", "--threads", "1", "--set", "kv_memory=16MiB", "--port", "{port}"]"#
    )
}

fn scenario(dir: &Path, requests: u32, command: &str) {
    let text = format!(
        r#"
name = "started"
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 24 }}, output = {{ distribution = "fixed", tokens = 12 }} }}
requests = {requests}
warmup = 2
arrivals = {{ users = 2 }}
[[target]]
name = "mine"
command = {{ {command} }}
[compare]
repeats = 2
"#
    );
    std::fs::write(dir.join("started.toml"), text).unwrap();
}

fn run(dir: &Path) -> Output {
    llmlab(dir).args(["run", "started.toml", "--no-client-calibration"]).output().unwrap()
}

/// The run fails with code 3, says `part`, and leaves no process.
fn fails_with(command: &str, part: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    scenario(dir.path(), 12, command);
    let output = run(dir.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    // A drawn error breaks its lines.
    let flat = said.split(['│', '\n']).map(str::trim).collect::<Vec<_>>().join(" ");
    assert!(flat.contains(part), "{part} is missing in:\n{said}");
    assert!(processes_gone(dir.path()), "nothing may be left running");
    flat
}

#[test]
fn a_server_is_started_driven_and_stopped_for_each_trial() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    scenario(
        dir.path(),
        12,
        &format!(
            r#"run = {}, url = "http://127.0.0.1:{port}", metrics = "/metrics", env = {{ GREETING = "hello" }}"#,
            serve(port)
        ),
    );
    let output = run(dir.path());
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    let run = only_run(dir.path());
    let (manifest, trials) = read_run(&run).unwrap();
    assert_eq!(manifest.targets[0].kind, TargetKind::Command);
    assert_eq!(trials.len(), 2);
    for trial in &trials {
        assert!(trial.facts.complete);
        assert_eq!(trial.records.len(), 12);
        assert!(trial.records.iter().all(|record| record.outcome.is_success()));
        let log = std::fs::read_to_string(run.join(&trial.facts.dir).join("server.log")).unwrap();
        assert!(log.contains("listening on"), "what the server printed is kept: {log}");
    }
    assert!(processes_gone(dir.path()));
}

#[test]
fn a_killed_run_leaves_no_server_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    scenario(dir.path(), 20_000, &format!(r#"run = {}, url = "http://127.0.0.1:{port}""#, serve(port)));
    let mut child = llmlab(dir.path())
        .args(["run", "started.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_records(dir.path(), "mine-r1", 20);
    assert!(children_in(dir.path()).len() >= 3, "llmlab, its supervisor and the server");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(processes_gone(dir.path()), "the server must not outlive the run that started it");
}

#[test]
fn ctrl_c_stops_the_server_too() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    scenario(dir.path(), 20_000, &format!(r#"run = {}, url = "http://127.0.0.1:{port}""#, serve(port)));
    let child = llmlab(dir.path())
        .args(["run", "started.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_records(dir.path(), "mine-r1", 20);
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(processes_gone(dir.path()));
}

#[test]
fn ctrl_c_while_it_starts_is_an_interruption() {
    let dir = tempfile::tempdir().unwrap();
    let command = format!(r#"run = ["sleep", "60"], url = "http://127.0.0.1:{}""#, free_port());
    scenario(dir.path(), 12, &command);
    let child = llmlab(dir.path())
        .args(["run", "started.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // llmlab, supervisor and sleep.
    for _ in 0..200 {
        if children_in(dir.path()).len() >= 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(processes_gone(dir.path()));
}

#[test]
fn a_server_that_ignores_sigterm_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    // The inner sleep sits in a session of its own, out of reach of a signal to the server's group.
    let script = "trap '' TERM; setsid sleep 600 & while :; do sleep 1; done";
    let command = format!(
        r#"run = ["sh", "-c", "{script}"], url = "http://127.0.0.1:{}", ready_timeout = "1s", stop_timeout = "500ms""#,
        free_port()
    );
    scenario(dir.path(), 12, &command);
    let output = run(dir.path());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(processes_gone(dir.path()), "{:?}", children_in(dir.path()));
    let log = std::fs::read_to_string(only_run(dir.path()).join("mine-r1/server.log")).unwrap();
    assert!(log.contains("did not stop within"), "{log}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "an early failure is one that does not take the timeout")]
fn what_can_go_wrong_at_the_start_is_one_clear_error() {
    let url = format!(r#"url = "http://127.0.0.1:{}""#, free_port());
    fails_with(
        &format!(r#"run = ["no-such-server-here"], {url}"#),
        "target mine: cannot start no-such-server-here",
    );
    let started = Instant::now();
    let binary = env!("CARGO_BIN_EXE_llmlab");
    let said = fails_with(
        &format!(r#"run = ["{binary}", "serve", "--model", "synthetic:nothing"], {url}"#),
        "the server ended before it was healthy",
    );
    assert!(said.contains("no such synthetic model") && said.contains("exit status: 2"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(60), "the ready_timeout is ten minutes");

    let port = free_port();
    fails_with(
        &format!(
            r#"run = {}, url = "http://127.0.0.1:{port}", health = "/nothing", ready_timeout = "3s""#,
            serve(port)
        ),
        "the server was not healthy within 3s",
    );
}

#[test]
fn a_port_that_is_taken_is_found_before_anything_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    fails_with(
        &format!(r#"run = {}, url = "http://127.0.0.1:{port}""#, serve(port)),
        &format!("something listens on port {port} already"),
    );
}

#[test]
fn a_server_that_dies_during_the_run_fails_it() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    scenario(dir.path(), 5_000, &format!(r#"run = {}, url = "http://127.0.0.1:{port}""#, serve(port)));
    let child = llmlab(dir.path())
        .args(["run", "started.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_records(dir.path(), "mine-r1", 10);
    let server = children_in(dir.path())
        .into_iter()
        .find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).nth(1) == Some(b"serve".as_slice())
        })
        .expect("the server is running");
    signal(server, "KILL");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("exited by itself"), "{}", stderr(&output));
    assert!(processes_gone(dir.path()));
}

#[test]
fn explain_shows_the_command_line_of_a_template() {
    let dir = tempfile::tempdir().unwrap();
    for (template, line) in [
        ("vllm", "runs vllm serve my/model --host 127.0.0.1 --port 8123 --max-num-seqs 64"),
        ("tgi", "runs text-generation-launcher --model-id my/model --hostname 127.0.0.1 --port 8123"),
        ("llama-server", "runs llama-server --model my/model --host 127.0.0.1 --port 8123 --metrics"),
        ("ollama", "runs OLLAMA_HOST=127.0.0.1:8123 ollama serve"),
        ("sglang", "runs python3 -m sglang.launch_server --model-path my/model --host 127.0.0.1 --port 8123"),
        ("tensorrt-llm", "runs trtllm-serve my/model --host 127.0.0.1 --port 8123"),
        ("triton", "--model-repository my/model --host 127.0.0.1 --openai-port 8123"),
    ] {
        let args = if template == "vllm" { r#", args = ["--max-num-seqs", "64"]"# } else { "" };
        scenario(
            dir.path(),
            12,
            &format!(r#"template = "{template}", model = "my/model", port = 8123{args}"#),
        );
        let output = llmlab(dir.path()).args(["run", "started.toml", "--explain"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).contains(line), "{line} is missing in:\n{}", stdout(&output));
    }
    assert!(!dir.path().join("results").exists());
}
