//! A target under test: started if it is ours to start, reachable over HTTP while it lives, gone when dropped.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use llmlab_loadgen::Secret;
use llmlab_scenarios::spec::{EndpointSpec, EngineSpec};

use crate::exit::Failure;
use crate::tethered::{Role, Tethered};

/// Loading or generating weights of a billion parameters takes seconds; a minute without an answer is a fault.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Longer than the server's own grace for requests in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// For a control request.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer one is no key but another file.
const MAX_KEY_BYTES: u64 = 8 << 10;

/// Candle computes on rayon's threads, so it must be told to leave the client's core alone like our own executor does.
pub const CANDLE_THREADS: &str = "RAYON_NUM_THREADS";

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
    pub process: Tethered,
    pub url: String,
}

/// This program, to be given another verb.
pub fn own_command() -> Result<Command, Failure> {
    std::env::current_exe().map(Command::new).map_err(Failure::internal)
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
            .env(CANDLE_THREADS, launch.threads.to_string());
        EngineProcess::spawn(command, dir)
    }

    /// Starts a command of ours that says where it listens and ends when its standard input closes. Its messages go into
    /// `dir`.
    pub fn spawn(mut command: Command, dir: &Path) -> Result<EngineProcess, Failure> {
        command.stdout(Stdio::piped());
        let mut process = Tethered::spawn(&mut command, Role::Engine, dir.join("server.log"), STOP_TIMEOUT)?;
        let Some(stdout) = process.take_stdout() else {
            return Err(Failure::internal("the engine has no standard output"));
        };
        let url = wait_listening(&process, stdout)?;
        Ok(EngineProcess { process, url })
    }
}

/// Reads the child's first lines until it says where it listens. A reader thread drains the rest, so that the child
/// never blocks on a full pipe.
fn wait_listening(process: &Tethered, stdout: ChildStdout) -> Result<String, Failure> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("listening on ") {
                let _ = tell.send(url.to_string());
            }
        }
    });
    told.recv_timeout(START_TIMEOUT)
        .map_err(|_| Failure::target(format!("the engine did not start; {}", process.last_words())))
}

/// The key that the spec says where to find, never stored or printed.
pub fn api_key(spec: &EndpointSpec) -> Result<Option<Secret>, Failure> {
    if let Some(variable) = &spec.api_key_env {
        return match std::env::var(variable) {
            Ok(key) if !key.is_empty() => Ok(Some(Secret::new(key))),
            _ => Err(Failure::bad_input(format!(
                "api_key_env {variable}: that environment variable is not set"
            ))),
        };
    }
    let Some(path) = &spec.api_key_file else { return Ok(None) };
    let wrong = |why: String| Failure::bad_input(format!("api_key_file {path}: {why}"));
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut key = String::new();
    file.take(MAX_KEY_BYTES).read_to_string(&mut key).map_err(|error| wrong(error.to_string()))?;
    match key.trim() {
        "" => Err(wrong("it is empty".into())),
        key if key.contains(char::is_control) || key.len() as u64 >= MAX_KEY_BYTES => {
            Err(wrong("it holds more than one line, or no key".into()))
        }
        key => Ok(Some(Secret::new(key))),
    }
}

/// Asks an OpenAI-compatible server which model it serves; the first one counts.
pub fn first_served_model(spec: &EndpointSpec, key: Option<&Secret>) -> Result<String, Failure> {
    let url = server_url(&spec.url, "/v1/models");
    let text = get(spec, "/v1/models", key, CONTROL_TIMEOUT)
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
pub fn metrics_url(spec: &EndpointSpec, path: &str, key: Option<&Secret>) -> Option<String> {
    let url = server_url(&spec.url, path);
    // The key is for the server, not for whoever has its metrics.
    let key = key.filter(|_| url != path);
    matches!(get(spec, path, key, CONTROL_TIMEOUT), Ok((200, _))).then_some(url)
}

/// The address of `path` on a server whose base may end in `/v1`; an address stays as it is.
pub fn server_url(base_url: &str, path: &str) -> String {
    if path.contains("://") {
        return path.to_owned();
    }
    let base = base_url.trim_end_matches('/').trim_end_matches("/v1");
    format!("{base}/{}", path.trim_start_matches('/'))
}

/// One control request, outside the timed path.
pub fn get(
    spec: &EndpointSpec,
    path: &str,
    key: Option<&Secret>,
    timeout: Duration,
) -> Result<(u16, String), String> {
    let ca_file = spec.ca_file.as_deref().map(Path::new);
    llmlab_loadgen::get(&server_url(&spec.url, path), key, ca_file, timeout)
}
