//! The timed path's own HTTP/1.1 connection: one request at a time, and whatever one read of the socket brings is taken
//! apart before the next. The clock is read between the two, so that a time is that of the bytes' arrival and not of the
//! work on those before them.
//!
//! All connections of a client read into one buffer, which stays in the processor's cache however many streams there are.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use llmlab_results::record::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

use crate::client::chain;
use crate::clock::Clock;
use crate::http::{Duplex, Reusable};
use crate::http1::{BodyReader, Head, MAX_HEAD_BYTES, NotHttp, Piece, read_head};
use crate::issuer::At;
use crate::tally::Failure;

/// Of the buffer that all connections share: more than a socket mostly holds, less than a cache does.
const BUFFER_BYTES: usize = 256 << 10;
/// How long reading may keep the client from sending what is due, when every stream always has more to read.
const TURN: Duration = Duration::from_micros(250);
/// Of what follows an answer: mostly the last chunk.
const REST_BYTES: usize = 4096;
const MID_STREAM: &str = "mid-stream";

/// What the connections of one client share while they read.
#[derive(Debug)]
pub(crate) struct Reading {
    clock: Clock,
    buffer: RefCell<Vec<u8>>,
    /// When reading should pause for the rest of the client.
    turn_ends: Cell<At>,
    last_read: Cell<At>,
}

impl Reading {
    pub(crate) fn new(clock: Clock) -> Self {
        Reading {
            clock,
            buffer: RefCell::new(vec![0; BUFFER_BYTES]),
            turn_ends: Cell::default(),
            last_read: Cell::default(),
        }
    }

    /// The client had its chance to send.
    pub(crate) fn begin_turn(&self) {
        self.turn_ends.set(self.clock.now() + TURN);
    }

    pub(crate) fn turn_is_over(&self) -> bool {
        self.last_read.get() > self.turn_ends.get()
    }
}

pub(crate) struct Connection {
    stream: Box<dyn Duplex>,
    /// What came with a head and is of its body.
    rest: Vec<u8>,
    /// Of the response under way.
    body: BodyReader,
    /// When its last bytes arrived.
    read_at: At,
    keep_alive: bool,
    /// Of the request, what the server had not taken when its answer began.
    unsent: Vec<u8>,
    /// Some of it may lie between here and the socket (TLS).
    unflushed: bool,
}

/// How a response did not come.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// Not a byte of the request was taken.
    NeverLeft(io::Error),
    /// Not a byte of an answer came.
    Silent(Failure),
    Broken(Failure),
}

/// What reading a body came to.
#[derive(Debug)]
pub(crate) enum Arrived<T> {
    /// Bytes, and none was what is looked for.
    Bytes,
    Found(T),
    /// The end of the body, and when.
    End(At),
}

impl Reusable for Connection {
    async fn over(stream: Box<dyn Duplex>) -> Result<Self, Failure> {
        let body = BodyReader::of_length(0);
        Ok(Connection {
            stream,
            rest: Vec::new(),
            body,
            read_at: At::ZERO,
            keep_alive: true,
            unsent: Vec::new(),
            unflushed: false,
        })
    }

    fn is_usable(&mut self) -> bool {
        if !self.keep_alive || !self.body.is_over() || !self.rest.is_empty() {
            return false;
        }
        // Between two answers a server has nothing to say: bytes are as bad as the end.
        let mut byte = [0];
        let read = pin!(unconstrained(self.stream.read(&mut byte)));
        // Not by what is left of the task's turn, but by what the socket has.
        read.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

impl Connection {
    /// Writes a request and reads the head of its answer, which may come before all of the request is taken.
    pub(crate) async fn ask(&mut self, head: &[u8], body: &[u8], reading: &Reading) -> Result<Head, NoHead> {
        let mut request = Outgoing { head, body, written: 0, end: None };
        let answer = poll_fn(|context| {
            request.poll_write(&mut self.stream, context);
            self.poll_head(context, reading)
        })
        .await;
        // What the server did not wait for would be the start of the next request. It may still want it for this answer.
        self.keep_alive &= matches!(request.end, Some(Ok(())));
        if request.end.is_none() {
            self.unsent = [head, body].concat().split_off(request.written);
            self.unflushed = true;
        }
        answer.map_err(|failure| match request.end {
            Some(Err(error)) if self.rest.is_empty() && request.written == 0 => NoHead::NeverLeft(error),
            _ if self.rest.is_empty() => NoHead::Silent(failure),
            _ => NoHead::Broken(failure),
        })
    }

    /// When the last bytes arrived.
    pub(crate) fn read_at(&self) -> At {
        self.read_at
    }

    fn poll_head(&mut self, context: &mut Context<'_>, reading: &Reading) -> Poll<Result<Head, Failure>> {
        const PLACE: &str = "before the response's headers";
        loop {
            let mut buffer = reading.buffer.borrow_mut();
            let bytes = match ready!(self.poll_read(context, &mut buffer, reading)) {
                Ok([]) => {
                    let end = io::Error::new(ErrorKind::UnexpectedEof, "closed by the server");
                    return Poll::Ready(Err(broken(&end, Outcome::NoResponse, PLACE)));
                }
                Ok(bytes) => bytes,
                Err(error) => return Poll::Ready(Err(broken(&error, Outcome::NoResponse, PLACE))),
            };
            let is_first = self.rest.is_empty();
            self.rest.extend_from_slice(bytes);
            // The first bytes tell what is no HTTP at all; after them only the end of a line makes a head whole.
            let is_worth_a_look = is_first || bytes.contains(&b'\n');
            match is_worth_a_look.then(|| read_head(&self.rest)).transpose() {
                Ok(Some(Some((head, length)))) => {
                    self.rest.drain(..length);
                    self.body = head.body.clone();
                    self.keep_alive = head.keep_alive;
                    return Poll::Ready(Ok(head));
                }
                Ok(_) if self.rest.len() <= MAX_HEAD_BYTES => {}
                Ok(_) => {
                    let words = format!("the response's headers are larger than {MAX_HEAD_BYTES} bytes");
                    return Poll::Ready(Err(Failure::new(Outcome::TooLarge, words)));
                }
                Err(error) => return Poll::Ready(Err(not_http(error, PLACE))),
            }
        }
    }

    /// The next bytes of the body. Each piece goes to `take`, until that finds what it looks for or fails; all have the same
    /// [time](Connection::read_at).
    pub(crate) fn poll_body<T>(
        &mut self,
        context: &mut Context<'_>,
        reading: &Reading,
        take: &mut impl FnMut(At, &[u8]) -> Result<Option<T>, Failure>,
    ) -> Poll<Result<Arrived<T>, Failure>> {
        if self.body.is_over() {
            return Poll::Ready(Ok(Arrived::End(self.read_at)));
        }
        self.send_rest(context);
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(self.unwrap(&rest, take));
        }
        if reading.turn_is_over() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut buffer = reading.buffer.borrow_mut();
        Poll::Ready(match ready!(self.poll_read(context, &mut buffer, reading)) {
            Ok([]) if self.body.may_end() => Ok(Arrived::End(self.read_at)),
            Ok([]) => {
                let end = io::Error::new(ErrorKind::UnexpectedEof, "closed before the end of the body");
                Err(broken(&end, Outcome::StreamCut, MID_STREAM))
            }
            Ok(bytes) => self.unwrap(bytes, take),
            Err(error) => Err(broken(&error, Outcome::StreamCut, MID_STREAM)),
        })
    }

    /// Goes on with what is left of the request. That it cannot be sent is no failure: the answer is under way.
    fn send_rest(&mut self, context: &mut Context<'_>) {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.unsent) {
                Poll::Pending => return,
                Poll::Ready(Ok(written @ 1..)) => drop(self.unsent.drain(..written)),
                Poll::Ready(Ok(0) | Err(_)) => self.unsent.clear(),
            }
        }
        if self.unflushed {
            self.unflushed = Pin::new(&mut self.stream).poll_flush(context).is_pending();
        }
    }

    fn poll_read<'b>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &'b mut [u8],
        reading: &Reading,
    ) -> Poll<io::Result<&'b [u8]>> {
        let mut space = ReadBuf::new(buffer);
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut space));
        self.read_at = reading.clock.now();
        reading.last_read.set(self.read_at);
        let length = space.filled().len();
        Poll::Ready(read.map(|()| &buffer[..length]))
    }

    fn unwrap<T>(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(At, &[u8]) -> Result<Option<T>, Failure>,
    ) -> Result<Arrived<T>, Failure> {
        loop {
            match self.body.next(&mut bytes).map_err(|error| not_http(error, MID_STREAM))? {
                Piece::Data(data) => {
                    if let Some(found) = take(self.read_at, data)? {
                        self.skip(bytes);
                        return Ok(Arrived::Found(found));
                    }
                }
                Piece::More => return Ok(Arrived::Bytes),
                Piece::End => {
                    self.keep_alive &= bytes.is_empty();
                    return Ok(Arrived::Bytes);
                }
            }
        }
    }

    /// Bytes of the body that nobody wants. Whatever is wrong with them, no request will follow on this connection.
    fn skip(&mut self, mut bytes: &[u8]) {
        while self.keep_alive {
            match self.body.next(&mut bytes) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::More) => return,
                Ok(Piece::End) => {
                    self.keep_alive = bytes.is_empty();
                    return;
                }
                Err(_) => self.keep_alive = false,
            }
        }
    }

    /// The response was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.body.is_over()
    }

    /// Reads and drops what is left of the body.
    pub(crate) async fn read_off(&mut self) {
        let mut buffer = vec![0; REST_BYTES];
        while self.keep_alive && !self.body.is_over() {
            match self.stream.read(&mut buffer).await {
                Ok(length @ 1..) => self.skip(&buffer[..length]),
                Ok(0) | Err(_) => self.keep_alive = false,
            }
        }
    }
}

/// A request on its way out.
struct Outgoing<'a> {
    head: &'a [u8],
    body: &'a [u8],
    written: usize,
    /// How the writing ended.
    end: Option<io::Result<()>>,
}

impl Outgoing<'_> {
    fn poll_write(&mut self, stream: &mut Box<dyn Duplex>, context: &mut Context<'_>) {
        while self.end.is_none() {
            let head = self.head.get(self.written..).unwrap_or_default();
            let body = &self.body[self.written.saturating_sub(self.head.len())..];
            let polled = match head.len() + body.len() {
                0 => Pin::new(&mut *stream).poll_flush(context).map_ok(|()| 0),
                _ => Pin::new(&mut *stream)
                    .poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(body)]),
            };
            match polled {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) if head.is_empty() && body.is_empty() => self.end = Some(Ok(())),
                Poll::Ready(Ok(0)) => self.end = Some(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
            }
        }
    }
}

fn not_http(error: NotHttp, place: &str) -> Failure {
    Failure::new(Outcome::Malformed, format!("connection failed {place}: {error}"))
}

/// A connection that failed after the request was handed to it; `outcome` unless what it brought cannot be read.
fn broken(error: &io::Error, outcome: Outcome, place: &str) -> Failure {
    let garbage = matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData);
    let outcome = if garbage { Outcome::Malformed } else { outcome };
    Failure::new(outcome, format!("connection failed {place}: {}", chain(error)))
}
