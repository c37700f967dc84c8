//! Positioned reads: what a reader of a large binary file needs, and all it needs.
//!
//! Not a memory map: when another program truncates a mapped file, touching the lost pages ends the process with SIGBUS,
//! while a read returns an error. Nothing is lost by it, because weights are repacked for the kernels and so are copied once
//! in any case. And a reader over this trait works over bytes in memory too, which is what the fuzz targets feed it.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

/// Bytes at offsets, readable from several threads at once.
pub trait ReadAt: Send + Sync {
    /// The size when asked; a file may change later, and then reads fail.
    fn len_bytes(&self) -> Result<u64>;

    /// Fills `buffer` with the bytes from `offset` on, or fails.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}

impl ReadAt for File {
    fn len_bytes(&self) -> Result<u64> {
        let metadata = self.metadata()?;
        // A pipe or a folder has no bytes at offsets.
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "is not a regular file"));
        }
        Ok(metadata.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn len_bytes(&self) -> Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()))
            .ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_like_a_file() {
        let bytes = vec![1u8, 2, 3, 4];
        let mut two = [0; 2];
        ReadAt::read_exact_at(&bytes, &mut two, 2).unwrap();
        assert_eq!(two, [3, 4]);
        for offset in [3, 4, u64::MAX] {
            let error = ReadAt::read_exact_at(&bytes, &mut two, offset).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "at {offset}");
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        assert_eq!(file.len_bytes().unwrap(), 4);
        ReadAt::read_exact_at(&file, &mut two, 1).unwrap();
        assert_eq!(two, [2, 3]);
        assert!(ReadAt::read_exact_at(&file, &mut two, 3).is_err());
    }
}
