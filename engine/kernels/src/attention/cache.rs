//! Keys and values of all sequences, in blocks of `block_size` tokens.

use std::ops::Range;

use crate::arena::AlignedBuf;
use crate::attention::format::{KvFormat, decode_row, encode_row};
use crate::ops::RowsRef;
use crate::ops::rows::for_rows;
use crate::shared_mut::SharedMut;
use crate::{Isa, KernelError, ThreadPool};

/// The paged cache. Keys and values are two arrays [layer][block][kv_head][block_size][head_dim]: within a block the
/// rows of one head follow each other, because attention reads one head at a time.
pub struct KvCache {
    format: KvFormat,
    keys: Store,
    values: Store,
    layers: usize,
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    isa: Isa,
}

struct Store {
    data: AlignedBuf<u8>,
    /// One per row; empty for formats without scales.
    scales: AlignedBuf<f32>,
}

#[derive(Clone, Copy)]
pub(crate) enum Side {
    Keys,
    Values,
}

impl KvCache {
    /// Reserves address space at once; pages take memory when they are first written.
    /// `head_dim` must be even, every size at least 1.
    pub fn new(
        format: KvFormat,
        layers: usize,
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, KernelError> {
        Self::with_isa(format, layers, num_blocks, block_size, kv_heads, head_dim, Isa::detect())
    }

    /// As [`KvCache::new`]; attention over this cache uses the kernels of `isa`.
    pub fn with_isa(
        format: KvFormat,
        layers: usize,
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        isa: Isa,
    ) -> Result<Self, KernelError> {
        if !isa.is_available() {
            return Err(KernelError::IsaUnavailable { isa });
        }
        let sizes = [layers, num_blocks, block_size, kv_heads, head_dim];
        if sizes.contains(&0) || !head_dim.is_multiple_of(2) {
            return Err(KernelError::BadShape(format!(
                "kv cache of {layers} layers, {num_blocks} blocks of {block_size} tokens, {kv_heads} heads of \
                 {head_dim}: sizes must be positive and the head size even"
            )));
        }
        let rows = [layers, num_blocks, block_size, kv_heads]
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .ok_or(KernelError::OutOfMemory { bytes: usize::MAX })?;
        let row_bytes = head_dim.checked_mul(format.bytes_per_value());
        let bytes = row_bytes
            .and_then(|row_bytes| row_bytes.checked_mul(rows))
            .ok_or(KernelError::OutOfMemory { bytes: usize::MAX })?;
        let scales = if format.has_scales() { rows } else { 0 };
        let store = || Ok(Store { data: AlignedBuf::zeroed(bytes)?, scales: AlignedBuf::zeroed(scales)? });
        let (keys, values) = (store()?, store()?);
        Ok(KvCache { format, keys, values, layers, num_blocks, block_size, kv_heads, head_dim, isa })
    }

    /// Takes the memory now instead of at each block's first write: a server calls it before the first request, so that
    /// no measured step pays for page faults.
    pub fn touch(&mut self) {
        for store in [&mut self.keys, &mut self.values] {
            store.data.touch();
            store.scales.touch();
        }
    }

    /// Keys and values of the whole pool.
    pub fn bytes(&self) -> u64 {
        [&self.keys, &self.values].iter().map(|s| (s.data.bytes() + s.scales.bytes()) as u64).sum()
    }

    pub fn format(&self) -> KvFormat {
        self.format
    }

    pub fn layers(&self) -> usize {
        self.layers
    }

    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Stores token t's key and value of one layer at `slots[t] = block * block_size + offset`.
    /// `k` and `v` are rows of [kv_heads, head_dim]. When a slot is named twice the later token wins.
    pub fn write(&mut self, pool: &ThreadPool, layer: usize, slots: &[u32], k: RowsRef<'_>, v: RowsRef<'_>) {
        let width = self.kv_heads * self.head_dim;
        assert!(
            k.width() == width && v.width() == width,
            "rows of {} and {} for {width}",
            k.width(),
            v.width()
        );
        assert!(k.len() == slots.len() && v.len() == slots.len(), "{} slots, {} rows", slots.len(), k.len());
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        let capacity = self.num_blocks * self.block_size;
        if let Some(slot) = slots.iter().find(|slot| **slot as usize >= capacity) {
            panic!("slot {slot} outside the cache's {capacity}");
        }
        let place = Place {
            layer,
            num_blocks: self.num_blocks,
            block_size: self.block_size,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        };
        let (isa, format) = (self.isa, self.format);
        store(pool, place, isa, format, slots, k, &mut self.keys);
        store(pool, place, isa, format, slots, v, &mut self.values);
    }

    /// Copies the keys or values of `positions` of one sequence into `out` [positions][padded], as f32. Columns from
    /// `head_dim` to `padded` are left as they are.
    pub(crate) fn gather(
        &self,
        side: Side,
        layer: usize,
        kv_head: usize,
        blocks: &[u32],
        positions: Range<usize>,
        padded: usize,
        out: &mut [f32],
    ) {
        let mut done = 0;
        self.runs(layer, kv_head, blocks, positions, |span| {
            let store = self.store(side);
            for row in span {
                let bytes = self.head_dim * self.format.bytes_per_value();
                let scale = store.scales.get(row).copied().unwrap_or(1.0);
                let out = &mut out[done * padded..][..self.head_dim];
                decode_row(self.isa, self.format, &store.data[row * bytes..][..bytes], scale, out);
                done += 1;
            }
        });
    }

    fn store(&self, side: Side) -> &Store {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// Asks for the memory that [`KvCache::gather`] of the same arguments will read. Blocks lie anywhere, so the
    /// hardware cannot guess the next one.
    pub(crate) fn prefetch(
        &self,
        side: Side,
        layer: usize,
        kv_head: usize,
        blocks: &[u32],
        positions: Range<usize>,
    ) {
        let bytes = self.head_dim * self.format.bytes_per_value();
        self.runs(layer, kv_head, blocks, positions, |rows| {
            prefetch_slice(&self.store(side).data[rows.start * bytes..rows.end * bytes]);
        });
    }

    /// Calls `visit` with the rows of the store that hold one head's `positions`, in order.
    fn runs(
        &self,
        layer: usize,
        kv_head: usize,
        blocks: &[u32],
        positions: Range<usize>,
        mut visit: impl FnMut(Range<usize>),
    ) {
        let mut position = positions.start;
        while position < positions.end {
            let offset = position % self.block_size;
            let rows = (self.block_size - offset).min(positions.end - position);
            let block = blocks[position / self.block_size] as usize;
            assert!(block < self.num_blocks, "block {block} of {}", self.num_blocks);
            let row =
                ((layer * self.num_blocks + block) * self.kv_heads + kv_head) * self.block_size + offset;
            visit(row..row + rows);
            position += rows;
        }
    }
}

fn prefetch_slice<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(slice)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that reads nothing; the address is inside the slice besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().byte_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slice;
}

/// Where a row of one layer lives.
#[derive(Clone, Copy)]
struct Place {
    layer: usize,
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Place {
    /// The number of a head's row.
    fn row(&self, slot: usize, head: usize) -> usize {
        let block = self.layer * self.num_blocks + slot / self.block_size;
        (block * self.kv_heads + head) * self.block_size + slot % self.block_size
    }
}

/// Shared out by head, not by token: two tokens may name one slot, two heads never share a row.
fn store(
    pool: &ThreadPool,
    place: Place,
    isa: Isa,
    format: KvFormat,
    slots: &[u32],
    rows: RowsRef<'_>,
    to: &mut Store,
) {
    let bytes = place.head_dim * format.bytes_per_value();
    let (data, scales) = (SharedMut::new(&mut to.data), SharedMut::new(&mut to.scales));
    for_rows(pool, place.kv_heads, slots.len() * place.head_dim, |heads| {
        for (token, slot) in slots.iter().enumerate() {
            for head in heads.clone() {
                let from = &rows.row(token)[head * place.head_dim..][..place.head_dim];
                let row = place.row(*slot as usize, head);
                // SAFETY: rows of different heads do not overlap, and each head belongs to one worker.
                let scale = encode_row(isa, format, from, unsafe { data.slice(row * bytes, bytes) });
                if format.has_scales() {
                    // SAFETY: as above.
                    unsafe { scales.slice(row, 1)[0] = scale };
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    #[test]
    fn gather_returns_what_was_written_through_any_block_table() {
        let (kv_heads, head_dim, block_size) = (3, 6, 4);
        let pool = ThreadPool::new(2);
        let mut cache = KvCache::new(KvFormat::F32, 2, 5, block_size, kv_heads, head_dim).unwrap();
        let blocks = [3u32, 0, 4];
        let width = kv_heads * head_dim;
        let (k, v) = (random(10 * width, 1), random(10 * width, 2));
        let slots: Vec<u32> = (0..10).map(|p| blocks[p / block_size] * 4 + (p % block_size) as u32).collect();
        cache.write(&pool, 1, &slots, RowsRef::packed(&k, width), RowsRef::packed(&v, width));
        for head in 0..kv_heads {
            for (side, data) in [(Side::Keys, &k), (Side::Values, &v)] {
                let mut out = vec![9.0; 7 * 16];
                cache.gather(side, 1, head, &blocks, 2..9, 16, &mut out);
                for (i, row) in out.chunks(16).enumerate() {
                    assert_eq!(row[..head_dim], data[((2 + i) * kv_heads + head) * head_dim..][..head_dim]);
                    assert!(row[head_dim..].iter().all(|x| *x == 9.0));
                }
            }
        }
    }

    #[test]
    fn bad_shapes_are_errors() {
        assert!(KvCache::new(KvFormat::F32, 1, 1, 1, 1, 7).is_err());
        assert!(KvCache::new(KvFormat::F32, 1, 0, 1, 1, 8).is_err());
        assert!(KvCache::new(KvFormat::Bf16, usize::MAX, 3, 1, 1, 8).is_err());
        let cache = KvCache::new(KvFormat::Bf16, 2, 3, 4, 5, 6).unwrap();
        assert_eq!(cache.bytes(), 2 * 2 * 2 * 3 * 4 * 5 * 6);
    }
}
