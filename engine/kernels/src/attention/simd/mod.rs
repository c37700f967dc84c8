//! The two inner products of attention, per instruction set: scores (query times keys) and accumulate (weights times
//! values). Tiles are [TILE][padded] f32 with `padded` a multiple of 16; padding columns are zero.
//!
//! Within one instruction set each result is computed in one fixed order whatever the number of queries and keys in
//! the call. Between instruction sets the last bits differ (fused multiply-add, lane count).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::Isa;
use crate::attention::tile::TILE;

/// `out[q][j] = q . keys[j]` for `j < keys_valid`; `out` is [queries][TILE], entries beyond are arbitrary.
pub(crate) fn scores(isa: Isa, q: &[f32], keys: &[f32], padded: usize, keys_valid: usize, out: &mut [f32]) {
    assert!(
        padded.is_multiple_of(16) && keys.len() == TILE * padded && keys_valid <= TILE,
        "tile of {padded}"
    );
    assert!(q.len().is_multiple_of(padded) && out.len() >= q.len() / padded * TILE, "{} queries", q.len());
    match isa {
        // SAFETY: the cache was built for an available `isa`; the shapes are asserted above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::scores(q, keys, padded, keys_valid, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::scores(q, keys, padded, keys_valid, out) },
        _ => portable::scores(q, keys, padded, keys_valid, out),
    }
}

/// `acc[q] = acc[q] * rescale[q] + sum over j < counts[q] of weights[q][j] * values[j]`; rows with no key stay.
/// Even and odd keys are summed apart and added at the end, which halves the chain of dependent additions.
pub(crate) fn accumulate(
    isa: Isa,
    weights: &[f32],
    counts: &[usize],
    rescale: &[f32],
    values: &[f32],
    padded: usize,
    acc: &mut [f32],
) {
    let queries = counts.len();
    assert!(padded.is_multiple_of(16) && values.len() == TILE * padded, "tile of {padded}");
    assert!(weights.len() >= queries * TILE && rescale.len() >= queries && acc.len() == queries * padded);
    assert!(counts.iter().all(|count| *count <= TILE));
    match isa {
        // SAFETY: the cache was built for an available `isa`; the shapes are asserted above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::accumulate(weights, counts, rescale, values, padded, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::accumulate(weights, counts, rescale, values, padded, acc) },
        _ => portable::accumulate(weights, counts, rescale, values, padded, acc),
    }
}
