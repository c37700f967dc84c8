//! A step that is a plain request: sent, read to its last byte, checked, and searched for values to keep.

use std::collections::BTreeMap;

use llmlab_loadgen::{Secret, chain};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use serde_json::Value;

use crate::attack::Shared;
use crate::plan::{Action, Method, PageBody, Step};
use crate::template::{fill, fill_json};

/// Pages are small; more than this is not one.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// Status and what is wrong, if something is.
pub(crate) struct Visited {
    pub status: Option<u16>,
    pub failure: Option<String>,
}

/// A page's request, ready to be sent.
pub(crate) fn request(
    shared: &Shared,
    client: &Client,
    step: &Step,
    values: &BTreeMap<String, String>,
) -> Result<reqwest::Request, String> {
    let Action::Page { method, path, body, .. } = &step.action else {
        return Err("the step is no page".into());
    };
    let url = format!("{}{}", shared.address.base, fill(path, values)?);
    let mut request = match method {
        Method::Get => client.get(url),
        Method::Post => client.post(url),
    };
    let mut headers = HeaderMap::new();
    if let Some(key) = &shared.endpoint.api_key {
        headers.insert(header::AUTHORIZATION, Secret::header(key).map_err(|error| error.to_string())?);
    }
    match body {
        Some(PageBody::Json(json)) => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request = request.body(fill_json(json, values)?.to_string());
        }
        Some(PageBody::Text(text)) => request = request.body(fill(text, values)?),
        None => {}
    }
    add_headers(&mut headers, &step.headers, values)?;
    request.headers(headers).build().map_err(|error| chain(&error.without_url()))
}

/// The step's own headers take the place of others of their names.
pub(crate) fn add_headers(
    headers: &mut HeaderMap,
    own: &BTreeMap<String, String>,
    values: &BTreeMap<String, String>,
) -> Result<(), String> {
    for (name, value) in own {
        let unusable = || format!("header {name} cannot be sent");
        let name = HeaderName::try_from(name).map_err(|_| unusable())?;
        let mut value = HeaderValue::try_from(fill(value, values)?).map_err(|_| unusable())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(())
}

/// Sends and reads. What the answer holds of `save` goes into `values`.
pub(crate) async fn visit(
    client: &Client,
    request: reqwest::Request,
    action: &Action,
    values: &mut BTreeMap<String, String>,
) -> Visited {
    let Action::Page { expect, save, .. } = action else { return Visited { status: None, failure: None } };
    let response = match client.execute(request).await {
        Ok(response) => response,
        Err(error) => return Visited { status: None, failure: Some(chain(&error.without_url())) },
    };
    let status = response.status();
    let right = match expect {
        Some(expected) => status.as_u16() == *expected,
        None => status.is_success(),
    };
    let body = read(response).await;
    let failure = match (right, body) {
        (false, _) => Some(format!("HTTP {status}")),
        (true, Err(words)) => Some(words),
        (true, Ok(body)) => keep(&body, save, values).err(),
    };
    Visited { status: Some(status.as_u16()), failure }
}

async fn read(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
        if body.len() + bytes.len() > MAX_PAGE_BYTES {
            return Err(format!("the page is larger than {MAX_PAGE_BYTES} bytes"));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

fn keep(
    body: &[u8],
    save: &BTreeMap<String, String>,
    values: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    if save.is_empty() {
        return Ok(());
    }
    let json: Value = serde_json::from_slice(body).map_err(|_| "the answer is not JSON".to_string())?;
    for (name, pointer) in save {
        let text = match json.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(_) => return Err(format!("{pointer} in the answer is neither text nor a number")),
            None => return Err(format!("the answer has no {pointer}")),
        };
        values.insert(name.clone(), text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_where_the_pointer_says() {
        let save = |pointer: &str| BTreeMap::from([("token".to_string(), pointer.to_string())]);
        let body = br#"{"access_token": "abc", "user": {"ids": [7]}}"#;
        for (pointer, wanted) in [
            ("/access_token", Ok("abc")),
            ("/user/ids/0", Ok("7")),
            ("/nothing", Err("the answer has no /nothing")),
            ("/user", Err("/user in the answer is neither text nor a number")),
        ] {
            let mut values = BTreeMap::new();
            let kept = keep(body, &save(pointer), &mut values);
            let found = kept.as_ref().map(|()| values["token"].as_str()).map_err(String::as_str);
            assert_eq!(found, wanted);
        }
        assert_eq!(keep(b"<html>", &save("/a"), &mut BTreeMap::new()).unwrap_err(), "the answer is not JSON");
        assert!(keep(b"<html>", &BTreeMap::new(), &mut BTreeMap::new()).is_ok());
    }
}
