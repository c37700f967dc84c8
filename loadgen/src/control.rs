//! Control requests: questions to a server outside the timed path, over the same connections and the same trust.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use crate::client::chain;
use crate::clock::Clock;
use crate::endpoint::{Secret, Server};
use crate::http::Pool;
use crate::scrape::{page_request, read_page};
use crate::tls::Tls;

/// Status and text of a GET, redirects not followed. The error is one sentence without the key.
pub fn get(
    url: &str,
    key: Option<&Secret>,
    ca_file: Option<&Path>,
    timeout: Duration,
) -> Result<(u16, String), String> {
    let answer = ask(url, key, ca_file, timeout)?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

/// The `Date` header of the answer to a GET, whatever its status; `None` from a server that sends none.
pub fn date(
    url: &str,
    key: Option<&Secret>,
    ca_file: Option<&Path>,
    timeout: Duration,
) -> Result<Option<String>, String> {
    let answer = ask(url, key, ca_file, timeout)?;
    let date = answer.headers().get(http::header::DATE).and_then(|value| value.to_str().ok());
    Ok(date.map(str::to_owned))
}

fn ask(
    url: &str,
    key: Option<&Secret>,
    ca_file: Option<&Path>,
    timeout: Duration,
) -> Result<http::Response<Bytes>, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match tokio::time::timeout(timeout, exchange(url, key, ca_file, timeout)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(words)) => Err(key.map_or(words.clone(), |key| key.redact(&words))),
            Err(_) => Err(format!("no answer within {timeout:?}")),
        }
    })
}

async fn exchange(
    url: &str,
    key: Option<&Secret>,
    ca_file: Option<&Path>,
    timeout: Duration,
) -> Result<http::Response<Bytes>, String> {
    let server = Server::resolve(url).await.map_err(|error| chain(&error))?;
    let tls = Tls::for_server(&server, ca_file).map_err(|error| chain(&error))?;
    let authorization: Option<HeaderValue> =
        key.map(Secret::header).transpose().map_err(|error| chain(&error))?;
    let request = page_request(url, &server, authorization).map_err(|error| chain(&error))?;
    let pool = Pool::new(server, tls, Clock::start(), timeout);
    let mut sender = pool.connect().await.map_err(|failure| failure.words)?;
    let response = sender.send(request).await.map_err(|error| chain(error.error()))?;
    let (head, body) = response.into_parts();
    let body = read_page(body).await.ok_or("its answer broke off or is too large")?;
    Ok(http::Response::from_parts(head, body))
}
