//! AVX-512: scores of a tile to softmax weights, four registers per query.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::f32::consts::{LN_2, LOG2_E};
use std::mem::transmute;
use std::ops::Range;

use super::{GROUPS, TILE};
use crate::attention::softmax::{LANES, Scaling, State};
use crate::ops::lanes;

/// As [`super::softmax`]: with `BF16` into `rounded`, else in place.
///
/// # Safety
/// AVX-512 F and BF16 must be present.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn softmax<const BF16: bool>(
    scores: &mut [f32],
    rounded: &mut [u16],
    seen: &[Range<usize>],
    scaling: Scaling<'_>,
    state: &mut State,
) {
    let padded = state.acc.len() / seen.len();
    for (query, row) in scores.chunks_exact_mut(TILE).enumerate().take(seen.len()) {
        let seen = &seen[query];
        if seen.is_empty() {
            continue;
        }
        let valid: [__mmask16; GROUPS] = from_fn(|g| lanes_of(seen, g));
        // SAFETY: a row is TILE long.
        let mut x: [__m512; GROUPS] = from_fn(|g| unsafe { _mm512_loadu_ps(row.as_ptr().add(16 * g)) });
        if !scaling.keys.is_empty() {
            let scales: &[f32; TILE] = scaling.keys.try_into().expect("a scale for every position");
            // SAFETY: TILE scales.
            x = from_fn(|g| unsafe { _mm512_mul_ps(x[g], _mm512_loadu_ps(scales.as_ptr().add(16 * g))) });
        }
        if let Some(cap) = scaling.softcap {
            let (inverse, cap) = (_mm512_set1_ps(scaling.scale / cap), _mm512_set1_ps(cap * LOG2_E));
            x = from_fn(|g| _mm512_mul_ps(cap, tanh(_mm512_mul_ps(x[g], inverse))));
        } else {
            let scale = _mm512_set1_ps(scaling.scale * LOG2_E);
            x = from_fn(|g| _mm512_mul_ps(x[g], scale));
        }
        let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
        let seen_only: [__m512; GROUPS] = from_fn(|g| _mm512_mask_blend_ps(valid[g], lowest, x[g]));
        let pairs = (_mm512_max_ps(seen_only[0], seen_only[1]), _mm512_max_ps(seen_only[2], seen_only[3]));
        // A NaN that the maximum loses comes back in its own weight below.
        let old = state.max[query];
        let high = lanes::larger(_mm512_reduce_max_ps(_mm512_max_ps(pairs.0, pairs.1)), old);
        state.max[query] = high;
        let high = _mm512_set1_ps(high);
        let rescale = exp2(&FULL, _mm512_sub_ps(_mm512_set1_ps(old), high));
        x = from_fn(|g| {
            let power = _mm512_sub_ps(x[g], high);
            let weight = if BF16 { exp2(&FAST, power) } else { exp2(&FULL, power) };
            _mm512_maskz_mov_ps(valid[g], weight)
        });
        let tile = _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
        let sums: &mut [f32; LANES] =
            (&mut state.sum[query * LANES..][..LANES]).try_into().expect("a row of the sums");
        // SAFETY: the row has 16 lanes.
        unsafe {
            let old = _mm512_loadu_ps(sums.as_ptr());
            _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_fmadd_ps(old, rescale, tile));
        }
        // Without a branch for the many tiles that bring no new maximum: multiplying by one changes no bit and is cheaper
        // than a wrong guess.
        for acc in state.acc[query * padded..][..padded].chunks_exact_mut(16) {
            // SAFETY: 16 accumulators.
            unsafe {
                _mm512_storeu_ps(acc.as_mut_ptr(), _mm512_mul_ps(_mm512_loadu_ps(acc.as_ptr()), rescale))
            };
        }
        if !scaling.values.is_empty() {
            let scales: &[f32; TILE] = scaling.values.try_into().expect("a scale for every position");
            x = from_fn(|g| {
                // SAFETY: TILE scales.
                let scale = unsafe { _mm512_loadu_ps(scales.as_ptr().add(16 * g)) };
                // The scale of a position that is not seen may be anything.
                _mm512_maskz_mul_ps(valid[g], x[g], scale)
            });
        }
        if BF16 {
            let to: &mut [u16; TILE] =
                (&mut rounded[query * TILE..][..TILE]).try_into().expect("a row of the weights");
            for half in 0..GROUPS / 2 {
                let numbers = _mm512_cvtne2ps_pbh(x[2 * half + 1], x[2 * half]);
                // SAFETY: both types are 64 bytes without invalid values; the row has TILE numbers.
                unsafe {
                    _mm512_storeu_si512(
                        to.as_mut_ptr().add(32 * half).cast(),
                        transmute::<__m512bh, __m512i>(numbers),
                    );
                }
            }
        } else {
            // SAFETY: a row is TILE long.
            (0..GROUPS).for_each(|g| unsafe { _mm512_storeu_ps(row.as_mut_ptr().add(16 * g), x[g]) });
        }
    }
}

/// The lanes of register `group` that are in `seen`.
#[inline(always)]
fn lanes_of(seen: &Range<usize>, group: usize) -> __mmask16 {
    let up_to = |end: usize| ((1u32 << end.saturating_sub(16 * group).min(16)) - 1) as __mmask16;
    up_to(seen.end) & !up_to(seen.start)
}

/// Coefficients of a polynomial for 2^f, -1/2 <= f <= 1/2, highest power first: minimax in relative error with the value
/// at 0 exact. The first is within 3e-6, a hundredth of what rounding to bf16 costs; the second within 2e-9, so that only the rounding of f32 counts.
const FAST: [f32; 5] = [0.009_582_853, 0.055_906_426, 0.240_240_99, 0.693_124_2, 1.0];
const FULL: [f32; 7] =
    [0.000_153_533_62, 0.001_339_887_5, 0.009_618_437, 0.055_503_324, 0.240_226_48, LN_2, 1.0];

#[target_feature(enable = "avx512f")]
#[inline]
fn exp2<const N: usize>(coefficients: &[f32; N], x: __m512) -> __m512 {
    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let f = _mm512_sub_ps(x, whole);
    let mut p = _mm512_set1_ps(coefficients[0]);
    for c in &coefficients[1..] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(*c));
    }
    _mm512_scalef_ps(p, whole)
}

/// The formula of [`crate::ops::tanh`], with the exponential of this file.
#[target_feature(enable = "avx512f")]
#[inline]
fn tanh(x: __m512) -> __m512 {
    let magnitude = _mm512_abs_ps(x);
    let (one, two) = (_mm512_set1_ps(1.0), _mm512_set1_ps(2.0));
    let power = exp2(&FULL, _mm512_mul_ps(magnitude, _mm512_set1_ps(2.0 * LOG2_E)));
    let large = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(power, one)));
    let square = _mm512_mul_ps(x, x);
    let mut p = _mm512_set1_ps(crate::ops::tanh::SMALL[0]);
    for c in &crate::ops::tanh::SMALL[1..] {
        p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(*c));
    }
    let small = _mm512_fmadd_ps(_mm512_mul_ps(p, square), magnitude, magnitude);
    let is_small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(magnitude, _mm512_set1_ps(0.625));
    let result = _mm512_mask_blend_ps(is_small, large, small);
    let sign = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MIN));
    _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(result), sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn each(x: &[f32], f: impl Fn(__m512) -> __m512) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        for (x, out) in x.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
            // SAFETY: 16 values each; the caller has tested for AVX-512.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), f(_mm512_loadu_ps(x.as_ptr()))) };
        }
        out
    }

    #[test]
    fn powers_and_tanh_are_as_close_as_stated() {
        if !Isa::Avx512.is_available() {
            return;
        }
        let x: Vec<f32> = (-16_000..=0).map(|i| i as f32 / 128.0).take(16_000).collect();
        // SAFETY: the instruction set was tested for.
        let powers = unsafe { [each(&x, |x| exp2(&FAST, x)), each(&x, |x| exp2(&FULL, x))] };
        for (powers, limit) in powers.iter().zip([3.1e-6, 2.5e-7]) {
            for (x, power) in x.iter().zip(powers) {
                let exact = f64::from(*x).exp2();
                assert!((f64::from(*power) - exact).abs() <= limit * exact, "2^{x}: {power} {exact}");
            }
        }
        let x: Vec<f32> = (-8000..8000).map(|i| i as f32 / 700.0).collect();
        // SAFETY: as above.
        for (x, out) in x.iter().zip(unsafe { each(&x, |x| tanh(x)) }) {
            let exact = f64::from(*x).tanh();
            assert!((f64::from(out) - exact).abs() <= 4e-7 * exact.abs(), "tanh({x}): {out} {exact}");
        }
        let edges: Vec<f32> = [f32::NEG_INFINITY, -200.0, f32::NAN, 0.0].repeat(4);
        // SAFETY: as above.
        let out = unsafe { each(&edges, |x| exp2(&FULL, x)) };
        assert!(out[0] == 0.0 && out[1] < 1e-37 && out[2].is_nan() && out[3] == 1.0, "{out:?}");
    }
}
