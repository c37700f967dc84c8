//! The integer roundings of [`super::round`] for AVX-512: the same values, with 32 columns in two registers.

use std::arch::x86_64::*;

use super::BLOCK;
use super::round::{Block8, Step};

/// As [`super::block8`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn block8(x: &[f32; BLOCK], fine: bool) -> Block8 {
    let (low, high) = load(x);
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let bits = |v| _mm512_and_si512(_mm512_castps_si512(v), magnitude);
    let amax = _mm512_reduce_max_epu32(_mm512_max_epu32(bits(low), bits(high)));
    let step = Step::new(amax, fine);
    if step.is_infinite() {
        return step.infinite();
    }
    let q = rounded(low, high, step.inverse());
    let mut block = Block8 { q: [0; BLOCK], sums: sums(q), magic: step.magic(), step: step.step() };
    store(q, &mut block.q);
    block
}

/// `x * inverse` rounded to signed bytes, and their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn int8(x: &[f32; BLOCK], inverse: f32) -> ([i8; BLOCK], i32) {
    let (low, high) = load(x);
    let q = rounded(low, high, inverse);
    let mut bytes = [0; BLOCK];
    store(q, &mut bytes);
    let [a, b] = sums(q);
    (bytes, a + b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; BLOCK]) -> (__m512, __m512) {
    // SAFETY: two unaligned loads cover the 32 values.
    unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(BLOCK / 2))) }
}

/// To nearest, halves to even: the default mode of the conversion. What it cannot represent (from a NaN) does not matter, for
/// the scale is then NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn rounded(low: __m512, high: __m512, inverse: f32) -> __m256i {
    let inverse = _mm512_set1_ps(inverse);
    let narrow = |v| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
    _mm256_set_m128i(narrow(high), narrow(low))
}

/// Sums of the two halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums(q: __m256i) -> [i32; 2] {
    let fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    let pairs = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b01_00_11_10>(fours));
    let all = _mm256_add_epi32(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
    [_mm256_extract_epi32::<0>(all), _mm256_extract_epi32::<4>(all)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(q: __m256i, bytes: &mut [i8; BLOCK]) {
    // SAFETY: an unaligned store of 32 bytes.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), q) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::quant::round;

    #[test]
    fn roundings_are_those_of_the_plain_code() {
        if !Isa::Avx512.is_available() {
            return;
        }
        for i in 0..20_000u32 {
            let x: [f32; BLOCK] = std::array::from_fn(|j| {
                let bits = (i * 32 + j as u32).wrapping_mul(0x9e37_79b9);
                // Most blocks of similar values, some of any bits at all.
                if i % 8 == 0 { f32::from_bits(bits) } else { (bits >> 8) as f32 / (1 << 20) as f32 - 8.0 }
            });
            for fine in [false, true] {
                let plain = round::block8(&x, fine);
                // SAFETY: the instruction set is available.
                let vector = unsafe { block8(&x, fine) };
                assert_eq!((vector.q, vector.sums), (plain.q, plain.sums), "{x:?}");
                assert_eq!(vector.magic.to_bits(), plain.magic.to_bits());
                assert_eq!(vector.step.to_bits(), plain.step.to_bits());
            }
            if i % 8 != 0 {
                // SAFETY: as above.
                let (q, sum) = unsafe { int8(&x, 127.0 / 8.0) };
                assert_eq!(q, x.map(|v| round::int8(v * (127.0 / 8.0))));
                assert_eq!(sum, q.iter().map(|&q| i32::from(q)).sum::<i32>());
            }
        }
    }
}
