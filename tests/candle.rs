//! `llmlab serve` with candle as its executor.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::llmlab;

/// Candle asks its environment, so that is where `--threads` must be; and whoever started the server still has its process.
#[test]
fn candle_computes_on_the_threads_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, outside) in [(Some("3"), None), (Some("1"), Some("7")), (None, Some("99"))] {
        let mut command = llmlab(dir.path());
        command.env_remove("RAYON_NUM_THREADS");
        command
            .args(["serve", "--model", "synthetic:llama-15m", "--port", "0", "--exit-with-parent"])
            .args(["--set", "executor=candle", "--set", "kv_memory=16MiB"])
            .args(flag.iter().flat_map(|threads| ["--threads", threads]))
            .envs(outside.map(|threads| ("RAYON_NUM_THREADS", threads)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("listening on "));
        let describes = lines.next().unwrap().unwrap();
        let environment = std::fs::read(format!("/proc/{}/environ", server.id())).unwrap();
        let threads = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"RAYON_NUM_THREADS="))
            .map(|threads| String::from_utf8_lossy(threads).into_owned())
            .expect("candle is told");
        drop(server.stdin.take());
        assert!(server.wait().unwrap().success());
        assert_eq!(flag.unwrap_or(&threads), threads);
        assert!(describes.ends_with(&format!(", {threads} thread(s)")), "{threads}: {describes}");
    }
}
