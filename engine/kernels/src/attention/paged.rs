//! Which worker computes which part of a step's attention.

use std::ops::Range;

use crate::ThreadPool;
use crate::attention::cache::KvCache;
use crate::attention::tile::{MAX_QUERIES, SPLIT, State, Workspace};
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
    partials: Vec<f32>,
}

/// The rows of one sequence and one KV head that are computed together, so that keys and values are read once for all
/// of them and for all query heads that share the KV head.
#[derive(Clone, Copy)]
struct Item {
    seq: usize,
    kv_head: usize,
    /// First row, counted within the sequence.
    row: usize,
    rows: usize,
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
    let rows_per_item = (MAX_QUERIES / group).max(1);

    scratch.items.clear();
    let (mut macs, mut splits, mut free_row) = (0, 0, 0);
    for (index, seq) in seqs.iter().enumerate() {
        let positions = seq.context + seq.q_len;
        assert!(seq.q_start >= free_row && seq.q_start + seq.q_len <= q.len(), "rows of sequence {index}");
        assert!(
            seq.blocks.len() * cache.block_size() >= positions,
            "sequence {index}: {positions} positions"
        );
        free_row = seq.q_start + seq.q_len;
        macs += 2 * seq.q_len * positions * heads * head_dim;
        splits = splits.max(positions.div_ceil(SPLIT));
        for row in (0..seq.q_len).step_by(rows_per_item) {
            let rows = rows_per_item.min(seq.q_len - row);
            scratch.items.extend((0..cache.kv_heads()).map(|kv_head| Item {
                seq: index,
                kv_head,
                row,
                rows,
            }));
        }
    }
    scratch.workers.resize_with(pool.threads().max(scratch.workers.len()), Workspace::default);

    let padded = head_dim.next_multiple_of(16);
    let call = Call { cache, layer, seqs, q, params, group, padded, out: SharedMut::new(out) };
    let items = scratch.items.len();
    let partial_values = rows_per_item * group * (padded + 2);
    if splits > 1 && items < 2 * pool.threads() && items * splits * partial_values <= MAX_PARTIALS {
        call.split_contexts(pool, scratch, splits, partial_values);
        return;
    }
    let chunk = if macs < SERIAL_MACS { items } else { 1 };
    let workers = SharedMut::new(&mut scratch.workers);
    let items = &scratch.items;
    pool.split(items.len(), chunk, &|worker, range| {
        // SAFETY: `worker` is the index of the running worker, so no other thread has this workspace.
        let work = unsafe { &mut workers.slice(worker, 1)[0] };
        for item in &items[range] {
            let positions = call.load(item, work);
            for start in (0..positions).step_by(SPLIT) {
                call.attend(item, work, start..positions.min(start + SPLIT));
                work.merge_split();
            }
            call.store(item, &work.total);
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
    padded: usize,
    out: SharedMut<'a, f32>,
}

impl Call<'_> {
    /// Copies the item's scaled query vectors into the workspace; returns how many positions its last row sees.
    fn load(&self, item: &Item, work: &mut Workspace) -> usize {
        let (seq, head_dim) = (&self.seqs[item.seq], self.cache.head_dim());
        work.prepare(item.rows * self.group, self.padded);
        for row in 0..item.rows {
            let from = self.q.row(seq.q_start + item.row + row);
            for head in 0..self.group {
                let query = row * self.group + head;
                let end = seq.context + item.row + row + 1;
                work.visible[query] = end.saturating_sub(self.params.window.unwrap_or(end))..end;
                let from = &from[(item.kv_head * self.group + head) * head_dim..][..head_dim];
                for (to, from) in work.q[query * self.padded..].iter_mut().zip(from) {
                    *to = from * self.params.scale;
                }
            }
        }
        seq.context + item.row + item.rows
    }

    fn attend(&self, item: &Item, work: &mut Workspace, positions: Range<usize>) {
        let blocks = self.seqs[item.seq].blocks;
        work.attend(self.cache, self.layer, item.kv_head, blocks, positions, self.params.softcap);
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
                for (out, acc) in out.iter_mut().zip(&state.acc[query * self.padded..]) {
                    *out = acc / state.sum[query];
                }
            }
        }
    }

    /// Few items with long contexts (the decode of one or two sequences): every split of every item is a piece of work
    /// of its own, its state is kept, and the states are merged in order as the other path does.
    fn split_contexts(
        &self,
        pool: &ThreadPool,
        scratch: &mut AttentionScratch,
        splits: usize,
        partial_values: usize,
    ) {
        let items = &scratch.items;
        let pieces = items.len() * splits;
        if scratch.partials.len() < pieces * partial_values {
            scratch.partials.resize(pieces * partial_values, 0.0);
        }
        let partials = SharedMut::new(&mut scratch.partials);
        let workers = SharedMut::new(&mut scratch.workers);
        pool.split(pieces, 1, &|worker, range| {
            // SAFETY: `worker` is the index of the running worker, so no other thread has this workspace.
            let work = unsafe { &mut workers.slice(worker, 1)[0] };
            for piece in range {
                let item = &items[piece / splits];
                let positions = self.load(item, work);
                let start = piece % splits * SPLIT;
                if start < positions {
                    self.attend(item, work, start..positions.min(start + SPLIT));
                    let State { max, sum, acc } = &work.split;
                    // SAFETY: each piece writes only its own part.
                    let kept = unsafe { partials.slice(piece * partial_values, partial_values) };
                    let (kept_max, kept) = kept.split_at_mut(max.len());
                    let (kept_sum, kept) = kept.split_at_mut(sum.len());
                    kept_max.copy_from_slice(max);
                    kept_sum.copy_from_slice(sum);
                    kept[..acc.len()].copy_from_slice(acc);
                }
            }
        });
        let work = &mut scratch.workers[0];
        for (index, item) in items.iter().enumerate() {
            let positions = self.load(item, work);
            let queries = item.rows * self.group;
            for split in 0..positions.div_ceil(SPLIT) {
                let kept = &scratch.partials[(index * splits + split) * partial_values..][..partial_values];
                let (max, kept) = kept.split_at(queries);
                let (sum, acc) = kept.split_at(queries);
                work.total.merge(max, sum, &acc[..queries * self.padded], self.padded);
            }
            self.store(item, &work.total);
        }
    }
}
