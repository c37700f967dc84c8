//! API keys reach the server and nothing else: no file of a run, no line of output.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use common::{llmlab, stderr, stdout};

const KEY: &str = "sk-7hx2-secret-of-the-test";

struct Server {
    child: Child,
    url: String,
    /// Open as long as the server prints.
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that refuses whoever has not the key.
fn server(dir: &Path) -> Server {
    let mut child = llmlab(dir)
        .args(["serve", "--model", "synthetic:llama-15m", "--port", "0", "--threads", "1"])
        .args(["--weights", "q8_0", "--set", "kv_memory=16MiB", "--api-key-env", "THE_SERVERS_KEY"])
        .env("THE_SERVERS_KEY", KEY)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_string();
    Server { child, url, _stdout: stdout }
}

fn scenario(dir: &Path, url: &str, key: &str) {
    let text = format!(
        r#"
name = "keyed"
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 16 }}, output = {{ distribution = "fixed", tokens = 4 }} }}
requests = 8
warmup = 2
arrivals = {{ users = 2 }}
[[target]]
name = "live"
endpoint = {{ url = "{url}", metrics = "/metrics", {key} }}
"#
    );
    std::fs::write(dir.join("keyed.toml"), text).unwrap();
}

/// Every file below `dir` except the key's own.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn a_key_from_a_file_or_the_environment_is_sent_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    std::fs::write(dir.path().join("key.txt"), format!("{KEY}\n")).unwrap();
    for key in [r#"api_key_file = "key.txt""#, r#"api_key_env = "THE_CLIENTS_KEY""#] {
        scenario(dir.path(), &server.url, key);
        let output = llmlab(dir.path())
            .args(["run", "keyed.toml", "--no-client-calibration"])
            .env("THE_CLIENTS_KEY", KEY)
            .output()
            .unwrap();
        let said = format!("{}\n{}", stdout(&output), stderr(&output));
        assert!(matches!(output.status.code(), Some(0 | 4)), "{said}");
        assert!(!said.contains(KEY), "the key was printed");
    }
    let written = files(&dir.path().join("results"));
    assert!(written.iter().any(|path| path.ends_with("manifest.json")));
    for path in written {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|w| w == KEY.as_bytes()), "the key is in {}", path.display());
    }
}

#[test]
fn a_wrong_or_missing_key_is_said_without_repeating_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let run = || llmlab(dir.path()).args(["run", "keyed.toml", "--no-client-calibration"]).output().unwrap();

    std::fs::write(dir.path().join("key.txt"), "sk-another\n").unwrap();
    scenario(dir.path(), &server.url, r#"api_key_file = "key.txt""#);
    let output = run();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("401") && !said.contains("sk-another"), "{said}");

    for text in ["", "sk-one\nsk-two\n"] {
        std::fs::write(dir.path().join("key.txt"), text).unwrap();
        let output = run();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("api_key_file") && !stderr(&output).contains("sk-one"));
    }
    // Whoever writes the key in place of the file's name sees the line of the scenario, which is theirs.
    scenario(dir.path(), &server.url, r#"api_key_file = "absent.txt""#);
    let output = run();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("api_key_file is not the path of a file"), "{}", stderr(&output));
}
