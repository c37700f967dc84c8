//! Inner loops: register tiles of output rows x tokens, a folder or file per instruction set.
//!
//! The geometry is the same everywhere (see [`layout`]). Each lane of a tile adds the blocks of its row in order, so an output
//! never depends on the shape of the register tile around it, on the regime or on where a row was cut into panels: sums that
//! leave a register are stored whole. That is what makes results independent of batch and threads.
//!
//! Two regimes. *Stream*, for few tokens: a kernel reads packed tiles from memory, unpacks levels in registers and keeps sums
//! in registers over the whole row; a second tile of tokens finds the weights in cache. *Panel*, for more: a worker unpacks 512 columns of some tiles once, to bytes that stay in
//! the first-level cache, and multiplies them with all tokens; the sums wait in a scratch between panels.
//!
//! Order of one output element, all instruction sets (`fma` rounds once):
//! - Block, K and group formats: per block `s = sum(factor * q)`, an integer; `acc = fma(f32(s - bias) * step, scale, acc)`,
//!   for halves one after the other where they have their own scales; then `acc = fma(step * sum(q), min, acc)` likewise.
//!   Everything before the fma is exact, so all instruction sets agree bit for bit.
//! - Int8: an integer sum over the row, then `f32(sum) * (scale of the row * scale of the token)`. They agree as well.
//! - F32, F16: `acc = fma(w[k], x[k], acc)` for k ascending; portable rounds the product too, because a software fma per
//!   weight would be unusable.
//! - Bf16: AVX-512 uses `vdpbf16ps` per pair of columns (its own rounding, subnormals flushed); others widen to f32 and do the
//!   F32 order.
//!   Q8_0 alone has steps that are no powers of two: `acc = fma(f32(dot) * step, scale, acc)`, each operation rounded.
//! - Fp8: as Bf16 over 128 columns, then `acc = fma(sum, scale, acc)`; at the end the scale of the token.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod layout;
pub(crate) mod levels;
mod panel;
mod portable;
pub(crate) mod scales;

pub(crate) use scales::fine_steps;

use crate::{Isa, WeightFormat};
use layout::{BLOCK, LINE, Layout, TILE_ROWS};
pub(crate) use panel::PANEL_BLOCKS;

/// Operands of one kernel call: `R` tiles x `T` tokens over `blocks` blocks.
pub(crate) struct TileArgs<'a> {
    /// Start of the first tile; the next ones follow every `tile_stride` bytes. 64-byte aligned.
    pub weights: *const u8,
    pub tile_stride: usize,
    /// Rows that exist, `1..=16 * R`. Tiles beyond them are not read.
    pub rows: usize,
    pub layout: &'a Layout,
    /// First block, at the start of a unit in block formats.
    pub first: usize,
    pub blocks: usize,
    /// Records of the blocks, `[block][T][word]`.
    pub x: *const u32,
    /// Sums of `R x T` lines between panels, `[r][t][16]`.
    pub sums: *mut f32,
    /// Whether sums start from those stored, and whether they end there instead of in `out`.
    pub resume: bool,
    pub suspend: bool,
    /// How far ahead of its loads a kernel asks memory for weights, in bytes; 0: not at all.
    pub ahead: usize,
    /// Int8 and fp8: a scale per token; int8: a correction per token.
    pub token_scales: *const f32,
    pub token_offsets: *const i32,
    /// `out[t * out_stride + row]`.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl TileArgs<'_> {
    /// Start of the tile to read for position `r`: rows that do not exist are computed from the last real tile and dropped.
    #[inline(always)]
    pub(crate) fn tile(&self, r: usize) -> *const u8 {
        self.weights.wrapping_add(r.min((self.rows - 1) / TILE_ROWS) * self.tile_stride)
    }

    /// How far ahead of byte `at` of its tile a kernel of `R` tiles prefetches, 0 where it does not: behind its own tile come
    /// `R - 1` tiles that the others of the kernel read, then the next of its own.
    #[inline(always)]
    pub(crate) fn ahead_of<const R: usize>(&self, at: usize) -> usize {
        if self.ahead == 0 {
            return 0;
        }
        self.ahead + if at + self.ahead >= self.tile_stride { (R - 1) * self.tile_stride } else { 0 }
    }

    /// Rows of tile position `r` that exist, 0..=16.
    #[inline(always)]
    pub(crate) fn lanes(&self, r: usize) -> usize {
        self.rows.saturating_sub(r * TILE_ROWS).min(TILE_ROWS)
    }
}

/// # Safety
/// All pointers of the arguments must cover what the kernel's shape reads and writes, and the CPU must have its instruction
/// set.
pub(crate) type Kernel = unsafe fn(&TileArgs);

/// Operands of unpacking some blocks of one tile.
pub(crate) struct UnpackArgs<'a> {
    pub format: WeightFormat,
    pub wide: bool,
    pub tile: *const u8,
    pub layout: &'a Layout,
    pub first: usize,
    pub blocks: usize,
    /// Where the weights lie that are unpacked next, in bytes from these.
    pub ahead: usize,
    /// Where the panel goes, laid out as [`panel::layout`] says.
    pub out: *mut u8,
}

/// # Safety
/// The tile must be laid out as stated and `out` must have room for the panel; the CPU must have the instruction set.
pub(crate) type Unpack = unsafe fn(&UnpackArgs);

/// How activations are presented to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// One f32 per column.
    F32,
    /// One f32 per column, holding a value rounded to bf16.
    Bf16Widened,
    /// Two bf16 per word.
    Bf16Pairs,
    /// As the two above for values rounded to E4M3 with one scale per token.
    Fp8Widened,
    Fp8Pairs,
    /// Four signed bytes per word, one scale and one correction per token.
    Row8 {
        bias: i32,
    },
    /// Four signed bytes per word; then `subs` words to start integer sums with, the word that makes them floats, and `sums`
    /// sums as f32 (see [`crate::quant`]). The word is the magic number whose exponent is the step, or the step itself where
    /// it is `fine`.
    Block8 {
        fine: bool,
        bias: i32,
        subs: usize,
        sums: usize,
    },
}

impl Input {
    pub(crate) fn new(format: WeightFormat, isa: Isa) -> Input {
        use WeightFormat::*;
        let scales::Numerics { subs, mins, bias } = scales::numerics(format);
        // AVX2 multiplies signed bytes where unsigned ones could saturate, so factors are 128 less there.
        let signed = isa == Isa::Avx2 && panel::needs_signed(format);
        let bias = if signed { bias - 128 } else { bias };
        match (format, isa) {
            (F32 | F16, _) => Input::F32,
            (Bf16, Isa::Avx512) => Input::Bf16Pairs,
            (Bf16, _) => Input::Bf16Widened,
            (Fp8, Isa::Avx512) => Input::Fp8Pairs,
            (Fp8, _) => Input::Fp8Widened,
            (Int8, _) => Input::Row8 { bias },
            _ => Input::Block8 { fine: fine_steps(format), bias, subs, sums: mins },
        }
    }

    /// Words of one token's record of a block.
    pub(crate) fn words_per_block(self) -> usize {
        match self {
            Input::F32 | Input::Bf16Widened | Input::Fp8Widened => BLOCK,
            Input::Bf16Pairs | Input::Fp8Pairs => BLOCK / 2,
            Input::Row8 { .. } => BLOCK / 4,
            Input::Block8 { subs, sums, .. } => BLOCK / 4 + subs + 1 + sums,
        }
    }

    /// Whether the conversion of a block depends on its whole row.
    pub(crate) fn is_per_token(self) -> bool {
        matches!(self, Input::Fp8Widened | Input::Fp8Pairs | Input::Row8 { .. })
    }
}

/// How a product is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Tiles per kernel call.
    pub tiles: usize,
    /// Most tokens per kernel call.
    pub tokens: usize,
    /// Whether rows are cut into panels of [`PANEL_BLOCKS`].
    pub panels: bool,
    /// How far ahead of its loads a stream kernel asks memory for weights, in bytes; 0: not at all.
    pub ahead: usize,
}

pub(crate) fn plan(input: Input, isa: Isa, tokens: usize) -> Plan {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::plan(input, tokens),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::plan(input),
        _ => portable::plan(),
    }
}

/// How one matrix is multiplied under a plan.
pub(crate) struct Method {
    /// For `1..=plan.tokens` tokens.
    pub kernel: fn(WeightFormat, bool, &Plan, usize) -> Kernel,
    /// Unpacks a panel; `None` where kernels read packed tiles.
    pub unpack: Option<Unpack>,
}

pub(crate) fn method(format: WeightFormat, wide: bool, isa: Isa, plan: &Plan) -> Method {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Method { kernel: avx512::kernel, unpack: avx512::unpack(format, wide, plan) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Method { kernel: avx2::kernel, unpack: Some(avx2::unpack) },
        _ => Method { kernel: portable::kernel, unpack: Some(panel::unpack) },
    }
}

/// Layout of an unpacked panel and bytes per tile, for a matrix that is unpacked.
pub(crate) fn panel_layout(format: WeightFormat, isa: Isa) -> Layout {
    panel::layout(format, isa)
}

const _: () = assert!(LINE == 64);
