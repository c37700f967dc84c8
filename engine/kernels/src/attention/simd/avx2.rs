//! AVX2 with FMA: 8 keys per score vector; values accumulate in 8 registers (32 columns, even and odd keys apart).

use std::arch::x86_64::*;

use crate::attention::tile::TILE;

/// # Safety
/// AVX2 and FMA must be present; shapes as asserted in [`super::scores`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn scores(q: &[f32], keys: &[f32], padded: usize, keys_valid: usize, out: &mut [f32]) {
    for (q, out) in q.chunks_exact(padded).zip(out.chunks_exact_mut(TILE)) {
        for first in (0..keys_valid).step_by(8) {
            let mut sums = [_mm256_setzero_ps(); 8];
            for column in (0..padded).step_by(8) {
                // SAFETY: column + 8 <= padded, and first + 8 <= TILE because TILE is a multiple of 8.
                unsafe {
                    let q = _mm256_loadu_ps(q.as_ptr().add(column));
                    let key = keys.as_ptr().add(first * padded + column);
                    for j in 0..8 {
                        sums[j] = _mm256_fmadd_ps(q, _mm256_loadu_ps(key.add(j * padded)), sums[j]);
                    }
                }
            }
            // SAFETY: out holds TILE values and first + 8 <= TILE.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(first), add_across(sums)) };
        }
    }
}

/// Lane i of the result is the sum of all lanes of `v[i]`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_across(v: [__m256; 8]) -> __m256 {
    let fours = |i: usize| _mm256_hadd_ps(_mm256_hadd_ps(v[i], v[i + 1]), _mm256_hadd_ps(v[i + 2], v[i + 3]));
    let (low, high) = (fours(0), fours(4));
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
}

/// # Safety
/// AVX2 and FMA must be present; shapes as asserted in [`super::accumulate`].
#[target_feature(enable = "avx2,fma")]
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
        while column + 32 <= padded {
            // SAFETY: the 32 columns from `column` are inside `acc` and inside each of the `count <= TILE` value rows.
            unsafe { columns::<4>(weights, rescale[query], values, padded, column, acc) };
            column += 32;
        }
        while column < padded {
            // SAFETY: as above with 8 columns; `padded` is a multiple of 16.
            unsafe { columns::<1>(weights, rescale[query], values, padded, column, acc) };
            column += 8;
        }
    }
}

/// # Safety
/// AVX2 and FMA; `column + 8 * N <= padded`, `acc` has `padded` values, `values` has `padded` for each weight.
#[target_feature(enable = "avx2,fma")]
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
        let rescale = _mm256_set1_ps(rescale);
        let mut even = [_mm256_setzero_ps(); N];
        let mut odd = [_mm256_setzero_ps(); N];
        for n in 0..N {
            even[n] = _mm256_mul_ps(_mm256_loadu_ps(acc.add(8 * n)), rescale);
        }
        let mut j = 0;
        while j + 2 <= weights.len() {
            let (first, second) = (_mm256_set1_ps(weights[j]), _mm256_set1_ps(weights[j + 1]));
            for n in 0..N {
                even[n] = _mm256_fmadd_ps(first, _mm256_loadu_ps(values.add(j * padded + 8 * n)), even[n]);
                odd[n] =
                    _mm256_fmadd_ps(second, _mm256_loadu_ps(values.add((j + 1) * padded + 8 * n)), odd[n]);
            }
            j += 2;
        }
        if j < weights.len() {
            let last = _mm256_set1_ps(weights[j]);
            for n in 0..N {
                even[n] = _mm256_fmadd_ps(last, _mm256_loadu_ps(values.add(j * padded + 8 * n)), even[n]);
            }
        }
        for n in 0..N {
            _mm256_storeu_ps(acc.add(8 * n), _mm256_add_ps(even[n], odd[n]));
        }
    }
}
