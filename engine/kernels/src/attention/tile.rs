//! Attention of the queries of one work item over a range of positions of one sequence and KV head.

use std::ops::Range;

use crate::Isa;
use crate::attention::cache::KvCache;
use crate::attention::paged::AttentionParams;
use crate::attention::simd::{self, Kind, Numbers, Shape, TILE};
use crate::attention::softmax::{Scaling, State};
use crate::attention::source::{Context, TileBuffers};

/// Positions after which a query's state starts afresh, to be merged later: the unit in which a long context is shared
/// among threads. A multiple of [`TILE`].
pub(crate) const SPLIT: usize = 512;
/// Query vectors (rows times query heads per KV head) of a work item at most.
pub(crate) const MAX_QUERIES: usize = 32;

/// One worker's buffers, sized by [`Workspace::prepare`].
#[derive(Default)]
pub(crate) struct Workspace {
    shape: Option<Shape>,
    /// Query vectors [queries][head_dim].
    q: Vec<f32>,
    /// The same rounded, for the bf16 kernels.
    q_bf16: Vec<u16>,
    /// The positions that each query vector sees, never fewer of the later ones than the query before.
    pub visible: Vec<Range<usize>>,
    /// The same within the tile at hand.
    seen: Vec<Range<usize>>,
    /// The state of the split in progress.
    pub split: State,
    /// The merged state of the splits before it.
    pub total: State,
    /// Scores, then f32 softmax weights [queries][TILE].
    scores: Vec<f32>,
    /// Softmax weights for the bf16 kernels [queries][TILE].
    weights: Vec<u16>,
    tile: TileBuffers,
}

impl Workspace {
    /// Room for `queries` vectors of the heads of `cache`.
    pub(crate) fn prepare(&mut self, cache: &KvCache, queries: usize) {
        let (head_dim, padded) = (cache.head_dim(), cache.head_dim().next_multiple_of(16));
        let kind = Kind::of(cache.isa(), cache.format(), cache.layout());
        self.shape = Some(Shape { kind, queries, head_dim, padded });
        self.q.resize(queries * head_dim, 0.0);
        self.q_bf16.resize(if kind == Kind::Bf16 { queries * head_dim } else { 0 }, 0);
        self.visible.clear();
        self.visible.resize(queries, 0..0);
        self.seen.resize(queries, 0..0);
        self.scores.resize(queries * TILE, 0.0);
        self.weights.resize(if kind == Kind::Bf16 { queries * TILE } else { 0 }, 0);
        self.total.reset(queries, padded);
    }

    pub(crate) fn padded(&self) -> usize {
        self.shape().padded
    }

    fn shape(&self) -> Shape {
        self.shape.expect("a prepared workspace")
    }

    /// Sets query vector `query`, which sees the positions `visible`.
    pub(crate) fn set_query(&mut self, query: usize, isa: Isa, from: &[f32], visible: Range<usize>) {
        let at = query * from.len()..(query + 1) * from.len();
        if self.shape().kind == Kind::Bf16 {
            simd::round_query(isa, from, &mut self.q_bf16[at]);
        } else {
            self.q[at].copy_from_slice(from);
        }
        self.visible[query] = visible;
    }

    /// Computes `split` from scratch over `positions`, which must start at a multiple of [`TILE`]. `after` is what this
    /// worker probably reads next.
    pub(crate) fn attend(
        &mut self,
        context: Context<'_>,
        positions: Range<usize>,
        params: AttentionParams,
        after: Option<(Context<'_>, Range<usize>)>,
    ) {
        let (shape, isa) = (self.shape(), context.cache.isa());
        self.split.reset(shape.queries, shape.padded);
        for start in positions.clone().step_by(TILE) {
            let end = (start + TILE).min(positions.end);
            for (seen, visible) in self.seen.iter_mut().zip(&self.visible) {
                *seen = visible.start.clamp(start, end) - start..visible.end.clamp(start, end) - start;
            }
            let next = if end < positions.end {
                Some((context, end..(end + TILE).min(positions.end)))
            } else {
                after.clone()
            };
            let (tile, scales) = self.tile.load(context, shape, start..end, next);
            let scaling = Scaling {
                scale: params.scale,
                softcap: params.softcap,
                keys: scales.keys,
                values: scales.values,
            };
            let q = Numbers { f32: &self.q, bf16: &self.q_bf16 };
            simd::scores(isa, shape, q, &tile, &self.seen, &mut self.scores);
            let split = &mut self.split;
            simd::softmax(isa, shape.kind, &mut self.scores, &mut self.weights, &self.seen, scaling, split);
            let weights = Numbers { f32: &self.scores, bf16: &self.weights };
            simd::accumulate(isa, shape, weights, &tile, &self.seen, &mut split.acc);
        }
    }

    pub(crate) fn merge_split(&mut self) {
        let padded = self.padded();
        self.total.merge(&self.split.max, &self.split.sum, &self.split.acc, padded);
    }
}
