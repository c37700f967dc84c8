//! Accepting connections and bounding what each may cost.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::stall::StallGuard;

/// Connections beyond the limit that may still ask for `/health`; more than these are closed unanswered.
const OVERFLOW_CONNECTIONS: usize = 64;
/// An overflow connection has this long to send its request.
const OVERFLOW_HEADER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept: the usual cause, no free file descriptor, does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Connections {
    pub router: Router,
    pub overflow_router: Router,
    limits: Limits,
    normal: Arc<Semaphore>,
    overflow: Arc<Semaphore>,
    /// Connections with full service opened before the drain began.
    open: TaskTracker,
    /// Finish the response being sent, then close.
    drain: CancellationToken,
    /// Close now.
    force: CancellationToken,
}

impl Connections {
    pub fn new(router: Router, overflow_router: Router, limits: Limits) -> Self {
        Connections {
            router,
            overflow_router,
            normal: Arc::new(Semaphore::new(limits.max_connections)),
            overflow: Arc::new(Semaphore::new(OVERFLOW_CONNECTIONS)),
            limits,
            open: TaskTracker::new(),
            drain: CancellationToken::new(),
            force: CancellationToken::new(),
        }
    }

    /// Accepts until dropped.
    pub async fn accept(&self, listener: &TcpListener) -> std::convert::Infallible {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.admit(stream),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn admit(&self, stream: TcpStream) {
        // Each token is a small write of its own; Nagle's algorithm would hold it back for the acknowledgement of the last.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        if self.drain.is_cancelled() {
            // Still answered (with 503), but nobody waits for these.
            if let Ok(permit) = self.overflow.clone().try_acquire_owned() {
                tokio::spawn(self.serve(stream, self.router.clone(), OVERFLOW_HEADER_TIMEOUT, false, permit));
            }
        } else if let Ok(permit) = self.normal.clone().try_acquire_owned() {
            let serve = self.serve(stream, self.router.clone(), self.limits.header_timeout, true, permit);
            self.open.spawn(serve);
        } else if let Ok(permit) = self.overflow.clone().try_acquire_owned() {
            let router = self.overflow_router.clone();
            tokio::spawn(self.serve(stream, router, OVERFLOW_HEADER_TIMEOUT, false, permit));
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        router: Router,
        header_timeout: Duration,
        keep_alive: bool,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        let io = TokioIo::new(StallGuard::new(stream, self.limits.write_stall_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(keep_alive)
            .header_read_timeout(header_timeout)
            .max_headers(self.limits.max_headers)
            .max_header_size(self.limits.max_header_bytes)
            .serve_connection(io, TowerToHyperService::new(router));
        let (drain, force) = (self.drain.clone(), self.force.clone());
        async move {
            let _permit = permit;
            let mut connection = std::pin::pin!(connection);
            // Errors here are the client's (it left, it sent garbage); hyper answered what can be answered.
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = force.cancelled() => return,
                _ = drain.cancelled(), if keep_alive => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                _ = connection => {}
                _ = force.cancelled() => {}
            }
        }
    }

    /// Lets connections end after the response they are sending. New ones get one answer each.
    pub fn start_draining(&self) {
        self.drain.cancel();
        self.open.close();
    }

    /// Until every connection opened before the drain is closed.
    pub async fn drained(&self) {
        self.open.wait().await;
    }

    pub fn close_all(&self) {
        self.force.cancel();
    }
}
