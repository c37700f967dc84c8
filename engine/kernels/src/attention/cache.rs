//! Keys and values of all sequences, in blocks of `block_size` tokens.

use crate::arena::AlignedBuf;
use crate::attention::format::{KvFormat, encode_row};
use crate::attention::layout::{GROUP, Layout, Side, put_tiled};
use crate::ops::RowsRef;
use crate::ops::rows::for_rows;
use crate::shared_mut::SharedMut;
use crate::{Isa, KernelError, ThreadPool};

/// The paged cache. Keys and values are two arrays [layer][block][kv_head] of pages that hold the `block_size` tokens of
/// one head, because attention reads one head at a time; see `layout` for the inside of a page.
pub struct KvCache {
    format: KvFormat,
    layout: Layout,
    keys: Store,
    values: Store,
    /// One encoded row per head, before its numbers go to their places.
    staging: AlignedBuf<u8>,
    layers: usize,
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    isa: Isa,
}

struct Store {
    data: AlignedBuf<u8>,
    /// One per token and head in the order of the pages; empty for formats without scales.
    scales: AlignedBuf<f32>,
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
        let too_large = || KernelError::OutOfMemory { bytes: usize::MAX };
        let product = |sizes: &[usize]| {
            sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).ok_or_else(too_large)
        };
        let rows = product(&[layers, num_blocks, block_size, kv_heads])?;
        let row_bytes = product(&[head_dim, format.bytes_per_value()])?;
        let bytes = product(&[rows, row_bytes])?;
        let scales = if format.has_scales() { rows } else { 0 };
        let store = || {
            Ok::<_, KernelError>(Store {
                data: AlignedBuf::zeroed(bytes)?,
                scales: AlignedBuf::zeroed(scales)?,
            })
        };
        let (keys, values) = (store()?, store()?);
        let staging = AlignedBuf::zeroed(product(&[kv_heads, row_bytes.next_multiple_of(64)])?)?;
        let layout = Layout::of(block_size, head_dim);
        Ok(KvCache {
            format,
            layout,
            keys,
            values,
            staging,
            layers,
            num_blocks,
            block_size,
            kv_heads,
            head_dim,
            isa,
        })
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

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes of one token's key or value in one head, without its scale.
    pub(crate) fn row_bytes(&self) -> usize {
        self.head_dim * self.format.bytes_per_value()
    }

    /// The number of the row that a token of one head has: rows are counted through all pages.
    pub(crate) fn row(&self, layer: usize, kv_head: usize, blocks: &[u32], position: usize) -> usize {
        self.row_at(layer, kv_head, blocks[position / self.block_size], position % self.block_size)
    }

    /// As [`KvCache::row`] for the token at `offset` of a block.
    pub(crate) fn row_at(&self, layer: usize, kv_head: usize, block: u32, offset: usize) -> usize {
        let block = block as usize;
        assert!(block < self.num_blocks, "block {block} of {}", self.num_blocks);
        let page = (layer * self.num_blocks + block) * self.kv_heads + kv_head;
        page * self.block_size + offset
    }

    /// The numbers of `rows` tokens from row `row` on: one token in the rows layout, [`GROUP`] in the tiled one.
    pub(crate) fn data(&self, side: Side, row: usize, rows: usize) -> &[u8] {
        &self.store(side).data[row * self.row_bytes()..][..rows * self.row_bytes()]
    }

    /// The scales of `rows` tokens from row `row` on. Only for formats that have them.
    pub(crate) fn scales(&self, side: Side, row: usize, rows: usize) -> &[f32] {
        &self.store(side).scales[row..row + rows]
    }

    fn store(&self, side: Side) -> &Store {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
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
        let writer = Writer {
            isa: self.isa,
            format: self.format,
            layout: self.layout,
            first_page: layer * self.num_blocks * self.kv_heads,
            block_size: self.block_size,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            staging: SharedMut::new(&mut self.staging),
        };
        // Shared out by head, not by token: two tokens may name one slot, two heads never share a row.
        let targets = [(Side::Keys, k, &mut self.keys), (Side::Values, v, &mut self.values)].map(
            |(side, rows, store)| {
                (side, rows, SharedMut::new(&mut store.data), SharedMut::new(&mut store.scales))
            },
        );
        for_rows(pool, self.kv_heads, 2 * slots.len() * self.head_dim, |heads| {
            for head in heads {
                for (side, rows, data, scales) in &targets {
                    writer.head(*side, head, slots, *rows, data, scales);
                }
            }
        });
    }
}

struct Writer<'a> {
    isa: Isa,
    format: KvFormat,
    layout: Layout,
    first_page: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    staging: SharedMut<'a, u8>,
}

impl Writer<'_> {
    fn head(
        &self,
        side: Side,
        head: usize,
        slots: &[u32],
        rows: RowsRef<'_>,
        data: &SharedMut<'_, u8>,
        scales: &SharedMut<'_, f32>,
    ) {
        let bytes = self.head_dim * self.format.bytes_per_value();
        // SAFETY: each head belongs to one worker, and this is the head's part of the buffer.
        let staged = unsafe { self.staging.slice(head * bytes.next_multiple_of(64), bytes) };
        for (token, slot) in slots.iter().enumerate() {
            let from = &rows.row(token)[head * self.head_dim..][..self.head_dim];
            let (block, offset) = (*slot as usize / self.block_size, *slot as usize % self.block_size);
            let row = (self.first_page + block * self.kv_heads + head) * self.block_size + offset;
            let scale = match self.layout {
                Layout::Rows => {
                    // SAFETY: rows of different heads do not overlap, and each head belongs to one worker.
                    encode_row(self.isa, self.format, from, unsafe { data.slice(row * bytes, bytes) })
                }
                Layout::Tiled => {
                    let (lane, first) = (offset % GROUP, row - offset % GROUP);
                    let scale = encode_row(self.isa, self.format, from, staged);
                    // SAFETY: a group lies within the page of one head.
                    let group = unsafe { data.slice(first * bytes, GROUP * bytes) };
                    put_tiled(side, self.format, staged, lane, group);
                    scale
                }
            };
            if self.format.has_scales() {
                // SAFETY: as the row itself.
                unsafe { scales.slice(row, 1)[0] = scale };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::format::decode_row;
    use crate::ops::testing::random;

    #[test]
    fn rows_lie_where_the_block_table_says() {
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
                for position in 0..10 {
                    let mut out = vec![0.0; head_dim];
                    let row = cache.row(1, head, &blocks, position);
                    decode_row(Isa::Portable, KvFormat::F32, cache.data(side, row, 1), 1.0, &mut out);
                    assert_eq!(out, data[(position * kv_heads + head) * head_dim..][..head_dim]);
                }
            }
        }
    }

    #[test]
    fn bad_shapes_are_errors() {
        assert!(KvCache::new(KvFormat::F32, 1, 1, 1, 1, 7).is_err());
        assert!(KvCache::new(KvFormat::F32, 1, 0, 1, 1, 8).is_err());
        assert!(KvCache::new(KvFormat::Bf16, usize::MAX, 3, 1, 1, 8).is_err());
        assert!(KvCache::new(KvFormat::Bf16, 1, 1, 1, 1, usize::MAX - 1).is_err());
        let cache = KvCache::new(KvFormat::Bf16, 2, 3, 4, 5, 6).unwrap();
        assert_eq!(cache.bytes(), 2 * 2 * 2 * 3 * 4 * 5 * 6);
        let cache = KvCache::new(KvFormat::Fp8, 2, 3, 4, 5, 6).unwrap();
        assert_eq!(cache.bytes(), 2 * 2 * 3 * 4 * 5 * (6 + 4));
    }
}
