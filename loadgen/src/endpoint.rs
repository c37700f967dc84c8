//! Where to send requests: URL, protocol, key, timeouts. Checked once, before the clock starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::{Authority, Uri};
use http::{HeaderMap, HeaderValue, header};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::driver::DriveError;
use crate::protocols::{KeyHeader, MODEL};
use crate::websocket::SUBPROTOCOL;

#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://host:port` or `https://host`, with or without a path; a trailing `/v1` is understood.
    pub base_url: String,
    pub protocol: Protocol,
    pub model: String,
    pub api_key: Option<Secret>,
    /// Certificates (PEM) trusted in place of the public authorities; for https.
    pub ca_file: Option<PathBuf>,
    pub timeouts: Timeouts,
}

impl Endpoint {
    /// The header with the key, for other pages of the server too. Only for [`Server`]s that are
    /// [the endpoint's own](Server::same_origin).
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, DriveError> {
        self.api_key.as_ref().map(Secret::header).transpose()
    }

    /// Headers that only this protocol asks for.
    fn protocol_headers(&self) -> Result<HeaderMap, DriveError> {
        let mut headers = HeaderMap::new();
        match self.protocol.wire().key {
            KeyHeader::Bearer => {
                if let Some(value) = self.authorization()? {
                    headers.insert(header::AUTHORIZATION, value);
                }
            }
            KeyHeader::Anthropic => {
                headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
                if let Some(key) = &self.api_key {
                    headers.insert("x-api-key", secret_value(&key.0)?);
                }
            }
        }
        Ok(headers)
    }
}

/// Where another HTTP client finds the endpoint, and what it must send along.
#[derive(Debug, Clone)]
pub struct Address {
    /// Of the server's pages; a path that starts with '/' follows.
    pub base: String,
    /// Where the protocol's requests go.
    pub url: String,
    /// Of every request of the protocol, the key among them.
    pub headers: HeaderMap,
    /// The server's name and what it resolved to, so that no name is looked up inside a measured request.
    pub host: String,
    pub addrs: Vec<SocketAddr>,
}

impl Endpoint {
    pub async fn address(&self) -> Result<Address, DriveError> {
        let server = Server::resolve(&self.base_url).await?;
        let mut template = RequestTemplate::new(&server, self)?;
        template.headers.remove(header::HOST);
        let scheme = if server.https { "https" } else { "http" };
        let at = |path: &str| format!("{scheme}://{}{path}", server.authority);
        Ok(Address {
            base: at(&server.target("")),
            url: at(&template.target.to_string()),
            headers: template.headers,
            host: server.host().to_owned(),
            addrs: server.addrs,
        })
    }
}

fn secret_value(text: &str) -> Result<HeaderValue, DriveError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| DriveError::ApiKey)?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    OpenAiCompletions,
    OpenAiChat,
    Tgi,
    OllamaGenerate,
    OllamaChat,
    LlamaCpp,
    SgLang,
    Triton,
    Anthropic,
    KServe,
    OpenAiEmbeddings,
    TeiEmbed,
    OllamaEmbed,
    WebSocket,
}

impl Protocol {
    pub const ALL: [Protocol; 14] = [
        Protocol::OpenAiCompletions,
        Protocol::OpenAiChat,
        Protocol::Tgi,
        Protocol::OllamaGenerate,
        Protocol::OllamaChat,
        Protocol::LlamaCpp,
        Protocol::SgLang,
        Protocol::Triton,
        Protocol::Anthropic,
        Protocol::KServe,
        Protocol::OpenAiEmbeddings,
        Protocol::TeiEmbed,
        Protocol::OllamaEmbed,
        Protocol::WebSocket,
    ];

    /// As written in scenarios.
    pub fn name(self) -> &'static str {
        self.wire().name
    }

    /// Prompts may be token ids, so that their length is exact; else only text.
    pub fn takes_token_ids(self) -> bool {
        self.wire().takes_token_ids
    }

    /// Requests name the model; else the server has just one.
    pub fn names_model(self) -> bool {
        self.wire().names_model
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Protocol::ALL.into_iter().find(|protocol| protocol.name() == name).ok_or_else(|| {
            let known = Protocol::ALL.map(Protocol::name).join(", ");
            format!("unknown protocol {name:?}; known: {known}")
        })
    }
}

/// A key that cannot be printed. Error texts of servers that quote it are redacted too.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(key: impl Into<String>) -> Self {
        Secret(key.into())
    }

    /// The key itself, for handing it to a process of ours. Never for a log, a file or a command line.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// As a bearer token.
    pub fn header(&self) -> Result<HeaderValue, DriveError> {
        secret_value(&format!("Bearer {}", self.0))
    }

    /// `text` without the key.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "[redacted]") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Each has its own words in the record of a request it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the wish for a connection to its opening, the TLS handshake included.
    pub connect: Duration,
    /// From sending to the first token.
    pub first_token: Duration,
    /// Between events with tokens, and from the last one to the end of the stream. Comments do not count.
    pub inter_token: Duration,
    /// From issue to the end of the stream.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(300),
            inter_token: Duration::from_secs(60),
            total: Duration::from_secs(1800),
        }
    }
}

/// An `http://` or `https://` URL taken apart and resolved.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub https: bool,
    pub authority: Authority,
    /// Without a trailing slash; may be empty.
    pub base_path: String,
    pub addrs: Vec<SocketAddr>,
}

impl Server {
    /// Resolves once, so that DNS never sits inside a measured request.
    pub(crate) async fn resolve(url: &str) -> Result<Server, DriveError> {
        let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| DriveError::url(url, e.to_string()))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(scheme) => return Err(DriveError::Scheme { scheme: scheme.to_owned() }),
            None => return Err(DriveError::url(url, "it must start with http:// or https://")),
        };
        let authority = uri.authority().cloned().ok_or_else(|| DriveError::url(url, "it has no host"))?;
        if authority.as_str().contains('@') {
            // The URL goes into records and reports; a password must not.
            return Err(DriveError::url("http://[redacted]", "user and password in a URL are not supported"));
        }
        let base_path = uri.path().trim_end_matches('/').to_owned();
        let mut server = Server { https, authority, base_path, addrs: Vec::new() };
        let host = server.host();
        let resolve_error = |source| DriveError::Resolve { host: host.to_owned(), source };
        let addrs = tokio::net::lookup_host((host, server.port())).await.map_err(resolve_error)?.collect();
        server.addrs = addrs;
        if server.addrs.is_empty() {
            let source = std::io::Error::other("no address");
            return Err(DriveError::Resolve { host: server.host().to_owned(), source });
        }
        Ok(server)
    }

    /// Without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Same scheme, host name and port, so that what may be told to one may be told to the other. Another name for the same
    /// address counts as another server.
    pub(crate) fn same_origin(&self, other: &Server) -> bool {
        self.https == other.https
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }

    /// The request target for a protocol path such as `/v1/completions`.
    pub(crate) fn target(&self, path: &str) -> String {
        let base = self.base_path.strip_suffix("/v1").unwrap_or(&self.base_path);
        format!("{base}{path}")
    }
}

/// Servers such as vLLM name a request by it in their logs.
const REQUEST_ID: header::HeaderName = header::HeaderName::from_static("x-request-id");

/// What a request is called on the wire; no two of a machine have the same until it restarts.
pub fn request_id(start_monotonic_ns: u64, index: u64) -> String {
    format!("llmlab-{start_monotonic_ns:x}-{index}")
}

/// Everything about a request that is the same for all of them, built once.
pub(crate) struct RequestTemplate {
    target: Uri,
    /// The same with scheme and host, as a WebSocket is asked for.
    websocket: Uri,
    headers: HeaderMap,
    /// Request line and headers as they go over HTTP.
    head: Vec<u8>,
}

impl RequestTemplate {
    pub(crate) fn new(server: &Server, endpoint: &Endpoint) -> Result<Self, DriveError> {
        let wire = endpoint.protocol.wire();
        let target: Uri = server
            .target(&path_with_model(wire.path, endpoint)?)
            .parse()
            .map_err(|_| DriveError::url(&endpoint.base_url, "its path is not valid"))?;
        let scheme = if server.https { "wss" } else { "ws" };
        let websocket = format!("{scheme}://{}{target}", server.authority)
            .parse()
            .map_err(|_| DriveError::url(&endpoint.base_url, "its path is not valid"))?;
        let host = HeaderValue::from_str(server.authority.as_str())
            .map_err(|_| DriveError::url(&endpoint.base_url, "its host is not valid in a header"))?;
        let mut headers = endpoint.protocol_headers()?;
        headers.insert(header::HOST, host);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static(wire.framing.media_type()));
        // A compressed stream would be decoded in bursts and blur every timestamp.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("llmlab/", env!("CARGO_PKG_VERSION"))),
        );
        let head = common_head(&target, &headers);
        Ok(RequestTemplate { target, websocket, headers, head })
    }

    /// The handshake of a WebSocket.
    pub(crate) fn upgrade(&self) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.uri_mut() = self.websocket.clone();
        let headers = request.headers_mut();
        for name in [header::HOST, header::AUTHORIZATION, header::USER_AGENT] {
            if let Some(value) = self.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let key = HeaderValue::try_from(generate_key()).expect("base64 is a header's value");
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        request
    }

    /// The head of a request with a body of that length. `id` names it in the server's log.
    pub(crate) fn head(&self, id: &str, body_bytes: usize) -> Vec<u8> {
        let mut head = self.head.clone();
        head.extend_from_slice(
            format!("{REQUEST_ID}: {id}\r\ncontent-length: {body_bytes}\r\n\r\n").as_bytes(),
        );
        head
    }
}

/// Request line and the headers of every request.
fn common_head(target: &Uri, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("POST {target} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}

/// A model's name in a path must not lead elsewhere.
fn path_with_model(path: &'static str, endpoint: &Endpoint) -> Result<String, DriveError> {
    let model = &endpoint.model;
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if path.contains(MODEL) && (model.is_empty() || model.starts_with('.') || !model.chars().all(harmless)) {
        return Err(DriveError::ModelInPath { model: model.clone(), protocol: endpoint.protocol.name() });
    }
    Ok(path.replace(MODEL, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_name_and_a_port() {
        let server = |https, authority: &str| Server {
            https,
            authority: authority.parse().unwrap(),
            base_path: String::new(),
            addrs: Vec::new(),
        };
        let same = |a: &str, b: &str| server(false, a).same_origin(&server(false, b));
        assert!(server(true, "host").same_origin(&server(true, "host:443")));
        assert!(!server(true, "host:8000").same_origin(&server(false, "host:8000")));
        assert!(same("Host:80", "host"));
        assert!(!same("host:8000", "host:8001"));
        assert!(!same("localhost:8000", "127.0.0.1:8000"));
        assert!(!same("host", "host.evil"));
    }
}
