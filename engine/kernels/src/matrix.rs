//! Weights packed once into the order in which the kernels read them.

use half::{bf16, f16};

use crate::arena::AlignedBuf;
use crate::gemm::TILE_ROWS;
use crate::quant::{BLOCK, q4_0::BlockQ4_0, q8_0::BlockQ8_0};
use crate::shared_mut::SharedMut;
use crate::{Isa, KernelError, StoredMatrix, ThreadPool, WeightFormat};

/// A weight matrix `[rows = output features, cols = input features]` in tiles of 16 rows.
///
/// A tile is one contiguous piece of memory, read from front to back:
///
/// ```text
/// unit 0 | unit 1 | ... | scales of unit 0, 1, ... (block formats) | padding to 64 bytes
/// F32    unit = 1 column:   16 rows x f32                                        64 bytes
/// Bf16   unit = 2 columns:  16 rows x 2 bf16                                     64 bytes
/// Q8_0   unit = 32 columns: 8 steps x 16 rows x 4 bytes (q + 128)               512 bytes, scales 16 x f16
/// Q4_0   unit = 32 columns: 4 steps x 16 rows x 4 bytes, byte i of a block      256 bytes, scales 16 x f16
///                           = weight i + 8 in the low, weight i + 16 + 8 in the high nibble (as in GGUF)
/// ```
///
/// The last tile is padded with rows of zeros.
pub struct PackedMatrix {
    format: WeightFormat,
    isa: Isa,
    rows: usize,
    cols: usize,
    layout: TileLayout,
    data: AlignedBuf<u8>,
}

/// Fills one tile: `(layout, tile, first row, rows)`.
type FillTile<'a> = dyn Fn(&TileLayout, &mut [u8], usize, usize) -> Result<(), KernelError> + Sync + 'a;

#[derive(Debug, Clone, Copy)]
pub(crate) struct TileLayout {
    /// Units along the input dimension.
    pub units: usize,
    /// Where the scales start in a tile.
    pub scales_at: usize,
    /// Bytes from one tile to the next.
    pub stride: usize,
}

impl TileLayout {
    fn new(format: WeightFormat, cols: usize) -> Self {
        let (unit_cols, unit_bytes, scale_bytes) = match format {
            WeightFormat::F32 => (1, TILE_ROWS * 4, 0),
            WeightFormat::Bf16 => (2, TILE_ROWS * 4, 0),
            WeightFormat::Q8_0 => (BLOCK, TILE_ROWS * BLOCK, TILE_ROWS * size_of::<f16>()),
            WeightFormat::Q4_0 => (BLOCK, TILE_ROWS * BLOCK / 2, TILE_ROWS * size_of::<f16>()),
            _ => unreachable!("{format} is not packed"),
        };
        let units = cols.div_ceil(unit_cols);
        let scales_at = units * unit_bytes;
        let mut stride = (scales_at + units * scale_bytes).next_multiple_of(64);
        if stride.is_multiple_of(4096) {
            // Kernels read several tiles side by side; at a multiple of a page they would all fall into one cache set.
            stride += 64;
        }
        TileLayout { units, scales_at, stride }
    }
}

impl PackedMatrix {
    /// Converts and packs `rows x cols` row-major weights for kernels of `isa`.
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
        check_shape(format, rows, cols, weights.len(), isa)?;
        Self::fill(pool, format, rows, cols, isa, &|layout, tile, first, count| {
            pack_tile(format, layout, tile, &weights[first * cols..][..count * cols], cols, first)
        })
    }

    /// Packs a matrix as a checkpoint holds it, without rounding any value again.
    ///
    /// Errors: as [`PackedMatrix::pack`], and formats that have no packed layout yet.
    pub fn from_stored(
        pool: &ThreadPool,
        rows: usize,
        cols: usize,
        stored: &StoredMatrix<'_>,
        isa: Isa,
    ) -> Result<Self, KernelError> {
        match stored {
            StoredMatrix::Floats(values) => {
                Self::pack_parallel(pool, WeightFormat::F32, rows, cols, values, isa)
            }
            StoredMatrix::Blocks { format, bytes } => {
                let format = *format;
                let row_bytes = format.row_bytes(cols);
                check_shape(format, rows, cols, bytes.len() / row_bytes.max(1) * cols, isa)?;
                Self::fill(pool, format, rows, cols, isa, &|layout, tile, first, count| {
                    let part = &bytes[first * row_bytes..][..count * row_bytes];
                    pack_blocks(format, layout, tile, part, row_bytes, first)
                })
            }
            StoredMatrix::Grouped(_) | StoredMatrix::Int8(_) | StoredMatrix::Fp8(_) => {
                Err(KernelError::Unsupported { format: WeightFormat::Int4, reason: "no packed layout" })
            }
        }
    }

    /// Allocates a matrix and fills its tiles: `fill_tile(layout, tile, first row, rows)`.
    fn fill(
        pool: &ThreadPool,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        isa: Isa,
        fill_tile: &FillTile<'_>,
    ) -> Result<Self, KernelError> {
        let layout = TileLayout::new(format, cols);
        let tiles = rows.div_ceil(TILE_ROWS);
        let mut data = AlignedBuf::<u8>::zeroed(tiles * layout.stride)?;
        let shared = SharedMut::new(&mut data[..]);
        let failure = std::sync::Mutex::new(None);
        pool.split(tiles, tiles.div_ceil(pool.threads()), &|_, range| {
            for tile in range {
                // SAFETY: each tile is packed by exactly one worker, and tiles do not overlap.
                let bytes = unsafe { shared.slice(tile * layout.stride, layout.stride) };
                let first = tile * TILE_ROWS;
                let count = TILE_ROWS.min(rows - first);
                if let Err(error) = fill_tile(&layout, bytes, first, count) {
                    failure.lock().expect("no panic while packing").get_or_insert(error);
                    return;
                }
            }
        });
        match failure.into_inner().expect("no panic while packing") {
            Some(error) => Err(error),
            None => Ok(PackedMatrix { format, isa, rows, cols, layout, data }),
        }
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

    /// The exact weights of one row as the product uses them. `out` has `cols` values.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "one row has as many values as the matrix has columns");
        let tile = &self.data[row / TILE_ROWS * self.layout.stride..][..self.layout.stride];
        let lane = row % TILE_ROWS;
        let scale = |unit: usize| {
            let at = self.layout.scales_at + (unit * TILE_ROWS + lane) * 2;
            f16::from_ne_bytes([tile[at], tile[at + 1]])
        };
        match self.format {
            WeightFormat::F32 => {
                for (k, value) in out.iter_mut().enumerate() {
                    let at = (k * TILE_ROWS + lane) * 4;
                    *value = f32::from_ne_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]);
                }
            }
            WeightFormat::Bf16 => {
                for (k, value) in out.iter_mut().enumerate() {
                    let at = (k / 2 * TILE_ROWS + lane) * 4 + k % 2 * 2;
                    *value = bf16::from_ne_bytes([tile[at], tile[at + 1]]).to_f32();
                }
            }
            WeightFormat::Q8_0 => {
                for (unit, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                    let qs = std::array::from_fn(|i| (q_byte(tile, unit * BLOCK + i, lane) ^ 0x80) as i8);
                    *block = BlockQ8_0 { d: scale(unit), qs }.dequantize();
                }
            }
            WeightFormat::Q4_0 => {
                for (unit, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                    let qs = std::array::from_fn(|i| q_byte(tile, unit * BLOCK / 2 + i, lane));
                    *block = BlockQ4_0 { d: scale(unit), qs }.dequantize();
                }
            }
            _ => unreachable!("{} is not packed", self.format),
        }
    }

    pub(crate) fn layout(&self) -> TileLayout {
        self.layout
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }
}

/// Position of the `i`-th byte of a lane in tiles that interleave 16 rows in groups of four bytes.
fn q_at(i: usize, lane: usize) -> usize {
    (i / 4 * TILE_ROWS + lane) * 4 + i % 4
}

fn q_byte(tile: &[u8], i: usize, lane: usize) -> u8 {
    tile[q_at(i, lane)]
}

fn check_shape(
    format: WeightFormat,
    rows: usize,
    cols: usize,
    got: usize,
    isa: Isa,
) -> Result<(), KernelError> {
    use WeightFormat::{Bf16, F32, Q4_0, Q8_0};
    if !matches!(format, F32 | Bf16 | Q8_0 | Q4_0) {
        return Err(KernelError::Unsupported { format, reason: "no packed layout" });
    }
    if rows == 0 || cols == 0 {
        return Err(KernelError::EmptyShape { rows, cols });
    }
    if rows.checked_mul(cols) != Some(got) {
        let expected = rows.saturating_mul(cols);
        return Err(KernelError::LengthMismatch { rows, cols, expected, got });
    }
    if !cols.is_multiple_of(format.block()) {
        return Err(KernelError::NotBlockMultiple { format, block: format.block(), cols });
    }
    if !isa.is_available() {
        return Err(KernelError::IsaUnavailable { isa });
    }
    Ok(())
}

/// Fills one tile from the stored bytes of up to 16 rows.
fn pack_blocks(
    format: WeightFormat,
    layout: &TileLayout,
    tile: &mut [u8],
    bytes: &[u8],
    row_bytes: usize,
    first_row: usize,
) -> Result<(), KernelError> {
    for (lane, row) in bytes.chunks_exact(row_bytes).enumerate() {
        for (unit, block) in row.chunks_exact(format.block_bytes()).enumerate() {
            match format {
                WeightFormat::F32 => tile[(unit * TILE_ROWS + lane) * 4..][..4].copy_from_slice(block),
                WeightFormat::Bf16 => {
                    tile[(unit / 2 * TILE_ROWS + lane) * 4 + unit % 2 * 2..][..2].copy_from_slice(block);
                }
                _ => {
                    let (scale, quants) = block.split_at(2);
                    if !f16::from_le_bytes([scale[0], scale[1]]).is_finite() {
                        return Err(KernelError::ScaleOverflow { format, row: first_row + lane });
                    }
                    tile[layout.scales_at + (unit * TILE_ROWS + lane) * 2..][..2].copy_from_slice(scale);
                    let flip = if format == WeightFormat::Q8_0 { 0x80 } else { 0 };
                    for (i, q) in quants.iter().enumerate() {
                        tile[q_at(unit * quants.len() + i, lane)] = q ^ flip;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Fills one tile from up to 16 rows; `first_row` only names the row in errors.
fn pack_tile(
    format: WeightFormat,
    layout: &TileLayout,
    tile: &mut [u8],
    weights: &[f32],
    cols: usize,
    first_row: usize,
) -> Result<(), KernelError> {
    for (lane, row) in weights.chunks_exact(cols).enumerate() {
        if let Some(col) = row.iter().position(|v| !v.is_finite()) {
            return Err(KernelError::NonFinite { row: first_row + lane, col });
        }
        match format {
            WeightFormat::F32 => {
                for (k, value) in row.iter().enumerate() {
                    tile[(k * TILE_ROWS + lane) * 4..][..4].copy_from_slice(&value.to_ne_bytes());
                }
            }
            WeightFormat::Bf16 => {
                for (k, value) in row.iter().enumerate() {
                    let rounded = bf16::from_f32(*value);
                    // The range of bf16 ends a little below that of f32: the largest f32 values round to infinity.
                    if !rounded.is_finite() {
                        return Err(KernelError::NonFinite { row: first_row + lane, col: k });
                    }
                    let at = (k / 2 * TILE_ROWS + lane) * 4 + k % 2 * 2;
                    tile[at..][..2].copy_from_slice(&rounded.to_ne_bytes());
                }
            }
            _ => {
                for (unit, block) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let d = if format == WeightFormat::Q8_0 {
                        let quantized = BlockQ8_0::quantize(block);
                        for (i, q) in quantized.qs.iter().enumerate() {
                            tile[q_at(unit * BLOCK + i, lane)] = *q as u8 ^ 0x80;
                        }
                        quantized.d
                    } else {
                        let quantized = BlockQ4_0::quantize(block);
                        for (i, q) in quantized.qs.iter().enumerate() {
                            tile[q_at(unit * BLOCK / 2 + i, lane)] = *q;
                        }
                        quantized.d
                    };
                    if !d.is_finite() {
                        return Err(KernelError::ScaleOverflow { format, row: first_row + lane });
                    }
                    let at = layout.scales_at + (unit * TILE_ROWS + lane) * 2;
                    tile[at..][..2].copy_from_slice(&d.to_ne_bytes());
                }
            }
        }
    }
    Ok(())
}
