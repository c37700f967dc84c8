//! The two inner products of attention, per instruction set: scores (queries times keys) and accumulate (softmax weights
//! times values), over tiles of up to [`TILE`] positions in the tiled form of `layout`.
//!
//! Within one instruction set and format each result is computed in one fixed order, whatever the number of queries and
//! positions in the call: a score is summed by one lane over the units of the head in order, an output by one lane over
//! the positions in order. A position that a query does not see never enters its arithmetic, not even with weight zero:
//! what lies there may be left over from another sequence. Between instruction sets the last bits differ.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod expand;
mod generic;
#[cfg(target_arch = "x86_64")]
mod softmax;

use std::ops::Range;

use crate::Isa;
use crate::attention::format::KvFormat;
use crate::attention::layout::{GROUP, Layout};
use crate::attention::softmax::{LANES, Scaling, State};

/// Positions per step of the online softmax. Keys and values of a tile stay in the first-level cache while every
/// query of the work item uses them.
pub(crate) const TILE: usize = 64;
/// Registers of 16 positions per tile.
pub(crate) const GROUPS: usize = TILE / GROUP;

/// What the kernels compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    /// Half-precision keys and values, widened in registers; everything else as [`Kind::F32`], and the same bits.
    F16,
    /// Products of bf16 pairs, added in f32. Queries and softmax weights are rounded to bf16, as the cache is.
    Bf16,
}

impl Kind {
    pub(crate) fn of(isa: Isa, format: KvFormat, layout: Layout) -> Kind {
        match (isa, format) {
            (Isa::Avx512, KvFormat::Bf16 | KvFormat::Int8 | KvFormat::Fp8) => Kind::Bf16,
            (Isa::Avx512, KvFormat::F16) if layout == Layout::Tiled => Kind::F16,
            _ => Kind::F32,
        }
    }

    /// Bytes of one number of a key or value.
    pub(crate) fn bytes(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }
}

/// Up to [`GROUPS`] times 16 positions of one KV head: keys [unit][16], values [unit of positions][padded], in the
/// numbers of the kind. `next` is where the following tile lies, to be fetched ahead.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub keys: [&'a [u8]; GROUPS],
    pub values: [&'a [u8]; GROUPS],
    pub next_keys: [&'a [u8]; GROUPS],
    pub next_values: [&'a [u8]; GROUPS],
}

/// Sizes of the queries of a work item.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub kind: Kind,
    pub queries: usize,
    pub head_dim: usize,
    /// Columns of a value and of an accumulator row: `head_dim` up to a multiple of 16.
    pub padded: usize,
}

impl Shape {
    fn check(&self, groups: &[&[u8]; GROUPS], numbers: usize, seen: &[Range<usize>]) {
        assert!(
            self.padded.is_multiple_of(16) && self.head_dim.is_multiple_of(2),
            "head of {}",
            self.head_dim
        );
        assert!(seen.len() == self.queries, "{} ranges for {} queries", seen.len(), self.queries);
        let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0);
        assert!(last <= TILE, "{last} positions in a tile");
        let bytes = GROUP * numbers * self.kind.bytes();
        assert!(
            groups[..last.div_ceil(GROUP)].iter().all(|group| group.len() == bytes),
            "groups of {bytes} bytes"
        );
    }
}

/// Queries in both forms, [queries][head_dim]; `bf16` is empty for the f32 kinds.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'a> {
    pub f32: &'a [f32],
    pub bf16: &'a [u16],
}

/// `out[q][j] = q . keys[j]` for the positions `seen[q]` of the tile; `out` is [queries][TILE], other entries are
/// arbitrary.
pub(crate) fn scores(
    isa: Isa,
    shape: Shape,
    q: Numbers<'_>,
    tile: &Tile<'_>,
    seen: &[Range<usize>],
    out: &mut [f32],
) {
    shape.check(&tile.keys, shape.head_dim, seen);
    let values = shape.queries * shape.head_dim;
    assert!(
        if shape.kind == Kind::Bf16 { q.bf16.len() == values } else { q.f32.len() == values },
        "{values} of q"
    );
    assert!(out.len() >= shape.queries * TILE, "scores of {} queries", shape.queries);
    match (isa, shape.kind) {
        // SAFETY: the cache was built for an available `isa`; the shapes are asserted above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::F32) => unsafe {
            avx512::f32::scores(shape, q.f32.as_ptr().cast(), tile, seen, out)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::F16) => unsafe {
            avx512::f16::scores(shape, q.f32.as_ptr().cast(), tile, seen, out)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::Bf16) => unsafe {
            avx512::bf16::scores(shape, q.bf16.as_ptr().cast(), tile, seen, out)
        },
        _ => generic::scores(isa, q.f32, shape.head_dim, &tile.keys, seen, out),
    }
}

/// `acc[q] += sum over j in seen[q] of weights[q][j] * values[j]`; weights are [queries][TILE], zero outside `seen[q]`.
pub(crate) fn accumulate(
    isa: Isa,
    shape: Shape,
    weights: Numbers<'_>,
    tile: &Tile<'_>,
    seen: &[Range<usize>],
    acc: &mut [f32],
) {
    shape.check(&tile.values, shape.padded, seen);
    let values = shape.queries * TILE;
    assert!(
        if shape.kind == Kind::Bf16 { weights.bf16.len() >= values } else { weights.f32.len() >= values },
        "{values} weights"
    );
    assert!(acc.len() == shape.queries * shape.padded, "{} accumulators", acc.len());
    match (isa, shape.kind) {
        // SAFETY: the cache was built for an available `isa`; the shapes are asserted above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::F32) => unsafe {
            avx512::f32::accumulate(shape, weights.f32.as_ptr().cast(), tile, seen, acc);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::F16) => unsafe {
            avx512::f16::accumulate(shape, weights.f32.as_ptr().cast(), tile, seen, acc);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::Bf16) => unsafe {
            avx512::bf16::accumulate(shape, weights.bf16.as_ptr().cast(), tile, seen, acc);
        },
        _ => generic::accumulate(isa, weights.f32, shape.padded, &tile.values, seen, acc),
    }
}

/// Turns the scores [queries][TILE] of the positions `seen` into softmax weights, in place or, for the bf16 kind, rounded
/// into `rounded`; other positions get the weight zero. Raises the running maxima of `state`, rescales its sums and
/// accumulators accordingly and adds the weights to the sums. A query that sees nothing keeps its state.
pub(crate) fn softmax(
    isa: Isa,
    kind: Kind,
    scores: &mut [f32],
    rounded: &mut [u16],
    seen: &[Range<usize>],
    scaling: Scaling<'_>,
    state: &mut State,
) {
    let queries = seen.len();
    assert!(
        queries > 0 && state.max.len() == queries && state.sum.len() == queries * LANES,
        "{queries} queries"
    );
    assert!(seen.iter().all(|seen| seen.end <= TILE), "positions beyond the tile");
    match (isa, kind) {
        // SAFETY: the cache was built for an available `isa`; lengths are checked where rows are taken.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Kind::Bf16) => unsafe {
            softmax::softmax::<true>(scores, rounded, seen, scaling, state)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => unsafe { softmax::softmax::<false>(scores, rounded, seen, scaling, state) },
        _ => generic::softmax(isa, scores, seen, scaling, state),
    }
}

/// Rounds a query for the bf16 kernels to nearest even; numbers below the smallest normal one become zero.
pub(crate) fn round_query(isa: Isa, from: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: the cache was built for an available `isa`; lengths are checked inside.
        return unsafe { expand::round(from, out) };
    }
    unreachable!("{isa} has no bf16 kernels, {} numbers to {}", from.len(), out.len());
}

/// `out[i]` = `bytes[i]` as bf16, exactly: int8 or e4m3 numbers for the bf16 kernels.
pub(crate) fn expand(isa: Isa, format: KvFormat, bytes: &[u8], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: the cache was built for an available `isa`; lengths are checked inside.
        return unsafe { expand::expand(format, bytes, out) };
    }
    unreachable!("{isa} has no bf16 kernels for {format}, {} bytes to {}", bytes.len(), out.len());
}
