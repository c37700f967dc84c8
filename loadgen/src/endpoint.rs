//! Where to send requests: URL, protocol, key, timeouts. Checked once, before the clock starts.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::uri::{Authority, Uri};
use http::{HeaderValue, header};

use crate::driver::DriveError;

#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://host:port`, with or without a path; a trailing `/v1` is understood.
    pub base_url: String,
    pub protocol: Protocol,
    pub model: String,
    pub api_key: Option<Secret>,
    pub timeouts: Timeouts,
}

impl Endpoint {
    /// The header with the key. Only for [`Server`]s that are [the endpoint's own](Server::same_origin).
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, DriveError> {
        let Some(key) = &self.api_key else { return Ok(None) };
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", key.0)).map_err(|_| DriveError::ApiKey)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    OpenAiCompletions,
    OpenAiChat,
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "openai-completions" => Ok(Protocol::OpenAiCompletions),
            "openai-chat" => Ok(Protocol::OpenAiChat),
            _ => Err(format!("unknown protocol {name:?}; known: openai-completions, openai-chat")),
        }
    }
}

/// A key that cannot be printed. Error texts of servers that quote it are redacted too.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(key: impl Into<String>) -> Self {
        Secret(key.into())
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
    /// From the wish for a connection to its opening.
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

/// An `http://` URL taken apart and resolved.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub authority: Authority,
    /// Without a trailing slash; may be empty.
    pub base_path: String,
    pub addrs: Vec<SocketAddr>,
}

impl Server {
    /// Resolves once, so that DNS never sits inside a measured request.
    pub(crate) async fn resolve(url: &str) -> Result<Server, DriveError> {
        let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| DriveError::url(url, e.to_string()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(scheme) => return Err(DriveError::Scheme { scheme: scheme.to_owned() }),
            None => return Err(DriveError::url(url, "it must start with http://")),
        }
        let authority = uri.authority().cloned().ok_or_else(|| DriveError::url(url, "it has no host"))?;
        if authority.as_str().contains('@') {
            // The URL goes into records and reports; a password must not.
            return Err(DriveError::url("http://[redacted]", "user and password in a URL are not supported"));
        }
        let port = authority.port_u16().unwrap_or(80);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let resolve_error = |source| DriveError::Resolve { host: host.to_owned(), source };
        let addrs: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(resolve_error)?.collect();
        if addrs.is_empty() {
            return Err(resolve_error(std::io::Error::other("no address")));
        }
        let base_path = uri.path().trim_end_matches('/').to_owned();
        Ok(Server { authority, base_path, addrs })
    }

    /// Same host name and port, so that what may be told to one may be told to the other. Another name for the same
    /// address counts as another server.
    pub(crate) fn same_origin(&self, other: &Server) -> bool {
        let port = |a: &Authority| a.port_u16().unwrap_or(80);
        self.authority.host().eq_ignore_ascii_case(other.authority.host())
            && port(&self.authority) == port(&other.authority)
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
#[derive(Debug)]
pub(crate) struct RequestTemplate {
    target: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl RequestTemplate {
    pub(crate) fn new(server: &Server, endpoint: &Endpoint) -> Result<Self, DriveError> {
        let path = server.target(endpoint.protocol.path());
        let target =
            path.parse().map_err(|_| DriveError::url(&endpoint.base_url, "its path is not valid"))?;
        let host = HeaderValue::from_str(server.authority.as_str())
            .map_err(|_| DriveError::url(&endpoint.base_url, "its host is not valid in a header"))?;
        Ok(RequestTemplate { target, host, authorization: endpoint.authorization()? })
    }

    /// `id` names the request in the server's log.
    pub(crate) fn request<B>(&self, id: HeaderValue, body: B) -> http::Request<B> {
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(REQUEST_ID, id);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        // A compressed stream would be decoded in bursts and blur every timestamp.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("llmlab/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(value) = &self.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_name_and_a_port() {
        let same = |a: &str, b: &str| {
            let server = |authority: &str| Server {
                authority: authority.parse().unwrap(),
                base_path: String::new(),
                addrs: Vec::new(),
            };
            server(a).same_origin(&server(b))
        };
        assert!(same("Host:80", "host"));
        assert!(!same("host:8000", "host:8001"));
        assert!(!same("localhost:8000", "127.0.0.1:8000"));
        assert!(!same("host", "host.evil"));
    }
}
