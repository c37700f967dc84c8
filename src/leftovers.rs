//! What must not outlive this process: children and temporary folders. Their owners end them when dropped; this list is for
//! the way out that drops nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tempfile::TempDir;

use crate::exit::Failure;
use crate::tethered::Role;

/// A supervisor gives what it started five seconds to vanish.
const KILL_TIME: Duration = Duration::from_secs(6);
const POLL: Duration = Duration::from_millis(10);

static LIST: Mutex<List> = Mutex::new(List { next: 0, entries: Vec::new() });

struct List {
    next: u64,
    entries: Vec<(u64, Leftover)>,
}

enum Leftover {
    /// A file descriptor and not a number, which might be another process's by then.
    Child(OwnedFd, Role),
    Folder(PathBuf),
}

/// Takes its entry off the list when dropped.
#[derive(Debug)]
pub struct Listed(u64);

impl Drop for Listed {
    fn drop(&mut self) {
        list().entries.retain(|(id, _)| *id != self.0);
    }
}

fn list() -> MutexGuard<'static, List> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

impl List {
    fn add(&mut self, leftover: Leftover) -> Listed {
        self.next += 1;
        self.entries.push((self.next, leftover));
        Listed(self.next)
    }
}

/// Starts a child that is listed from its first moment.
pub fn spawn(command: &mut Command, role: Role) -> io::Result<(Child, Option<Listed>)> {
    let mut list = list();
    let child = command.spawn()?;
    // Where the system has no such descriptors, the child still ends when its standard input closes.
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
    let listed = pidfd.map(|pidfd| list.add(Leftover::Child(pidfd, role)));
    Ok((child, listed))
}

/// A temporary folder, gone when this is dropped.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    _listed: Listed,
}

impl Folder {
    pub fn create() -> Result<Folder, Failure> {
        let mut list = list();
        let folder = tempfile::tempdir()
            .map_err(|error| Failure::internal(format!("cannot create a temporary folder: {error}")))?;
        let listed = list.add(Leftover::Folder(folder.path().to_path_buf()));
        Ok(Folder { folder, _listed: listed })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Kills a client that would give its requests in flight some time. Servers stay until the run is done with them.
pub fn kill_clients() {
    for (_, leftover) in &list().entries {
        if let Leftover::Child(pidfd, Role::Client) = leftover {
            send(pidfd, Signal::KILL);
        }
    }
}

/// Kills the children and removes the folders. For the end of the process: whoever would add to the list waits for that.
pub fn clear() {
    let list = list();
    let children = || {
        list.entries.iter().filter_map(|(_, leftover)| match leftover {
            Leftover::Child(pidfd, role) => Some((pidfd, *role)),
            Leftover::Folder(_) => None,
        })
    };
    for (pidfd, role) in children() {
        // Killed, a supervisor could no longer stop what it started.
        send(pidfd, if role == Role::Supervisor { Signal::INT } else { Signal::KILL });
    }
    for _ in 0..KILL_TIME.as_millis() / POLL.as_millis() {
        if children().all(|(pidfd, _)| is_over(pidfd)) {
            break;
        }
        std::thread::sleep(POLL);
    }
    for (_, leftover) in &list.entries {
        if let Leftover::Folder(path) = leftover {
            let _ = std::fs::remove_dir_all(path);
        }
    }
    std::mem::forget(list);
}

/// One that has ended needs no signal.
fn send(pidfd: &OwnedFd, signal: Signal) {
    let _ = pidfd_send_signal(pidfd, signal);
}

fn is_over(pidfd: &OwnedFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error: its owner has waited for it.
    !matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None))
}
