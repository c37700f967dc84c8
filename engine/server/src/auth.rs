//! The API key. Compared in time that depends on neither key: both are copied into buffers of one fixed size first.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::config::MAX_API_KEY_BYTES;
use crate::error::ApiError;

/// No Debug, no Display: the key cannot be printed by accident.
#[derive(Clone)]
pub(crate) struct ApiKey {
    padded: [u8; MAX_API_KEY_BYTES],
    len: u64,
}

impl ApiKey {
    /// None when the key is longer than [`MAX_API_KEY_BYTES`].
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut padded = [0; MAX_API_KEY_BYTES];
        padded.get_mut(..key.len())?.copy_from_slice(key);
        Some(ApiKey { padded, len: key.len() as u64 })
    }

    fn matches(&self, other: &ApiKey) -> bool {
        bool::from(self.padded.ct_eq(&other.padded) & self.len.ct_eq(&other.len))
    }
}

/// Lets a request through when no key is configured or the bearer token equals it.
pub(crate) async fn require(State(key): State<Option<ApiKey>>, request: Request, next: Next) -> Response {
    match key {
        Some(key) if !allowed(&key, request.headers()) => ApiError::unauthorized().into_response(),
        _ => next.run(request).await,
    }
}

fn allowed(key: &ApiKey, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
    let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && ApiKey::new(token).is_some_and(|given| key.matches(&given))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn check(configured: &str, header: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        allowed(&ApiKey::new(configured.as_bytes()).unwrap(), &headers)
    }

    #[test]
    fn only_the_whole_key_passes() {
        assert!(check("secret", "Bearer secret"));
        assert!(check("secret", "bearer secret"));
        for wrong in [
            "Bearer secre",
            "Bearer secrets",
            "Bearer ",
            "Bearer",
            "secret",
            "Basic secret",
            "Bearer secret\t",
        ] {
            assert!(!check("secret", wrong), "{wrong:?}");
        }
        assert!(!check("secret", &format!("Bearer secret{}", "x".repeat(1000))));
        assert!(!allowed(&ApiKey::new(b"secret").unwrap(), &HeaderMap::new()));
    }
}
