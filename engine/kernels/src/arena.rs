//! Zeroed buffers aligned for vector loads, on huge pages where they are large.
//!
//! Weights and KV blocks are read from end to end for every token, so page-table misses are part of their bandwidth: large
//! buffers are mapped anonymously and marked `MADV_HUGEPAGE`. Pages stay untouched until first written, so the thread that
//! packs a range also decides on which memory node it lives.

use std::alloc::Layout;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytemuck::Pod;

use crate::KernelError;

/// Alignment of every buffer: one cache line, which is also one AVX-512 register.
pub const ALIGN_BYTES: usize = 64;

/// Below this the allocator is used; a huge page is 2 MiB.
const MAP_FROM_BYTES: usize = 2 << 20;

/// A fixed-length buffer of zero-initialised `T`, aligned to [`ALIGN_BYTES`].
pub struct AlignedBuf<T: Pod> {
    ptr: NonNull<T>,
    len: usize,
    origin: Origin,
}

#[derive(Clone, Copy)]
enum Origin {
    Empty,
    Heap(Layout),
    #[cfg(unix)]
    Mapping {
        bytes: usize,
    },
}

// SAFETY: the buffer owns its memory like a Vec and `T: Pod` holds no references or interior mutability.
unsafe impl<T: Pod> Send for AlignedBuf<T> {}
// SAFETY: as above; a shared buffer only hands out shared slices.
unsafe impl<T: Pod> Sync for AlignedBuf<T> {}

impl<T: Pod> AlignedBuf<T> {
    /// `len` zeros. An error when the system has no room for them.
    pub fn zeroed(len: usize) -> Result<Self, KernelError> {
        let too_large = KernelError::OutOfMemory { bytes: usize::MAX };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(too_large.clone())?;
        if bytes == 0 {
            return Ok(AlignedBuf { ptr: NonNull::dangling(), len, origin: Origin::Empty });
        }
        #[cfg(unix)]
        if bytes >= MAP_FROM_BYTES {
            let ptr = map_huge(bytes)?.cast();
            return Ok(AlignedBuf { ptr, len, origin: Origin::Mapping { bytes } });
        }
        let align = ALIGN_BYTES.max(align_of::<T>());
        let layout = Layout::from_size_align(bytes, align).map_err(|_| too_large)?;
        // SAFETY: the layout has a non-zero size, checked above.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).ok_or(KernelError::OutOfMemory { bytes })?.cast();
        Ok(AlignedBuf { ptr, len, origin: Origin::Heap(layout) })
    }

    /// Writes a zero into every page, so that none is faulted in later, inside a measured step.
    pub fn touch(&mut self) {
        const PAGE_BYTES: usize = 4096;
        let values_per_page = (PAGE_BYTES / size_of::<T>().max(1)).max(1);
        self.iter_mut().step_by(values_per_page).for_each(|value| *value = T::zeroed());
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

#[cfg(unix)]
fn map_huge(bytes: usize) -> Result<NonNull<u8>, KernelError> {
    // SAFETY: an anonymous private mapping at an address of the system's choice touches no existing memory.
    let ptr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if ptr == libc::MAP_FAILED {
        return Err(KernelError::OutOfMemory { bytes });
    }
    // Advice only: without huge pages the buffer still works, so the result is not checked.
    #[cfg(target_os = "linux")]
    // SAFETY: the range is exactly the mapping made above.
    unsafe {
        libc::madvise(ptr, bytes, libc::MADV_HUGEPAGE);
    }
    NonNull::new(ptr.cast()).ok_or(KernelError::OutOfMemory { bytes })
}

impl<T: Pod> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        match self.origin {
            Origin::Empty => {}
            // SAFETY: the pointer came from `alloc_zeroed` with this layout.
            Origin::Heap(layout) => unsafe { std::alloc::dealloc(self.ptr.as_ptr().cast(), layout) },
            #[cfg(unix)]
            // SAFETY: the pointer came from `mmap` with this length, and no slice outlives the buffer.
            Origin::Mapping { bytes } => unsafe {
                libc::munmap(self.ptr.as_ptr().cast(), bytes);
            },
        }
    }
}

impl<T: Pod> Deref for AlignedBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values were allocated and zeroed, and zero bytes are a valid `Pod`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_buffers_are_zeroed_aligned_and_writable() {
        for len in [1, 1000, MAP_FROM_BYTES / 4 + 3] {
            let mut buffer = AlignedBuf::<f32>::zeroed(len).unwrap();
            assert_eq!(buffer.as_ptr() as usize % ALIGN_BYTES, 0);
            assert!(buffer.iter().all(|&v| v == 0.0));
            buffer[len - 1] = 7.0;
            assert_eq!(buffer[len - 1], 7.0);
            assert_eq!(buffer.bytes(), len * 4);
        }
    }

    #[test]
    fn an_empty_buffer_is_an_empty_slice_and_an_impossible_one_an_error() {
        assert!(AlignedBuf::<u32>::zeroed(0).unwrap().is_empty());
        assert!(AlignedBuf::<u32>::zeroed(usize::MAX / 2).is_err());
        assert!(AlignedBuf::<u8>::zeroed(usize::MAX / 2).is_err());
    }
}
