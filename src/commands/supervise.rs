//! `llmlab supervise`: runs somebody's server until standard input closes or SIGTERM comes, then ends it with all it
//! started. A process of its own, so that it still does so after `kill -9` of the llmlab that started it.
//!
//! It is the subreaper of everything below it: a process whose parent died becomes its child, so "no child left" means
//! that nothing is left, whatever process group it went to.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::cli::SuperviseArgs;
use crate::exit::{Code, Failure};
use crate::parent;

/// How long processes may take to vanish once they were killed.
const KILL_TIME: Duration = Duration::from_secs(5);
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// What [`crate::command`] reads from the exit code.
pub const STOPPED: Code = Code::Pass;
pub const NOT_STARTED: Code = Code::Usage;
pub const ENDED_BY_ITSELF: Code = Code::Target;

enum Event {
    /// The server itself, not a process of its making.
    Exited(ExitStatus),
    /// Nothing runs below this process any more.
    AllGone,
    Stop,
    /// Stop without any grace.
    Kill,
}

/// The server writes to this process's standard output and error, and so do we.
pub fn supervise(args: SuperviseArgs) -> Result<Code, Failure> {
    // Without it only processes that left the server's group could be missed.
    let _ = set_child_subreaper(Some(getpid()));
    let Some((program, arguments)) = args.run.split_first() else {
        return Err(Failure::bad_input("nothing to run"));
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    // From before there is anything to end: unheard, it would end this process alone.
    let insisted = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt()).map_err(Failure::internal)?
    };
    let child = Command::new(program).args(arguments).process_group(0).stdin(Stdio::null()).spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("llmlab: cannot start {program}: {error}; is it installed, and in PATH?");
            return Ok(NOT_STARTED);
        }
    };
    let server = Pid::from_child(&child);
    let (tell, told) = mpsc::channel();
    let reaper = tell.clone();
    thread("reaper", move || reap(server, &reaper))?;
    thread("stop", move || runtime.block_on(hear(insisted, &tell)))?;
    let grace = Duration::from_millis(args.stop_timeout_ms);
    let code = match told.recv() {
        Ok(Event::Stop) => STOPPED,
        Ok(Event::Exited(status)) => {
            eprintln!("llmlab: the server exited by itself ({status})");
            ENDED_BY_ITSELF
        }
        Ok(Event::Kill) => {
            kill(server, &told);
            return Ok(STOPPED);
        }
        Ok(Event::AllGone) | Err(_) => ENDED_BY_ITSELF,
    };
    end(server, &told, grace);
    Ok(code)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop).map_err(Failure::internal)
}

fn reap(server: Pid, tell: &mpsc::Sender<Event>) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == server => {
                let _ = tell.send(Event::Exited(ExitStatus::from_raw(status.as_raw())));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => {
                let _ = tell.send(Event::AllGone);
                return;
            }
        }
    }
}

/// Tells what the parent wants. SIGINT says that somebody insists, before a stop or after it.
async fn hear(mut insisted: Signals, tell: &mpsc::Sender<Event>) {
    tokio::select! {
        () = parent::shutdown(true) => {
            let _ = tell.send(Event::Stop);
            insisted.recv().await;
        }
        _ = insisted.recv() => {}
    }
    let _ = tell.send(Event::Kill);
}

/// SIGTERM to the server's group, then SIGKILL to whatever is left below this process.
fn end(server: Pid, events: &mpsc::Receiver<Event>, grace: Duration) {
    let _ = kill_process_group(server, Signal::TERM);
    match gone_within(events, grace) {
        Gone::Yes => return,
        Gone::No => eprintln!("llmlab: the server did not stop within {grace:?} of SIGTERM and is killed"),
        Gone::NotWaitedFor => eprintln!("llmlab: the server is killed, before its stop_timeout was over"),
    }
    kill(server, events);
}

fn kill(server: Pid, events: &mpsc::Receiver<Event>) {
    for _ in 0..KILL_TIME.as_millis() / KILL_AGAIN.as_millis() {
        let _ = kill_process_group(server, Signal::KILL);
        for orphan in children() {
            let _ = kill_process(orphan, Signal::KILL);
        }
        if matches!(gone_within(events, KILL_AGAIN), Gone::Yes) {
            return;
        }
    }
    eprintln!("llmlab: processes of the server still run");
}

enum Gone {
    Yes,
    No,
    /// Somebody insists.
    NotWaitedFor,
}

/// The wait starts anew with each event; there are few.
fn gone_within(events: &mpsc::Receiver<Event>, time: Duration) -> Gone {
    while let Ok(event) = events.recv_timeout(time) {
        match event {
            Event::AllGone => return Gone::Yes,
            Event::Kill => return Gone::NotWaitedFor,
            Event::Exited(_) | Event::Stop => {}
        }
    }
    Gone::No
}

/// Orphans of other process groups among them.
fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let listed = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<String> = listed.collect();
    pids.iter()
        .flat_map(|line| line.split_whitespace())
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}
