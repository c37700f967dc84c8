//! The machine under a trial, looked at twice a second by a thread of its own: processor time, the server's processes,
//! power and GPUs. What the system does not tell is left out; nothing here can fail a run but a full disk.

mod gpu;
mod processes;
mod rapl;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use llmlab_results::ResultsError;
use llmlab_results::journal::Journal;
use llmlab_results::machine_sample::MachineSample;

use crate::exit::Failure;
use gpu::Gpus;
use rapl::Rapl;

const EVERY: Duration = Duration::from_millis(500);

/// Looks at the machine until it is stopped or dropped.
#[derive(Debug)]
pub struct Watch {
    /// Closed to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<(), ResultsError>>>,
}

impl Watch {
    /// `server` is the process that leads those of the server, where this run started it.
    pub fn start(journal: Journal, server: Option<u32>) -> Result<Watch, Failure> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("llmlab-machine".into())
            .spawn(move || watch(journal, server, &stopped))
            .map_err(Failure::internal)?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends with one more look, so that the last one is no older than the trial's end.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.stop = None;
        let thread = self.thread.take().map(JoinHandle::join);
        match thread {
            Some(Ok(written)) => written.map_err(Failure::internal),
            Some(Err(_)) => Err(Failure::internal("the thread that watches the machine panicked")),
            None => Ok(()),
        }
    }
}

fn watch(mut journal: Journal, server: Option<u32>, stopped: &Receiver<()>) -> Result<(), ResultsError> {
    let gpus = Gpus::open();
    let mut rapl = Rapl::open();
    let mut end = false;
    loop {
        journal.append(&look(server, gpus.as_ref(), &mut rapl))?;
        if end {
            return journal.finish();
        }
        end = matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Disconnected));
    }
}

fn look(server: Option<u32>, gpus: Option<&Gpus>, rapl: &mut Rapl) -> MachineSample {
    MachineSample {
        at_monotonic_ns: crate::host::monotonic_ns(),
        host: processes::host_cpu(),
        server: server.and_then(processes::tree),
        cpu_energy_uj: rapl.energy_uj(),
        gpus: gpus.map(Gpus::look).unwrap_or_default(),
    }
}
