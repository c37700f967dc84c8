//! Ctrl-C, or SIGTERM where no person but a system ends a command. The first one ends it in order. The second comes from
//! somebody who insists: what was recorded is saved, what would take longer is left out, and neither a child nor a temporary
//! folder stays behind.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Code;
use crate::leftovers;

/// After the second Ctrl-C: records that are on their way are written by then, unless something hangs.
const TIME_TO_SAVE: Duration = Duration::from_secs(5);

/// Of the process, as its signals are.
static INSISTED: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Cancelled by the second Ctrl-C of a command that saves: it is to end by itself, and soon.
pub fn insisted() -> &'static CancellationToken {
    &INSISTED
}

/// For a command whose records are on their way to disk. `first` is called at the first Ctrl-C. The second gives the command
/// a moment to end by itself, and the third does not.
pub fn saving(first: impl FnOnce() + Send + 'static) {
    listen(async move |mut presses: Presses| {
        presses.recv().await;
        first();
        presses.recv().await;
        eprintln!("\nleaving: only what is recorded is saved");
        INSISTED.cancel();
        leftovers::kill_clients();
        let _ = tokio::time::timeout(TIME_TO_SAVE, presses.recv()).await;
    });
}

/// For a command that has nothing on its way: `first` is called at the first Ctrl-C, and the second ends the process.
pub fn twice(first: impl FnOnce() + Send + 'static) {
    listen(async move |mut presses: Presses| {
        presses.recv().await;
        first();
        presses.recv().await;
    });
}

/// For a command that can only be done or not done, and has children or temporary folders meanwhile.
pub fn once() {
    listen(async |mut presses: Presses| {
        presses.recv().await;
    });
}

struct Presses {
    interrupt: Signals,
    terminate: Signals,
}

impl Presses {
    fn new() -> io::Result<Presses> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Presses { interrupt: signal(interrupt)?, terminate: signal(terminate)? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// As if Ctrl-C had been pressed, where a terminal hands it over as a key.
pub fn press() {
    let _ = kill_process(getpid(), Signal::INT);
}

/// Ends the process, and what it would leave behind, when `pressed` returns.
fn listen<F: Future<Output = ()>>(pressed: impl FnOnce(Presses) -> F + Send + 'static) {
    let listening = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let Ok(presses) = Presses::new() else { return };
            pressed(presses).await;
            leftovers::clear();
            std::process::exit(Code::Interrupted as i32);
        });
    };
    // Without the thread Ctrl-C simply kills the process, and the journal keeps what finished.
    let _ = std::thread::Builder::new().name("ctrl-c".into()).spawn(listening);
}
