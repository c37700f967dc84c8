//! The head of a response: status, headers, and what they say of the body and of the connection after it.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{BodyReader, NotHttp};

/// A server's own limit is 8 to 64 KiB.
pub const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// Of interim responses before the answer; a server sends one or two.
const MAX_INTERIM: u32 = 16;

#[derive(Debug, Clone)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Reads what follows.
    pub body: BodyReader,
    /// The connection takes another request once the body is over.
    pub keep_alive: bool,
}

/// The head at the front of `bytes` and its length; `None` while it is not whole. Interim responses (1xx) are left out,
/// all but 101, after which no HTTP follows.
pub fn read_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, NotHttp> {
    let (mut start, mut interim) = (0, 0);
    loop {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut lines);
        let length = match response.parse(&bytes[start..]) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(NotHttp(words(error))),
        };
        start += length;
        let code = response.code.unwrap_or_default();
        if (100..200).contains(&code) && code != 101 {
            interim += 1;
            if interim > MAX_INTERIM {
                return Err(NotHttp("more than 16 interim responses"));
            }
            continue;
        }
        let status = StatusCode::from_u16(code).map_err(|_| NotHttp("a status below 100"))?;
        let headers = headers(response.headers)?;
        let http_1_0 = response.version == Some(0);
        let body = body(status, &headers, http_1_0)?;
        let keep_alive = keep_alive(&headers, http_1_0) && body != BodyReader::until_close();
        return Ok(Some((Head { status, headers, body, keep_alive }, start)));
    }
}

fn words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header's name has a character that no name has",
        httparse::Error::HeaderValue => "a header's value has a character that no value has",
        httparse::Error::NewLine => "a line does not end with CR and LF",
        httparse::Error::Status => "the status is not a number",
        httparse::Error::TooManyHeaders => "more than 100 headers",
        httparse::Error::Version => "it does not begin with HTTP/1.1",
        httparse::Error::Token => "the status line has a character that none has",
    }
}

fn headers(lines: &[httparse::Header<'_>]) -> Result<HeaderMap, NotHttp> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes())
            .map_err(|_| NotHttp("a header's name has a character that no name has"))?;
        let value = HeaderValue::from_bytes(line.value)
            .map_err(|_| NotHttp("a header's value has a character that no value has"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// RFC 9112, section 6.3.
fn body(status: StatusCode, headers: &HeaderMap, http_1_0: bool) -> Result<BodyReader, NotHttp> {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(BodyReader::of_length(0));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        if http_1_0 {
            return Err(NotHttp("a transfer-encoding in HTTP/1.0"));
        }
        let last = tokens(headers, TRANSFER_ENCODING).last();
        return Ok(match last.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            true => BodyReader::chunked(),
            false => BodyReader::until_close(),
        });
    }
    let mut length = None;
    for value in tokens(headers, CONTENT_LENGTH) {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let bytes: u64 = match value.parse() {
            Ok(bytes) if digits => bytes,
            _ => return Err(NotHttp("a content-length that is no number")),
        };
        if *length.get_or_insert(bytes) != bytes {
            return Err(NotHttp("several content-lengths"));
        }
    }
    Ok(length.map_or_else(BodyReader::until_close, BodyReader::of_length))
}

fn keep_alive(headers: &HeaderMap, http_1_0: bool) -> bool {
    let says = |word: &str| tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case(word));
    if http_1_0 { says("keep-alive") && !says("close") } else { !says("close") }
}

/// The elements of a list header, over all its lines. A line that is not text counts as one empty element.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| line.to_str().unwrap_or_default().split(',')).map(str::trim)
}
