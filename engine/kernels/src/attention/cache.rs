//! Keys and values of all sequences, in blocks of `block_size` tokens.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::arena::AlignedBuf;
use crate::ops::RowsRef;
use crate::ops::rows::{for_rows, multiversion};
use crate::shared_mut::SharedMut;
use crate::{Isa, KernelError, ThreadPool};

/// How one key or value number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    F32,
    /// The upper half of an f32, rounded to nearest even: half the memory and bandwidth.
    Bf16,
}

impl KvFormat {
    pub fn bytes_per_value(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::Bf16 => 2,
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvFormat::F32 => "f32",
            KvFormat::Bf16 => "bf16",
        })
    }
}

impl FromStr for KvFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        match name {
            "f32" => Ok(KvFormat::F32),
            "bf16" => Ok(KvFormat::Bf16),
            _ => {
                Err(KernelError::UnknownName { what: "kv format", name: name.into(), expected: "f32, bf16" })
            }
        }
    }
}

/// The paged cache. Keys and values are two arrays [layer][block][kv_head][block_size][head_dim]: within a block the
/// rows of one head follow each other, because attention reads one head at a time.
pub struct KvCache {
    store: Store,
    layers: usize,
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    isa: Isa,
}

enum Store {
    F32 { k: AlignedBuf<f32>, v: AlignedBuf<f32> },
    Bf16 { k: AlignedBuf<u16>, v: AlignedBuf<u16> },
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
        let values = sizes
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .ok_or(KernelError::OutOfMemory { bytes: usize::MAX })?;
        let store = match format {
            KvFormat::F32 => Store::F32 { k: AlignedBuf::zeroed(values)?, v: AlignedBuf::zeroed(values)? },
            KvFormat::Bf16 => Store::Bf16 { k: AlignedBuf::zeroed(values)?, v: AlignedBuf::zeroed(values)? },
        };
        Ok(KvCache { store, layers, num_blocks, block_size, kv_heads, head_dim, isa })
    }

    /// Takes the memory now instead of at each block's first write: a server calls it before the first request, so that
    /// no measured step pays for page faults.
    pub fn touch(&mut self) {
        match &mut self.store {
            Store::F32 { k, v } => [k, v].into_iter().for_each(AlignedBuf::touch),
            Store::Bf16 { k, v } => [k, v].into_iter().for_each(AlignedBuf::touch),
        }
    }

    /// Keys and values of the whole pool.
    pub fn bytes(&self) -> u64 {
        let (k, v) = match &self.store {
            Store::F32 { k, v } => (k.bytes(), v.bytes()),
            Store::Bf16 { k, v } => (k.bytes(), v.bytes()),
        };
        (k + v) as u64
    }

    pub fn format(&self) -> KvFormat {
        match self.store {
            Store::F32 { .. } => KvFormat::F32,
            Store::Bf16 { .. } => KvFormat::Bf16,
        }
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
        match &mut self.store {
            Store::F32 { k: keys, v: values } => {
                store(pool, place, slots, k, SharedMut::new(keys), |row, to| to.copy_from_slice(row));
                store(pool, place, slots, v, SharedMut::new(values), |row, to| to.copy_from_slice(row));
            }
            Store::Bf16 { k: keys, v: values } => {
                let isa = self.isa;
                store(pool, place, slots, k, SharedMut::new(keys), |row, to| narrow(isa, row, to));
                store(pool, place, slots, v, SharedMut::new(values), |row, to| narrow(isa, row, to));
            }
        }
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
            let rows = span.len() / self.head_dim;
            let out = &mut out[done * padded..][..rows * padded];
            match (&self.store, side) {
                (Store::F32 { k, .. }, Side::Keys) => copy_rows(&k[span], self.head_dim, padded, out),
                (Store::F32 { v, .. }, Side::Values) => copy_rows(&v[span], self.head_dim, padded, out),
                (Store::Bf16 { k, .. }, Side::Keys) => {
                    widen_rows(self.isa, &k[span], self.head_dim, padded, out);
                }
                (Store::Bf16 { v, .. }, Side::Values) => {
                    widen_rows(self.isa, &v[span], self.head_dim, padded, out);
                }
            }
            done += rows;
        });
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
        self.runs(layer, kv_head, blocks, positions, |span| match (&self.store, side) {
            (Store::F32 { k, .. }, Side::Keys) => prefetch_slice(&k[span]),
            (Store::F32 { v, .. }, Side::Values) => prefetch_slice(&v[span]),
            (Store::Bf16 { k, .. }, Side::Keys) => prefetch_slice(&k[span]),
            (Store::Bf16 { v, .. }, Side::Values) => prefetch_slice(&v[span]),
        });
    }

    /// Calls `visit` with the stretches of the store that hold one head's rows of `positions`, in order.
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
            visit(row * self.head_dim..(row + rows) * self.head_dim);
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
    /// Where the row of a head starts.
    fn row(&self, slot: usize, head: usize) -> usize {
        let block = self.layer * self.num_blocks + slot / self.block_size;
        let row = (block * self.kv_heads + head) * self.block_size + slot % self.block_size;
        row * self.head_dim
    }
}

/// Shared out by head, not by token: two tokens may name one slot, two heads never share a row.
fn store<T: Send>(
    pool: &ThreadPool,
    place: Place,
    slots: &[u32],
    rows: RowsRef<'_>,
    to: SharedMut<'_, T>,
    put: impl Fn(&[f32], &mut [T]) + Sync,
) {
    for_rows(pool, place.kv_heads, slots.len() * place.head_dim, |heads| {
        for (token, slot) in slots.iter().enumerate() {
            for head in heads.clone() {
                let from = &rows.row(token)[head * place.head_dim..][..place.head_dim];
                // SAFETY: rows of different heads do not overlap, and each head belongs to one worker.
                put(from, unsafe { to.slice(place.row(*slot as usize, head), place.head_dim) });
            }
        }
    });
}

multiversion! { fn narrow(row: &[f32], out: &mut [u16]) = narrow_body }
multiversion! { fn widen_rows(rows: &[u16], head_dim: usize, padded: usize, out: &mut [f32]) = widen_rows_body }

/// Rounds to nearest even; a NaN stays one.
#[inline(always)]
fn narrow_body(row: &[f32], out: &mut [u16]) {
    for (value, out) in row.iter().zip(out) {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        *out = if value.is_nan() { 0x7fc0 } else { rounded as u16 };
    }
}

#[inline(always)]
fn widen_rows_body(rows: &[u16], head_dim: usize, padded: usize, out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(head_dim).zip(out.chunks_exact_mut(padded)) {
        for (value, out) in row.iter().zip(out) {
            *out = f32::from_bits(u32::from(*value) << 16);
        }
    }
}

fn copy_rows(rows: &[f32], head_dim: usize, padded: usize, out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(head_dim).zip(out.chunks_exact_mut(padded)) {
        out[..head_dim].copy_from_slice(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{every_isa, random};

    #[test]
    fn bf16_rounding_is_that_of_the_half_crate() {
        let mut values = random(1000, 1);
        values.extend([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            1.0 + 1.0 / 256.0,
            1e-40,
        ]);
        for isa in every_isa() {
            let mut out = vec![0u16; values.len()];
            narrow(isa, &values, &mut out);
            for (value, bits) in values.iter().zip(&out) {
                let expected = half::bf16::from_f32(*value);
                if value.is_nan() {
                    assert!(half::bf16::from_bits(*bits).is_nan());
                } else {
                    assert_eq!(*bits, expected.to_bits(), "{value} on {isa}");
                }
            }
        }
    }

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
    fn bad_shapes_and_names_are_errors() {
        assert!(KvCache::new(KvFormat::F32, 1, 1, 1, 1, 7).is_err());
        assert!(KvCache::new(KvFormat::F32, 1, 0, 1, 1, 8).is_err());
        assert!(KvCache::new(KvFormat::Bf16, usize::MAX, 3, 1, 1, 8).is_err());
        assert!("int8".parse::<KvFormat>().unwrap_err().to_string().contains("f32, bf16"));
        let cache = KvCache::new(KvFormat::Bf16, 2, 3, 4, 5, 6).unwrap();
        assert_eq!(cache.bytes(), 2 * 2 * 2 * 3 * 4 * 5 * 6);
    }
}
