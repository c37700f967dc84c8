//! Attention of a few query rows over a range of positions of one sequence and KV head, with the online softmax of
//! Milakov & Gimelshein 2018: a running maximum, a running sum and an unnormalised output per row.

use std::array::from_fn;
use std::ops::Range;

use crate::attention::cache::{KvCache, Side};
use crate::attention::simd;
use crate::ops::exp::exp;
use crate::ops::rows::multiversion;
use crate::ops::{lanes, tanh};

/// Positions per step of the online softmax. Keys and values of a tile stay in the first-level cache while every
/// query row of the work item uses them.
pub(crate) const TILE: usize = 32;
/// Positions after which a row's state starts afresh, to be merged later: the unit in which a long context is shared
/// among threads. A multiple of [`TILE`].
pub(crate) const SPLIT: usize = 512;
/// Query vectors (rows times query heads per KV head) of a work item at most.
pub(crate) const MAX_QUERIES: usize = 32;

/// The running softmax of a set of query vectors; `acc` is [queries][padded].
#[derive(Default)]
pub(crate) struct State {
    pub max: Vec<f32>,
    pub sum: Vec<f32>,
    pub acc: Vec<f32>,
}

/// One worker's buffers, sized by [`Workspace::prepare`].
#[derive(Default)]
pub(crate) struct Workspace {
    /// Scaled query vectors [queries][padded].
    pub q: Vec<f32>,
    /// The positions that each query vector sees.
    pub visible: Vec<Range<usize>>,
    /// The state of the split in progress.
    pub split: State,
    /// The merged state of the splits before it.
    pub total: State,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Scores, then softmax weights [queries][TILE].
    weights: Vec<f32>,
    /// Entries of each row of `weights` before the first visible position, and up to the last one.
    hidden: Vec<usize>,
    counts: Vec<usize>,
    /// By how much the tile rescales what each row had before.
    rescale: Vec<f32>,
}

impl State {
    fn reset(&mut self, queries: usize, padded: usize) {
        self.max.clear();
        self.max.resize(queries, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(queries, 0.0);
        self.acc.clear();
        self.acc.resize(queries * padded, 0.0);
    }

    /// Adds the state of the following split. A side that saw no position leaves the other as it is.
    pub(crate) fn merge(&mut self, max: &[f32], sum: &[f32], acc: &[f32], padded: usize) {
        for query in 0..max.len() {
            let row = query * padded..(query + 1) * padded;
            if sum[query] == 0.0 {
                continue;
            }
            if self.sum[query] == 0.0 {
                (self.max[query], self.sum[query]) = (max[query], sum[query]);
                self.acc[row.clone()].copy_from_slice(&acc[row]);
                continue;
            }
            let high = self.max[query].max(max[query]);
            let (mine, theirs) = (exp(self.max[query] - high), exp(max[query] - high));
            self.max[query] = high;
            self.sum[query] = self.sum[query] * mine + sum[query] * theirs;
            for i in row {
                self.acc[i] = self.acc[i] * mine + acc[i] * theirs;
            }
        }
    }
}

impl Workspace {
    /// Room for `queries` vectors of `padded` columns (a multiple of 16), padding columns zero.
    pub(crate) fn prepare(&mut self, queries: usize, padded: usize) {
        self.q.clear();
        self.q.resize(queries * padded, 0.0);
        self.visible.clear();
        self.visible.resize(queries, 0..0);
        if self.keys.len() != TILE * padded {
            // Only a change of head size comes here, so the padding columns of the tiles stay zero.
            self.keys = vec![0.0; TILE * padded];
            self.values = vec![0.0; TILE * padded];
        }
        self.weights.resize(queries * TILE, 0.0);
        self.hidden.resize(queries, 0);
        self.counts.resize(queries, 0);
        self.rescale.resize(queries, 0.0);
        self.total.reset(queries, padded);
    }

    /// Computes `split` from scratch over `positions`, which must start at a multiple of [`TILE`].
    pub(crate) fn attend(
        &mut self,
        cache: &KvCache,
        layer: usize,
        kv_head: usize,
        blocks: &[u32],
        positions: Range<usize>,
        softcap: Option<f32>,
    ) {
        let (isa, queries) = (cache.isa(), self.visible.len());
        let padded = self.q.len() / queries;
        self.split.reset(queries, padded);
        for start in positions.clone().step_by(TILE) {
            let tile = start..(start + TILE).min(positions.end);
            let next = tile.end..(tile.end + TILE).min(positions.end);
            let keys = tile.len();
            cache.prefetch(Side::Values, layer, kv_head, blocks, tile.clone());
            cache.gather(Side::Keys, layer, kv_head, blocks, tile.clone(), padded, &mut self.keys);
            cache.prefetch(Side::Keys, layer, kv_head, blocks, next);
            cache.gather(Side::Values, layer, kv_head, blocks, tile, padded, &mut self.values);
            for (query, visible) in self.visible.iter().enumerate() {
                self.hidden[query] = visible.start.saturating_sub(start).min(keys);
                self.counts[query] = visible.end.saturating_sub(start).min(keys);
            }
            simd::scores(isa, &self.q, &self.keys, padded, keys, &mut self.weights);
            let State { max, sum, acc } = &mut self.split;
            if let Some(cap) = softcap {
                tanh::cap_values(isa, &mut self.weights[..queries * TILE], cap);
            }
            let (hidden, counts) = (&self.hidden, &self.counts);
            softmax(isa, &mut self.weights, hidden, counts, max, sum, &mut self.rescale);
            simd::accumulate(isa, &self.weights, &self.counts, &self.rescale, &self.values, padded, acc);
        }
    }

    pub(crate) fn merge_split(&mut self) {
        let padded = self.q.len() / self.visible.len();
        self.total.merge(&self.split.max, &self.split.sum, &self.split.acc, padded);
    }
}

multiversion! {
    /// Turns the scores `hidden[q]..counts[q]` of each row into `e^(score - max)` (the rest into 0) with the running
    /// maximum updated, adds them to `sum`, and says in `rescale` what older contributions must be multiplied by.
    fn softmax(
        weights: &mut [f32], hidden: &[usize], counts: &[usize], max: &mut [f32], sum: &mut [f32], rescale: &mut [f32],
    ) = softmax_body
}

#[inline(always)]
fn softmax_body(
    weights: &mut [f32],
    hidden: &[usize],
    counts: &[usize],
    max: &mut [f32],
    sum: &mut [f32],
    rescale: &mut [f32],
) {
    for (query, row) in weights.chunks_exact_mut(TILE).enumerate().take(counts.len()) {
        let count = counts[query];
        if count <= hidden[query] {
            row.fill(0.0);
            rescale[query] = 1.0;
            continue;
        }
        let row: &mut [f32; TILE] = row.try_into().expect("rows are TILE long");
        row[..hidden[query]].fill(f32::NEG_INFINITY);
        row[count..].fill(f32::NEG_INFINITY);
        // A NaN that the maximum loses comes back in its own weight below.
        let high = lanes::max(from_fn(|i| lanes::larger(row[i], row[i + 16])));
        let high = lanes::larger(high, max[query]);
        for i in 0..TILE {
            row[i] = exp(row[i] - high);
        }
        let tile_sum = lanes::sum(from_fn(|i| row[i] + row[i + 16]));
        rescale[query] = exp(max[query] - high);
        sum[query] = sum[query] * rescale[query] + tile_sum;
        max[query] = high;
    }
}
