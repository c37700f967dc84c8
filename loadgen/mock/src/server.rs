//! Listening, and the mock in a thread of its own for tests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use llmlab_loadgen::{Clock, Pacer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::alarm::Alarms;
use crate::connection::{self, Counts, Shared};
use crate::fault::Faults;
use crate::log::Served;
use crate::stream::Certificate;
use crate::timing::Timing;

/// Connections that wait to be accepted; the system has its own limit below or above it.
const BACKLOG: u32 = 4096;

#[derive(Debug, Clone)]
pub struct MockConfig {
    pub addr: SocketAddr,
    /// As `/v1/models` has it; requests may name any.
    pub model: String,
    pub timing: Timing,
    pub faults: Faults,
    /// Of jitter and faults. A request's numbers depend on this and on how many came before it.
    pub seed: u64,
    /// This much before a moment the timer rings and the rest is polled.
    pub spin: Duration,
    /// Speaks TLS and nothing else.
    pub tls: Option<Certificate>,
}

impl MockConfig {
    /// On a free port of loopback, without faults.
    pub fn new(timing: Timing) -> MockConfig {
        MockConfig {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: "mock".into(),
            timing,
            faults: Faults::default(),
            seed: 0,
            spin: Duration::from_micros(50),
            tls: None,
        }
    }
}

/// Serves until `shutdown`. One line per request goes to `log` as it ends. Must run on a runtime of one thread, or
/// events wait for each other's locks.
pub async fn serve(
    config: MockConfig,
    log: Option<Sender<Served>>,
    on_listening: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let socket = match config.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(config.addr)?;
    if config.faults.refuses() {
        // The port is ours, and without a listener the system refuses every connection.
        on_listening(socket.local_addr()?);
        shutdown.await;
        return Ok(());
    }
    let listener = socket.listen(BACKLOG)?;
    raise_file_limit();
    let clock = Clock::start();
    let pacer = Pacer::new(clock)?;
    let spin = config.spin;
    let shared =
        Arc::new(Shared { config, clock, alarms: Alarms::new(clock), log, counts: Counts::default() });
    on_listening(listener.local_addr()?);
    tokio::select! {
        () = shutdown => {}
        () = shared.alarms.ring(pacer, spin) => {}
        () = accept(listener, &shared) => {}
    }
    Ok(())
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection::serve(stream, Arc::clone(shared)));
            }
            // Out of files: connections in the queue wait until one is free.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A connection is a file. What cannot be raised shows when connections wait.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A mock in a thread of its own.
#[derive(Debug)]
pub struct Mock {
    pub addr: SocketAddr,
    scheme: &'static str,
    log: Receiver<Served>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Mock {
    /// Returns once it listens.
    pub fn start(config: MockConfig) -> io::Result<Mock> {
        let (send, log) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let thread = std::thread::Builder::new().name("llmlab-mock".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let listening = move |addr| {
                let _ = tell.send(addr);
            };
            runtime.block_on(serve(config, Some(send), listening, async move {
                let _ = stopped.await;
            }))
        })?;
        match told.recv() {
            Ok(addr) => Ok(Mock { addr, scheme, log, stop, thread }),
            Err(_) => Err(ended(thread).err().unwrap_or_else(|| io::Error::other("the mock did not start"))),
        }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.addr)
    }

    /// Stops it, requests under way included, and returns what it did.
    pub fn finish(self) -> io::Result<Vec<Served>> {
        drop(self.stop);
        ended(self.thread)?;
        Ok(self.log.into_iter().collect())
    }
}

fn ended(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the mock panicked")))
}
