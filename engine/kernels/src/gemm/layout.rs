//! Where things lie in a packed matrix: tiles, units, blocks, lines.
//!
//! A *tile* is 16 output rows, one per lane of an AVX-512 register, and one contiguous piece of memory that a product reads
//! from front to back. Along the input dimension it is cut into *blocks* of 32 columns. One or more blocks form a *unit*,
//! which starts with a header that holds the scales of its blocks:
//!
//! ```text
//! tile:  unit | unit | ...          unit:  header | block | block | ...
//! ```
//!
//! Everything is made of *lines* of 64 bytes. A line of a block format holds 4 bytes for each of the 16 rows, so a quad (the
//! values of 4 neighbouring columns, all rows) is what one dot-product instruction takes:
//!
//! ```text
//! low bits   8: line s           = quad s                                             8 lines per block
//!            4: line s / 2       = quads s (even: low nibble; odd: high nibble)       4
//!            2: line s / 4       = quad s in bits 2 * (s % 4)                         2
//! high bits  1: one line         = quad s in bit s                                    1
//!            2: line s / 4       = quad s in bits 2 * (s % 4)                         2
//! f32, f16: column after column, 16 rows each; bf16: pairs of columns; fp8: 4 columns a line in the order 0 2 1 3
//! ```
//!
//! Header lines (16 rows of the given element; `d`, `m` are f16):
//!
//! ```text
//! q8_0 q4_0 q5_0 iq4_nl   unit of 2 blocks: d of block 0, d of block 1
//! q4_1 q5_1               unit of 2 blocks: d, d, m, m
//! q4_k q5_k               unit of 8: (d, dmin); then the 12 scale bytes of GGUF as three words per row, a line each
//! q2_k                    unit of 8: (d, dmin); the 16 scale bytes as four words per row
//! q6_k                    unit of 8: d, half a line empty; the 16 scale bytes as four words per row
//! q3_k                    unit of 8: d, half a line empty; the 12 scale bytes as three words per row
//! int4 int8_group         unit = group: word = zero point | f16 scale << 16; or, where a scale is not exact in f16,
//!                         a line of f32 scales and a line of zero points as words
//! int8                    unit = whole row: f32 scale
//! fp8                     unit = columns that share a scale: f32 scale
//! ```
//!
//! So a packed matrix is exactly as large as the checkpoint's blocks, except 1 to 2 % more for q3_k, q6_k and groups.

use crate::WeightFormat;

/// Output rows per tile: the f32 lanes of one AVX-512 register.
pub(crate) const TILE_ROWS: usize = 16;

/// Columns per block.
pub(crate) const BLOCK: usize = llmlab_quant::BLOCK;

/// Bytes of a line: 4 per row.
pub(crate) const LINE: usize = 4 * TILE_ROWS;

/// Quads of a block.
pub(crate) const QUADS: usize = BLOCK / 4;

/// Columns of fp8 that are summed before their scale is applied.
pub(crate) const FP8_CHUNK: usize = 128;

/// What a matrix needs beyond its format and shape to be laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sharing {
    /// Columns that share a scale (group formats, fp8); the whole row where it is at least that.
    pub group: usize,
    /// Group formats: scales need 32 bits.
    pub wide: bool,
}

/// Bits of a level in its low and high lines; `None` for the float formats.
pub(crate) fn level_bits(format: WeightFormat) -> Option<(u32, u32)> {
    use WeightFormat::*;
    match format {
        F32 | F16 | Bf16 | Fp8 => None,
        Q8_0 | Int8 | Int8Group => Some((8, 0)),
        Q4_0 | Q4_1 | Iq4Nl | Q4K | Int4 => Some((4, 0)),
        Q5_0 | Q5_1 | Q5K => Some((4, 1)),
        Q6K => Some((4, 2)),
        Q2K => Some((2, 0)),
        Q3K => Some((2, 1)),
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Blocks of a row, padded to whole units where units have a fixed size.
    pub blocks: usize,
    pub unit_blocks: usize,
    pub header_bytes: usize,
    pub block_bytes: usize,
    /// From one unit to the next.
    pub unit_bytes: usize,
    /// From one tile to the next.
    pub stride: usize,
}

impl Layout {
    pub(crate) fn new(format: WeightFormat, cols: usize, sharing: Sharing) -> Self {
        use WeightFormat::*;
        let row = cols.div_ceil(BLOCK);
        let shared = (sharing.group / BLOCK).clamp(1, row);
        let (unit_blocks, header_lines) = match format {
            F32 | F16 | Bf16 => (row, 0),
            Q8_0 | Q4_0 | Q5_0 | Iq4Nl => (2, 1),
            Q4_1 | Q5_1 => (2, 2),
            Q4K | Q5K | Q3K => (8, 4),
            Q2K | Q6K => (8, 5),
            Int8 => (row, 1),
            Fp8 => (shared, 1),
            Int4 | Int8Group => (shared, if sharing.wide { 2 } else { 1 }),
        };
        let block_lines = match format {
            F32 => BLOCK,
            F16 | Bf16 => BLOCK / 2,
            Fp8 => BLOCK / 4,
            _ => level_bits(format).map_or(0, |(low, high)| (low + high) as usize),
        };
        let whole_units = matches!(unit_blocks, 2 | 8) && !matches!(format, Int8 | Fp8 | Int4 | Int8Group);
        let floats = matches!(format, F32 | F16 | Bf16);
        let blocks = if whole_units && !floats { row.next_multiple_of(unit_blocks) } else { row };
        let (header_bytes, block_bytes) = (header_lines * LINE, block_lines * LINE);
        let unit_bytes = header_bytes + unit_blocks * block_bytes;
        let mut stride = blocks.div_ceil(unit_blocks) * header_bytes + blocks * block_bytes;
        if stride.is_multiple_of(4096) {
            // Kernels read tiles side by side; at a multiple of a page they would all fall into one cache set.
            stride += LINE;
        }
        Layout { blocks, unit_blocks, header_bytes, block_bytes, unit_bytes, stride }
    }

    /// Start of a block's unit in its tile.
    #[inline(always)]
    pub(crate) fn unit_at(&self, block: usize) -> usize {
        block / self.unit_blocks * self.unit_bytes
    }

    /// Start of a block in its tile.
    #[inline(always)]
    pub(crate) fn block_at(&self, block: usize) -> usize {
        self.unit_at(block) + self.header_bytes + block % self.unit_blocks * self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_tiles_are_as_large_as_the_blocks_of_a_checkpoint() {
        let cols = 2048 + 256;
        for format in WeightFormat::ALL {
            let layout = Layout::new(format, cols, Sharing { group: 128, wide: false });
            let exact = (TILE_ROWS * format.row_bytes(cols)) as f64;
            let share = layout.stride as f64 / exact;
            assert!((0.99..1.035).contains(&share), "{format}: {share}");
        }
    }

    #[test]
    fn blocks_follow_each_other_without_gaps_or_overlap() {
        for format in WeightFormat::ALL {
            let layout = Layout::new(format, 1024, Sharing { group: 96, wide: true });
            let mut at = 0;
            for block in 0..layout.blocks {
                if block % layout.unit_blocks == 0 {
                    assert_eq!(layout.unit_at(block), at);
                    at += layout.header_bytes;
                }
                assert_eq!(layout.block_at(block), at, "{format} block {block}");
                at += layout.block_bytes;
            }
            assert!(layout.stride >= at && layout.stride <= at + LINE);
        }
    }
}
