//! Which worker computes which part of a step's attention.

use std::ops::Range;

use crate::ThreadPool;
use crate::attention::cache::KvCache;
use crate::attention::simd::TILE;
use crate::attention::softmax::{LANES, State, divide};
use crate::attention::source::{Context, prefetch};
use crate::attention::tile::{MAX_QUERIES, SPLIT, Workspace};
use crate::ops::RowsRef;
use crate::shared_mut::SharedMut;

/// One sequence's query rows in a step.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSeq<'a> {
    /// Its first row in `q` and `out`.
    pub q_start: usize,
    pub q_len: usize,
    /// Tokens before the first query row. Keys and values of positions `0..context + q_len` must be in the cache.
    pub context: usize,
    /// Blocks covering those positions, in order.
    pub blocks: &'a [u32],
}

/// What a layer does to its scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Multiplies every score.
    pub scale: f32,
    /// A scaled score s becomes `softcap * tanh(s / softcap)` (Gemma 2). Positive.
    pub softcap: Option<f32>,
    /// The query at position p sees the last `window` positions up to and including its own. At least 1.
    pub window: Option<usize>,
}

impl AttentionParams {
    /// Scaled scores over all earlier positions.
    pub fn plain(scale: f32) -> Self {
        AttentionParams { scale, softcap: None, window: None }
    }
}

/// Buffers kept between calls; nothing is allocated once they have grown to the largest step.
#[derive(Default)]
pub struct AttentionScratch {
    workers: Vec<Workspace>,
    items: Vec<Item>,
    pieces: Vec<Piece>,
    /// The states of the pieces.
    partials: Vec<f32>,
}

/// The rows of one sequence and one KV head that are computed together, so that keys and values are read once for all
/// of them and for all query heads that share the KV head.
#[derive(Clone)]
struct Item {
    seq: usize,
    kv_head: usize,
    /// First row, counted within the sequence.
    row: usize,
    rows: usize,
    /// Which stretches of [`SPLIT`] positions its rows see.
    splits: Range<usize>,
}

/// One split of one item.
struct Piece {
    item: usize,
    split: usize,
}

/// Below this many multiplications the calling thread does it alone; a dispatch costs a microsecond or two.
const SERIAL_MACS: usize = 64 * 1024;
/// Partial results of one step with a shared-out context at most, in values.
const MAX_PARTIALS: usize = 1 << 20;

/// Causal attention: row i of a sequence sees positions `0..=context + i`, as far as `params.window` reaches, and query head h reads KV head
/// `h / (heads / kv_heads)`. `q` is rows of [heads, head_dim], `out` is [rows, heads * head_dim]; rows of no sequence
/// are not written. Sequences must come in the order of their rows and not overlap.
pub fn paged_attention(
    pool: &ThreadPool,
    cache: &KvCache,
    layer: usize,
    seqs: &[AttentionSeq<'_>],
    q: RowsRef<'_>,
    heads: usize,
    params: AttentionParams,
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let head_dim = cache.head_dim();
    assert!(heads > 0 && heads.is_multiple_of(cache.kv_heads()), "{heads} heads on {}", cache.kv_heads());
    assert!(
        q.width() == heads * head_dim && out.len() == q.len() * q.width(),
        "q {} x {}",
        q.len(),
        q.width()
    );
    assert!(params.window != Some(0), "a window of 0 positions");
    assert!(params.softcap.is_none_or(|cap| cap > 0.0), "soft cap {:?}", params.softcap);
    assert!(layer < cache.layers(), "layer {layer} of {}", cache.layers());
    let group = heads / cache.kv_heads();
    let call = Call { cache, layer, seqs, q, params, group, out: SharedMut::new(out) };
    let AttentionScratch { workers, items, pieces, partials } = scratch;
    workers.resize_with(pool.threads().max(workers.len()), Workspace::default);
    let load = call.list_items(heads, items);
    let partial_values = call.partial_values();
    let split = items.iter().any(|item| item.splits.len() > 1)
        && load.largest * 2 * pool.threads() > load.total
        && load.splits * partial_values <= MAX_PARTIALS;
    if split {
        partials.resize(partials.len().max(load.splits * partial_values), 0.0);
        call.split_contexts(pool, workers, items, pieces, partials);
        return;
    }
    let chunk = if load.total * call.macs_per_position() < SERIAL_MACS { items.len() } else { 1 };
    let workers = SharedMut::new(workers);
    pool.split(items.len(), chunk, &|worker, range| {
        // SAFETY: `worker` is the index of the running worker, so no other thread has this workspace.
        let work = unsafe { &mut workers.slice(worker, 1)[0] };
        for index in range {
            let item = &items[index];
            call.load(item, work);
            if let Some(next) = items.get(index + 1) {
                call.prefetch_queries(next);
            }
            for split in item.splits.clone() {
                let after = if split + 1 == item.splits.end { items.get(index + 1) } else { None };
                call.attend(item, work, split, after);
                if item.splits.len() > 1 {
                    work.merge_split();
                }
            }
            // Merging a single split would only copy it.
            call.store(item, if item.splits.len() > 1 { &work.total } else { &work.split });
        }
    });
}

struct Call<'a> {
    cache: &'a KvCache,
    layer: usize,
    seqs: &'a [AttentionSeq<'a>],
    q: RowsRef<'a>,
    params: AttentionParams,
    /// Query heads per KV head.
    group: usize,
    out: SharedMut<'a, f32>,
}

/// Work of a call, in query rows times positions.
#[derive(Default)]
struct Load {
    total: usize,
    largest: usize,
    /// Splits of all items together.
    splits: usize,
}

impl Call<'_> {
    fn rows_per_item(&self) -> usize {
        (MAX_QUERIES / self.group).max(1)
    }

    /// Values of the state of one split of one item: maxima, sums and accumulators.
    fn partial_values(&self) -> usize {
        self.rows_per_item() * self.group * (1 + LANES + self.cache.head_dim().next_multiple_of(16))
    }

    /// Multiplications for one row of an item and one position.
    fn macs_per_position(&self) -> usize {
        2 * self.group * self.cache.head_dim()
    }

    /// Fills `items` and checks the sequences on the way.
    fn list_items(&self, heads: usize, items: &mut Vec<Item>) -> Load {
        items.clear();
        let (mut load, mut free_row) = (Load::default(), 0);
        for (index, seq) in self.seqs.iter().enumerate() {
            let positions = seq.context + seq.q_len;
            assert!(
                seq.q_start >= free_row && seq.q_start + seq.q_len <= self.q.len(),
                "rows of sequence {index} with {heads} heads"
            );
            assert!(
                seq.blocks.len() * self.cache.block_size() >= positions,
                "sequence {index}: {positions} positions"
            );
            free_row = seq.q_start + seq.q_len;
            for row in (0..seq.q_len).step_by(self.rows_per_item()) {
                let rows = self.rows_per_item().min(seq.q_len - row);
                let (first, end) = (self.visible(seq, row).start, self.visible(seq, row + rows - 1).end);
                let splits = first / SPLIT..end.div_ceil(SPLIT);
                let work = rows * (end - first);
                load.total += work * self.cache.kv_heads();
                load.largest = load.largest.max(work);
                load.splits += splits.len() * self.cache.kv_heads();
                items.extend((0..self.cache.kv_heads()).map(|kv_head| Item {
                    seq: index,
                    kv_head,
                    row,
                    rows,
                    splits: splits.clone(),
                }));
            }
        }
        load
    }

    /// The positions that a row of the sequence sees.
    fn visible(&self, seq: &AttentionSeq<'_>, row: usize) -> Range<usize> {
        let end = seq.context + row + 1;
        end.saturating_sub(self.params.window.unwrap_or(end))..end
    }

    /// The positions that some row of the item sees, from the start of a tile.
    fn positions(&self, item: &Item) -> Range<usize> {
        let seq = &self.seqs[item.seq];
        let first = self.visible(seq, item.row).start;
        first / TILE * TILE..self.visible(seq, item.row + item.rows - 1).end
    }

    fn context(&self, item: &Item) -> Context<'_> {
        let blocks = self.seqs[item.seq].blocks;
        Context { cache: self.cache, layer: self.layer, kv_head: item.kv_head, blocks }
    }

    /// Copies the item's query vectors into the workspace.
    fn load(&self, item: &Item, work: &mut Workspace) {
        let (seq, head_dim) = (&self.seqs[item.seq], self.cache.head_dim());
        work.prepare(self.cache, item.rows * self.group);
        for row in 0..item.rows {
            let visible = self.visible(seq, item.row + row);
            let from = self.q.row(seq.q_start + item.row + row);
            for head in 0..self.group {
                let from = &from[(item.kv_head * self.group + head) * head_dim..][..head_dim];
                work.set_query(row * self.group + head, self.cache.isa(), from, visible.clone());
            }
        }
    }

    /// Asks for the query vectors of an item: its rows are far apart, and each is short.
    fn prefetch_queries(&self, item: &Item) {
        let (seq, width) = (&self.seqs[item.seq], self.group * self.cache.head_dim());
        for row in item.row..item.row + item.rows {
            let from = &self.q.row(seq.q_start + row)[item.kv_head * width..][..width];
            prefetch(bytemuck::cast_slice(from));
        }
    }

    /// Computes one split of the item; `after` is what this worker probably does next.
    fn attend(&self, item: &Item, work: &mut Workspace, split: usize, after: Option<&Item>) {
        let all = self.positions(item);
        let positions = all.start.max(split * SPLIT)..all.end.min((split + 1) * SPLIT);
        let next = match after {
            Some(after) => Some((self.context(after), self.positions(after))),
            None if positions.end < all.end => Some((self.context(item), positions.end..all.end)),
            None => None,
        };
        let next = next.map(|(context, positions)| {
            let end = positions.end.min(positions.start + TILE);
            (context, positions.start..end)
        });
        work.attend(self.context(item), positions, self.params, next);
    }

    fn store(&self, item: &Item, state: &State) {
        let (seq, head_dim) = (&self.seqs[item.seq], self.cache.head_dim());
        for row in 0..item.rows {
            let start =
                (seq.q_start + item.row + row) * self.q.width() + item.kv_head * self.group * head_dim;
            // SAFETY: items are disjoint in (row, KV head), so these columns of this row belong to one worker.
            let out = unsafe { self.out.slice(start, self.group * head_dim) };
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let query = row * self.group + head;
                let total = state.total(query);
                let acc = &state.acc[query * head_dim.next_multiple_of(16)..][..head_dim];
                divide(self.cache.isa(), acc, total, out);
            }
        }
    }

    /// Few items with long contexts (the decode of one or two sequences): every split of every item is a piece of work
    /// of its own, its state is kept, and the states are merged in order as the other path does.
    fn split_contexts(
        &self,
        pool: &ThreadPool,
        workers: &mut [Workspace],
        items: &[Item],
        pieces: &mut Vec<Piece>,
        partials: &mut [f32],
    ) {
        let size = self.partial_values();
        pieces.clear();
        for (item, splits) in items.iter().map(|item| item.splits.clone()).enumerate() {
            pieces.extend(splits.map(|split| Piece { item, split }));
        }
        let pieces = &pieces[..];
        {
            let (partials, workers) = (SharedMut::new(partials), SharedMut::new(workers));
            pool.split(pieces.len(), 1, &|worker, range| {
                // SAFETY: `worker` is the index of the running worker, so no other thread has this workspace.
                let work = unsafe { &mut workers.slice(worker, 1)[0] };
                for index in range {
                    let item = &items[pieces[index].item];
                    self.load(item, work);
                    self.attend(item, work, pieces[index].split, None);
                    let State { max, sum, acc } = &work.split;
                    // SAFETY: each piece writes only its own part.
                    let kept = unsafe { partials.slice(index * size, size) };
                    let (kept_max, kept) = kept.split_at_mut(max.len());
                    let (kept_sum, kept) = kept.split_at_mut(sum.len());
                    kept_max.copy_from_slice(max);
                    kept_sum.copy_from_slice(sum);
                    kept[..acc.len()].copy_from_slice(acc);
                }
            });
        }
        let work = &mut workers[0];
        let mut kept = partials.chunks_exact(size);
        for item in items {
            let queries = item.rows * self.group;
            work.prepare(self.cache, queries);
            let padded = work.padded();
            for kept in kept.by_ref().take(item.splits.len()) {
                let (max, kept) = kept.split_at(queries);
                let (sum, acc) = kept.split_at(queries * LANES);
                work.total.merge(max, sum, &acc[..queries * padded], padded);
            }
            self.store(item, &work.total);
        }
    }
}
