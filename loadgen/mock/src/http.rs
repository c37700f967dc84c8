//! HTTP/1.1 as far as a client of this server needs it: requests with a length in, whole or chunked answers out.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stream::Stream;

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 64 << 20;
const MAX_HEADERS: usize = 64;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub method: String,
    /// Without a query.
    pub path: String,
    pub id: Option<String>,
    pub body: Vec<u8>,
    pub keep_alive: bool,
    /// Of a request to speak WebSocket from here on.
    pub websocket_key: Option<String>,
}

/// A request that cannot be read on from: its connection ends with this answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: u16,
    pub words: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// What was read beyond the last request.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.buffer
    }

    /// The next request of the connection; `None` when it closed.
    pub(crate) async fn next(&mut self, stream: &mut Stream) -> io::Result<Option<Result<Request, Refusal>>> {
        let head = loop {
            match head(&self.buffer) {
                Err(refusal) => return Ok(Some(Err(refusal))),
                Ok(Some(head)) => break head,
                Ok(None) if stream.read_buf(&mut self.buffer).await? == 0 => return Ok(None),
                Ok(None) => {}
            }
        };
        if head.expects_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let end = head.bytes + head.body_bytes;
        while self.buffer.len() < end {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
        let rest = self.buffer.split_off(end);
        let mut body = std::mem::replace(&mut self.buffer, rest);
        body.drain(..head.bytes);
        Ok(Some(Ok(Request { body, ..head.request })))
    }
}

#[derive(Debug)]
struct Head {
    /// Still without its body.
    request: Request,
    bytes: usize,
    body_bytes: usize,
    expects_continue: bool,
}

/// `None` while the head is not whole.
fn head(buffer: &[u8]) -> Result<Option<Head>, Refusal> {
    let refuse = |status, words| Err(Refusal { status, words });
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let bytes = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) if bytes <= MAX_HEAD_BYTES => bytes,
        Ok(httparse::Status::Partial) if buffer.len() <= MAX_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "the request's head is too large");
        }
        Err(_) => return refuse(400, "not an HTTP/1.1 request"),
    };
    let path = parsed.path.unwrap_or_default();
    let request = Request {
        method: parsed.method.unwrap_or_default().to_string(),
        path: path.split('?').next().unwrap_or_default().to_string(),
        id: None,
        body: Vec::new(),
        keep_alive: parsed.version == Some(1),
        websocket_key: None,
    };
    let mut head = Head { request, bytes, body_bytes: 0, expects_continue: false };
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            head.body_bytes = match value.parse() {
                Ok(length) if length <= MAX_BODY_BYTES => length,
                Ok(_) => return refuse(413, "the request is larger than 64 MiB"),
                Err(_) => return refuse(400, "content-length is not a number"),
            };
        } else if is("transfer-encoding") {
            return refuse(411, "a request needs a content-length");
        } else if is("connection") {
            head.request.keep_alive = !value.eq_ignore_ascii_case("close");
        } else if is("expect") {
            head.expects_continue = value.eq_ignore_ascii_case("100-continue");
        } else if is("sec-websocket-key") {
            head.request.websocket_key = Some(value.to_owned());
        } else if is("x-request-id") {
            head.request.id = Some(value.chars().take(200).collect());
        }
    }
    Ok(Some(head))
}

/// A whole answer. `headers` end with a line break each.
pub(crate) fn answer(status: u16, content_type: &str, headers: &str, body: &str) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        _ => "Bad Request",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The head of a streamed answer.
pub(crate) fn stream_head(content_type: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes()
}

pub(crate) const STREAM_END: &[u8] = b"0\r\n\r\n";

/// Appends what a chunk of so many bytes begins with. The formatter of the standard library takes longer than the event.
pub(crate) fn chunk_size(out: &mut Vec<u8>, bytes: usize) {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[bytes >> (4 * digit) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// Appends one chunk of a chunked body.
pub(crate) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    chunk_size(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_begins_with_its_size() {
        for bytes in [0, 1, 9, 10, 15, 16, 255, 256, 4096, 65_535, 1 << 20, usize::MAX] {
            let mut out = Vec::new();
            chunk_size(&mut out, bytes);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{bytes:x}\r\n"));
        }
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"POST /v1/completions?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nx-request-id: a-1\r\n\r\n";
        assert!(head(&text[..text.len() - 1]).unwrap().is_none());
        let head = head(text).unwrap().unwrap();
        assert_eq!((head.bytes, head.body_bytes, head.request.keep_alive), (text.len(), 12, true));
        assert_eq!(
            (head.request.path.as_str(), head.request.id.as_deref()),
            ("/v1/completions", Some("a-1"))
        );
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let status = |lines: &str| head(format!("{lines}\r\n\r\n").as_bytes()).unwrap_err().status;
        assert_eq!(status("SSH-2.0"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\ncontent-length: many"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\ncontent-length: 99999999999"), 413);
        assert_eq!(status("POST / HTTP/1.1\r\ntransfer-encoding: chunked"), 411);
        let many: String = (0..100).map(|n| format!("\r\nx-{n}: 1")).collect();
        assert_eq!(status(&format!("GET / HTTP/1.1{many}")), 431);
        let long = format!("GET /{} HTTP/1.1", "a".repeat(MAX_HEAD_BYTES));
        assert_eq!(head(long.as_bytes()).unwrap_err().status, 431);
    }
}
