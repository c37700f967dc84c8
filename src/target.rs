//! A target under test: started if it is ours to start, reachable over HTTP while it lives, gone when dropped.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use llmlab_scenarios::spec::EngineSpec;

use crate::exit::Failure;

/// Loading or generating weights of a billion parameters takes seconds; a minute without an answer is a fault.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Longer than the server's own grace for requests in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// What a child needs to serve.
#[derive(Debug, Clone)]
pub struct EngineLaunch {
    pub model: String,
    pub model_seed: u64,
    pub max_model_len: u32,
    pub threads: usize,
    /// Every call to the scheduler goes to a file beside the step log.
    pub record: bool,
    pub engine: EngineSpec,
    /// For `--lora-modules`: NAME=FOLDER or NAME=synthetic:RANK.
    pub lora_modules: Vec<String>,
}

/// A server of this program, the engine or the mock, as a child process on loopback. Dropping it kills the child.
#[derive(Debug)]
pub struct EngineProcess {
    child: Child,
    /// Held open: the child exits when it closes, so it never outlives this process.
    stdin: Option<ChildStdin>,
    pub url: String,
    pub log: PathBuf,
}

impl EngineProcess {
    /// Starts a server that writes its step log and its messages into `dir`, and waits until it listens.
    pub fn start(launch: &EngineLaunch, dir: &Path) -> Result<EngineProcess, Failure> {
        let json = serde_json::to_string(&launch.engine).map_err(Failure::internal)?;
        let record = ["--record".into(), dir.join("calls.jsonl").into_os_string()];
        let mut command = own_command()?;
        command
            .args(["serve", "--port", "0", "--exit-with-parent", "--model", &launch.model])
            .args(["--served-model-name", "llmlab", "--engine-json", &json])
            .args(["--model-seed", &launch.model_seed.to_string()])
            .args(["--max-model-len", &launch.max_model_len.to_string()])
            .args(launch.lora_modules.iter().flat_map(|module| ["--lora-modules", module]))
            .arg("--step-log")
            .arg(dir.join("steps.jsonl"))
            .args(record.iter().filter(|_| launch.record))
            // Candle computes on rayon's threads; it must leave the client's core alone like our own executor.
            .env("RAYON_NUM_THREADS", launch.threads.to_string());
        EngineProcess::spawn(command, dir)
    }

    /// Starts a command of ours that says where it listens and ends when its standard input closes. Its messages go into
    /// `dir`.
    pub fn spawn(mut command: Command, dir: &Path) -> Result<EngineProcess, Failure> {
        let log = dir.join("server.log");
        let messages = std::fs::File::create(&log)
            .map_err(|error| Failure::internal(format!("cannot write {}: {error}", log.display())))?;
        let mut child = command
            // A terminal's Ctrl-C is for the run, which then ends its children by closing their standard input.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(messages)
            .spawn()
            .map_err(|error| Failure::target(format!("cannot start the server: {error}")))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let mut process = EngineProcess { child, stdin, url: String::new(), log };
        let Some(stdout) = stdout else { return Err(Failure::internal("the server has no standard output")) };
        process.url = process.wait_listening(stdout)?;
        Ok(process)
    }

    /// Reads the child's first lines until it says where it listens. A reader thread drains the rest, so that the
    /// child never blocks on a full pipe.
    fn wait_listening(&mut self, stdout: std::process::ChildStdout) -> Result<String, Failure> {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("listening on ") {
                    let _ = tell.send(url.to_string());
                }
            }
        });
        told.recv_timeout(START_TIMEOUT).map_err(|_| {
            let _ = self.child.kill();
            let _ = self.child.wait();
            Failure::target(format!("the engine did not start; {}", self.last_words()))
        })
    }

    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("its log ({}) ends with:\n{tail}", self.log.display())
    }

    /// Asks the server to drain and waits for it; kills it when it takes too long. An error when it had failed: what it
    /// logged is then incomplete, and what it answered is in doubt.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.stdin = None;
        let polls = STOP_TIMEOUT.as_millis() / 20;
        for _ in 0..polls {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(Failure::target(format!(
                        "the engine failed ({status}); {}",
                        self.last_words()
                    )));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(Failure::internal(format!("cannot wait for the engine: {error}"))),
            }
        }
        Err(Failure::target(format!(
            "the engine did not stop within {STOP_TIMEOUT:?}; {}",
            self.last_words()
        )))
    }
}

/// This program, to be given another verb.
pub fn own_command() -> Result<Command, Failure> {
    std::env::current_exe().map(Command::new).map_err(Failure::internal)
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The key named by an environment variable, never stored or printed.
pub fn api_key(variable: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(variable) = variable else { return Ok(None) };
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(Some(key)),
        _ => Err(Failure::bad_input(format!("api_key_env {variable}: that environment variable is not set"))),
    }
}

/// Asks an OpenAI-compatible server which model it serves; the first one counts.
pub fn first_served_model(base_url: &str, key: Option<&str>) -> Result<String, Failure> {
    let url = format!("{}/v1/models", base_url.trim_end_matches('/').trim_end_matches("/v1"));
    let text = get(&url, key)
        .and_then(|(status, text)| if status == 200 { Ok(text) } else { Err(format!("HTTP {status}")) })
        .map_err(|error| {
            Failure::target(format!("{url}: {error}; is the server up? name its model with `model`"))
        })?;
    let listed: serde_json::Value = serde_json::from_str(&text)
        .map_err(|_| Failure::target(format!("{url} answered with something that is not JSON")))?;
    let first = listed.pointer("/data/0/id").and_then(serde_json::Value::as_str);
    first
        .map(str::to_string)
        .ok_or_else(|| Failure::target(format!("{url} lists no model; name it with `model`")))
}

/// The server's metrics page if it has one there; a server without is driven all the same.
pub fn metrics_url(base_url: &str, path: &str, key: Option<&str>) -> Result<Option<String>, Failure> {
    let url = format!(
        "{}/{}",
        base_url.trim_end_matches('/').trim_end_matches("/v1"),
        path.trim_start_matches('/')
    );
    Ok(matches!(get(&url, key), Ok((200, _))).then_some(url))
}

/// One control request, outside the timed path.
fn get(url: &str, key: Option<&str>) -> Result<(u16, String), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        let mut request = client.get(url);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|error| error.without_url().to_string())?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| error.without_url().to_string())?;
        Ok((status, text))
    })
}
