//! Filling tiles from a matrix as a checkpoint holds it: numbers change places, never values.

use bytemuck::{AnyBitPattern, pod_read_unaligned};
use half::f16;
use llmlab_quant::{
    BlockIq4Nl, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, Fp8Matrix, Grouped, Int8Channel, StoredMatrix, WeightFormat,
};

use crate::KernelError;
use crate::gemm::layout::{BLOCK, LINE, Layout, Sharing, TILE_ROWS, level_bits};
use crate::gemm::levels;

/// What a stored matrix needs to be laid out, beyond format and shape.
pub(crate) struct Plan {
    pub sharing: Sharing,
    /// Packed column `c` is column `order[c]` of the checkpoint (act-order).
    pub order: Option<Vec<u32>>,
}

/// Decides the layout of a validated matrix. Errors: columns or groups that are no whole blocks.
pub(crate) fn plan(stored: &StoredMatrix<'_>, cols: usize) -> Result<Plan, KernelError> {
    let format = stored.format();
    let whole = |what: &str, value: usize, by: usize| match value.is_multiple_of(by) {
        true => Ok(()),
        false => Err(KernelError::BadShape(format!("{format}: {what} {value} is not a multiple of {by}"))),
    };
    let mut plan = Plan { sharing: Sharing::default(), order: None };
    match stored {
        StoredMatrix::Grouped(grouped) => {
            whole("columns", cols, BLOCK)?;
            plan.sharing.group = grouped.group.min(cols);
            if grouped.group < cols {
                whole("group", grouped.group, BLOCK)?;
            }
            plan.sharing.wide = grouped.scales.iter().any(|&s| f16::from_f32(s).to_f32() != s);
            plan.order = grouped.group_of.as_ref().map(|group_of| by_group(grouped, group_of)).transpose()?;
        }
        StoredMatrix::Fp8(matrix) => {
            plan.sharing.group = cols.next_multiple_of(BLOCK);
            if matrix.block_cols < cols {
                plan.sharing.group = matrix.block_cols;
                whole("columns per scale", matrix.block_cols, crate::gemm::layout::FP8_CHUNK)?;
            }
        }
        _ => {}
    }
    Ok(plan)
}

/// Columns sorted by group, stable, so that groups lie side by side. Error: a group that is not as long as the others.
fn by_group(grouped: &Grouped, group_of: &[u32]) -> Result<Vec<u32>, KernelError> {
    let mut order: Vec<u32> = (0..group_of.len() as u32).collect();
    order.sort_by_key(|&c| group_of[c as usize]);
    match order.iter().enumerate().all(|(at, &c)| group_of[c as usize] as usize == at / grouped.group) {
        true => Ok(order),
        false => Err(KernelError::BadShape(format!(
            "a group of act-order does not have {} columns",
            grouped.group
        ))),
    }
}

/// A validated matrix and where its numbers go.
pub(crate) struct Packer<'a> {
    pub stored: &'a StoredMatrix<'a>,
    pub layout: Layout,
    pub plan: &'a Plan,
    pub cols: usize,
}

impl Packer<'_> {
    /// Fills a zeroed tile with the rows `first..first + count`.
    pub(crate) fn tile(&self, tile: &mut [u8], first: usize, count: usize) -> Result<(), KernelError> {
        for lane in 0..count {
            let row = first + lane;
            match self.stored {
                StoredMatrix::Floats(values) => {
                    self.floats(tile, lane, &values[row * self.cols..][..self.cols])
                }
                StoredMatrix::Blocks { format, bytes } => {
                    let row_bytes = format.row_bytes(self.cols);
                    self.blocks(*format, tile, lane, &bytes[row * row_bytes..][..row_bytes]);
                }
                StoredMatrix::Grouped(grouped) => self.grouped(grouped, tile, lane, row),
                StoredMatrix::Int8(channel) => self.int8(channel, tile, lane, row),
                StoredMatrix::Fp8(matrix) => self.fp8(matrix, tile, lane, row)?,
            }
        }
        if matches!(self.stored, StoredMatrix::Int8(_)) {
            // Columns and rows that do not exist hold the byte that means 0.
            self.pad_int8(tile, count);
        }
        Ok(())
    }

    fn floats(&self, tile: &mut [u8], lane: usize, row: &[f32]) {
        for (k, value) in row.iter().enumerate() {
            tile[(k * TILE_ROWS + lane) * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn blocks(&self, format: WeightFormat, tile: &mut [u8], lane: usize, row: &[u8]) {
        use WeightFormat::*;
        match format {
            F32 => self.elements::<4>(tile, row, |k| (k * TILE_ROWS + lane) * 4),
            F16 => self.elements::<2>(tile, row, |k| (k * TILE_ROWS + lane) * 2),
            Bf16 => self.elements::<2>(tile, row, |k| (k / 2 * TILE_ROWS + lane) * 4 + k % 2 * 2),
            Q8_0 => self.each(tile, lane, row, |b: &BlockQ8_0, at| {
                at.halves(0, &[b.d]);
                at.levels(0, &b.qs.map(|q| q as u8 ^ 0x80));
            }),
            Q4_0 => self.each(tile, lane, row, |b: &BlockQ4_0, at| {
                at.halves(0, &[b.d]);
                at.levels(0, &nibbles(&b.qs));
            }),
            Iq4Nl => self.each(tile, lane, row, |b: &BlockIq4Nl, at| {
                at.halves(0, &[b.d]);
                at.levels(0, &nibbles(&b.qs));
            }),
            Q4_1 => self.each(tile, lane, row, |b: &BlockQ4_1, at| {
                at.halves(0, &[b.d, b.m]);
                at.levels(0, &nibbles(&b.qs));
            }),
            Q5_0 => self.each(tile, lane, row, |b: &BlockQ5_0, at| {
                at.halves(0, &[b.d]);
                at.levels(0, &fifth_bits(nibbles(&b.qs), &b.qh));
            }),
            Q5_1 => self.each(tile, lane, row, |b: &BlockQ5_1, at| {
                at.halves(0, &[b.d, b.m]);
                at.levels(0, &fifth_bits(nibbles(&b.qs), &b.qh));
            }),
            Q4K => self.each(tile, lane, row, |b: &BlockQ4K, at| {
                at.pair(b.d, b.dmin);
                at.words(1, &b.scales);
                for j in 0..8 {
                    at.levels(j, &std::array::from_fn(|i| b.qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15));
                }
            }),
            Q5K => self.each(tile, lane, row, |b: &BlockQ5K, at| {
                at.pair(b.d, b.dmin);
                at.words(1, &b.scales);
                for j in 0..8 {
                    let level = |i: usize| b.qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15 | (b.qh[i] >> j & 1) << 4;
                    at.levels(j, &std::array::from_fn(level));
                }
            }),
            Q2K => self.each(tile, lane, row, |b: &BlockQ2K, at| {
                at.pair(b.d, b.dmin);
                at.words(1, &b.scales);
                for j in 0..8 {
                    at.levels(j, &std::array::from_fn(|i| b.qs[j / 4 * 32 + i] >> (j % 4 * 2) & 3));
                }
            }),
            Q3K => self.each(tile, lane, row, |b: &BlockQ3K, at| {
                at.half(b.d);
                at.words(1, &b.scales);
                for j in 0..8 {
                    let level =
                        |i: usize| b.qs[j / 4 * 32 + i] >> (j % 4 * 2) & 3 | (b.hmask[i] >> j & 1) << 2;
                    at.levels(j, &std::array::from_fn(level));
                }
            }),
            Q6K => self.each(tile, lane, row, |b: &BlockQ6K, at| {
                at.half(b.d);
                at.words(1, &b.scales.map(|s| s as u8));
                for j in 0..8 {
                    let (half, within) = (j / 4, j % 4);
                    let level = |i: usize| {
                        let low = b.ql[half * 64 + within % 2 * 32 + i] >> (within / 2 * 4) & 15;
                        low | (b.qh[half * 32 + i] >> (within * 2) & 3) << 4
                    };
                    at.levels(j, &std::array::from_fn(level));
                }
            }),
            Int8 | Fp8 | Int4 | Int8Group => unreachable!("{format} is not stored in blocks"),
        }
    }

    fn elements<const N: usize>(&self, tile: &mut [u8], row: &[u8], at: impl Fn(usize) -> usize) {
        for (k, value) in row.as_chunks::<N>().0.iter().enumerate() {
            tile[at(k)..][..N].copy_from_slice(value);
        }
    }

    /// Hands out the stored blocks of a row one by one.
    fn each<B: AnyBitPattern>(
        &self,
        tile: &mut [u8],
        lane: usize,
        row: &[u8],
        put: impl Fn(&B, &mut Place<'_>),
    ) {
        let format = self.stored.format();
        let bits = level_bits(format).expect("a block format");
        for (index, bytes) in row.chunks_exact(size_of::<B>()).enumerate() {
            let block = index * (format.block() / BLOCK);
            let unit = &mut tile[self.layout.unit_at(block)..][..self.layout.unit_bytes];
            let within = block % self.layout.unit_blocks;
            put(
                &pod_read_unaligned(bytes),
                &mut Place { unit, layout: &self.layout, bits, lane, block: within },
            );
        }
    }

    fn grouped(&self, grouped: &Grouped, tile: &mut [u8], lane: usize, row: usize) {
        let (layout, cols) = (&self.layout, self.cols);
        let bits = level_bits(self.stored.format()).expect("a group format has levels");
        let groups = cols.div_ceil(grouped.group);
        let q = &grouped.q[row * cols..][..cols];
        for group in 0..groups {
            let (scale, zero) = (grouped.scales[row * groups + group], grouped.zeros[row * groups + group]);
            let header = &mut tile[group * layout.unit_bytes..][..layout.header_bytes];
            let mut put = |line: usize, word: u32| {
                header[line * LINE + lane * 4..][..4].copy_from_slice(&word.to_le_bytes())
            };
            if self.plan.sharing.wide {
                put(0, scale.to_bits());
                put(1, u32::from(zero));
            } else {
                put(0, u32::from(f16::from_f32(scale).to_bits()) << 16 | u32::from(zero));
            }
        }
        for block in 0..layout.blocks {
            let column = |c: usize| self.plan.order.as_ref().map_or(c, |order| order[c] as usize);
            let values = std::array::from_fn(|i| q[column(block * BLOCK + i)]);
            levels::put(&mut tile[layout.block_at(block)..][..layout.block_bytes], bits, lane, &values);
        }
    }

    fn int8(&self, channel: &Int8Channel, tile: &mut [u8], lane: usize, row: usize) {
        tile[lane * 4..][..4].copy_from_slice(&channel.scales[row].to_le_bytes());
        for (c, q) in channel.q[row * self.cols..][..self.cols].iter().enumerate() {
            tile[self.byte(lane, c)] = *q as u8 ^ 0x80;
        }
    }

    /// Where the byte of a column is in a format with a byte per weight and one unit per row.
    fn byte(&self, lane: usize, c: usize) -> usize {
        self.layout.header_bytes + c / 4 * LINE + lane * 4 + c % 4
    }

    fn pad_int8(&self, tile: &mut [u8], count: usize) {
        for lane in 0..TILE_ROWS {
            let first = if lane < count { self.cols } else { 0 };
            for c in first..self.layout.blocks * BLOCK {
                tile[self.byte(lane, c)] = 0x80;
            }
        }
    }

    fn fp8(&self, matrix: &Fp8Matrix, tile: &mut [u8], lane: usize, row: usize) -> Result<(), KernelError> {
        let across = self.cols.div_ceil(matrix.block_cols);
        for group in 0..across {
            let scale = matrix.scales[row / matrix.block_rows * across + group];
            tile[group * self.layout.unit_bytes + lane * 4..][..4].copy_from_slice(&scale.to_le_bytes());
        }
        for (c, q) in matrix.q[row * self.cols..][..self.cols].iter().enumerate() {
            if q & 0x7f == 0x7f {
                return Err(KernelError::NonFinite { row, col: c });
            }
            let line = self.layout.block_at(c / BLOCK) + c % BLOCK / 4 * LINE;
            tile[line + lane * 4 + FP8_ORDER[c % 4]] = *q;
        }
        Ok(())
    }
}

/// Byte of each of four columns: pairs of even and of odd bytes are neighbouring columns.
pub(crate) const FP8_ORDER: [usize; 4] = [0, 2, 1, 3];

/// One row's part of a unit.
struct Place<'a> {
    unit: &'a mut [u8],
    layout: &'a Layout,
    bits: (u32, u32),
    lane: usize,
    /// Index of the stored block in the unit.
    block: usize,
}

impl Place<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.unit[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// f16 values of this row and block, each in a line of its own from `line` on.
    fn halves(&mut self, line: usize, values: &[f16]) {
        for (i, value) in values.iter().enumerate() {
            self.put((line + i) * LINE + (self.block * TILE_ROWS + self.lane) * 2, &value.to_le_bytes());
        }
    }

    /// Two f16 as a word of line 0.
    fn pair(&mut self, d: f16, dmin: f16) {
        self.put(self.lane * 4, &d.to_le_bytes());
        self.put(self.lane * 4 + 2, &dmin.to_le_bytes());
    }

    /// One f16 of line 0.
    fn half(&mut self, d: f16) {
        self.put(self.lane * 2, &d.to_le_bytes());
    }

    /// Bytes of a row as words, a line for each.
    fn words(&mut self, line: usize, bytes: &[u8]) {
        for (i, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            self.put((line + i) * LINE + self.lane * 4, word);
        }
    }

    /// Levels of the `j`-th 32 columns of the stored block.
    fn levels(&mut self, j: usize, values: &[u8; BLOCK]) {
        let at = self.layout.header_bytes + (self.block + j) * self.layout.block_bytes;
        levels::put(&mut self.unit[at..][..self.layout.block_bytes], self.bits, self.lane, values);
    }
}

fn nibbles(qs: &[u8; BLOCK / 2]) -> [u8; BLOCK] {
    std::array::from_fn(|i| if i < BLOCK / 2 { qs[i] & 15 } else { qs[i - BLOCK / 2] >> 4 })
}

fn fifth_bits(low: [u8; BLOCK], qh: &[u8; 4]) -> [u8; BLOCK] {
    std::array::from_fn(|i| low[i] | (qh[i / 8] >> (i % 8) & 1) << 4)
}
