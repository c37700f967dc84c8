//! What a user can choose about the server, and the sizes that bound every request.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::ServerError;

/// Longest API key accepted. Both keys are compared in buffers of this size, so it must be finite.
pub const MAX_API_KEY_BYTES: usize = 256;

#[derive(Clone)]
pub struct ServerConfig {
    /// Port 0 lets the system choose; `on_listening` reports the choice.
    pub addr: SocketAddr,
    pub served_model_name: String,
    /// Names under which requests ask for the adapters, in the executor's order.
    pub lora_modules: Vec<String>,
    /// When set, every endpoint except `/health`, `/ping`, `/version` and `/metrics` wants it as a bearer token.
    pub api_key: Option<String>,
    /// Requests that may wait for their first scheduling; one more is answered with 429.
    pub max_queue: usize,
    /// Prompt plus output of one request at most, in tokens.
    pub max_model_len: u32,
    /// One JSON line per scheduler step is appended here.
    pub step_log: Option<PathBuf>,
    /// A new file for every call to the scheduler, see [`llmlab_core::recording`].
    pub record: Option<PathBuf>,
    /// How long requests in flight may go on after the shutdown signal.
    pub drain_grace: Duration,
    pub limits: Limits,
}

impl Default for ServerConfig {
    /// Loopback, vLLM's port, no key.
    fn default() -> Self {
        ServerConfig {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            served_model_name: "model".to_owned(),
            lora_modules: Vec::new(),
            api_key: None,
            max_queue: 4096,
            max_model_len: 2048,
            step_log: None,
            record: None,
            drain_grace: Duration::from_secs(30),
            limits: Limits::default(),
        }
    }
}

impl ServerConfig {
    pub(crate) fn check(&self, vocab_size: u32, scheduler_max_model_len: u32) -> Result<(), ServerError> {
        let wrong = |message: String| Err(ServerError::Config(message));
        if self.max_queue == 0 {
            return wrong("max_queue must be at least 1".to_owned());
        }
        if self.max_model_len < 2 {
            return wrong(format!("max_model_len must be at least 2; got {}", self.max_model_len));
        }
        if self.max_model_len > scheduler_max_model_len {
            let ours = self.max_model_len;
            return wrong(format!(
                "max_model_len is {ours} here and {scheduler_max_model_len} in the scheduler"
            ));
        }
        if vocab_size == 0 {
            return wrong("the model has an empty vocabulary".to_owned());
        }
        if self.served_model_name.is_empty() {
            return wrong("served_model_name must not be empty".to_owned());
        }
        let mut names: Vec<&String> = self.lora_modules.iter().chain([&self.served_model_name]).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("two models have the name {:?}", pair[0]));
        }
        if names.iter().any(|name| name.is_empty()) {
            return wrong("an adapter needs a name".to_owned());
        }
        match &self.api_key {
            Some(key) if key.is_empty() || key.len() > MAX_API_KEY_BYTES => {
                wrong(format!("the API key must have 1 to {MAX_API_KEY_BYTES} bytes; it has {}", key.len()))
            }
            _ => Ok(()),
        }
    }
}

/// Written by hand so that the key can never reach a log through `{:?}`.
impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("addr", &self.addr)
            .field("served_model_name", &self.served_model_name)
            .field("lora_modules", &self.lora_modules)
            .field("api_key", &self.api_key.as_ref().map(|_| "<redacted>"))
            .field("max_queue", &self.max_queue)
            .field("max_model_len", &self.max_model_len)
            .field("step_log", &self.step_log)
            .field("record", &self.record)
            .field("drain_grace", &self.drain_grace)
            .field("limits", &self.limits)
            .finish()
    }
}

/// Bounds on what one client can make the server hold or wait for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A longer body is answered with 413.
    pub max_body_bytes: usize,
    /// All headers of a request together; more is answered with 431.
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// From the first wait for a request head to its last byte; it also closes connections that stay idle this long.
    pub header_timeout: Duration,
    /// From the head to the last byte of the body; 408 after that.
    pub body_timeout: Duration,
    /// A connection that takes no byte for this long while there is something to send is closed.
    pub write_stall_timeout: Duration,
    /// Connections beyond this many can only ask for `/health` and `/metrics`.
    pub max_connections: usize,
    pub max_stop_strings: usize,
    pub max_stop_string_bytes: usize,
    pub max_stop_token_ids: usize,
    /// Tokens a request may be ahead of its reader before it is cancelled.
    pub max_unread_tokens: usize,
    /// Bodies above 64 KiB (or of unknown length) read and parsed at the same time; others wait their turn.
    pub max_large_bodies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body_bytes: 2 << 20,
            max_header_bytes: 32 << 10,
            max_headers: 100,
            header_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_stall_timeout: Duration::from_secs(30),
            max_connections: 8192,
            max_stop_strings: 4,
            max_stop_string_bytes: 1024,
            max_stop_token_ids: 64,
            max_unread_tokens: 8192,
            max_large_bodies: 16,
        }
    }
}
