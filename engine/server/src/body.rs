//! Reading a request body: JSON only, bounded in size, time, and in how many large ones are held at once.

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::Fields;

/// Bodies up to this size need no permit: a connection's buffers cost about as much.
const SMALL_BODY_BYTES: u64 = 64 << 10;

/// Parsed JSON takes up to sixteen times the bytes it came as, so a large body keeps its permit until it is dropped.
pub(crate) struct Parsed<'a> {
    pub fields: Fields,
    _permit: Option<SemaphorePermit<'a>>,
}

pub(crate) async fn read<'a>(
    request: Request,
    limits: &Limits,
    large_bodies: &'a Semaphore,
) -> Result<Parsed<'a>, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::not_json());
    }
    let body = request.into_body();
    let announced = body.size_hint();
    if announced.lower() > limits.max_body_bytes as u64 {
        return Err(ApiError::body_too_large(limits.max_body_bytes));
    }
    let small = announced.upper().is_some_and(|bytes| bytes <= SMALL_BODY_BYTES);
    let arrival = async {
        let permit = match small {
            true => None,
            false => Some(large_bodies.acquire().await.expect("the semaphore is never closed")),
        };
        Ok((collect(body, limits.max_body_bytes).await?, permit))
    };
    let (bytes, permit) =
        tokio::time::timeout(limits.body_timeout, arrival).await.map_err(|_| ApiError::body_timeout())??;
    Ok(Parsed { fields: Fields::parse(&bytes)?, _permit: permit })
}

async fn collect(body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, max_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::body_too_large(max_bytes)),
        Err(error) => Err(ApiError::bad_request(format!("the request body is broken: {error}"))),
    }
}

/// Anything else is refused, as in vLLM; it also keeps web pages from posting forms to a server on loopback.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/json")
}
