//! Activations converted to what a kernel multiplies with, in tiles of tokens.
//!
//! F32 weights see f32 activations, Bf16 weights see activations rounded to bf16 (nearest even), and the block formats see
//! blocks of 32 signed bytes: `d = amax / 127`, `q = round_half_even(x / d)`, kept with `d` in f32. A block whose `d` is
//! subnormal becomes zeros. A NaN makes its block's scale NaN, so it reaches every output, as it would in f32.

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
}

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
        pool.split(tiles.count, 1, &|_, range| {
            for index in range {
                let (start, width) = tiles.tile(index);
                // SAFETY: each tile is converted by exactly one worker, and the parts of different tiles do not overlap.
                let tile = unsafe {
                    Tile {
                        x: &x[start * cols..][..width * cols],
                        cols,
                        width,
                        words: words.slice(start * words_per_token, width * words_per_token),
                        scales: scales.slice(start * blocks_per_token, width * blocks_per_token),
                        offsets: offsets.slice(start * blocks_per_token, width * blocks_per_token),
                    }
                };
                tile.convert(isa, input);
            }
        });
    }
}

fn grow<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// A tile of tokens and the places of its converted values.
struct Tile<'a> {
    /// `[width, cols]`.
    x: &'a [f32],
    cols: usize,
    width: usize,
    words: &'a mut [u32],
    scales: &'a mut [f32],
    offsets: &'a mut [i32],
}

impl Tile<'_> {
    fn convert(self, isa: Isa, input: Input) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a matrix is only packed for an instruction set this CPU has.
            Isa::Avx512 => unsafe { convert_avx512(self, input) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { convert_avx2(self, input) },
            _ => self.convert_body(input),
        }
    }

    /// The same source for every instruction set; IEEE arithmetic makes the results the same.
    ///
    /// Columns go in blocks of 32, the tokens of the tile inside: the words of a block lie together, so they are written
    /// while in cache.
    #[inline(always)]
    fn convert_body(self, input: Input) {
        let Tile { x, cols, width, words, scales, offsets } = self;
        let words_per_block = match input {
            Input::F32 | Input::Bf16Widened => BLOCK,
            Input::Bf16Pairs => BLOCK / 2,
            Input::Int8 { .. } => BLOCK / 4,
        };
        for (b, words) in words.chunks_mut(words_per_block * width).enumerate() {
            for t in 0..width {
                let row = &x[t * cols..][..cols];
                let mut padded = [0.0; BLOCK];
                let block = row[b * BLOCK..].first_chunk().unwrap_or_else(|| {
                    padded[..cols - b * BLOCK].copy_from_slice(&row[b * BLOCK..]);
                    &padded
                });
                // Loops, not `array::map`: its helper functions do not inherit the instruction set and stay scalar.
                match input {
                    Input::F32 => put(words, t, width, bytemuck::cast_ref::<_, [u32; BLOCK]>(block)),
                    Input::Bf16Widened => {
                        let mut wide = [0; BLOCK];
                        for i in 0..BLOCK {
                            wide[i] = u32::from(bf16_bits(block[i])) << 16;
                        }
                        put(words, t, width, &wide);
                    }
                    Input::Bf16Pairs => {
                        let mut narrow = [0; BLOCK];
                        for i in 0..BLOCK {
                            narrow[i] = bf16_bits(block[i]);
                        }
                        put(words, t, width, &bytemuck::cast::<_, [u32; BLOCK / 2]>(narrow));
                    }
                    Input::Int8 { weight_bias } => {
                        let (d, q, sum) = quantize_block(block);
                        scales[b * width + t] = d;
                        offsets[b * width + t] = -weight_bias * sum;
                        put(words, t, width, &bytemuck::cast::<_, [u32; BLOCK / 4]>(q));
                    }
                }
            }
        }
    }
}

/// Spreads the words of token `t` over a block of `width` tokens; the last block may be shorter.
#[inline(always)]
fn put(words: &mut [u32], t: usize, width: usize, values: &[u32]) {
    for (tokens, value) in words.chunks_exact_mut(width).zip(values) {
        tokens[t] = *value;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn convert_avx512(tile: Tile, input: Input) {
    tile.convert_body(input);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_avx2(tile: Tile, input: Input) {
    tile.convert_body(input);
}

/// Bits of `v` rounded to bf16, to nearest even; the same as `half::bf16::from_f32`, in a form that vectorises.
#[inline(always)]
fn bf16_bits(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // A NaN keeps its sign and becomes quiet; rounding could turn it into an infinity.
    ((if v.is_nan() { bits | 0x0040_0000 } else { rounded }) >> 16) as u16
}

/// Scale, bytes and sum of the bytes of one block of activations.
#[inline(always)]
pub(crate) fn quantize_block(x: &[f32; BLOCK]) -> (f32, [i8; BLOCK], i32) {
    // Positive floats order like their bits, and an integer maximum vectorises.
    let mut amax_bits = 0;
    for v in x {
        amax_bits = amax_bits.max(v.to_bits() & 0x7fff_ffff);
    }
    let d = f32::from_bits(amax_bits) / 127.0;
    let inverse = if d < f32::MIN_POSITIVE { 0.0 } else { 1.0 / d };
    // Adding 1.5 * 2^23 rounds to an integer, half to even, and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let mut q = [0i8; BLOCK];
    let mut sum = 0;
    for i in 0..BLOCK {
        let rounded = (x[i] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
        q[i] = rounded;
        sum += i32::from(rounded);
    }
    (if d < f32::MIN_POSITIVE { 0.0 } else { d }, q, sum)
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
    fn bf16_rounding_is_that_of_the_half_crate() {
        let special =
            [0.0, -0.0, 1.0, -1.5, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, 3.0e-39];
        let spread = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for v in special.into_iter().chain(spread) {
            assert_eq!(bf16_bits(v), half::bf16::from_f32(v).to_bits(), "{v:e}");
        }
    }

    #[test]
    fn blocks_round_half_to_even_and_reach_127() {
        let mut x = [0.0; BLOCK];
        x[..5].copy_from_slice(&[-127.0, 2.5, 3.5, -0.5, 1.2]);
        let (d, q, sum) = quantize_block(&x);
        assert_eq!(d, 1.0);
        assert_eq!(q[..5], [-127, 2, 4, 0, 1]);
        assert_eq!(sum, -120);
        assert_eq!(quantize_block(&[1e-45; BLOCK]), (0.0, [0; BLOCK], 0));
        assert!(quantize_block(&[f32::NAN; BLOCK]).0.is_nan());
    }
}
