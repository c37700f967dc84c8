//! HTTP/1.1 connections: opened with TCP_NODELAY, with TLS where the URL says https, kept alive, handed out one request at a time.
//!
//! The timed path speaks over `connection`, control requests over hyper. Own pool rather than a client library's, because a record must say whether a request opened a connection, how long
//! that took, and when its bytes were handed over.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use llmlab_results::record::Outcome;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::endpoint::Server;
use crate::issuer::At;
use crate::tally::Failure;
use crate::tls::Tls;

/// One open connection, as hyper has it.
#[derive(Debug)]
pub(crate) struct Sender(SendRequest<Full<Bytes>>);

impl Sender {
    /// Resolves with the response's headers.
    pub(crate) fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        self.0.send_request(request)
    }

    /// True once the connection can take another request.
    pub(crate) async fn ready(&mut self) -> bool {
        self.0.ready().await.is_ok()
    }
}

impl Reusable for Sender {
    async fn over(stream: Box<dyn Duplex>) -> Result<Self, Failure> {
        let (requests, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Failure::new(Outcome::Connect, format!("HTTP handshake: {e}")))?;
        // Its errors reach the request that uses the connection; between requests they only mean it is gone.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Sender(requests))
    }

    fn is_usable(&mut self) -> bool {
        self.0.is_ready()
    }
}

/// A connection that takes one request after the other.
pub(crate) trait Reusable: Sized {
    fn over(stream: Box<dyn Duplex>) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// It is open and nothing is under way on it.
    fn is_usable(&mut self) -> bool;
}

/// Bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// An idle connection older than this is closed instead of reused. Many Python servers (uvicorn) close theirs after
/// 5 s; sending into that moment would look like a failed request.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(crate) struct Pool<C> {
    server: Server,
    tls: Option<Tls>,
    clock: Clock,
    connect_timeout: Duration,
    /// Most recently used last. Those on top are reused, so surplus ones age out at the bottom.
    idle: Mutex<Vec<(At, C)>>,
}

impl<C: Reusable> Pool<C> {
    pub(crate) fn new(server: Server, tls: Option<Tls>, clock: Clock, connect_timeout: Duration) -> Self {
        Pool { server, tls, clock, connect_timeout, idle: Mutex::new(Vec::new()) }
    }

    /// The freshest idle connection that is still open.
    pub(crate) fn take_idle(&self) -> Option<C> {
        let now = self.clock.now();
        let mut idle = self.lock();
        let stale = idle.partition_point(|(since, _)| now.saturating_sub(*since) > MAX_IDLE);
        idle.drain(..stale);
        while let Some((_, mut connection)) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    /// Returns a connection whose response was read to the end.
    pub(crate) fn put_back(&self, mut connection: C) {
        if connection.is_usable() {
            let now = self.clock.now();
            self.lock().push((now, connection));
        }
    }

    pub(crate) async fn connect(&self) -> Result<C, Failure> {
        match tokio::time::timeout(self.connect_timeout, self.open()).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                Outcome::Timeout,
                format!("connect timeout: no connection within {:?}", self.connect_timeout),
            )),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, Failure> {
        let stream =
            TcpStream::connect(self.server.addrs.as_slice()).await.map_err(|e| connect_failure(&e))?;
        stream.set_nodelay(true).map_err(|e| connect_failure(&e))?;
        Ok(stream)
    }

    /// A connection on which nothing was spoken yet, TLS aside. Takes as long as it takes.
    pub(crate) async fn duplex(&self) -> Result<Box<dyn Duplex>, Failure> {
        let stream = self.tcp().await?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect(stream).await?),
        })
    }

    async fn open(&self) -> Result<C, Failure> {
        C::over(self.duplex().await?).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(At, C)>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Running out of sockets or ports here is our failure, not the server's, and makes a trial invalid.
fn connect_failure(error: &io::Error) -> Failure {
    const OURS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    let ours = error.raw_os_error().is_some_and(|code| OURS.iter().any(|e| e.raw_os_error() == code));
    let outcome = if ours { Outcome::Client } else { Outcome::Connect };
    Failure::new(outcome, format!("connect: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_files_or_ports_is_the_clients_failure() {
        let class =
            |errno: Errno| connect_failure(&io::Error::from_raw_os_error(errno.raw_os_error())).outcome;
        assert_eq!(class(Errno::MFILE), Outcome::Client);
        assert_eq!(class(Errno::ADDRNOTAVAIL), Outcome::Client);
        assert_eq!(class(Errno::CONNREFUSED), Outcome::Connect);
        assert_eq!(class(Errno::TIMEDOUT), Outcome::Connect);
    }
}
