//! The product of packed weights and activations: cache blocks around the kernels of `gemm`.

use crate::gemm::{self, Input, Kernel, Plan, TILE_ROWS, TileArgs};
use crate::quant::activations::TokenTiles;
use crate::shared_mut::SharedMut;
use crate::{Activations, PackedMatrix, ThreadPool};

/// Products smaller than this many multiplications run on the caller alone: waking a thread costs as much.
const SERIAL_MACS: usize = 64 * 1024;

/// Tokens per cache block: their words, a few megabytes, stay in the last-level cache while rows go by.
const BLOCK_TOKENS: usize = 512;

/// `out[t, r] = sum over c of w[r, c] * x[t, c]`, for one token up to a whole prompt.
///
/// `x` is `[tokens, cols]`, `out` is `[tokens, rows]`, both row-major. Activations are converted as described in
/// [`crate::quant::activations`].
///
/// The result of a (row, token) pair is bit-identical for any number of tokens in the call, any position among them and any
/// number of threads: an element is added up by one lane, in one order, and threads divide rows only.
///
/// Panics when a slice does not have the stated length.
pub fn matmul(
    pool: &ThreadPool,
    w: &PackedMatrix,
    x: &[f32],
    tokens: usize,
    out: &mut [f32],
    scratch: &mut Activations,
) {
    matmul_many(pool, &[w], x, tokens, out, scratch);
}

/// Several products of the same activations: `out` is `[tokens, sum of rows]`, the rows of the matrices side by side.
///
/// Every element has the bits that [`matmul`] gives it. Panics when a slice does not have the stated length or the matrices
/// differ in columns.
pub fn matmul_many(
    pool: &ThreadPool,
    ws: &[&PackedMatrix],
    x: &[f32],
    tokens: usize,
    out: &mut [f32],
    scratch: &mut Activations,
) {
    let width: usize = ws.iter().map(|w| w.rows()).sum();
    assert_eq!(out.len(), tokens * width, "out must be {tokens} tokens x {width} rows");
    if tokens == 0 {
        return;
    }
    let mut first_row = 0;
    for w in ws {
        assert_eq!(x.len(), tokens * w.cols(), "x must be {tokens} tokens x {} columns", w.cols());
        product(pool, w, x, tokens, out, (first_row, width), scratch);
        first_row += w.rows();
    }
}

/// One product into columns `first_row..` of an output of `width` columns.
fn product(
    pool: &ThreadPool,
    w: &PackedMatrix,
    x: &[f32],
    tokens: usize,
    out: &mut [f32],
    (first_row, width): (usize, usize),
    scratch: &mut Activations,
) {
    let (format, isa) = (w.format(), w.isa());
    let plan = gemm::plan(format, isa, tokens);
    let tiles = TokenTiles::new(tokens, plan.tokens);
    let input = Input::new(format, isa);
    scratch.prepare(pool, isa, input, w.layout().units, tiles, x, tokens);

    let product = Product {
        w,
        scratch,
        words_per_unit: input.words_per_unit(),
        tiles,
        narrow: gemm::kernel(format, isa, &plan, tiles.width),
        wide: gemm::kernel(format, isa, &plan, plan.tokens.min(tiles.width + 1)),
        out: SharedMut::new(out),
        first_row,
        width,
        plan,
    };
    let groups = w.rows().div_ceil(TILE_ROWS * product.plan.tiles);
    let chunk = if tokens * w.rows() * w.cols() <= SERIAL_MACS {
        groups
    } else {
        // A few chunks per worker, so that a late one can be helped; few enough that its output stays in cache.
        (groups / (4 * pool.threads())).clamp(1, if tiles.count == 1 { groups } else { 8 })
    };
    pool.split(groups, chunk, &|_, range| product.rows(range));
}

struct Product<'a> {
    w: &'a PackedMatrix,
    scratch: &'a Activations,
    words_per_unit: usize,
    tiles: TokenTiles,
    plan: Plan,
    narrow: Kernel,
    wide: Kernel,
    out: SharedMut<'a, f32>,
    /// Where the rows of this matrix start in a row of the output, and how long that is.
    first_row: usize,
    width: usize,
}

impl Product<'_> {
    /// All tokens of some groups of row tiles: each group stays in cache for a block of tokens, and that block for all groups.
    fn rows(&self, groups: std::ops::Range<usize>) {
        let tiles_per_block = BLOCK_TOKENS.div_ceil(self.plan.tokens);
        for first_tile in (0..self.tiles.count).step_by(tiles_per_block) {
            let end_tile = self.tiles.count.min(first_tile + tiles_per_block);
            for group in groups.clone() {
                (first_tile..end_tile).for_each(|tile| self.register_tile(group, tile));
            }
        }
    }

    fn register_tile(&self, group: usize, tile: usize) {
        let layout = self.w.layout();
        let (token, width) = self.tiles.tile(tile);
        let first_row = group * self.plan.tiles * TILE_ROWS;
        let rows = (self.plan.tiles * TILE_ROWS).min(self.w.rows() - first_row);
        let kernel = if width == self.tiles.width { self.narrow } else { self.wide };
        // Both ends of the output are in range, or these panic.
        let column = self.first_row + first_row;
        let out = self.out.at(token * self.width + column);
        self.out.at((token + width - 1) * self.width + column + rows - 1);
        // SAFETY: an existing group of row tiles and an existing token tile, inside buffers that `PackedMatrix` and
        // `Activations::prepare` sized from the same layout; scales and offsets are only read by kernels of the block
        // formats, for which they were filled. The CPU has the instruction set: packing checked it. The outputs belong to
        // this worker alone, because `split` hands out each group once.
        unsafe {
            let weights = self.w.data().as_ptr().add(group * self.plan.tiles * layout.stride);
            kernel(&TileArgs {
                weights,
                scales: weights.add(layout.scales_at).cast(),
                tile_stride: layout.stride,
                rows,
                units: layout.units,
                x: self.scratch.words.as_ptr().add(token * layout.units * self.words_per_unit),
                x_scales: self.scratch.scales.as_ptr().wrapping_add(token * layout.units),
                x_offsets: self.scratch.offsets.as_ptr().wrapping_add(token * layout.units),
                out,
                out_stride: self.width,
            });
        }
    }
}
