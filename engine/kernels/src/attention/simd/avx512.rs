//! AVX-512: 16 keys per score vector; values accumulate in 8 registers (64 columns, even and odd keys apart).

use std::arch::x86_64::*;

use crate::attention::tile::TILE;

/// # Safety
/// AVX-512 F must be present; shapes as asserted in [`super::scores`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scores(q: &[f32], keys: &[f32], padded: usize, keys_valid: usize, out: &mut [f32]) {
    for (q, out) in q.chunks_exact(padded).zip(out.chunks_exact_mut(TILE)) {
        for first in (0..keys_valid).step_by(16) {
            let mut sums = [_mm512_setzero_ps(); 16];
            for column in (0..padded).step_by(16) {
                // SAFETY: column + 16 <= padded, and first + 16 <= TILE because TILE is a multiple of 16.
                unsafe {
                    let q = _mm512_loadu_ps(q.as_ptr().add(column));
                    let key = keys.as_ptr().add(first * padded + column);
                    for j in 0..16 {
                        sums[j] = _mm512_fmadd_ps(q, _mm512_loadu_ps(key.add(j * padded)), sums[j]);
                    }
                }
            }
            // SAFETY: out holds TILE values and first + 16 <= TILE.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(first), add_across(sums)) };
        }
    }
}

/// Lane i of the result is the sum of all lanes of `v[i]`.
#[target_feature(enable = "avx512f")]
#[inline]
fn add_across(v: [__m512; 16]) -> __m512 {
    let pairs = |i: usize| {
        let (a, b) = (v[2 * i], v[2 * i + 1]);
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)))
    };
    // One vector per four inputs: each 128-bit lane holds their four partial sums over that lane.
    let fours = |i: usize| {
        let (a, b) = (pairs(2 * i), pairs(2 * i + 1));
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
    };
    let add_lanes =
        |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    add_lanes(add_lanes(fours(0), fours(1)), add_lanes(fours(2), fours(3)))
}

/// # Safety
/// AVX-512 F must be present; shapes as asserted in [`super::accumulate`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn accumulate(
    weights: &[f32],
    counts: &[usize],
    rescale: &[f32],
    values: &[f32],
    padded: usize,
    acc: &mut [f32],
) {
    for (query, acc) in acc.chunks_exact_mut(padded).enumerate() {
        let count = counts[query];
        if count == 0 {
            continue;
        }
        let weights = &weights[query * TILE..][..count];
        let mut column = 0;
        while column + 64 <= padded {
            // SAFETY: the 64 columns from `column` are inside `acc` and inside each of the `count <= TILE` value rows.
            unsafe { columns::<4>(weights, rescale[query], values, padded, column, acc) };
            column += 64;
        }
        while column < padded {
            // SAFETY: as above with 16 columns; `padded` is a multiple of 16.
            unsafe { columns::<1>(weights, rescale[query], values, padded, column, acc) };
            column += 16;
        }
    }
}

/// # Safety
/// AVX-512 F; `column + 16 * N <= padded`, `acc` has `padded` values, `values` has `padded` for each weight.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn columns<const N: usize>(
    weights: &[f32],
    rescale: f32,
    values: &[f32],
    padded: usize,
    column: usize,
    acc: &mut [f32],
) {
    // SAFETY: every address is one the contract above covers.
    unsafe {
        let acc = acc.as_mut_ptr().add(column);
        let values = values.as_ptr().add(column);
        let rescale = _mm512_set1_ps(rescale);
        let mut even = [_mm512_setzero_ps(); N];
        let mut odd = [_mm512_setzero_ps(); N];
        for n in 0..N {
            even[n] = _mm512_mul_ps(_mm512_loadu_ps(acc.add(16 * n)), rescale);
        }
        let mut j = 0;
        while j + 2 <= weights.len() {
            let (first, second) = (_mm512_set1_ps(weights[j]), _mm512_set1_ps(weights[j + 1]));
            for n in 0..N {
                even[n] = _mm512_fmadd_ps(first, _mm512_loadu_ps(values.add(j * padded + 16 * n)), even[n]);
                odd[n] =
                    _mm512_fmadd_ps(second, _mm512_loadu_ps(values.add((j + 1) * padded + 16 * n)), odd[n]);
            }
            j += 2;
        }
        if j < weights.len() {
            let last = _mm512_set1_ps(weights[j]);
            for n in 0..N {
                even[n] = _mm512_fmadd_ps(last, _mm512_loadu_ps(values.add(j * padded + 16 * n)), even[n]);
            }
        }
        for n in 0..N {
            _mm512_storeu_ps(acc.add(16 * n), _mm512_add_ps(even[n], odd[n]));
        }
    }
}
