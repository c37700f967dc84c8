//! A child process on a string: it ends when its standard input closes, so no death of this process leaves it behind,
//! not even `kill -9`.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Failure;
use crate::interrupt;
use crate::leftovers::{self, Listed};

const POLL: Duration = Duration::from_millis(20);
/// Lines of the log that an error shows.
const LAST_LINES: usize = 12;
/// A log's end is read from here; servers write long lines.
const LAST_BYTES: u64 = 16 << 10;

/// What the child is, which decides how it may be ended and what is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Our own server. Nothing of it remains when it is killed.
    Engine,
    /// Our own client, in a process because of what goose does to one.
    Client,
    /// `llmlab supervise` around somebody's server: killed, it could no longer stop what it started.
    Supervisor,
}

/// Dropping it ends the child.
#[derive(Debug)]
pub struct Tethered {
    child: Child,
    /// Held open: the child ends when it closes.
    stdin: Option<ChildStdin>,
    role: Role,
    log: PathBuf,
    stop_timeout: Duration,
    _listed: Option<Listed>,
}

impl Tethered {
    /// Spawns with standard error in `log`; standard output is the caller's choice.
    pub fn spawn(
        command: &mut Command,
        role: Role,
        log: PathBuf,
        stop_timeout: Duration,
    ) -> Result<Tethered, Failure> {
        let cannot_write =
            |error: io::Error| Failure::internal(format!("cannot write {}: {error}", log.display()));
        let messages = std::fs::File::create(&log).map_err(cannot_write)?;
        if role == Role::Supervisor {
            command.stdout(messages.try_clone().map_err(cannot_write)?);
        }
        // A terminal's Ctrl-C is for the run, which then ends its children by closing their standard input.
        command.process_group(0).stdin(Stdio::piped()).stderr(messages);
        let (mut child, listed) = leftovers::spawn(command, role)
            .map_err(|error| Failure::target(format!("cannot start {}: {error}", role.name())))?;
        let stdin = child.stdin.take();
        Ok(Tethered { child, stdin, role, log, stop_timeout, _listed: listed })
    }

    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its process and whatever is below it are the server.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// For a child that is told something first; it ends when this is dropped.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.child
            .try_wait()
            .map_err(|error| Failure::internal(format!("cannot wait for {}: {error}", self.role.name())))
    }

    /// The end of its log, as the end of a sentence.
    pub fn last_words(&self) -> String {
        let said = tail(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        match tail.is_empty() {
            true => format!("its log ({}) is empty", self.log.display()),
            false => format!("its log ({}) ends with:\n{tail}", self.log.display()),
        }
    }

    /// Asks it to end and waits. An error when it had failed: what it logged is then incomplete, and what it answered is
    /// in doubt.
    pub fn stop(mut self) -> Result<(), Failure> {
        match self.end()? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let how = match self.role {
                    Role::Engine | Role::Client => format!("{} failed ({status})", self.role.name()),
                    Role::Supervisor => "the server did not run to the end".to_string(),
                };
                Err(Failure::target(format!("{how}; {}", self.last_words())))
            }
            None => Err(Failure::target(format!(
                "{} did not stop within {:?}; {}",
                self.role.name(),
                self.stop_timeout,
                self.last_words()
            ))),
        }
    }

    /// Closes its standard input and waits for its end; `None` when that takes too long. A supervisor gives its server no time
    /// once somebody insists.
    fn end(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.stdin = None;
        let mut told = false;
        for _ in 0..self.stop_timeout.as_millis() / POLL.as_millis() {
            if let Some(status) = self.exited()? {
                return Ok(Some(status));
            }
            if self.role == Role::Supervisor && !told && interrupt::insisted().is_cancelled() {
                let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
                told = true;
            }
            std::thread::sleep(POLL);
        }
        Ok(None)
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.role == Role::Supervisor && matches!(self.end(), Ok(Some(_))) {
            return;
        }
        if matches!(self.role, Role::Engine | Role::Client) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Engine => "the engine",
            Role::Client => "the journeys' client",
            Role::Supervisor => "the server",
        }
    }
}

fn tail(path: &Path) -> io::Result<String> {
    use io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes)?;
    Ok(clean(&String::from_utf8_lossy(&bytes)))
}

/// Without control characters, which a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}
