//! https: who is trusted, and the connection's encryption.
//!
//! Public servers are checked against the roots of `webpki-roots`, which are the same on every machine; a private
//! authority's come from a file and then count alone.

use std::io;
use std::path::Path;
use std::sync::Arc;

use llmlab_results::record::Outcome;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::driver::DriveError;
use crate::endpoint::Server;
use crate::tally::Failure;

/// One server's side of TLS, built once.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    /// The name that the certificate must have.
    name: ServerName<'static>,
}

impl Tls {
    /// `None` for a server that speaks plain HTTP.
    pub(crate) fn for_server(server: &Server, ca_file: Option<&Path>) -> Result<Option<Tls>, DriveError> {
        if !server.https {
            return Ok(None);
        }
        let host = server.host();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| DriveError::url(host, "its host cannot be in a certificate"))?;
        let connector = TlsConnector::from(Arc::new(tls_config(ca_file)?));
        Ok(Some(Tls { connector, name }))
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let connecting = self.connector.connect(self.name.clone(), stream);
        connecting.await.map_err(|error| Failure::new(Outcome::Connect, format!("TLS handshake: {error}")))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

/// Whether the file can be used, before a run needs it.
pub fn check_ca_file(ca_file: &Path) -> Result<(), DriveError> {
    roots(Some(ca_file)).map(drop)
}

/// How this crate speaks TLS, for another HTTP client that is to trust the same.
pub fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, DriveError> {
    // Named, because the process-wide default would depend on what else is linked in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DriveError::Client(io::Error::other(error)))?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    // What the client speaks; a server that prefers HTTP/2 must not choose it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, DriveError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let wrong = |reason: String| DriveError::CaFile { path: path.display().to_string(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate in PEM form".into()));
    }
    Ok(roots)
}
