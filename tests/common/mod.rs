//! The built binary, run in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn llmlab(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmlab"));
    // The roofline cache must not leak between this machine's user and the tests.
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).env("NO_COLOR", "1");
    command
}

/// A run small enough for a test: real engine, real HTTP, a dozen requests.
#[allow(dead_code, reason = "each test file compiles this module for itself")]
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
