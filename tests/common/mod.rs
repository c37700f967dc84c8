//! The built binary, run in a folder of its own.

#![allow(dead_code, reason = "each test file compiles this module for itself")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub fn llmlab(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmlab"));
    // The roofline cache must not leak between this machine's user and the tests.
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).env("NO_COLOR", "1");
    command
}

/// A run small enough for a test: real engine, real HTTP, a dozen requests.
pub fn tiny_scenario(dir: &Path, requests: u32) -> PathBuf {
    let text = format!(
        r#"
name = "tiny"
seed = 7
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 24 }}, output = {{ distribution = "fixed", tokens = 12 }} }}
requests = {requests}
warmup = 2
arrivals = {{ users = 2 }}
[[target]]
name = "vllm"
engine = {{ policy = "vllm", kv_memory = "16MiB", weights = "q8_0", threads = 1 }}
[[target]]
name = "static"
engine = {{ policy = "static", batch_size = 2, kv_memory = "16MiB", weights = "q8_0", threads = 1 }}
[compare]
repeats = 2
"#
    );
    let path = dir.join("tiny.toml");
    std::fs::write(&path, text).expect("the test's own folder is writable");
    path
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one run stored there.
pub fn only_run(dir: &Path) -> PathBuf {
    let runs: Vec<_> =
        std::fs::read_dir(dir.join("results/runs")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs[0].clone()
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until the journal of `trial` holds `n` lines.
pub fn wait_for_records(dir: &Path, trial: &str, n: usize) -> PathBuf {
    for _ in 0..3600 {
        std::thread::sleep(Duration::from_millis(50));
        let Ok(mut runs) = std::fs::read_dir(dir.join("results/runs")) else { continue };
        let Some(Ok(run)) = runs.next() else { continue };
        let journal = run.path().join(trial).join("journal.jsonl");
        let lines = std::fs::read(&journal).map_or(0, |bytes| bytes.iter().filter(|b| **b == b'\n').count());
        if lines >= n {
            return journal;
        }
    }
    panic!("no {n} requests finished within three minutes");
}

/// Processes that work in `dir`.
pub fn children_in(dir: &Path) -> Vec<u32> {
    let dir = dir.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let inside = processes.filter(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == dir));
    inside.filter_map(|p| p.file_name().to_str()?.parse().ok()).collect()
}

/// True once no process works in `dir` any more.
pub fn processes_gone(dir: &Path) -> bool {
    for _ in 0..200 {
        if children_in(dir).is_empty() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// A mock that ends when this is dropped.
pub struct Mock {
    child: Child,
    pub url: String,
}

impl Mock {
    pub fn start(dir: &Path, args: &[&str]) -> Mock {
        let mut child = llmlab(dir)
            .args(["mock", "--port", "0", "--exit-with-parent"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect(&line).to_string();
        Mock { child, url }
    }

    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}
