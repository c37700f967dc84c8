//! Plain loops over 8 lanes, for every CPU.

use crate::attention::tile::TILE;

pub(super) fn scores(q: &[f32], keys: &[f32], padded: usize, keys_valid: usize, out: &mut [f32]) {
    for (q, out) in q.chunks_exact(padded).zip(out.chunks_exact_mut(TILE)) {
        for (key, out) in keys.chunks_exact(padded).zip(out).take(keys_valid) {
            let mut lanes = [0.0f32; 8];
            for (q, key) in q.chunks_exact(8).zip(key.chunks_exact(8)) {
                for i in 0..8 {
                    lanes[i] += q[i] * key[i];
                }
            }
            *out = ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5]))
                + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
        }
    }
}

pub(super) fn accumulate(
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
        for (column, acc) in acc.chunks_exact_mut(16).enumerate() {
            let mut sums = [[0.0f32; 16]; 2];
            for i in 0..16 {
                sums[0][i] = acc[i] * rescale[query];
            }
            for (j, weight) in weights.iter().enumerate() {
                let value = &values[j * padded + column * 16..][..16];
                let sum = &mut sums[j % 2];
                for i in 0..16 {
                    sum[i] += weight * value[i];
                }
            }
            for i in 0..16 {
                acc[i] = sums[0][i] + sums[1][i];
            }
        }
    }
}
