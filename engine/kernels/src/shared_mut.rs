//! One output slice written by several workers at once, each its own part.

use std::marker::PhantomData;

/// A mutable slice that can be handed to all workers of a job.
///
/// The borrow checker cannot see that workers write disjoint elements, so taking a part is unsafe and the caller says why
/// the parts are disjoint.
pub(crate) struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice` and `at`, whose callers promise disjoint parts; `T: Send` may then be written from
// any thread.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        SharedMut { ptr: slice.as_mut_ptr(), len: slice.len(), _slice: PhantomData }
    }

    /// The elements `start..start + len`. Panics when they are out of range.
    ///
    /// # Safety
    /// No other part that overlaps them may be alive.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{start}+{len} outside {}", self.len);
        // SAFETY: in range as just checked, and unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// A pointer to element `index`, for strided writers. Panics when it is out of range.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len, "{index} outside {}", self.len);
        // SAFETY: in range as just checked.
        unsafe { self.ptr.add(index) }
    }
}
