//! Reading the header of a file front to back without believing it: every length is compared with what is left of the file
//! before it is used, and the bytes are kept, because names and values are later looked up in them.

use crate::read_at::ReadAt;

/// The header is read in pieces of at least this size.
const PIECE_BYTES: usize = 64 << 10;

/// What is wrong, and where in the file.
#[derive(Debug)]
pub(crate) struct Broken {
    pub at: u64,
    pub problem: String,
}

pub(crate) type Parsed<T> = Result<T, Broken>;

/// A position in the header of `source`, and the bytes read so far.
pub(crate) struct Cursor<'a> {
    source: &'a dyn ReadAt,
    file_bytes: u64,
    /// The most a header may have; positions inside it are kept as 32 bits.
    limit: u64,
    bytes: Vec<u8>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(source: &'a dyn ReadAt, file_bytes: u64, limit: u64) -> Self {
        assert!(limit <= u64::from(u32::MAX), "a limit of {limit} bytes does not fit 32-bit positions");
        Cursor { source, file_bytes, limit, bytes: Vec::new(), at: 0 }
    }

    pub fn at(&self) -> u32 {
        self.at as u32
    }

    pub fn fail<T>(&self, problem: String) -> Parsed<T> {
        Err(Broken { at: self.at as u64, problem })
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of the file behind the position.
    pub fn left(&self) -> u64 {
        self.file_bytes - self.at as u64
    }

    /// Fails unless `count` things of at least `bytes_each` fit into the rest of the file.
    pub fn check_count(&self, count: u64, bytes_each: u64, what: &str) -> Parsed<usize> {
        match count.checked_mul(bytes_each) {
            Some(bytes) if bytes <= self.left() => Ok(count as usize),
            _ => self.fail(format!(
                "{count} {what} need at least {bytes_each} bytes each; the file has {} bytes left",
                self.left()
            )),
        }
    }

    pub fn u32(&mut self, what: &str) -> Parsed<u32> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    pub fn u64(&mut self, what: &str) -> Parsed<u64> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    /// A string's bytes behind its 64-bit length.
    pub fn string(&mut self, what: &str) -> Parsed<&[u8]> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: u64, what: &str) -> Parsed<&[u8]> {
        if count > self.left() {
            return self.fail(format!("{what} needs {count} bytes; the file has {} left", self.left()));
        }
        if self.at as u64 + count > self.limit {
            return self.fail(format!("{what} needs {count} bytes; a header may have {}", self.limit));
        }
        let end = self.at + count as usize;
        self.fill(end)?;
        let start = std::mem::replace(&mut self.at, end);
        Ok(&self.bytes[start..end])
    }

    /// Reads on until `end` bytes are here. `end` is inside the file.
    fn fill(&mut self, end: usize) -> Parsed<()> {
        if end <= self.bytes.len() {
            return Ok(());
        }
        // Pieces grow with what was found useful, so that a large header is copied few times, and never reach behind the
        // end of the file: a length in the header chooses nothing here.
        let piece = PIECE_BYTES.max(self.bytes.len() / 2);
        let target = (end.max(self.bytes.len() + piece) as u64).min(self.file_bytes) as usize;
        let have = self.bytes.len();
        self.bytes.reserve_exact(target - have);
        self.bytes.resize(target, 0);
        let read = self.source.read_exact_at(&mut self.bytes[have..], have as u64);
        read.map_err(|error| Broken { at: have as u64, problem: format!("cannot be read: {error}") })
    }

    /// The header's bytes, up to the position.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.truncate(self.at);
        self.bytes.shrink_to_fit();
        self.bytes
    }

    /// The bytes read so far.
    pub fn seen(&self) -> &[u8] {
        &self.bytes[..self.at]
    }
}
