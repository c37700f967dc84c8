//! Control requests: questions to a server outside the timed path, over the same connections and the same trust.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::Full;
use serde_json::Value;

use crate::client::chain;
use crate::clock::Clock;
use crate::endpoint::{Endpoint, Secret, Server};
use crate::http::{Pool, Sender};
use crate::scrape::{PageRequest, page_request, read_page};
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
    let authorization = authorization(key)?;
    let request = page_request(url, &server, authorization).map_err(|error| chain(&error))?;
    let pool = Pool::<Sender>::new(server, tls, Clock::start(), timeout);
    send(&mut pool.connect().await.map_err(|failure| failure.words)?, request).await
}

fn authorization(key: Option<&Secret>) -> Result<Option<HeaderValue>, String> {
    key.map(Secret::header).transpose().map_err(|error| chain(&error))
}

async fn send(sender: &mut Sender, request: PageRequest) -> Result<http::Response<Bytes>, String> {
    let response = sender.send(request).await.map_err(|error| chain(&error))?;
    let (head, body) = response.into_parts();
    let body = read_page(body).await.ok_or("its answer broke off or is too large")?;
    Ok(http::Response::from_parts(head, body))
}

/// Puts one question after the other to a server, over one connection while that lasts.
pub(crate) struct Asker {
    runtime: tokio::runtime::Runtime,
    server: Server,
    pool: Pool<Sender>,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Asker {
    /// The error is one sentence.
    pub(crate) fn new(endpoint: &Endpoint, timeout: Duration) -> Result<Asker, String> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let server = runtime.block_on(Server::resolve(&endpoint.base_url)).map_err(|error| chain(&error))?;
        let tls = Tls::for_server(&server, endpoint.ca_file.as_deref()).map_err(|error| chain(&error))?;
        let authorization = authorization(endpoint.api_key.as_ref())?;
        let pool = Pool::new(server.clone(), tls, Clock::start(), timeout);
        Ok(Asker { runtime, server, pool, authorization, timeout })
    }

    /// Status and body of a POST of JSON; `None` where there is no answer in time.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Option<(u16, Bytes)> {
        let url = self.server.target(path);
        let mut request = page_request(&url, &self.server, self.authorization.clone()).ok()?;
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Full::new(Bytes::from(body.to_string()));
        self.runtime.block_on(async {
            let exchange = async {
                if let Some(mut idle) = self.pool.take_idle()
                    && let Ok(answer) = send(&mut idle, request.clone()).await
                {
                    self.keep(idle).await;
                    return Some(answer);
                }
                let mut fresh = self.pool.connect().await.ok()?;
                let answer = send(&mut fresh, request).await.ok()?;
                self.keep(fresh).await;
                Some(answer)
            };
            let answer = tokio::time::timeout(self.timeout, exchange).await.ok().flatten()?;
            Some((answer.status().as_u16(), answer.into_body()))
        })
    }

    async fn keep(&self, mut sender: Sender) {
        if sender.ready().await {
            self.pool.put_back(sender);
        }
    }
}
