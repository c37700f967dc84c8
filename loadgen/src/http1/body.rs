//! Where a response's body ends (RFC 9112, section 6.3), and its bytes without the chunks around them (section 7.1).

use super::NotHttp;

/// Of the trailer section, and of all that stands behind the sizes of one response's chunks.
const MAX_EXTRAS_BYTES: u32 = 16 << 10;

/// Reads one body. The bytes may be cut anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyReader {
    state: State,
    /// Bytes of extensions and trailers so far, which nobody reads.
    extras_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// By `content-length`; what is left.
    Length(u64),
    /// The body ends with the connection.
    UntilClose,
    /// In the digits of a chunk's size; `any` once there was one.
    Size {
        bytes: u64,
        any: bool,
    },
    /// Between the size and the end of its line.
    Extension {
        bytes: u64,
    },
    /// The LF of the size's line is next.
    SizeEnd {
        bytes: u64,
    },
    Chunk {
        left: u64,
    },
    /// CR and LF behind a chunk.
    ChunkCr,
    ChunkLf,
    /// In the trailer section; `empty` while the line has nothing in it.
    Trailer {
        empty: bool,
    },
    /// The LF that ends a trailer line.
    TrailerLf {
        empty: bool,
    },
    End,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'b> {
    /// Of the body; never empty.
    Data(&'b [u8]),
    /// All bytes are used and the body goes on.
    More,
    /// The body is over; bytes that are left belong to nothing.
    End,
}

impl BodyReader {
    pub fn chunked() -> BodyReader {
        BodyReader::in_state(State::Size { bytes: 0, any: false })
    }

    pub fn of_length(bytes: u64) -> BodyReader {
        BodyReader::in_state(if bytes == 0 { State::End } else { State::Length(bytes) })
    }

    pub fn until_close() -> BodyReader {
        BodyReader::in_state(State::UntilClose)
    }

    fn in_state(state: State) -> BodyReader {
        BodyReader { state, extras_bytes: 0 }
    }

    pub fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// True when the connection may close here without anything missing.
    pub fn may_end(&self) -> bool {
        matches!(self.state, State::End | State::UntilClose)
    }

    /// The next piece from the front of `bytes`, which is cut off them.
    pub fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Piece<'b>, NotHttp> {
        loop {
            match self.state {
                State::End => return Ok(Piece::End),
                _ if bytes.is_empty() => return Ok(Piece::More),
                State::UntilClose => return Ok(Piece::Data(std::mem::take(bytes))),
                State::Length(left) => {
                    let (data, left) = take(bytes, left);
                    self.state = if left == 0 { State::End } else { State::Length(left) };
                    return Ok(Piece::Data(data));
                }
                State::Chunk { left } => {
                    let (data, left) = take(bytes, left);
                    self.state = if left == 0 { State::ChunkCr } else { State::Chunk { left } };
                    return Ok(Piece::Data(data));
                }
                State::Size { bytes: 0, any: false } if let Some((size, length)) = size_line(bytes) => {
                    *bytes = &bytes[length..];
                    self.state = State::Chunk { left: size };
                }
                State::ChunkCr if bytes.starts_with(b"\r\n") => {
                    *bytes = &bytes[2..];
                    self.state = State::Size { bytes: 0, any: false };
                }
                _ => self.between(first(bytes))?,
            }
        }
    }

    /// One byte that is not of the body.
    fn between(&mut self, byte: u8) -> Result<(), NotHttp> {
        self.state = match (self.state, byte) {
            (State::Size { bytes, any }, _) if byte.is_ascii_hexdigit() => {
                if bytes >> 60 != 0 {
                    return Err(NotHttp("a chunk's size has more than 64 bits"));
                }
                if any && bytes == 0 {
                    self.count_extra()?;
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                State::Size { bytes: bytes << 4 | u64::from(digit), any: true }
            }
            (State::Size { bytes, any: true }, b'\r') => State::SizeEnd { bytes },
            (State::Size { bytes, any: true }, b';' | b' ' | b'\t') => State::Extension { bytes },
            (State::Size { .. }, _) => return Err(NotHttp("a chunk's size is not a hexadecimal number")),
            (State::Extension { bytes }, b'\r') => State::SizeEnd { bytes },
            (State::Extension { .. }, b'\n') => return Err(NotHttp("a line feed in a chunk's extension")),
            (State::Extension { bytes }, _) => {
                self.count_extra()?;
                State::Extension { bytes }
            }
            (State::SizeEnd { bytes: 0 }, b'\n') => State::Trailer { empty: true },
            (State::SizeEnd { bytes }, b'\n') => State::Chunk { left: bytes },
            (State::SizeEnd { .. }, _) => return Err(NotHttp("a chunk's size does not end with CR and LF")),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { bytes: 0, any: false },
            (State::ChunkCr | State::ChunkLf, _) => {
                return Err(NotHttp("a chunk does not end with CR and LF"));
            }
            (State::Trailer { empty }, b'\r') => State::TrailerLf { empty },
            (State::Trailer { .. }, _) => {
                self.count_extra()?;
                State::Trailer { empty: false }
            }
            (State::TrailerLf { empty: true }, b'\n') => State::End,
            (State::TrailerLf { empty: false }, b'\n') => State::Trailer { empty: true },
            (State::TrailerLf { .. }, _) => return Err(NotHttp("a trailer does not end with CR and LF")),
            (State::Length(_) | State::UntilClose | State::Chunk { .. } | State::End, _) => {
                unreachable!("these states take data, not single bytes")
            }
        };
        Ok(())
    }

    fn count_extra(&mut self) -> Result<(), NotHttp> {
        self.extras_bytes += 1;
        if self.extras_bytes > MAX_EXTRAS_BYTES {
            return Err(NotHttp("more than 16 KiB of chunk extensions and trailers"));
        }
        Ok(())
    }
}

/// The size of a chunk with something in it, and the length of its line, where that lies there whole and plain: most do.
fn size_line(bytes: &[u8]) -> Option<(u64, usize)> {
    /// Of sizes that fit 32 bits.
    const MOST_DIGITS: usize = 8;
    // Zeros in front are counted, one by one.
    if bytes.first() == Some(&b'0') {
        return None;
    }
    let mut size = 0;
    for (length, byte) in bytes.iter().take(MOST_DIGITS + 1).enumerate() {
        match char::from(*byte).to_digit(16) {
            Some(digit) if length < MOST_DIGITS => size = size << 4 | u64::from(digit),
            _ => return (length > 0 && bytes[length..].starts_with(b"\r\n")).then_some((size, length + 2)),
        }
    }
    None
}

/// Up to `left` bytes off the front, and how many are left then.
fn take<'b>(bytes: &mut &'b [u8], left: u64) -> (&'b [u8], u64) {
    let length = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let (data, rest) = bytes.split_at(length);
    *bytes = rest;
    (data, left - length as u64)
}

fn first(bytes: &mut &[u8]) -> u8 {
    let byte = bytes[0];
    *bytes = &bytes[1..];
    byte
}
