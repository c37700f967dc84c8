//! Plain loops over 16 lanes, for every CPU; compiled once more for AVX2 with fused multiply-add.

use std::array::from_fn;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::{GROUPS, TILE};
use crate::Isa;
use crate::attention::layout::GROUP;
use crate::attention::softmax::{LANES, Scaling, State};
use crate::ops::exp::exp2;
use crate::ops::rows::multiversion;
use crate::ops::{lanes, tanh};

/// Runs the body with fused multiply-add on AVX2. AVX-512 has kernels of its own.
macro_rules! with_fma {
    ($isa:ident, $body:ident($($arg:ident: $ty:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<true>($($arg),*)
            }
            if $isa >= Isa::Avx2 {
                // SAFETY: an `Isa` other than portable exists only where the CPU has its features.
                return unsafe { avx2($($arg),*) };
            }
        }
        let _ = $isa;
        $body::<false>($($arg),*)
    }};
}

/// `keys` is groups of [head_dim][16] f32; the rest as in [`super::scores`].
pub(super) fn scores(
    isa: Isa,
    q: &[f32],
    head_dim: usize,
    keys: &[&[u8]; GROUPS],
    seen: &[Range<usize>],
    out: &mut [f32],
) {
    with_fma!(isa, scores_body(q: &[f32], head_dim: usize, keys: &[&[u8]; GROUPS], seen: &[Range<usize>], out: &mut [f32]))
}

/// `values` is groups of [16][padded] f32; the rest as in [`super::accumulate`].
pub(super) fn accumulate(
    isa: Isa,
    weights: &[f32],
    padded: usize,
    values: &[&[u8]; GROUPS],
    seen: &[Range<usize>],
    acc: &mut [f32],
) {
    with_fma!(isa, accumulate_body(weights: &[f32], padded: usize, values: &[&[u8]; GROUPS], seen: &[Range<usize>], acc: &mut [f32]))
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn scores_body<const FMA: bool>(
    q: &[f32],
    head_dim: usize,
    keys: &[&[u8]; GROUPS],
    seen: &[Range<usize>],
    out: &mut [f32],
) {
    let queries = q.chunks(4 * head_dim).zip(seen.chunks(4)).zip(out.chunks_mut(4 * TILE));
    for ((q, seen), out) in queries {
        let last = seen.iter().map(|s| s.end.div_ceil(GROUP)).max().unwrap_or(0);
        let first = seen.iter().map(|s| s.start / GROUP).min().unwrap_or(0);
        for group in first..last {
            let keys: &[f32] = bytemuck::cast_slice(keys[group]);
            if seen.len() == 4 {
                score_group::<FMA, 4>(q, head_dim, keys, &mut out[group * GROUP..]);
            } else {
                for i in 0..seen.len() {
                    let out = &mut out[i * TILE + group * GROUP..];
                    score_group::<FMA, 1>(&q[i * head_dim..], head_dim, keys, out);
                }
            }
        }
    }
}

#[inline(always)]
fn score_group<const FMA: bool, const Q: usize>(q: &[f32], head_dim: usize, keys: &[f32], out: &mut [f32]) {
    let mut sums = [[0.0f32; GROUP]; Q];
    let q: [&[f32]; Q] = from_fn(|i| &q[i * head_dim..][..head_dim]);
    for (d, key) in keys.chunks_exact(GROUP).enumerate() {
        for i in 0..Q {
            let q = q[i][d];
            for lane in 0..GROUP {
                sums[i][lane] = multiply_add::<FMA>(key[lane], q, sums[i][lane]);
            }
        }
    }
    for i in 0..Q {
        out[i * TILE..][..GROUP].copy_from_slice(&sums[i]);
    }
}

#[inline(always)]
fn accumulate_body<const FMA: bool>(
    weights: &[f32],
    padded: usize,
    values: &[&[u8]; GROUPS],
    seen: &[Range<usize>],
    acc: &mut [f32],
) {
    for (query, acc) in acc.chunks_exact_mut(padded).enumerate() {
        let seen = &seen[query];
        if seen.is_empty() {
            continue;
        }
        let weights = &weights[query * TILE..][..TILE];
        for (column, acc) in acc.chunks_exact_mut(16).enumerate() {
            let mut sums: [f32; 16] = from_fn(|i| acc[i]);
            for group in seen.start / GROUP..seen.end.div_ceil(GROUP) {
                let values: &[f32] = bytemuck::cast_slice(values[group]);
                let first = group * GROUP;
                for j in seen.start.max(first)..seen.end.min(first + GROUP) {
                    let value = &values[(j - first) * padded + column * 16..][..16];
                    for i in 0..16 {
                        sums[i] = multiply_add::<FMA>(value[i], weights[j], sums[i]);
                    }
                }
            }
            acc.copy_from_slice(&sums);
        }
    }
}

multiversion! {
    /// As [`super::softmax`], in place.
    fn softmax(
        scores: &mut [f32], seen: &[Range<usize>], scaling: Scaling<'_>, state: &mut State,
    ) = softmax_body
}

#[inline(always)]
fn softmax_body(scores: &mut [f32], seen: &[Range<usize>], scaling: Scaling<'_>, state: &mut State) {
    let padded = state.acc.len() / seen.len();
    for (query, row) in scores.chunks_exact_mut(TILE).enumerate().take(seen.len()) {
        let seen = &seen[query];
        if seen.is_empty() {
            continue;
        }
        let row: &mut [f32; TILE] = row.try_into().expect("rows are TILE long");
        if !scaling.keys.is_empty() {
            row.iter_mut().zip(scaling.keys).for_each(|(x, scale)| *x *= scale);
        }
        if let Some(cap) = scaling.softcap {
            let (inverse, cap) = (scaling.scale / cap, cap * LOG2_E);
            row.iter_mut().for_each(|x| *x = cap * tanh::tanh(*x * inverse));
        } else {
            let scale = scaling.scale * LOG2_E;
            row.iter_mut().for_each(|x| *x *= scale);
        }
        row[..seen.start].fill(f32::NEG_INFINITY);
        row[seen.end..].fill(f32::NEG_INFINITY);
        // A NaN that the maximum loses comes back in its own weight below.
        let fold = |n: usize| from_fn(|i| lanes::larger(row[n * 32 + i], row[n * 32 + 16 + i]));
        let (low, top): ([f32; 16], [f32; 16]) = (fold(0), fold(1));
        let old = state.max[query];
        let high = lanes::larger(lanes::max(from_fn(|i| lanes::larger(low[i], top[i]))), old);
        let rescale = exp2(old - high);
        state.max[query] = high;
        for x in row.iter_mut() {
            *x = exp2(*x - high);
        }
        let sums = &mut state.sum[query * LANES..][..LANES];
        for (i, sum) in sums.iter_mut().enumerate() {
            let tile = (row[i] + row[i + 16]) + (row[i + 32] + row[i + 48]);
            *sum = *sum * rescale + tile;
        }
        state.acc[query * padded..][..padded].iter_mut().for_each(|x| *x *= rescale);
        if !scaling.values.is_empty() {
            row.iter_mut().zip(scaling.values).for_each(|(x, scale)| *x *= scale);
            // The scale of a position that is not seen may be anything.
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
        }
    }
}
