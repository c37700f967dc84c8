//! Weights packed once into the order in which the kernels read them.

use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use llmlab_quant::{StoredMatrix, e4m3_to_f32, quantize_matrix};

use crate::arena::AlignedBuf;
use crate::gemm::layout::{BLOCK, FP8_CHUNK, LINE, Layout, Sharing, TILE_ROWS, level_bits};
use crate::gemm::{levels, scales};
use crate::pack::{self, FP8_ORDER, Packer};
use crate::shared_mut::SharedMut;
use crate::{Isa, KernelError, ThreadPool, WeightFormat};

/// A weight matrix `[rows = output features, cols = input features]` in tiles of 16 rows, laid out as `gemm::layout` says.
/// The last tile is padded with rows of zeros.
pub struct PackedMatrix {
    format: WeightFormat,
    isa: Isa,
    rows: usize,
    cols: usize,
    layout: Layout,
    sharing: Sharing,
    /// Packed column `c` is column `order[c]` of the input (act-order). Equal orders of different matrices are one `Arc` only
    /// by chance; products compare the values.
    order: Option<Arc<[u32]>>,
    /// FP8: the scale of the activations where the checkpoint fixes it.
    input_scale: Option<f32>,
    data: AlignedBuf<u8>,
}

impl PackedMatrix {
    /// Rounds `rows x cols` row-major weights to `format` (see [`llmlab_quant::quantize_matrix`]) and packs them for kernels
    /// of `isa`.
    ///
    /// Errors: empty or mismatched shape, columns that are not whole blocks, a weight that is not finite (also: too large to
    /// stay finite when rounded to bf16), a block too large for a 16-bit scale, an instruction set this CPU lacks, no memory.
    pub fn pack(
        format: WeightFormat,
        rows: usize,
        cols: usize,
        weights: &[f32],
        isa: Isa,
    ) -> Result<Self, KernelError> {
        Self::pack_parallel(&ThreadPool::new(1), format, rows, cols, weights, isa)
    }

    /// As [`PackedMatrix::pack`], spread over a pool in the same contiguous shares in which [`crate::matmul()`] reads, so
    /// that memory is first touched by the thread that will read it.
    pub fn pack_parallel(
        pool: &ThreadPool,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        weights: &[f32],
        isa: Isa,
    ) -> Result<Self, KernelError> {
        check_shape(format, rows, cols, isa)?;
        if rows.checked_mul(cols) != Some(weights.len()) {
            let expected = rows.saturating_mul(cols);
            return Err(KernelError::LengthMismatch { rows, cols, expected, got: weights.len() });
        }
        let group = llmlab_quant::DEFAULT_GROUP.min(cols);
        let sharing = match format {
            WeightFormat::Int4 | WeightFormat::Int8Group => Sharing { group, wide: false },
            WeightFormat::Fp8 => Sharing { group: cols.next_multiple_of(BLOCK), wide: false },
            _ => Sharing::default(),
        };
        let mut packed = Self::empty(format, rows, cols, isa, sharing, None, None)?;
        packed.fill(pool, &|layout, tile, first, count| {
            let part = &weights[first * cols..][..count * cols];
            if let Some(at) = part.iter().position(|v| !v.is_finite()) {
                return Err(KernelError::NonFinite { row: first + at / cols, col: at % cols });
            }
            if format == WeightFormat::Bf16
                && let Some(at) = part.iter().position(|v| !bf16::from_f32(*v).is_finite())
            {
                // The range of bf16 ends a little below that of f32: the largest f32 values round to infinity.
                return Err(KernelError::NonFinite { row: first + at / cols, col: at % cols });
            }
            let stored = quantize_matrix(format, count, cols, part).map_err(|error| match error {
                llmlab_quant::QuantError::ScaleOverflow { format, row, .. } => {
                    KernelError::ScaleOverflow { format, row: first + row }
                }
                other => KernelError::BadWeights(other.to_string()),
            })?;
            let plan = pack::plan(&stored, cols)?;
            // The layout was fixed before any scale was known; quantizers give scales that half precision holds.
            assert_eq!(plan.sharing, sharing, "a quantizer changed the layout of {format}");
            Packer { stored: &stored, layout: *layout, plan: &plan, cols }.tile(tile, 0, count)
        })?;
        Ok(packed)
    }

    /// Packs a matrix as a checkpoint holds it, without rounding any value again.
    ///
    /// Errors: as [`PackedMatrix::pack`]; what [`StoredMatrix::validate`] finds; group formats whose columns or groups are
    /// not multiples of 32; FP8 with scales for fewer than 128 columns or with a NaN.
    pub fn from_stored(
        pool: &ThreadPool,
        rows: usize,
        cols: usize,
        stored: &StoredMatrix<'_>,
        isa: Isa,
    ) -> Result<Self, KernelError> {
        let format = stored.format();
        check_shape(format, rows, cols, isa)?;
        stored.validate(rows, cols).map_err(|error| KernelError::BadWeights(error.to_string()))?;
        let plan = pack::plan(stored, cols)?;
        let order = plan.order.as_ref().map(|order| Arc::from(order.as_slice()));
        let input_scale = match stored {
            StoredMatrix::Fp8(matrix) => matrix.input_scale,
            _ => None,
        };
        let mut packed = Self::empty(format, rows, cols, isa, plan.sharing, order, input_scale)?;
        packed.fill(pool, &|layout, tile, first, count| {
            Packer { stored, layout: *layout, plan: &plan, cols }.tile(tile, first, count)
        })?;
        Ok(packed)
    }

    fn empty(
        format: WeightFormat,
        rows: usize,
        cols: usize,
        isa: Isa,
        sharing: Sharing,
        order: Option<Arc<[u32]>>,
        input_scale: Option<f32>,
    ) -> Result<Self, KernelError> {
        let layout = Layout::new(format, cols, sharing);
        let bytes = rows.div_ceil(TILE_ROWS).checked_mul(layout.stride);
        let data = AlignedBuf::zeroed_in_slab(bytes.ok_or(KernelError::OutOfMemory { bytes: usize::MAX })?)?;
        Ok(PackedMatrix { format, isa, rows, cols, layout, sharing, order, input_scale, data })
    }

    /// Fills the tiles in parallel.
    fn fill(&mut self, pool: &ThreadPool, fill_tile: &FillTile<'_>) -> Result<(), KernelError> {
        let tiles = self.rows.div_ceil(TILE_ROWS);
        let (rows, layout) = (self.rows, self.layout);
        let shared = SharedMut::new(&mut self.data[..]);
        let failure = Mutex::new(None);
        pool.split(tiles, tiles.div_ceil(pool.threads()), &|_, range| {
            for tile in range {
                // SAFETY: each tile is packed by exactly one worker, and tiles do not overlap.
                let bytes = unsafe { shared.slice(tile * layout.stride, layout.stride) };
                let first = tile * TILE_ROWS;
                if let Err(error) = fill_tile(&layout, bytes, first, TILE_ROWS.min(rows - first)) {
                    failure.lock().expect("no panic while packing").get_or_insert(error);
                    return;
                }
            }
        });
        failure.into_inner().expect("no panic while packing").map_or(Ok(()), Err)
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn format(&self) -> WeightFormat {
        self.format
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes in memory, padding included: what one product at batch 1 reads.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// The exact weights of one row as the product uses them, bit for bit those of the stored matrix. `out` has `cols` values.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "one row has as many values as the matrix has columns");
        let tile = &self.data[row / TILE_ROWS * self.layout.stride..][..self.layout.stride];
        let lane = row % TILE_ROWS;
        for block in 0..self.cols.div_ceil(BLOCK) {
            let values = self.row_block(tile, lane, block);
            for (i, value) in values.iter().enumerate().take(self.cols - block * BLOCK) {
                let c = block * BLOCK + i;
                out[self.order.as_ref().map_or(c, |order| order[c] as usize)] = *value;
            }
        }
    }

    fn row_block(&self, tile: &[u8], lane: usize, block: usize) -> [f32; BLOCK] {
        let (layout, format) = (&self.layout, self.format);
        let header = &tile[layout.unit_at(block)..][..layout.header_bytes];
        let bytes = &tile[layout.block_at(block)..][..layout.block_bytes];
        let row = scales::row_scales(format, self.sharing.wide, header, lane, block % layout.unit_blocks);
        let half = |at: usize| [bytes[at], bytes[at + 1]];
        if let Some(bits) = level_bits(format) {
            let values = levels::get(bytes, bits, lane);
            return std::array::from_fn(|i| scales::weight(format, &row, i / 16, values[i]));
        }
        std::array::from_fn(|i| match format {
            WeightFormat::F32 => f32::from_bits(scales::word_at(bytes, i, lane)),
            WeightFormat::F16 => f16::from_le_bytes(half((i * TILE_ROWS + lane) * 2)).to_f32(),
            WeightFormat::Bf16 => {
                bf16::from_le_bytes(half((i / 2 * TILE_ROWS + lane) * 4 + i % 2 * 2)).to_f32()
            }
            _ => row.scale[0] * e4m3_to_f32(bytes[i / 4 * LINE + lane * 4 + FP8_ORDER[i % 4]]),
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn wide(&self) -> bool {
        self.sharing.wide
    }

    pub(crate) fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    pub(crate) fn input_scale(&self) -> Option<f32> {
        self.input_scale
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }
}

/// Fills one tile: `(layout, tile, first row, rows)`.
type FillTile<'a> = dyn Fn(&Layout, &mut [u8], usize, usize) -> Result<(), KernelError> + Sync + 'a;

fn check_shape(format: WeightFormat, rows: usize, cols: usize, isa: Isa) -> Result<(), KernelError> {
    if rows == 0 || cols == 0 {
        return Err(KernelError::EmptyShape { rows, cols });
    }
    let grouped = matches!(format, WeightFormat::Int4 | WeightFormat::Int8Group);
    let block = if grouped { BLOCK } else { format.block() };
    if !cols.is_multiple_of(block) {
        return Err(KernelError::NotBlockMultiple { format, block, cols });
    }
    // Sums of int8 rows are kept in 32 bits.
    if format == WeightFormat::Int8 && cols > i32::MAX as usize / (128 * 128) {
        return Err(KernelError::BadShape(format!("{cols} columns of int8 can overflow 32-bit sums")));
    }
    if !isa.is_available() {
        return Err(KernelError::IsaUnavailable { isa });
    }
    Ok(())
}

const _: () = assert!(FP8_CHUNK.is_multiple_of(BLOCK));
