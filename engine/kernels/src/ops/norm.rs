//! RMS normalisation (Zhang & Sennrich 2019): `x / sqrt(mean(x^2) + eps) * weight`, per row.

use crate::ThreadPool;
use crate::ops::lanes;
use crate::ops::rows::{RowsMut, for_rows, isa, multiversion};
use crate::shared_mut::SharedMut;

/// `out[t] = norm(x[t]) * weight`; `x` and `out` are [tokens, dim], `weight` is [dim].
pub fn rms_norm(pool: &ThreadPool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    assert!(dim > 0 && x.len() == out.len() && x.len().is_multiple_of(dim), "{} values, dim {dim}", x.len());
    let isa = isa();
    let out = SharedMut::new(out);
    for_rows(pool, x.len() / dim, dim, |rows| {
        let span = rows.start * dim..rows.end * dim;
        // SAFETY: ranges of different workers are disjoint.
        norm_rows(isa, &x[span.clone()], weight, eps, unsafe { out.slice(span.start, span.len()) });
    });
}

/// The residual connection and the norm that follows it in one pass: `residual[t] += x[t]`, then
/// `out[t] = norm(residual[t]) * weight`. All three are [tokens, dim].
pub fn add_rms_norm(
    pool: &ThreadPool,
    residual: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let dim = weight.len();
    assert!(dim > 0 && x.len() == out.len() && x.len().is_multiple_of(dim), "{} values, dim {dim}", x.len());
    assert_eq!(residual.len(), x.len(), "residual against input");
    let isa = isa();
    let (residual, out) = (SharedMut::new(residual), SharedMut::new(out));
    for_rows(pool, x.len() / dim, dim, |rows| {
        let span = rows.start * dim..rows.end * dim;
        // SAFETY: ranges of different workers are disjoint.
        let (residual, out) =
            unsafe { (residual.slice(span.start, span.len()), out.slice(span.start, span.len())) };
        add_norm_rows(isa, residual, &x[span], weight, eps, out);
    });
}

/// Normalises every head of every row on its own, in place: a row is [heads, head_dim] and `weight` is [head_dim]. The
/// query and key norm of Qwen 3 and Gemma 3.
pub fn rms_norm_heads(pool: &ThreadPool, rows: RowsMut<'_>, weight: &[f32], eps: f32) {
    let (count, width, dim) = (rows.len(), rows.width(), weight.len());
    assert!(dim > 0 && width.is_multiple_of(dim), "rows of {width} are not heads of {dim}");
    let isa = isa();
    let (data, start_of) = rows.share();
    for_rows(pool, count, width, |range| {
        for row in range {
            // SAFETY: every row belongs to one worker.
            norm_heads(isa, unsafe { data.slice(start_of(row), width) }, weight, eps);
        }
    });
}

multiversion! { fn norm_heads(heads: &mut [f32], weight: &[f32], eps: f32) = norm_heads_body }
multiversion! { fn norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = norm_rows_body }
multiversion! {
    fn add_norm_rows(residual: &mut [f32], x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = add_norm_rows_body
}

#[inline(always)]
fn norm_heads_body(heads: &mut [f32], weight: &[f32], eps: f32) {
    for head in heads.chunks_exact_mut(weight.len()) {
        let scale = scale_of(head, eps);
        for (x, weight) in head.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

#[inline(always)]
fn scale_of(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn norm_rows_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let scale = scale_of(x, eps);
        for i in 0..dim {
            out[i] = x[i] * scale * weight[i];
        }
    }
}

#[inline(always)]
fn add_norm_rows_body(residual: &mut [f32], x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    for (residual, x) in residual.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
        for i in 0..dim {
            residual[i] += x[i];
        }
    }
    norm_rows_body(residual, weight, eps, out);
}

/// 16 running sums, then halves added pairwise: an order that no vector width or row count changes.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    for (i, v) in chunks.remainder().iter().enumerate() {
        lanes[i] = v * v;
    }
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i] * chunk[i];
        }
    }
    lanes::sum(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::ops::testing::{every_isa, random};

    fn naive(x: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
        let dim = weight.len();
        x.chunks(dim)
            .flat_map(|row| {
                let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / dim as f64;
                let scale = 1.0 / (mean + eps).sqrt();
                row.iter().zip(weight).map(move |(v, w)| f64::from(*v) * scale * f64::from(*w))
            })
            .collect()
    }

    #[test]
    fn agrees_with_f64_and_not_with_thread_count_or_row_count() {
        for dim in [1, 15, 16, 50, 256, 1024] {
            let tokens = 65;
            let (x, weight) = (random(tokens * dim, 1), random(dim, 2));
            let expected = naive(&x, &weight, 1e-5);
            let mut first = vec![0.0; x.len()];
            rms_norm(&ThreadPool::new(1), &x, &weight, 1e-5, &mut first);
            for (a, b) in first.iter().zip(&expected) {
                assert!((f64::from(*a) - b).abs() <= 1e-5 * (1.0 + b.abs()), "dim {dim}: {a} {b}");
            }
            let mut threads = vec![0.0; x.len()];
            rms_norm(&ThreadPool::new(3), &x, &weight, 1e-5, &mut threads);
            assert_eq!(first, threads, "dim {dim}: thread count changed bits");
            let mut single = vec![0.0; dim];
            rms_norm(&ThreadPool::new(1), &x[7 * dim..8 * dim], &weight, 1e-5, &mut single);
            assert_eq!(first[7 * dim..8 * dim], single, "dim {dim}: row count changed bits");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (x, weight) = (random(4 * 320, 3), random(320, 4));
        let mut expected = vec![0.0; x.len()];
        norm_rows(Isa::Portable, &x, &weight, 1e-6, &mut expected);
        for isa in every_isa() {
            let mut out = vec![0.0; x.len()];
            norm_rows(isa, &x, &weight, 1e-6, &mut out);
            assert_eq!(out, expected, "{isa:?}");
        }
    }

    #[test]
    fn heads_are_normed_one_by_one_and_neighbours_are_left_alone() {
        let (rows, stride, first, heads, dim) = (200, 200, 10, 4, 40);
        let (before, weight) = (random(rows * stride, 8), random(dim, 9));
        for threads in [1, 3] {
            let pool = ThreadPool::new(threads);
            let mut out = before.clone();
            rms_norm_heads(&pool, RowsMut::strided(&mut out, stride, first, heads * dim), &weight, 1e-6);
            for (before, out) in before.chunks(stride).zip(out.chunks(stride)) {
                let columns = first..first + heads * dim;
                let mut expected = vec![0.0; heads * dim];
                rms_norm(&ThreadPool::new(1), &before[columns.clone()], &weight, 1e-6, &mut expected);
                assert_eq!(out[columns.clone()], expected);
                assert_eq!(out[..first], before[..first]);
                assert_eq!(out[columns.end..], before[columns.end..]);
            }
        }
        for isa in every_isa() {
            let (mut a, mut b) = (before[..120].to_vec(), before[..120].to_vec());
            norm_heads(isa, &mut a, &weight, 1e-6);
            norm_heads(Isa::Portable, &mut b, &weight, 1e-6);
            assert_eq!(a, b, "{isa:?}");
        }
    }

    #[test]
    fn fused_form_is_add_then_norm() {
        let (residual, x, weight) = (random(6 * 96, 5), random(6 * 96, 6), random(96, 7));
        let pool = ThreadPool::new(2);
        let sum: Vec<f32> = residual.iter().zip(&x).map(|(a, b)| a + b).collect();
        let mut expected = vec![0.0; x.len()];
        rms_norm(&pool, &sum, &weight, 1e-5, &mut expected);
        let (mut kept, mut out) = (residual, vec![0.0; x.len()]);
        add_rms_norm(&pool, &mut kept, &x, &weight, 1e-5, &mut out);
        assert_eq!(kept, sum);
        assert_eq!(out, expected);
    }
}
