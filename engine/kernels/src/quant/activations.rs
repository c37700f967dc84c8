//! Activations converted to what a kernel multiplies with, in tiles of tokens.
//!
//! - F32 and F16 weights see f32 activations.
//! - Bf16 weights see activations rounded to bf16 (nearest even).
//! - Q8_0 weights see blocks of 32 signed bytes with a step of `amax / 127`.
//! - The other block formats, K formats and group formats see blocks of 32 signed bytes with a power-of-two step, the smallest that
//!   fits the block. Products of integers are exact and steps are exponents, so the only roundings of a product are those of
//!   its f32 sum.
//! - Int8 weights see signed bytes with one scale per token, `amax / 127`.
//! - Fp8 weights see activations rounded to E4M3 with one scale per token, `amax / 448`, or the checkpoint's own.
//!
//! A NaN reaches every output of its token, as it would in f32. In the block formats so do values of 1e30 and above.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::round::{Block8, int8};
use super::{BLOCK, bf16_bits, block8, e4m3_value, token_scale};
use crate::arena::AlignedBuf;
use crate::gemm::Input;
use crate::shared_mut::SharedMut;
use crate::{Isa, ThreadPool};

/// Reusable space for converted activations and for what workers unpack. Grows on demand; a warm call allocates nothing.
#[derive(Default)]
pub struct Activations {
    /// One per kind of conversion in a call.
    slots: Vec<Slot>,
    /// Unpacked weights and partial sums, a part for each worker.
    workers: Option<AlignedBuf<u8>>,
}

/// One conversion of the tokens of a call.
#[derive(Default)]
pub(crate) struct Slot {
    /// Records of a block, see [`Input::words_per_block`], `[panel][token tile][block of the panel][token of the tile][word]`.
    pub words: Vec<u32>,
    /// Int8 and fp8: scale of each token.
    pub scales: Vec<f32>,
    /// Int8: minus the sum of a token's bytes times the bias of the packed weights.
    pub offsets: Vec<i32>,
}

/// Splits `tokens` into tiles of at most `max`, as equal as possible: 13 tokens are 7 + 6, never 12 + 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenTiles {
    pub count: usize,
    /// Tokens of the later tiles; the first `wider` tiles have one more.
    pub width: usize,
    wider: usize,
}

impl TokenTiles {
    pub(crate) fn new(tokens: usize, max: usize) -> Self {
        let count = tokens.div_ceil(max);
        TokenTiles { count, width: tokens / count, wider: tokens % count }
    }

    /// First token and number of tokens of a tile.
    pub(crate) fn tile(&self, index: usize) -> (usize, usize) {
        let start = index * self.width + index.min(self.wider);
        (start, self.width + usize::from(index < self.wider))
    }
}

/// How one conversion is cut up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub tokens: usize,
    pub tiles: TokenTiles,
    /// Blocks of a row.
    pub blocks: usize,
    /// Blocks per panel; panels are multiplied one after the other.
    pub panel: usize,
}

impl Cut {
    /// First block and number of blocks of a panel.
    pub(crate) fn panel(&self, index: usize) -> (usize, usize) {
        let first = index * self.panel;
        (first, self.panel.min(self.blocks - first))
    }

    /// Where the record of a block starts for a token tile, in records of one token.
    pub(crate) fn record(&self, block: usize, (start, width): (usize, usize)) -> usize {
        let (first, len) = self.panel(block / self.panel);
        first * self.tokens + start * len + (block - first) * width
    }
}

/// What to convert: tokens of `cols` columns, in the order of the packed columns.
pub(crate) struct Source<'a> {
    pub x: &'a [f32],
    pub cols: usize,
    pub order: Option<&'a [u32]>,
    pub input_scale: Option<f32>,
}

/// Blocks that a worker converts at a time where it need not see a whole row.
const CHUNK_BLOCKS: usize = 64;

impl Activations {
    pub fn new() -> Self {
        Activations::default()
    }

    pub(crate) fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    /// Room for every worker, `bytes` each, aligned to lines.
    pub(crate) fn workers(&mut self, bytes: usize) -> *mut u8 {
        if self.workers.as_ref().is_none_or(|buffer| buffer.len() < bytes) {
            self.workers =
                Some(AlignedBuf::zeroed(bytes).unwrap_or_else(|error| panic!("kernel scratch: {error}")));
        }
        self.workers.as_mut().map_or(std::ptr::null_mut(), |buffer| buffer.as_mut_ptr())
    }

    /// Converts the tokens into slot `index`.
    pub(crate) fn convert(
        &mut self,
        pool: &ThreadPool,
        isa: Isa,
        input: Input,
        index: usize,
        cut: &Cut,
        source: &Source<'_>,
    ) {
        while self.slots.len() <= index {
            self.slots.push(Slot::default());
        }
        let slot = &mut self.slots[index];
        let per_block = input.words_per_block();
        grow(&mut slot.words, cut.tokens * cut.blocks * per_block);
        let per_token = if input.is_per_token() { cut.tokens } else { 0 };
        grow(&mut slot.scales, per_token);
        grow(&mut slot.offsets, per_token);
        let words = SharedMut::new(&mut slot.words);
        let scales = SharedMut::new(&mut slot.scales);
        let offsets = SharedMut::new(&mut slot.offsets);

        let chunk = if input.is_per_token() { cut.blocks } else { CHUNK_BLOCKS };
        let chunks = cut.blocks.div_ceil(chunk);
        pool.split(cut.tiles.count * chunks, 1, &|_, range| {
            for item in range {
                let tile = cut.tiles.tile(item / chunks);
                let first = item % chunks * chunk;
                let part = Part {
                    source,
                    cut,
                    tile,
                    blocks: first..cut.blocks.min(first + chunk),
                    words: &words,
                    scales: &scales,
                    offsets: &offsets,
                };
                part.convert(isa, input);
            }
        });
    }
}

fn grow<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Blocks that are converted of one token before the next.
const STRIP_BLOCKS: usize = 8;

/// Most tokens of a tile, in any plan.
const MAX_WIDTH: usize = 12;

/// Some blocks of a tile of tokens.
struct Part<'a> {
    source: &'a Source<'a>,
    cut: &'a Cut,
    tile: (usize, usize),
    blocks: std::ops::Range<usize>,
    words: &'a SharedMut<'a, u32>,
    scales: &'a SharedMut<'a, f32>,
    offsets: &'a SharedMut<'a, i32>,
}

impl Part<'_> {
    fn convert(&self, isa: Isa, input: Input) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a matrix is only packed for an instruction set this CPU has.
            Isa::Avx512 => unsafe { convert_avx512(self, input) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { convert_avx2(self, input) },
            _ => self.convert_body(input, &block8, &int8_block),
        }
    }

    /// The same source for every instruction set; IEEE arithmetic makes the results the same.
    #[inline(always)]
    fn convert_body(
        &self,
        input: Input,
        block8: &impl Fn(&[f32; BLOCK], bool) -> Block8,
        int8_block: &impl Fn(&[f32; BLOCK], f32) -> ([i8; BLOCK], i32),
    ) {
        let (start, width) = self.tile;
        let per_block = input.words_per_block();
        let row = |t: usize| &self.source.x[(start + t) * self.source.cols..][..self.source.cols];
        // Scale, its inverse, and the sum of the bytes of each token.
        let mut tokens = [(1.0, 1.0, 0); MAX_WIDTH];
        if input.is_per_token() {
            for (t, token) in tokens[..width].iter_mut().enumerate() {
                let (scale, inverse) = match (input, self.source.input_scale) {
                    (Input::Row8 { .. }, _) => token_scale(row(t), 127.0),
                    (_, Some(scale)) => (scale, 1.0 / scale),
                    (_, None) => token_scale(row(t), 448.0),
                };
                *token = (scale, inverse, 0);
            }
        }
        // A few blocks of each token in turn: short enough for their records to be written while in cache, long enough to
        // read a token's columns as a stream.
        let steps = self.blocks.clone().step_by(STRIP_BLOCKS);
        let strips = steps.flat_map(|first| (0..width).map(move |t| (first, t)));
        for (first, t) in strips {
            let row = row(t);
            for block in first..self.blocks.end.min(first + STRIP_BLOCKS) {
                let at = (self.cut.record(block, self.tile) + t) * per_block;
                // SAFETY: every (tile, block) is converted by exactly one worker, and records do not overlap.
                let record = unsafe { self.words.slice(at, per_block) };
                let mut padded = [0.0; BLOCK];
                let values = self.block(row, block, &mut padded);
                match input {
                    Input::F32 => record.copy_from_slice(bytemuck::cast_ref::<_, [u32; BLOCK]>(values)),
                    Input::Bf16Widened => {
                        let mut wide = [0; BLOCK];
                        for i in 0..BLOCK {
                            wide[i] = u32::from(bf16_bits(values[i])) << 16;
                        }
                        record.copy_from_slice(&wide);
                    }
                    Input::Bf16Pairs => record.copy_from_slice(&pairs(values)),
                    Input::Fp8Widened | Input::Fp8Pairs => {
                        let mut rounded = [0.0; BLOCK];
                        for i in 0..BLOCK {
                            rounded[i] = e4m3_value(values[i] * tokens[t].1);
                        }
                        if input == Input::Fp8Pairs {
                            record.copy_from_slice(&pairs(&rounded));
                        } else {
                            record.copy_from_slice(bytemuck::cast_ref::<_, [u32; BLOCK]>(&rounded));
                        }
                    }
                    Input::Row8 { .. } => {
                        let (q, sum) = int8_block(values, tokens[t].1);
                        tokens[t].2 += sum;
                        record.copy_from_slice(&bytemuck::cast::<_, [u32; BLOCK / 4]>(q));
                    }
                    Input::Block8 { fine, bias, subs, sums } => {
                        let converted = block8(values, fine);
                        let (quads, rest) = record.split_at_mut(BLOCK / 4);
                        quads.copy_from_slice(&bytemuck::cast::<_, [u32; BLOCK / 4]>(converted.q));
                        let whole = converted.sums[0] + converted.sums[1];
                        let magic = converted.magic.to_bits();
                        for sub in 0..subs {
                            let sum = if subs == 1 { whole } else { converted.sums[sub] };
                            rest[sub] = magic.wrapping_sub((bias * sum) as u32);
                        }
                        rest[subs] = if fine { converted.step.to_bits() } else { magic };
                        for part in 0..sums {
                            let sum = if sums == 1 { whole } else { converted.sums[part] };
                            rest[subs + 1 + part] = (sum as f32 * converted.step).to_bits();
                        }
                    }
                }
            }
        }
        if let Input::Row8 { .. } | Input::Fp8Pairs | Input::Fp8Widened = input {
            // SAFETY: parts of such inputs cover whole rows, so each token belongs to one worker.
            let (scales, offsets) =
                unsafe { (self.scales.slice(start, width), self.offsets.slice(start, width)) };
            for t in 0..width {
                scales[t] = tokens[t].0;
                offsets[t] = if let Input::Row8 { bias } = input { -bias * tokens[t].2 } else { 0 };
            }
        }
    }

    /// 32 columns in packed order, zeros beyond the last; `padded` holds them where they are not those of the row.
    #[inline(always)]
    fn block<'b>(&self, row: &'b [f32], block: usize, padded: &'b mut [f32; BLOCK]) -> &'b [f32; BLOCK] {
        let rest = row.get(block * BLOCK..).unwrap_or(&[]);
        if let Some(order) = self.source.order {
            for (value, &c) in padded.iter_mut().zip(order.get(block * BLOCK..).unwrap_or(&[])) {
                *value = row[c as usize];
            }
            return padded;
        }
        if let Some(whole) = rest.first_chunk() {
            return whole;
        }
        padded[..rest.len()].copy_from_slice(rest);
        padded
    }
}

/// Rounds to bf16 in pairs.
#[inline(always)]
fn pairs(values: &[f32; BLOCK]) -> [u32; BLOCK / 2] {
    // A loop, not `array::map`: its helper functions do not inherit the instruction set and stay scalar.
    let mut narrow = [0; BLOCK];
    for i in 0..BLOCK {
        narrow[i] = bf16_bits(values[i]);
    }
    bytemuck::cast(narrow)
}

/// Signed bytes of a block, and their sum.
#[inline(always)]
fn int8_block(x: &[f32; BLOCK], inverse: f32) -> ([i8; BLOCK], i32) {
    let mut q = [0i8; BLOCK];
    for i in 0..BLOCK {
        q[i] = int8(x[i] * inverse);
    }
    let mut sum = 0;
    for q in q {
        sum += i32::from(q);
    }
    (q, sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn convert_avx512(part: &Part<'_>, input: Input) {
    part.convert_body(input, &|x, fine| avx512::block8(x, fine), &|x, inverse| avx512::int8(x, inverse));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_avx2(part: &Part<'_>, input: Input) {
    part.convert_body(input, &block8, &int8_block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_tiles_are_balanced_and_cover_all_tokens() {
        for tokens in 1..100 {
            for max in 1..14 {
                let tiles = TokenTiles::new(tokens, max);
                let mut next = 0;
                for index in 0..tiles.count {
                    let (start, width) = tiles.tile(index);
                    assert_eq!(start, next);
                    assert!((1..=max).contains(&width) && width - tiles.width <= 1);
                    next += width;
                }
                assert_eq!(next, tokens);
            }
        }
    }

    #[test]
    fn records_of_all_tiles_and_blocks_fill_the_buffer_without_gaps() {
        for (tokens, blocks, panel) in [(1, 7, 7), (13, 20, 8), (6, 8, 3)] {
            let cut = Cut { tokens, tiles: TokenTiles::new(tokens, 6), blocks, panel };
            let mut owner = vec![0; tokens * blocks];
            for index in 0..cut.tiles.count {
                let tile = cut.tiles.tile(index);
                for block in 0..blocks {
                    owner[cut.record(block, tile)..][..tile.1].iter_mut().for_each(|n| *n += 1);
                }
            }
            assert!(owner.iter().all(|&n| n == 1), "{tokens} {blocks} {panel}");
        }
    }
}
