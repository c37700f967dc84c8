//! Inner loops: one register tile of output rows x tokens, in one file per instruction set.
//!
//! The geometry is the same everywhere. A *tile* is 16 output rows, one per vector lane. Along the input dimension it is a
//! sequence of *units*, the smallest pieces a format can be cut into (one column of F32, a pair of Bf16, a block of 32 of
//! the quantised formats). Each lane adds its units in order, so an output never depends on the shape of the register
//! tile around it: that is what makes results independent of batch and threads.
//!
//! Order of one output element, all instruction sets (`fma` rounds once):
//! - F32: `acc = fma(w[k], x[k], acc)` for k ascending; portable rounds the product too, because a software fma per weight
//!   would be unusable.
//! - Bf16: AVX-512 uses `vdpbf16ps` per pair of columns (its own rounding, subnormals flushed); AVX2 widens to f32 and
//!   does the F32 order; portable likewise, with a rounded product.
//! - Q8_0 and Q4_0: `acc = fma(f32(dot of integers), d_w * d_x, acc)` per block; integers are exact, so all agree bit for bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use half::f16;

use crate::{Isa, WeightFormat};

/// Output rows per tile: the f32 lanes of one AVX-512 register.
pub(crate) const TILE_ROWS: usize = 16;

/// How far ahead of its loads a memory-bound kernel prefetches, in each tile.
#[cfg(target_arch = "x86_64")]
const PREFETCH_BYTES: usize = 2048;

/// Operands of one kernel call.
///
/// A kernel made for `R` tiles x `T` tokens computes, for each of `rows` rows and `T` tokens, the dot product over all
/// `units` and stores it to `out[token * out_stride + row]`. Units are not cut into cache blocks: keeping sums in registers
/// from the first to the last was faster at every block size tried (by 5 to 20 % of peak), because weights of a tile are
/// read in order and the prefetchers bring them in time.
pub(crate) struct TileArgs {
    /// First tile; the next ones follow every `tile_stride` bytes. 64-byte aligned.
    pub weights: *const u8,
    /// Scales of the block formats, 16 per unit, with the same stride.
    pub scales: *const f16,
    pub tile_stride: usize,
    /// Rows that exist, `1..=16 * R`. Tiles beyond them are not read.
    pub rows: usize,
    pub units: usize,
    /// Words of the token tile, `[word of the unit sequence][T]`.
    pub x: *const u32,
    /// Block formats: scale and offset correction, `[unit][T]`.
    pub x_scales: *const f32,
    pub x_offsets: *const i32,
    pub out: *mut f32,
    pub out_stride: usize,
}

impl TileArgs {
    /// Index of the tile to read for position `r`: rows that do not exist are computed from the last real tile and dropped.
    #[inline(always)]
    pub(crate) fn tile(&self, r: usize) -> usize {
        r.min((self.rows - 1) / TILE_ROWS)
    }

    /// Rows of tile position `r` that exist, 0..=16.
    #[inline(always)]
    pub(crate) fn lanes(&self, r: usize) -> usize {
        self.rows.saturating_sub(r * TILE_ROWS).min(TILE_ROWS)
    }
}

/// # Safety
/// All pointers of the arguments must cover what the plan's shape reads and writes, and the CPU must have the kernel's
/// instruction set.
pub(crate) type Kernel = unsafe fn(&TileArgs);

/// How activations are presented to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// One f32 per column.
    F32,
    /// One f32 per column, holding a value rounded to bf16.
    Bf16Widened,
    /// Two bf16 per word.
    Bf16Pairs,
    /// Four signed bytes per word, blocks of 32, with the given bias of the stored weights.
    Int8 { weight_bias: i32 },
}

impl Input {
    pub(crate) fn new(format: WeightFormat, isa: Isa) -> Input {
        match (format, isa) {
            (WeightFormat::F32, _) => Input::F32,
            (WeightFormat::Bf16, Isa::Avx512) => Input::Bf16Pairs,
            (WeightFormat::Bf16, _) => Input::Bf16Widened,
            (WeightFormat::Q8_0, _) => Input::Int8 { weight_bias: 128 },
            (WeightFormat::Q4_0, _) => Input::Int8 { weight_bias: 8 },
            _ => unreachable!("{format} is not packed"),
        }
    }

    /// Activation words per unit of weights.
    pub(crate) fn words_per_unit(self) -> usize {
        match self {
            Input::F32 | Input::Bf16Pairs => 1,
            Input::Bf16Widened => 2,
            Input::Int8 { .. } => crate::quant::BLOCK / 4,
        }
    }
}

/// The shape of the register tile for one product.
pub(crate) struct Plan {
    /// Tiles of 16 rows per kernel call.
    pub tiles: usize,
    /// Most tokens per kernel call.
    pub tokens: usize,
}

pub(crate) fn plan(format: WeightFormat, isa: Isa, tokens: usize) -> Plan {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::plan(format, tokens),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::plan(format, tokens),
        _ => portable::plan(),
    }
}

/// The kernel for `plan.tiles` x `tokens`, `1..=plan.tokens`.
pub(crate) fn kernel(format: WeightFormat, isa: Isa, plan: &Plan, tokens: usize) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernel(format, plan, tokens),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernel(format, plan, tokens),
        _ => portable::kernel(format),
    }
}
