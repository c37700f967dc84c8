//! AVX-512: numbers to bf16, in the order in which they lie: int8 and fp8 exactly, f32 rounded.

use std::arch::x86_64::*;
use std::mem::transmute;

use crate::attention::format::KvFormat;

/// `out` holds as many bf16 numbers as `bytes` holds int8 or fp8 ones; lengths are multiples of 32.
///
/// # Safety
/// AVX-512 F, BW and BF16 must be present.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn expand(format: KvFormat, bytes: &[u8], out: &mut [u16]) {
    assert!(bytes.len() == out.len() && bytes.len().is_multiple_of(32), "{} to {}", bytes.len(), out.len());
    for (bytes, out) in bytes.chunks_exact(32).zip(out.chunks_exact_mut(32)) {
        // SAFETY: 32 bytes and 32 numbers are there.
        unsafe {
            let numbers = match format {
                KvFormat::Int8 => from_int8(bytes.as_ptr()),
                _ => from_e4m3(bytes.as_ptr()),
            };
            _mm512_storeu_si512(out.as_mut_ptr().cast(), numbers);
        }
    }
}

/// `out[i]` = `from[i]` to nearest even, subnormal numbers to zero.
///
/// # Safety
/// AVX-512 F, BW, VL and BF16 must be present.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn round(from: &[f32], out: &mut [u16]) {
    assert_eq!(from.len(), out.len());
    for (from, out) in from.chunks(16).zip(out.chunks_mut(16)) {
        let there = ((1u32 << from.len()) - 1) as __mmask16;
        // SAFETY: the mask covers what is there.
        unsafe {
            let numbers = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, from.as_ptr()));
            let numbers = transmute::<__m256bh, __m256i>(numbers);
            _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), there, numbers);
        }
    }
}

/// # Safety
/// 32 bytes at `from`.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn from_int8(from: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let (low, high) = unsafe { (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast())) };
    let widen = |x| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
    // SAFETY: both types are 64 bytes without invalid values.
    unsafe { transmute(_mm512_cvtne2ps_pbh(widen(high), widen(low))) }
}

/// Exponent and fraction of e4m3 move to their places in a bf16 and the exponent's bias grows from 7 to 127; the seven
/// subnormals come from a table.
///
/// # Safety
/// 32 bytes at `from`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn from_e4m3(from: *const u8) -> __m512i {
    /// n * 2^-9 as bf16, for n = 1 to 7: 2^-9 is 0x3b00.
    const SUBNORMALS: [u16; 32] = {
        let mut table = [0; 32];
        (table[1], table[2], table[3], table[4]) = (0x3b00, 0x3b80, 0x3bc0, 0x3c00);
        (table[5], table[6], table[7]) = (0x3c20, 0x3c40, 0x3c60);
        table
    };
    // SAFETY: the caller's promise, and the table is 64 bytes.
    let (x, subnormals) = unsafe {
        (
            _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast())),
            _mm512_loadu_si512(SUBNORMALS.as_ptr().cast()),
        )
    };
    let magnitude = _mm512_and_si512(_mm512_slli_epi16::<4>(x), _mm512_set1_epi16(0x07f0));
    let normal = _mm512_add_epi16(magnitude, _mm512_set1_epi16((127 - 7) << 7));
    let small = _mm512_testn_epi16_mask(x, _mm512_set1_epi16(0x78));
    let number =
        _mm512_mask_permutexvar_epi16(normal, small, _mm512_and_si512(x, _mm512_set1_epi16(7)), subnormals);
    let sign = _mm512_and_si512(_mm512_slli_epi16::<8>(x), _mm512_set1_epi16(-0x8000));
    _mm512_or_si512(number, sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::attention::format::decode_row;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        if !Isa::Avx512.is_available() {
            return;
        }
        let values = crate::ops::testing::random(45, 1);
        let mut out = vec![0u16; 45];
        // SAFETY: the instruction set was tested for.
        unsafe { round(&values, &mut out) };
        let expected: Vec<u16> = values.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn every_number_is_exact() {
        if !Isa::Avx512.is_available() {
            return;
        }
        for format in [KvFormat::Int8, KvFormat::Fp8] {
            // 0x7f and 0xff are the NaNs of e4m3, which are never stored.
            let bytes: Vec<u8> = (0..=255).map(|b: u8| if b & 0x7f == 0x7f { 0 } else { b }).collect();
            let (mut out, mut expected) = (vec![0u16; 256], vec![0.0; 256]);
            // SAFETY: the instruction set was tested for.
            unsafe { expand(format, &bytes, &mut out) };
            decode_row(Isa::Portable, format, &bytes, 1.0, &mut expected);
            for (bits, expected) in out.iter().zip(&expected) {
                assert_eq!(half::bf16::from_bits(*bits).to_f32().to_bits(), expected.to_bits(), "{format}");
            }
        }
    }
}
