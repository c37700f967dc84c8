//! Errors: those a client sees, in OpenAI's shape as vLLM writes it, and those that end the server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// Why [`crate::serve`] returned early or failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot open the step log {path}: {source}")]
    StepLog { path: PathBuf, source: io::Error },
    #[error("writing the step log failed: {0}")]
    StepLogWrite(io::Error),
    #[error("cannot start the recording {path}: {source}")]
    Recording { path: PathBuf, source: io::Error },
    #[error("writing the recording failed, it ends early: {0}")]
    RecordingWrite(io::Error),
    #[error("invalid server configuration: {0}")]
    Config(String),
    #[error("cannot start the engine thread: {0}")]
    Thread(io::Error),
    #[error("the engine stopped: {0}")]
    Engine(String),
}

/// One refused or failed request. The body is `{"error":{"message","type","param","code"}}`.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub kind: &'static str,
    pub message: String,
    pub param: Option<String>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, kind, message: message.into(), param: None, retry_after_s: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message)
    }

    /// A 400 about one field; the message should begin with its name.
    pub fn field(name: &str, message: impl Into<String>) -> Self {
        ApiError { param: Some(name.to_owned()), ..Self::bad_request(message) }
    }

    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "AuthenticationError",
            "missing or wrong API key (Authorization: Bearer ...)",
        )
    }

    pub fn no_such_model(name: &str) -> Self {
        let shown: String = name.chars().take(200).collect();
        let message = format!("model `{shown}` does not exist; ask /v1/models for the name");
        ApiError {
            param: Some("model".to_owned()),
            ..Self::new(StatusCode::NOT_FOUND, "NotFoundError", message)
        }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", "no such endpoint")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowedError",
            "this endpoint has another HTTP method",
        )
    }

    pub fn body_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "TimeoutError", "the request body did not arrive in time")
    }

    pub fn body_too_large(limit_bytes: usize) -> Self {
        let message = format!("the request body is larger than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeError", message)
    }

    pub fn not_json() -> Self {
        let message = "Content-Type must be application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaTypeError", message)
    }

    pub fn queue_full(limit: usize) -> Self {
        let message = format!("{limit} requests are already waiting; try again later");
        ApiError {
            retry_after_s: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "RateLimitError", message)
        }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", message)
    }

    pub fn draining() -> Self {
        ApiError { retry_after_s: Some(1), ..Self::unavailable("the server is shutting down") }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.status.as_u16(),
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
