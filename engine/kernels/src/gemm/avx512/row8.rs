//! The kernel of int8: one integer sum per row and token.

use std::arch::x86_64::*;

use super::blocks::{load, prefetch, store, suspend};
use crate::gemm::TileArgs;
use crate::gemm::layout::{LINE, QUADS};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn row8_tile<const R: usize, const T: usize>(a: &TileArgs) {
    // SAFETY: the caller vouches for `blocks` blocks of `R` tiles and a record per block; see `TileArgs`. Sums between panels
    // are kept as floats by bits alone.
    unsafe {
        let kept = load::<R, T>(a);
        let mut sums = [[_mm512_setzero_si512(); T]; R];
        let mut w = [a.weights; R];
        for r in 0..R {
            w[r] = a.tile(r).add(a.layout.header_bytes + a.first * a.layout.block_bytes);
            for t in 0..T {
                sums[r][t] = _mm512_castps_si512(kept[r][t]);
            }
        }
        let mut x = a.x;
        for b in 0..a.blocks {
            let ahead = a.ahead_of::<R>((a.first + b) * a.layout.block_bytes);
            for s in 0..QUADS {
                let mut quads = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    prefetch(w[r], s * LINE + ahead);
                    quads[r] = _mm512_load_si512(w[r].add(s * LINE).cast());
                }
                for t in 0..T {
                    let word = _mm512_set1_epi32(*x.add(t * QUADS + s) as i32);
                    for r in 0..R {
                        sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], quads[r], word);
                    }
                }
            }
            x = x.add(T * QUADS);
            for r in 0..R {
                w[r] = w[r].add(a.layout.block_bytes);
            }
        }
        let mut out = [[_mm512_setzero_ps(); T]; R];
        for r in 0..R {
            for t in 0..T {
                out[r][t] = _mm512_castsi512_ps(sums[r][t]);
            }
        }
        if suspend(a, &out) {
            return;
        }
        for r in 0..R {
            let scale = _mm512_load_ps(a.tile(r).cast());
            for t in 0..T {
                let offset = _mm512_set1_epi32(*a.token_offsets.add(t));
                let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[r][t], offset));
                let both = _mm512_mul_ps(scale, _mm512_set1_ps(*a.token_scales.add(t)));
                out[r][t] = _mm512_mul_ps(sum, both);
            }
        }
        store(a, &out);
    }
}
