//! Where a tile comes from: the cache itself where it is in the form of the kernels, else a buffer.

use std::array::from_fn;
use std::ops::Range;

use crate::arena::AlignedBuf;
use crate::attention::cache::KvCache;
use crate::attention::format::KvFormat;
use crate::attention::layout::{GROUP, Layout, Side, place_bf16, place_f32, widen_tiled};
use crate::attention::simd::{self, GROUPS, Kind, Shape, TILE, Tile};

/// The keys and values of one sequence and one KV head.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub cache: &'a KvCache,
    pub layer: usize,
    pub kv_head: usize,
    pub blocks: &'a [u32],
}

/// One worker's room for a tile.
#[derive(Default)]
pub(crate) struct TileBuffers {
    keys: Option<AlignedBuf<u8>>,
    values: Option<AlignedBuf<u8>>,
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
    /// One row as f32.
    row: Vec<f32>,
}

/// Where the groups of a tile begin in the cache.
type Rows = [Option<usize>; GROUPS];

/// The scales of a tile's positions, empty for formats without scales.
pub(crate) struct Scales<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

impl TileBuffers {
    /// The tile of `positions`. `next` is what will probably be asked for after it, to be fetched ahead: blocks lie
    /// anywhere, so the hardware cannot guess.
    pub(crate) fn load<'a>(
        &'a mut self,
        context: Context<'a>,
        shape: Shape,
        positions: Range<usize>,
        next: Option<(Context<'a>, Range<usize>)>,
    ) -> (Tile<'a>, Scales<'a>) {
        let format = context.cache.format();
        let tiled = context.cache.layout() == Layout::Tiled;
        if format.has_scales() {
            context.scales(Side::Keys, positions.clone(), &mut self.key_scales);
            context.scales(Side::Values, positions.clone(), &mut self.value_scales);
        } else {
            self.key_scales.clear();
            self.value_scales.clear();
        }
        let scales = Scales { keys: &self.key_scales, values: &self.value_scales };
        // Which groups lie where is looked up once for keys and values.
        let rows = if tiled { context.rows(positions.clone()) } else { Rows::default() };
        let ahead = match next {
            Some((context, positions)) if tiled => context.rows(positions),
            _ => Rows::default(),
        };
        let as_stored = match format {
            KvFormat::F32 => true,
            KvFormat::F16 => shape.kind == Kind::F16,
            KvFormat::Bf16 => shape.kind == Kind::Bf16,
            KvFormat::Int8 | KvFormat::Fp8 => false,
        };
        if tiled && as_stored {
            let tile = Tile {
                keys: context.groups(Side::Keys, rows),
                values: context.groups(Side::Values, rows),
                next_keys: context.groups(Side::Keys, ahead),
                next_values: context.groups(Side::Values, ahead),
            };
            return (tile, scales);
        }
        self.row.resize(shape.head_dim, 0.0);
        let bytes = TILE * shape.padded * shape.kind.bytes();
        for (side, buffer) in [(Side::Keys, &mut self.keys), (Side::Values, &mut self.values)] {
            if buffer.as_ref().is_none_or(|buffer| buffer.len() != bytes) {
                // Only another head size comes here, so padding columns stay zero.
                *buffer = Some(AlignedBuf::zeroed(bytes).expect("memory for a tile"));
            }
            let buffer = buffer.as_mut().expect("made above");
            context.groups(side, ahead).iter().for_each(|group| prefetch(group));
            if tiled {
                context.expand(side, shape, rows, buffer);
            } else {
                context.place(side, shape, positions.clone(), &mut self.row, buffer);
            }
        }
        let groups = |buffer: &'a Option<AlignedBuf<u8>>, columns: usize| {
            let buffer: &'a [u8] = buffer.as_ref().expect("made above");
            let bytes = GROUP * columns * shape.kind.bytes();
            from_fn(|g| &buffer[g * bytes..][..bytes])
        };
        let tile = Tile {
            keys: groups(&self.keys, shape.head_dim),
            values: groups(&self.values, shape.padded),
            next_keys: [&[]; GROUPS],
            next_values: [&[]; GROUPS],
        };
        (tile, scales)
    }
}

impl<'a> Context<'a> {
    fn row(&self, position: usize) -> usize {
        self.cache.row(self.layer, self.kv_head, self.blocks, position)
    }

    /// The first rows of the groups of 16 that hold `positions`, which start at one. Only for the tiled layout.
    fn rows(&self, positions: Range<usize>) -> Rows {
        let (block_size, mut rows) = (self.cache.block_size(), Rows::default());
        let (mut block, mut offset) = (positions.start / block_size, positions.start % block_size);
        for row in rows.iter_mut().take(positions.len().div_ceil(GROUP)) {
            *row = Some(self.cache.row_at(self.layer, self.kv_head, self.blocks[block], offset));
            offset += GROUP;
            if offset >= block_size {
                (block, offset) = (block + 1, 0);
            }
        }
        rows
    }

    fn groups(&self, side: Side, rows: Rows) -> [&'a [u8]; GROUPS] {
        let mut groups = [&[][..]; GROUPS];
        for (group, row) in groups.iter_mut().zip(rows) {
            if let Some(row) = row {
                *group = self.cache.data(side, row, GROUP);
            }
        }
        groups
    }

    /// Widens the tiled numbers of `rows` to those of the kind.
    fn expand(&self, side: Side, shape: Shape, rows: Rows, out: &mut [u8]) {
        let (isa, format) = (self.cache.isa(), self.cache.format());
        let width = if side == Side::Keys { GROUP } else { shape.head_dim };
        let out = out.chunks_exact_mut(GROUP * shape.head_dim * shape.kind.bytes());
        for (group, out) in
            self.groups(side, rows).into_iter().zip(out).filter(|(group, _)| !group.is_empty())
        {
            match shape.kind {
                Kind::Bf16 => simd::expand(isa, format, group, bytemuck::cast_slice_mut(out)),
                _ => widen_tiled(isa, format, width, group, bytemuck::cast_slice_mut(out)),
            }
        }
    }

    /// Brings `positions` of the rows layout into the tiled form.
    fn place(&self, side: Side, shape: Shape, positions: Range<usize>, row: &mut [f32], out: &mut [u8]) {
        let (isa, format, padded) = (self.cache.isa(), self.cache.format(), shape.padded);
        let columns = if side == Side::Keys { shape.head_dim } else { padded };
        let out = out.chunks_exact_mut(GROUP * columns * shape.kind.bytes());
        for (group, out) in out.enumerate() {
            let first = positions.start + group * GROUP;
            for position in first..positions.end.min(first + GROUP) {
                let (lane, bytes) = (position - first, self.cache.data(side, self.row(position), 1));
                match shape.kind {
                    Kind::Bf16 => {
                        let out = bytemuck::cast_slice_mut(out);
                        place_bf16(isa, side, format, bytes, lane, padded, row, out);
                    }
                    _ => {
                        place_f32(isa, side, format, bytes, lane, padded, row, bytemuck::cast_slice_mut(out))
                    }
                }
            }
        }
    }

    /// The scales of `positions`; entries beyond are arbitrary.
    fn scales(&self, side: Side, positions: Range<usize>, out: &mut Vec<f32>) {
        out.resize(TILE, 0.0);
        // Within a block the scales of one head follow each other.
        let step = if self.cache.layout() == Layout::Tiled { GROUP } else { 1 };
        for (position, out) in positions.step_by(step).zip(out.chunks_exact_mut(step)) {
            out.copy_from_slice(self.cache.scales(side, self.row(position), step));
        }
    }
}

/// Asks for the memory of `bytes`.
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes.len()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that reads nothing; the address is inside the slice besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
