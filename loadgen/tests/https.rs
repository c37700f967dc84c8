//! TLS against a server with a certificate made for the test.

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llmlab_loadgen::{DriveError, Endpoint};
use llmlab_results::record::{Outcome, RequestRecord};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use support::{Act, closed, endpoint, normal, read_request, run};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Every handshake takes at least this long.
const HANDSHAKE: Duration = Duration::from_millis(60);

struct TlsServer {
    port: u16,
    /// Its certificate, for the names it was made for.
    ca_file: PathBuf,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TlsServer {
    /// Answers every request with `tokens` tokens, as "localhost".
    fn start(tokens: u32, protocols: &[&[u8]]) -> TlsServer {
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let counts = (requests.clone(), connections.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), tokens, counts.clone()));
            }
        });
        TlsServer { port, ca_file, requests, connections, _folder: folder, runtime: Some(runtime) }
    }

    fn endpoint(&self, host: &str) -> Endpoint {
        Endpoint { ca_file: Some(self.ca_file.clone()), ..endpoint(format!("https://{host}:{}", self.port)) }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    tokens: u32,
    (requests, connections): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) {
    tokio::time::sleep(HANDSHAKE).await;
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    connections.fetch_add(1, Ordering::SeqCst);
    while read_request(&mut stream).await.is_some() {
        requests.fetch_add(1, Ordering::SeqCst);
        for act in normal(tokens) {
            let Act::Send(bytes) = act else { unreachable!("a normal answer only sends") };
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        if stream.flush().await.is_err() {
            return;
        }
    }
}

/// One request that must not come through, and what is said of it.
fn refused(endpoint: &Endpoint, server: &TlsServer) -> RequestRecord {
    let (mut records, _) = run(endpoint, &closed(1, 1, 2));
    let record = records.remove(0);
    assert_eq!(record.outcome, Outcome::Connect, "{record:?}");
    assert_eq!(record.sent_ns, None, "nothing may be sent to a server that is not trusted");
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
    record
}

#[test]
fn requests_go_through_and_the_handshake_is_part_of_the_connect_time() {
    let server = TlsServer::start(3, &[b"h2", b"http/1.1"]);
    let (records, _) = run(&server.endpoint("localhost"), &closed(4, 1, 3));
    assert_eq!(records.len(), 4);
    for record in &records {
        assert!(record.outcome.is_success(), "{record:?}");
        assert_eq!(record.output_tokens, 3);
    }
    assert!(records[0].connect_ns.unwrap() >= HANDSHAKE.as_nanos() as u64, "{:?}", records[0]);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1, "a connection is kept");
    assert!(records[1..].iter().all(|record| record.connect_ns.is_none()));
}

#[test]
fn a_server_that_nobody_vouches_for_gets_nothing() {
    let server = TlsServer::start(2, &[b"http/1.1"]);
    let public = Endpoint { ca_file: None, ..server.endpoint("localhost") };
    let record = refused(&public, &server);
    assert!(record.error.as_ref().unwrap().contains("certificate"), "{record:?}");
    // The certificate is for localhost, not for the address.
    let record = refused(&server.endpoint("127.0.0.1"), &server);
    assert!(record.error.as_ref().unwrap().contains("certificate"), "{record:?}");
}

#[test]
fn control_requests_trust_the_same_file() {
    let server = TlsServer::start(1, &[b"http/1.1"]);
    let url = format!("https://localhost:{}/health", server.port);
    let wait = Duration::from_secs(10);
    let (status, text) = llmlab_loadgen::get(&url, None, Some(&server.ca_file), wait).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("[DONE]"), "{text}");
    let error = llmlab_loadgen::get(&url, None, None, wait).unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn a_file_without_certificates_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    for text in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&file, text).unwrap();
        let error = llmlab_loadgen::check_ca_file(&file).unwrap_err();
        assert!(matches!(&error, DriveError::CaFile { path, .. } if path.ends_with("ca.pem")), "{error}");
    }
    assert!(llmlab_loadgen::check_ca_file(&folder.path().join("absent.pem")).is_err());
}
