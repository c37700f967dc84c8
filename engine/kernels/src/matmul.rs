//! The product of packed weights and activations: what is converted, who computes which rows, in which order.

use crate::gemm::layout::{LINE, Layout, TILE_ROWS};
use crate::gemm::{self, Input, Kernel, PANEL_BLOCKS, Plan, TileArgs, Unpack, UnpackArgs};
use crate::quant::activations::{Cut, Source, TokenTiles};
use crate::shared_mut::SharedMut;
use crate::{Activations, PackedMatrix, ThreadPool};

/// Products smaller than this many multiplications run on the caller alone: waking a thread costs as much.
const SERIAL_MACS: usize = 64 * 1024;

/// Tokens per pass: their words, a few megabytes, stay in the last-level cache while rows go by.
const PASS_TOKENS: usize = 512;

/// Matrices per parallel region; more go in several.
const REGION: usize = 8;

/// Sums that a worker keeps between panels, in lines: with the panel's activations they fill half of a second-level cache, and
/// the activations of all panels are read from beyond it once per this many.
const SUM_LINES: usize = 4096;

/// Pieces of work per worker, so that a late one can be helped.
const SHARES: usize = 16;

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

/// Several products of the same activations in one parallel region: `out` is `[tokens, sum of rows]`, the rows of the matrices
/// side by side. Activations are converted once for all matrices that see them the same way.
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
    for w in ws {
        assert_eq!(x.len(), tokens * w.cols(), "x must be {tokens} tokens x {} columns", w.cols());
    }
    let Some(first) = ws.first() else { return };
    if tokens == 0 {
        return;
    }
    // Passes of equal size, so that no short one wastes the unpacking of all weights.
    let passes = TokenTiles::new(tokens, PASS_TOKENS);
    for pass in 0..passes.count {
        let (start, count) = passes.tile(pass);
        let x = &x[start * first.cols()..][..count * first.cols()];
        let out = &mut out[start * width..][..count * width];
        let mut column = 0;
        for part in ws.chunks(REGION) {
            region(pool, part, x, count, &Output { out: SharedMut::new(out), width }, column, scratch);
            column += part.iter().map(|w| w.rows()).sum::<usize>();
        }
    }
}

struct Output<'a> {
    out: SharedMut<'a, f32>,
    /// Length of a token's row.
    width: usize,
}

/// Products of at most [`REGION`] matrices with at most [`PASS_TOKENS`] tokens, into the columns from `column` on.
fn region(
    pool: &ThreadPool,
    ws: &[&PackedMatrix],
    x: &[f32],
    tokens: usize,
    output: &Output<'_>,
    column: usize,
    scratch: &mut Activations,
) {
    let mut jobs = [const { None }; REGION];
    let (mut items, mut column, mut slots, mut worker_bytes) = (0, column, 0, 0);
    let serial = ws.iter().all(|w| tokens * w.rows() * w.cols() <= SERIAL_MACS);
    for (i, w) in ws.iter().enumerate() {
        let mut job = Job::new(w, tokens, column, items, pool.threads());
        let same = jobs[..i].iter().flatten().find(|other: &&Job| other.sees_the_same(&job));
        job.slot = same.map_or(slots, |other| other.slot);
        if job.slot == slots {
            let source = Source { x, cols: w.cols(), order: w.order(), input_scale: w.input_scale() };
            scratch.convert(pool, w.isa(), job.input, slots, &job.cut, &source);
            slots += 1;
        }
        worker_bytes = worker_bytes.max(job.worker_bytes());
        column += w.rows();
        items += job.items.count;
        jobs[i] = Some(job);
    }
    let workers = scratch.workers(worker_bytes * pool.threads());
    let region = Region { jobs, tokens, output, scratch, workers, worker_bytes };
    let chunk = if serial { items } else { 1 };
    pool.split(items, chunk, &|worker, range| range.for_each(|item| region.item(worker, item)));
}

/// One matrix of a region.
struct Job<'a> {
    w: &'a PackedMatrix,
    input: Input,
    plan: Plan,
    cut: Cut,
    unpack: Option<Unpack>,
    /// Kernels for tiles of `cut.tiles.width` tokens and of one more.
    narrow: Kernel,
    wide: Kernel,
    /// Layout of what kernels read.
    layout: Layout,
    slot: usize,
    /// Where this matrix starts in a row of the output.
    column: usize,
    /// Register tiles of rows, dealt out in pieces, and how many pieces the matrices before have.
    items: TokenTiles,
    first_item: usize,
}

impl<'a> Job<'a> {
    fn new(w: &'a PackedMatrix, tokens: usize, column: usize, first_item: usize, threads: usize) -> Self {
        let (format, isa) = (w.format(), w.isa());
        let input = Input::new(format, isa);
        let plan = gemm::plan(input, isa, tokens);
        let method = gemm::method(format, w.wide(), isa, &plan);
        let tiles = TokenTiles::new(tokens, plan.tokens);
        let blocks = w.layout().blocks;
        let panel = if plan.panels { PANEL_BLOCKS } else { blocks };
        let kernel = |tokens| (method.kernel)(format, w.wide(), &plan, tokens);
        let layout = if method.unpack.is_some() { gemm::panel_layout(format, isa) } else { *w.layout() };
        Job {
            w,
            input,
            plan,
            cut: Cut { tokens, tiles, blocks, panel },
            unpack: method.unpack,
            narrow: kernel(tiles.width),
            wide: kernel(plan.tokens.min(tiles.width + 1)),
            layout,
            slot: 0,
            column,
            items: items(w.rows(), tokens, &plan, threads),
            first_item,
        }
    }

    fn sees_the_same(&self, other: &Job) -> bool {
        self.input == other.input
            && self.cut.blocks == other.cut.blocks
            && self.w.order() == other.w.order()
            && self.w.input_scale().map(f32::to_bits) == other.w.input_scale().map(f32::to_bits)
    }

    fn panel_bytes(&self) -> usize {
        if self.unpack.is_some() { self.plan.tiles * self.layout.stride } else { 0 }
    }

    /// Scratch of a worker: the unpacked panel, and sums of every tile and token.
    fn worker_bytes(&self) -> usize {
        let tiles = (self.items.width + 1) * self.plan.tiles;
        let sums = if self.plan.panels { tiles * self.cut.tokens * LINE } else { 0 };
        // A page apart, so that workers never share a line or its neighbour.
        (self.panel_bytes() + sums).next_multiple_of(4096)
    }
}

/// Deals register tiles of rows out in equal pieces.
fn items(rows: usize, tokens: usize, plan: &Plan, threads: usize) -> TokenTiles {
    let tiles = rows.div_ceil(TILE_ROWS * plan.tiles);
    let share = tiles.div_ceil(SHARES * threads);
    let most = SUM_LINES / tokens / plan.tiles;
    TokenTiles::new(tiles, if plan.panels { most.clamp(1, share.max(8)) } else { share })
}

struct Region<'a> {
    jobs: [Option<Job<'a>>; REGION],
    tokens: usize,
    output: &'a Output<'a>,
    scratch: &'a Activations,
    workers: *mut u8,
    worker_bytes: usize,
}

// SAFETY: workers write through `workers` each in its own part, and everything else is shared for reading or through
// `SharedMut`.
unsafe impl Sync for Region<'_> {}

impl Region<'_> {
    /// All tokens of some row tiles, panel after panel: the activations of a panel stay in cache for all of them.
    fn item(&self, worker: usize, item: usize) {
        let job = self.jobs.iter().flatten().rev().find(|job| job.first_item <= item);
        let job = job.expect("items are counted from the jobs");
        let (first, count) = job.items.tile(item - job.first_item);
        let step = job.plan.tiles * TILE_ROWS;
        // Within the buffer, which has this many bytes for every worker: an unpacked panel, then sums.
        let scratch = self.workers.wrapping_add(worker * self.worker_bytes);
        for panel in 0..job.cut.blocks.div_ceil(job.cut.panel) {
            for tile in 0..count {
                let row = (first + tile) * step;
                let rows = step.min(job.w.rows() - row);
                let lines = tile * job.plan.tiles * self.tokens;
                let sums = scratch.wrapping_add(job.panel_bytes() + lines * LINE);
                self.unpack(job, row, rows, panel, scratch);
                self.row_tile(job, row, rows, panel, scratch, sums);
            }
        }
    }

    fn unpack(&self, job: &Job, row: usize, rows: usize, panel: usize, scratch: *mut u8) {
        let Some(unpack) = job.unpack else { return };
        let (first, blocks) = job.cut.panel(panel);
        let stride = job.w.layout().stride;
        for tile in 0..rows.div_ceil(TILE_ROWS) {
            let packed = &job.w.data()[(row / TILE_ROWS + tile) * stride..][..stride];
            let args = UnpackArgs {
                format: job.w.format(),
                wide: job.w.wide(),
                tile: packed.as_ptr(),
                layout: job.w.layout(),
                first,
                blocks,
                ahead: job.plan.tiles * stride,
                out: scratch.wrapping_add(tile * job.layout.stride),
            };
            // SAFETY: an existing tile; `worker_bytes` left room for the panels of a register tile; packing checked the CPU.
            unsafe { unpack(&args) };
        }
    }

    /// One panel of the register tiles of some rows, for all tokens.
    fn row_tile(&self, job: &Job, row: usize, rows: usize, panel: usize, scratch: *mut u8, sums: *mut u8) {
        let (first, blocks) = job.cut.panel(panel);
        let slot = self.scratch.slot(job.slot);
        let words = job.input.words_per_block();
        let column = job.column + row;
        let unpacked = job.unpack.is_some();
        let records = &slot.words[job.cut.record(first, (0, 0)) * words..][..self.tokens * blocks * words];
        // The other end of the output is in range, or this panics.
        self.output.out.at((self.tokens - 1) * self.output.width + column + rows - 1);
        let mut args = TileArgs {
            weights: match unpacked {
                true => scratch.cast_const(),
                false => job.w.data()[row / TILE_ROWS * job.layout.stride..].as_ptr(),
            },
            tile_stride: job.layout.stride,
            rows,
            layout: &job.layout,
            first: if unpacked { 0 } else { first },
            blocks,
            x: records.as_ptr(),
            sums: sums.cast(),
            resume: panel > 0,
            suspend: first + blocks < job.cut.blocks,
            // Panels that are read as packed ask for the same panel of the tiles that come next.
            ahead: if job.plan.panels { job.layout.stride } else { job.plan.ahead },
            token_scales: slot.scales.as_ptr(),
            token_offsets: slot.offsets.as_ptr(),
            out: self.output.out.at(column),
            out_stride: self.output.width,
        };
        for tile in 0..job.cut.tiles.count {
            let (token, width) = job.cut.tiles.tile(tile);
            debug_assert!(token + width <= self.tokens);
            let kernel = if width == job.cut.tiles.width { job.narrow } else { job.wide };
            // SAFETY: existing row tiles and token tiles inside buffers that packing, `Activations::convert` and
            // `worker_bytes` sized from the same layout and cut; token scales and offsets are only read for inputs that have
            // them. The CPU has the instruction set: packing checked it. The outputs belong to this worker alone, because
            // `split` hands out each item once.
            unsafe { kernel(&args) };
            args.x = args.x.wrapping_add(width * blocks * words);
            args.sums = args.sums.wrapping_add(width * job.plan.tiles * TILE_ROWS);
            args.token_scales = args.token_scales.wrapping_add(width);
            args.token_offsets = args.token_offsets.wrapping_add(width);
            args.out = args.out.wrapping_add(width * self.output.width);
            // Weights stay in cache for all tokens: the first tile of tokens asks for what comes next.
            args.ahead = 0;
        }
    }
}
