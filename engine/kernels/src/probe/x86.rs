//! Peaks of the vector instructions: independent multiply-adds on registers only, enough of them to hide their latency.

use std::arch::x86_64::*;
use std::hint::black_box;

/// `$repeats` times one instruction on each of `$accumulators` registers; returns the operations done.
macro_rules! peak {
    ($(#[$attribute:meta])* $name:ident, $features:literal, $accumulators:literal, $operations:literal,
     $zero:expr, $w:expr, $x:expr, |$acc:ident, $wv:ident, $xv:ident| $step:expr) => {
        $(#[$attribute])*
        #[target_feature(enable = $features)]
        pub(super) fn $name(repeats: usize) -> usize {
            let mut accumulators = [$zero; $accumulators];
            let ($wv, $xv) = (black_box($w), black_box($x));
            for _ in 0..repeats {
                for slot in &mut accumulators {
                    let $acc = *slot;
                    *slot = $step;
                }
            }
            black_box(accumulators);
            repeats * $accumulators * $operations
        }
    };
}

peak!(
    f32_avx512,
    "avx512f",
    16,
    32,
    _mm512_setzero_ps(),
    _mm512_set1_ps(0.5),
    _mm512_set1_ps(0.25),
    |acc, w, x| _mm512_fmadd_ps(acc, w, x)
);

peak!(
    f32_avx2,
    "avx2,fma",
    12,
    16,
    _mm256_setzero_ps(),
    _mm256_set1_ps(0.5),
    _mm256_set1_ps(0.25),
    |acc, w, x| _mm256_fmadd_ps(acc, w, x)
);

peak!(
    int8_avx512,
    "avx512f,avx512vnni",
    16,
    128,
    _mm512_setzero_si512(),
    _mm512_set1_epi8(3),
    _mm512_set1_epi8(5),
    |acc, w, x| _mm512_dpbusd_epi32(acc, w, x)
);

peak!(
    /// Three instructions per 32 bytes: multiply to pairs, widen, add. The pairs are made anew each time from the sums, or
    /// the compiler would compute them once.
    int8_avx2, "avx2", 8, 64, _mm256_setzero_si256(), _mm256_set1_epi8(3), _mm256_set1_epi16(1),
    |acc, w, ones| _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, acc), ones)));

peak!(
    bf16_avx512,
    "avx512f,avx512bf16",
    16,
    64,
    _mm512_setzero_ps(),
    _mm512_set1_epi32(0x3f00_3f00),
    _mm512_set1_epi32(0x3e80_3e80),
    |acc, w, x| _mm512_dpbf16_ps(acc, pairs(w), pairs(x))
);

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(v: __m512i) -> __m512bh {
    // SAFETY: same size, and every bit pattern is valid for both types.
    unsafe { std::mem::transmute(v) }
}

/// Defines a read of `part` with `$load` into eight registers; a function of all words comes back, so none can be skipped.
macro_rules! read {
    ($name:ident, $features:literal, $vector:ty, $zero:expr, $add:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name(part: &[u64]) -> $vector {
            let mut sums = [$zero; 8];
            // SAFETY: any words are a valid vector; the few at both ends that do not fill one are left out.
            let (_, vectors, _) = unsafe { part.align_to::<$vector>() };
            for chunk in vectors.as_chunks::<8>().0 {
                for i in 0..8 {
                    sums[i] = $add(sums[i], chunk[i]);
                }
            }
            sums.into_iter().fold($zero, |a, b| $add(a, b))
        }
    };
}

read!(read_avx512, "avx512f", __m512i, _mm512_setzero_si512(), _mm512_add_epi64);
read!(read_avx2, "avx2", __m256i, _mm256_setzero_si256(), _mm256_add_epi64);
