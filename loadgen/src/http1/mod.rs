//! HTTP/1.1 responses out of one buffer, without I/O: the head, then the body cut from its transfer coding. What one read
//! brings holds hundreds of chunks, and none of them is handed from task to task.

mod body;
mod head;

pub use body::{BodyReader, Piece};
pub use head::{Head, MAX_HEAD_BYTES, read_head};

use thiserror::Error;

/// Bytes that are not HTTP/1.1, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not HTTP/1.1: {0}")]
pub struct NotHttp(pub(crate) &'static str);
