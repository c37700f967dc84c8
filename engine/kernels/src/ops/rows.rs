//! Strided views of rows, dividing rows among workers, and compiling one body per instruction set.

use std::ops::Range;
use std::sync::OnceLock;

use crate::shared_mut::SharedMut;
use crate::{Isa, ThreadPool};

/// Values one worker takes at a time. Less work than this is not worth a dispatch, which costs a microsecond or two.
const CHUNK_VALUES: usize = 16 * 1024;

/// One `width`-long slice out of each `stride`-long row: how the query, key and value parts of a fused projection
/// are addressed without copying them apart.
#[derive(Clone, Copy)]
pub struct RowsRef<'a> {
    data: &'a [f32],
    stride: usize,
    first: usize,
    width: usize,
}

impl<'a> RowsRef<'a> {
    /// Rows of `width` values, one after the other.
    pub fn packed(data: &'a [f32], width: usize) -> Self {
        Self::strided(data, width, 0, width)
    }

    /// Columns `first..first + width` of rows that are `stride` long.
    pub fn strided(data: &'a [f32], stride: usize, first: usize, width: usize) -> Self {
        assert!(first + width <= stride, "columns {first}+{width} of rows {stride} long");
        assert!(stride > 0 && data.len().is_multiple_of(stride), "{} values in rows of {stride}", data.len());
        RowsRef { data, stride, first, width }
    }

    pub fn len(&self) -> usize {
        self.data.len() / self.stride
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride + self.first..][..self.width]
    }
}

/// [`RowsRef`], writable.
pub struct RowsMut<'a> {
    data: &'a mut [f32],
    stride: usize,
    first: usize,
    width: usize,
}

impl<'a> RowsMut<'a> {
    pub fn packed(data: &'a mut [f32], width: usize) -> Self {
        Self::strided(data, width, 0, width)
    }

    pub fn strided(data: &'a mut [f32], stride: usize, first: usize, width: usize) -> Self {
        RowsRef::strided(data, stride, first, width);
        RowsMut { data, stride, first, width }
    }

    pub fn len(&self) -> usize {
        self.data.len() / self.stride
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// The whole slice for several workers, and where in it a row starts.
    pub(crate) fn share(self) -> (SharedMut<'a, f32>, impl Fn(usize) -> usize) {
        let (stride, first) = (self.stride, self.first);
        (SharedMut::new(self.data), move |row| row * stride + first)
    }
}

/// The instruction set of every operation that is not tied to a packed matrix, looked up once.
pub(crate) fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(Isa::detect)
}

/// Calls `body` with disjoint ranges covering `0..rows`, on all workers, or once on the calling thread when the work
/// is too small to share. A row touches about `row_values` values.
pub(crate) fn for_rows(
    pool: &ThreadPool,
    rows: usize,
    row_values: usize,
    body: impl Fn(Range<usize>) + Sync,
) {
    let chunk = (CHUNK_VALUES / row_values.max(1)).max(1);
    pool.split(rows, chunk, &|_, range| body(range));
}

/// Defines a function that runs `$body`, an `#[inline(always)]` function of the same parameters, compiled for the
/// instruction set of its first argument.
macro_rules! multiversion {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path) => {
        $(#[$doc])*
        pub(crate) fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*)
                }
                match isa {
                    // SAFETY: an `Isa` other than portable exists only where the CPU has its features.
                    $crate::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::isa::Isa::Portable => {}
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            $body($($arg),*)
        }
    };
}
pub(crate) use multiversion;
