//! The second Ctrl-C: the person insists. What is recorded stays, and nothing else does.

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use common::{Mock, children_in, llmlab, only_run, processes_gone, signal, wait_for_records};
use llmlab_results::manifest::RunStatus;
use llmlab_results::read_run;
use llmlab_results::record::Outcome;

/// A run that was told to stop by a signal of that name, and its messages. `ready` waits for the moment to press Ctrl-C.
fn stopping(dir: &Path, by: &str, ready: impl FnOnce()) -> (Child, BufReader<ChildStderr>) {
    std::fs::create_dir(dir.join("tmp")).unwrap();
    let mut run = llmlab(dir)
        .args(["run", "scenario.toml"])
        .env("TMPDIR", dir.join("tmp"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(run.stderr.take().unwrap());
    ready();
    signal(run.id(), by);
    // Two signals at once are one, so the first must have been taken.
    wait_for_words(&mut said, "stopping:");
    (run, said)
}

fn wait_for_words(said: &mut impl BufRead, words: &str) {
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the run ended before it said {words:?}");
    }
}

/// The arguments of a process.
fn arguments(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn temporary(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("tmp")).unwrap().count()
}

#[test]
fn a_server_that_would_take_its_time_is_ended_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let binary = env!("CARGO_BIN_EXE_llmlab");
    // The mock ends at SIGTERM; the shell around it and the sleep in a session of its own do not. Tokens come for a minute.
    let script = format!(
        "trap '' TERM; setsid sleep 600 & {binary} mock --port {port} --ttft 1ms --itl 200ms & while :; do sleep 1; done"
    );
    let text = format!(
        r#"
name = "insisted"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 8 }}, output = {{ distribution = "uniform", min = 1, max = 300 }} }}
requests = 2000
arrivals = {{ users = 64 }}
[[target]]
name = "mine"
command = {{ run = ["sh", "-c", "{script}"], url = "http://127.0.0.1:{port}", model = "mock", stop_timeout = "10m" }}
"#
    );
    std::fs::write(dir.path().join("scenario.toml"), text).unwrap();
    let (mut run, _said) = stopping(dir.path(), "TERM", || {
        wait_for_records(dir.path(), "mine-r1", 2);
    });
    signal(run.id(), "INT");
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(processes_gone(dir.path()), "{:?}", children_in(dir.path()));

    let (manifest, trials) = read_run(&only_run(dir.path())).unwrap();
    assert_eq!(manifest.status, RunStatus::Interrupted);
    let count = |outcome| trials[0].records.iter().filter(|record| record.outcome == outcome).count();
    assert!(count(Outcome::Ok) >= 2);
    assert!(count(Outcome::Cancelled) > 0, "what was in flight has its record too");
}

/// The timing server of the calibration hangs, so that the run cannot end by itself.
#[test]
fn a_run_that_hangs_leaves_no_child_and_no_temporary_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &["--ttft", "100ms", "--itl", "10ms"]);
    let text = format!(
        r#"
name = "hanging"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 8 }}, output = {{ distribution = "fixed", tokens = 20 }} }}
requests = 40
arrivals = {{ users = 4 }}
[[target]]
name = "server"
endpoint = {{ url = "{}", protocol = "openai-completions", model = "mock" }}
"#,
        mock.url
    );
    std::fs::write(dir.path().join("scenario.toml"), text).unwrap();
    let (mut run, _said) = stopping(dir.path(), "INT", || {
        let timing = || {
            children_in(dir.path()).into_iter().find(|pid| arguments(*pid).iter().any(|word| word == "--log"))
        };
        let found = (0..9000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            timing()
        });
        signal(found.expect("the calibration started within three minutes"), "STOP");
        assert_eq!(temporary(dir.path()), 1);
    });
    assert_eq!(read_run(&only_run(dir.path())).unwrap().0.status, RunStatus::Complete);
    signal(run.id(), "INT");
    assert_eq!(run.wait().unwrap().code(), Some(130));
    mock.stop();
    assert!(processes_gone(dir.path()), "{:?}", children_in(dir.path()));
    assert_eq!(temporary(dir.path()), 0);
    let (manifest, trials) = read_run(&only_run(dir.path())).unwrap();
    assert_eq!((manifest.status, trials[0].records.len()), (RunStatus::Complete, 40));
}
