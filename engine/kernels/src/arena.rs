//! Zeroed buffers aligned for vector loads, on huge pages where they are large.
//!
//! Weights and KV blocks are read from end to end for every token, so page-table misses are part of their bandwidth: large
//! buffers are mapped anonymously in whole huge pages and marked `MADV_HUGEPAGE`. The matrices of a model, many of them smaller
//! than a few huge pages, lie side by side in slabs. Pages stay untouched until first written, so the thread that packs a range
//! also decides on which memory node it lives.

use std::alloc::Layout;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytemuck::Pod;

use crate::KernelError;

/// Alignment of every buffer: one cache line, which is also one AVX-512 register.
pub const ALIGN_BYTES: usize = 64;

/// Below this the allocator is used.
const MAP_FROM_BYTES: usize = HUGE_PAGE_BYTES;

/// Buffers of at least this size go into slabs where they may.
const SLAB_FROM_BYTES: usize = 64 << 10;

/// What a slab spans at least. Only pages that are written take memory.
const SLAB_BYTES: usize = 64 << 20;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A fixed-length buffer of zero-initialised `T`, aligned to [`ALIGN_BYTES`].
pub struct AlignedBuf<T: Pod> {
    ptr: NonNull<T>,
    len: usize,
    origin: Origin,
}

enum Origin {
    Empty,
    Heap(Layout),
    /// Kept for its drop: the last buffer of a mapping ends it.
    Mapped {
        _mapping: Arc<Mapping>,
    },
}

// SAFETY: the buffer owns its memory like a Vec and `T: Pod` holds no references or interior mutability.
unsafe impl<T: Pod> Send for AlignedBuf<T> {}
// SAFETY: as above; a shared buffer only hands out shared slices.
unsafe impl<T: Pod> Sync for AlignedBuf<T> {}

impl<T: Pod> AlignedBuf<T> {
    /// `len` zeros. An error when the system has no room for them.
    pub fn zeroed(len: usize) -> Result<Self, KernelError> {
        AlignedBuf::with(len, |bytes| {
            if bytes < MAP_FROM_BYTES {
                return None;
            }
            Some(Mapping::new(bytes).map(|mapping| (mapping.ptr, Arc::new(mapping))))
        })
    }

    /// As [`AlignedBuf::zeroed`], side by side with other buffers that are made so: for what lives as long as they do.
    pub fn zeroed_in_slab(len: usize) -> Result<Self, KernelError> {
        AlignedBuf::with(len, |bytes| (bytes >= SLAB_FROM_BYTES).then(|| slab(bytes)))
    }

    fn with(
        len: usize,
        map: impl Fn(usize) -> Option<Result<(NonNull<u8>, Arc<Mapping>), KernelError>>,
    ) -> Result<Self, KernelError> {
        let too_large = KernelError::OutOfMemory { bytes: usize::MAX };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(too_large.clone())?;
        if bytes == 0 {
            return Ok(AlignedBuf { ptr: NonNull::dangling(), len, origin: Origin::Empty });
        }
        if cfg!(unix)
            && let Some(mapped) = map(bytes)
        {
            let (ptr, mapping) = mapped?;
            return Ok(AlignedBuf { ptr: ptr.cast(), len, origin: Origin::Mapped { _mapping: mapping } });
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

/// Whole huge pages of zeros, aligned to them.
struct Mapping {
    ptr: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is only memory; who may use which part of it is the business of the buffers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// The slab that new buffers go into, and how much of it is taken. What buffers leave behind is not taken again, so a slab is
/// zero wherever it has room, and goes when its last buffer does.
static OPEN_SLAB: Mutex<(Weak<Mapping>, usize)> = Mutex::new((Weak::new(), 0));

fn slab(bytes: usize) -> Result<(NonNull<u8>, Arc<Mapping>), KernelError> {
    let mut open = OPEN_SLAB.lock().unwrap_or_else(PoisonError::into_inner);
    let (old, taken) = (open.0.upgrade(), open.1);
    let room = old.as_ref().map_or(0, |slab| slab.bytes - taken);
    let end = taken.saturating_add(bytes).checked_next_multiple_of(ALIGN_BYTES);
    if let (Some(slab), Some(end)) = (old, end)
        && end <= slab.bytes
    {
        open.1 = end;
        // SAFETY: `taken` lies within the slab.
        return Ok((unsafe { slab.ptr.add(taken) }, slab));
    }
    let slab = Arc::new(Mapping::new(bytes.max(SLAB_BYTES))?);
    let taken = bytes.next_multiple_of(ALIGN_BYTES);
    if slab.bytes - taken > room {
        *open = (Arc::downgrade(&slab), taken);
    }
    Ok((slab.ptr, slab))
}

impl Mapping {
    #[cfg(unix)]
    fn new(bytes: usize) -> Result<Self, KernelError> {
        let out_of_memory = KernelError::OutOfMemory { bytes };
        let bytes = bytes.checked_next_multiple_of(HUGE_PAGE_BYTES).ok_or(out_of_memory.clone())?;
        let whole = bytes.checked_add(HUGE_PAGE_BYTES).ok_or(out_of_memory.clone())?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous private mapping at an address of the system's choice touches no existing memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), whole, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(out_of_memory);
        }
        let before = start.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: what is cut off and what is kept are whole pages of the mapping made above, which has room for `bytes` from
        // the first huge page on. Cutting off may fail where mappings are counted; then it stays, untouched, until the end.
        unsafe {
            let ptr = start.cast::<u8>().add(before);
            if before > 0 {
                libc::munmap(start, before);
            }
            libc::munmap(ptr.add(bytes).cast(), HUGE_PAGE_BYTES - before);
            // Advice only: without huge pages the buffer still works, so the result is not checked.
            #[cfg(target_os = "linux")]
            libc::madvise(ptr.cast(), bytes, libc::MADV_HUGEPAGE);
            NonNull::new(ptr).map(|ptr| Mapping { ptr, bytes }).ok_or(out_of_memory)
        }
    }

    #[cfg(not(unix))]
    fn new(bytes: usize) -> Result<Self, KernelError> {
        Err(KernelError::OutOfMemory { bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[cfg(unix)]
        // SAFETY: the range is what `Mapping::new` kept of its mapping, and the last buffer in it is gone.
        unsafe {
            libc::munmap(self.ptr.as_ptr().cast(), self.bytes);
        }
    }
}

impl<T: Pod> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if let Origin::Heap(layout) = self.origin {
            // SAFETY: the pointer came from `alloc_zeroed` with this layout.
            unsafe { std::alloc::dealloc(self.ptr.as_ptr().cast(), layout) };
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
    fn buffers_of_slabs_share_huge_pages_without_overlap() {
        let sizes = [SLAB_FROM_BYTES + 5, 3 << 20, SLAB_BYTES + 1, 70_001, SLAB_BYTES / 2, SLAB_BYTES / 2];
        let mut buffers: Vec<_> =
            sizes.iter().map(|&bytes| AlignedBuf::<u8>::zeroed_in_slab(bytes).unwrap()).collect();
        for (value, buffer) in (1..).zip(&mut buffers) {
            assert_eq!(buffer.as_ptr() as usize % ALIGN_BYTES, 0);
            assert!(buffer.iter().all(|&v| v == 0));
            buffer.fill(value);
        }
        buffers.remove(1);
        // What a dropped buffer leaves is not handed out again before its slab goes: new buffers are zero all the same.
        buffers.push(AlignedBuf::zeroed_in_slab(3 << 20).unwrap());
        assert!(buffers[5].iter().all(|&v| v == 0));
        for (value, buffer) in [1, 3, 4, 5, 6].into_iter().zip(&buffers) {
            assert!(buffer.iter().all(|&v| v == value));
        }
    }

    #[test]
    fn an_empty_buffer_is_an_empty_slice_and_an_impossible_one_an_error() {
        assert!(AlignedBuf::<u32>::zeroed(0).unwrap().is_empty());
        assert!(AlignedBuf::<u32>::zeroed(usize::MAX / 2).is_err());
        assert!(AlignedBuf::<u8>::zeroed(usize::MAX / 2).is_err());
        assert!(AlignedBuf::<u8>::zeroed_in_slab(usize::MAX - 7).is_err());
        assert!(AlignedBuf::<u8>::zeroed_in_slab(usize::MAX / 2).is_err());
    }
}
