//! A server that a scenario says how to start: `command = { ... }`.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use llmlab_scenarios::spec::CommandSpec;
use tokio_util::sync::CancellationToken;

use crate::commands::supervise;
use crate::exit::{Code, Failure};
use crate::target::{get, server_url};
use crate::tethered::{Role, Tethered};

/// Between two looks at the server while it starts.
const LOOK: Duration = Duration::from_millis(100);
/// Between two reports of the wait.
const REPORT: Duration = Duration::from_secs(5);
/// A port that nothing listens on refuses at once.
const PORT_TIMEOUT: Duration = Duration::from_secs(1);
/// What the supervisor may take beyond the server's own time: killing, waiting, reaping.
const SUPERVISOR_TIME: Duration = Duration::from_secs(10);

/// Starts the server with its output in `dir` and waits until it is healthy. `waiting` hears of the wait now and then.
pub fn start(
    spec: &CommandSpec,
    dir: &Path,
    waiting: &dyn Fn(Duration),
    cancel: &CancellationToken,
) -> Result<Tethered, Failure> {
    port_is_free(&spec.endpoint.url)?;
    let folder = std::path::absolute(&spec.working_dir).map_err(Failure::internal)?;
    let binary = std::env::current_exe().map_err(Failure::internal)?;
    let mut command = Command::new(binary);
    command
        .args(["supervise", "--stop-timeout-ms", &spec.stop_timeout.as_millis().to_string(), "--"])
        .arg(program(&spec.run[0], &folder))
        .args(&spec.run[1..])
        .envs(&spec.env)
        .current_dir(&folder);
    let stop_timeout = spec.stop_timeout + SUPERVISOR_TIME;
    let mut process = Tethered::spawn(&mut command, Role::Supervisor, dir.join("server.log"), stop_timeout)?;
    wait_healthy(&mut process, spec, waiting, cancel)?;
    Ok(process)
}

/// A program with a path is meant from the working folder, whatever folder llmlab runs in.
fn program(written: &str, folder: &Path) -> PathBuf {
    if written.contains('/') { folder.join(written) } else { written.into() }
}

#[allow(clippy::disallowed_methods, reason = "a server's start is waited for in wall time")]
fn wait_healthy(
    process: &mut Tethered,
    spec: &CommandSpec,
    waiting: &dyn Fn(Duration),
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let health = server_url(&spec.endpoint.url, &spec.health_path);
    let started = Instant::now();
    let mut reported = Duration::ZERO;
    loop {
        if let Some(status) = process.exited()? {
            return Err(Failure::target(match status.code() {
                Some(code) if code == supervise::NOT_STARTED as i32 => last_line(process),
                _ => format!("the server ended before it was healthy; {}", process.last_words()),
            }));
        }
        if cancel.is_cancelled() {
            return Err(Failure {
                code: Code::Interrupted,
                error: miette::miette!("stopped while starting"),
            });
        }
        let answer = get(&spec.endpoint, &spec.health_path, None, Duration::from_secs(2));
        if matches!(answer, Ok((200, _))) {
            return Ok(());
        }
        let waited = started.elapsed();
        if waited > spec.ready_timeout {
            let said = match answer {
                Ok((status, _)) => format!("HTTP {status}"),
                Err(error) => error,
            };
            return Err(Failure::target(format!(
                "the server was not healthy within {:?}: {health}: {said}; {}",
                spec.ready_timeout,
                process.last_words()
            )));
        }
        if waited >= reported + REPORT {
            reported = waited;
            waiting(waited);
        }
        std::thread::sleep(LOOK);
    }
}

/// The supervisor's own words, which are all there is where nothing was started.
fn last_line(process: &Tethered) -> String {
    let said = std::fs::read_to_string(process.log()).unwrap_or_default();
    let line = said.lines().last().unwrap_or("the server could not be started");
    line.trim_start_matches("llmlab: ").to_string()
}

/// A server that is there already would be measured in place of the one that fails to start beside it.
fn port_is_free(url: &str) -> Result<(), Failure> {
    let addresses = authority(url)
        .to_socket_addrs()
        .map_err(|error| Failure::target(format!("{url}: cannot resolve its host: {error}")))?;
    for address in addresses {
        if TcpStream::connect_timeout(&address, PORT_TIMEOUT).is_ok() {
            return Err(Failure::target(format!(
                "{url}: something listens on port {} already; stop it or choose another port, or measure it with endpoint = {{ url = \"{url}\" }}",
                address.port()
            )));
        }
    }
    Ok(())
}

/// Host and port, the scheme's own where the URL has none.
fn authority(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (has_port, scheme) {
        (true, _) => authority.to_string(),
        (false, "https") => format!("{authority}:443"),
        (false, _) => format!("{authority}:80"),
    }
}

/// The command line as a shell would take it.
pub fn shell_words(run: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let word = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    run.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_has_its_schemes() {
        for (url, expected) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://localhost/v1", "localhost:80"),
            ("https://api.example", "api.example:443"),
            ("http://[::1]:9000/x", "[::1]:9000"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(authority(url), expected);
        }
    }

    #[test]
    fn words_with_blanks_and_quotes_survive_a_shell() {
        let run = ["vllm", "a b", "it's", ""].map(String::from);
        assert_eq!(shell_words(&run), r"vllm 'a b' 'it'\''s' ''");
    }
}
