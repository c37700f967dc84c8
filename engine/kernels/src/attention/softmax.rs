//! The online softmax of Milakov & Gimelshein 2018: a running maximum, a running sum and an unnormalised output per query.
//!
//! Scores are kept in units of ln 2, so that a weight is a power of two and needs no multiplication of its own.

use crate::ops::exp::exp2;
use crate::ops::lanes;
use crate::ops::rows::multiversion;

/// Lanes of a running sum.
pub(crate) const LANES: usize = 16;

/// What turns a product of a query and a key into a score, and a softmax weight into the factor of a value.
#[derive(Clone, Copy)]
pub(crate) struct Scaling<'a> {
    pub scale: f32,
    pub softcap: Option<f32>,
    /// Of the tile's positions, empty for formats without scales.
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// The running softmax of a set of queries over consecutive positions.
#[derive(Default)]
pub(crate) struct State {
    /// [queries], minus infinity before the first position.
    pub max: Vec<f32>,
    /// [queries][LANES]: added across only at the end.
    pub sum: Vec<f32>,
    /// [queries][padded].
    pub acc: Vec<f32>,
}

impl State {
    pub(crate) fn reset(&mut self, queries: usize, padded: usize) {
        self.max.clear();
        self.max.resize(queries, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(queries * LANES, 0.0);
        self.acc.clear();
        self.acc.resize(queries * padded, 0.0);
    }

    pub(crate) fn total(&self, query: usize) -> f32 {
        let sum: [f32; LANES] = self.sum[query * LANES..][..LANES].try_into().expect("a row of the sums");
        lanes::sum(sum)
    }

    /// Adds the state of the following positions. A side that saw no position leaves the other as it is.
    pub(crate) fn merge(&mut self, max: &[f32], sum: &[f32], acc: &[f32], padded: usize) {
        for query in 0..max.len() {
            let (sums, row) = (query * LANES..(query + 1) * LANES, query * padded..(query + 1) * padded);
            if max[query] == f32::NEG_INFINITY && sum[sums.start] == 0.0 {
                continue;
            }
            if self.max[query] == f32::NEG_INFINITY && self.sum[sums.start] == 0.0 {
                self.max[query] = max[query];
                self.sum[sums.clone()].copy_from_slice(&sum[sums]);
                self.acc[row.clone()].copy_from_slice(&acc[row]);
                continue;
            }
            let high = self.max[query].max(max[query]);
            let (mine, theirs) = (exp2(self.max[query] - high), exp2(max[query] - high));
            self.max[query] = high;
            for i in sums {
                self.sum[i] = self.sum[i] * mine + sum[i] * theirs;
            }
            for i in row {
                self.acc[i] = self.acc[i] * mine + acc[i] * theirs;
            }
        }
    }
}

multiversion! {
    /// `out = acc / total`.
    fn divide(acc: &[f32], total: f32, out: &mut [f32]) = divide_body
}

#[inline(always)]
fn divide_body(acc: &[f32], total: f32, out: &mut [f32]) {
    for (acc, out) in acc.iter().zip(out) {
        *out = acc / total;
    }
}
