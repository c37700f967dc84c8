//! Activations converted to what a kernel multiplies with, in tiles of tokens.
//!
//! F32 weights see f32 activations, Bf16 weights see activations rounded to bf16 (nearest even), and the block formats see
//! blocks of 32 signed bytes: `d = amax / 127`, `q = round_half_even(x / d)`, kept with `d` in f32. A block whose `d` is
//! subnormal becomes zeros. A NaN makes its block's scale NaN, so it reaches every output, as it would in f32.

use half::bf16;

use super::BLOCK;
use crate::gemm::Input;
use crate::shared_mut::SharedMut;
use crate::{Isa, ThreadPool};

/// Reusable space for converted activations. Grows on demand; a warm call allocates nothing.
#[derive(Default)]
pub struct Activations {
    /// `[token tile][word][token of the tile]`.
    pub(crate) words: Vec<u32>,
    /// Block formats: scale of each block, `[token tile][block][token of the tile]`.
    pub(crate) scales: Vec<f32>,
    /// Block formats: minus the sum of a block's bytes times the bias of the stored weights, in the same order.
    pub(crate) offsets: Vec<i32>,
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

    /// Tile of a token, and its position in it.
    fn of(&self, token: usize) -> (usize, usize) {
        let in_wider = self.wider * (self.width + 1);
        let index = if token < in_wider {
            token / (self.width + 1)
        } else {
            self.wider + (token - in_wider) / self.width
        };
        (index, token - self.tile(index).0)
    }
}

/// Tokens converted by one worker at a time; fewer tokens than this are not worth waking a second thread.
const TOKENS_PER_CHUNK: usize = 4;

impl Activations {
    pub fn new() -> Self {
        Activations::default()
    }

    /// Converts `x`, `[tokens, cols]`, for kernels of `units` units.
    pub(crate) fn prepare(
        &mut self,
        pool: &ThreadPool,
        isa: Isa,
        input: Input,
        units: usize,
        tiles: TokenTiles,
        x: &[f32],
        tokens: usize,
    ) {
        let cols = x.len() / tokens;
        let words_per_token = units * input.words_per_unit();
        grow(&mut self.words, tokens * words_per_token);
        let blocks_per_token = if matches!(input, Input::Int8 { .. }) { units } else { 0 };
        grow(&mut self.scales, tokens * blocks_per_token);
        grow(&mut self.offsets, tokens * blocks_per_token);

        let words = SharedMut::new(&mut self.words);
        let scales = SharedMut::new(&mut self.scales);
        let offsets = SharedMut::new(&mut self.offsets);
        pool.split(tokens, TOKENS_PER_CHUNK, &|_, range| {
            for token in range {
                let (index, t) = tiles.of(token);
                let (start, width) = tiles.tile(index);
                let row = &x[token * cols..][..cols];
                let words = Column::new(&words, start * words_per_token + t, width, words_per_token);
                match input {
                    Input::F32 => put_f32(row, words),
                    Input::Bf16Widened => put_bf16_widened(row, words),
                    Input::Bf16Pairs => put_bf16_pairs(row, words),
                    Input::Int8 { weight_bias } => {
                        let scales = Column::new(&scales, start * units + t, width, units);
                        let offsets = Column::new(&offsets, start * units + t, width, units);
                        put_int8(isa, row, weight_bias, words, scales, offsets);
                    }
                }
            }
        });
    }
}

fn grow<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// One token's place in a tile: every `stride`-th element.
#[derive(Clone, Copy)]
struct Column<T> {
    first: *mut T,
    stride: usize,
    len: usize,
}

impl<T> Column<T> {
    fn new(buffer: &SharedMut<'_, T>, first: usize, stride: usize, len: usize) -> Self {
        // Checks the far end of the column; `put` then only has to compare with `len`.
        buffer.at(first + (len - 1) * stride);
        Column { first: buffer.at(first), stride, len }
    }

    #[inline(always)]
    fn put(self, index: usize, value: T) {
        assert!(index < self.len, "{index} outside a column of {}", self.len);
        // SAFETY: inside the buffer (both ends were checked), and each token is converted by exactly one worker, which
        // alone writes its column.
        unsafe { *self.first.add(index * self.stride) = value };
    }
}

fn put_f32(row: &[f32], words: Column<u32>) {
    for (k, value) in row.iter().enumerate() {
        words.put(k, value.to_bits());
    }
}

fn put_bf16_widened(row: &[f32], words: Column<u32>) {
    for k in 0..words.len {
        let value = row.get(k).copied().unwrap_or(0.0);
        words.put(k, bf16::from_f32(value).to_f32().to_bits());
    }
}

fn put_bf16_pairs(row: &[f32], words: Column<u32>) {
    for (unit, pair) in row.chunks(2).enumerate() {
        let low = u32::from(bf16::from_f32(pair[0]).to_bits());
        let high = pair.get(1).map_or(0, |&v| u32::from(bf16::from_f32(v).to_bits()));
        words.put(unit, low | high << 16);
    }
}

fn put_int8(
    isa: Isa,
    row: &[f32],
    weight_bias: i32,
    words: Column<u32>,
    scales: Column<f32>,
    offsets: Column<i32>,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a matrix is only packed for an instruction set this CPU has.
        Isa::Avx512 => unsafe { put_int8_avx512(row, weight_bias, words, scales, offsets) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { put_int8_avx2(row, weight_bias, words, scales, offsets) },
        _ => put_int8_body(row, weight_bias, words, scales, offsets),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn put_int8_avx512(row: &[f32], bias: i32, words: Column<u32>, scales: Column<f32>, offsets: Column<i32>) {
    put_int8_body(row, bias, words, scales, offsets);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn put_int8_avx2(row: &[f32], bias: i32, words: Column<u32>, scales: Column<f32>, offsets: Column<i32>) {
    put_int8_body(row, bias, words, scales, offsets);
}

/// The same source for every instruction set; IEEE arithmetic makes the results the same.
#[inline(always)]
fn put_int8_body(row: &[f32], bias: i32, words: Column<u32>, scales: Column<f32>, offsets: Column<i32>) {
    let (blocks, _) = row.as_chunks::<BLOCK>();
    for (b, block) in blocks.iter().enumerate() {
        let (d, q) = quantize_block(block);
        let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
        scales.put(b, d);
        offsets.put(b, -bias * sum);
        let packed: [u32; BLOCK / 4] = bytemuck::cast(q);
        for (i, word) in packed.into_iter().enumerate() {
            words.put(b * (BLOCK / 4) + i, word);
        }
    }
}

/// Scale and bytes of one block of activations.
#[inline(always)]
pub(crate) fn quantize_block(x: &[f32; BLOCK]) -> (f32, [i8; BLOCK]) {
    // Positive floats order like their bits, and an integer maximum vectorises.
    let amax = f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
    let d = amax / 127.0;
    if d < f32::MIN_POSITIVE {
        return (0.0, [0; BLOCK]);
    }
    let inverse = 1.0 / d;
    // Adding 1.5 * 2^23 rounds to an integer, half to even, and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let q = x.map(|v| (v * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8);
    (d, q)
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
                    for t in 0..width {
                        assert_eq!(tiles.of(start + t), (index, t));
                    }
                    next += width;
                }
                assert_eq!(next, tokens);
            }
        }
    }

    #[test]
    fn blocks_round_half_to_even_and_reach_127() {
        let mut x = [0.0; BLOCK];
        x[..5].copy_from_slice(&[-127.0, 2.5, 3.5, -0.5, 1.2]);
        let (d, q) = quantize_block(&x);
        assert_eq!(d, 1.0);
        assert_eq!(q[..5], [-127, 2, 4, 0, 1]);
        assert_eq!(quantize_block(&[1e-45; BLOCK]), (0.0, [0; BLOCK]));
        assert!(quantize_block(&[f32::NAN; BLOCK]).0.is_nan());
    }
}
