//! AVX-512: a tile of up to 4 queries by 4 registers stays in accumulators, so that each register of keys or values is
//! loaded once for all of them.
//!
//! The same walk serves three kinds of numbers; they differ in how many bytes fill a register, how it is loaded, and in
//! the multiply-add.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::{GROUPS, Shape, TILE, Tile};
use crate::attention::layout::GROUP;

/// `count`, `seen` and the rest as in [`super::scores`] and [`super::accumulate`], which have checked the shapes.
///
/// - `$bytes`: of one register of keys or values in memory
/// - `$numbers`: per unit
/// - `$load`, `$multiply_add`: of a register, and `acc + register * broadcast unit`
/// - `$mask`: keeps only some of the numbers of each unit
macro_rules! kernels {
    ($name:ident, $features:literal, $bytes:literal, $numbers:literal, $load:ident, $multiply_add:ident) => {
        pub(super) mod $name {
            use super::*;

            const BYTES: usize = $bytes;
            const NUMBERS: usize = $numbers;
            /// Units of positions in a register group.
            const STEPS: usize = GROUP / NUMBERS;
            /// Units of one row of weights.
            const ROW: usize = TILE / NUMBERS;

            /// # Safety
            /// The features must be present; shapes as checked by the caller; `q` is [queries][units of the head].
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn scores(
                shape: Shape,
                q: *const u32,
                tile: &Tile<'_>,
                seen: &[Range<usize>],
                out: &mut [f32],
            ) {
                let units = shape.head_dim / NUMBERS;
                for (chunk, seen) in seen.chunks(4).enumerate() {
                    let (first, last) = groups_of(seen);
                    if first >= last {
                        continue;
                    }
                    let ahead = Ahead { groups: &tile.next_keys, turn: Turn::of(chunk, shape.queries) };
                    // SAFETY: the chunk's queries and rows of `out` exist, as do the groups up to `last`.
                    unsafe {
                        let q = q.add(chunk * 4 * units);
                        let out = out.as_mut_ptr().add(chunk * 4 * TILE + first * GROUP);
                        let keys = &tile.keys[first..last];
                        match (seen.len(), last - first) {
                            (4, 4) => score::<4, 4>(q, units, keys, ahead, out),
                            (4, 3) => score::<4, 3>(q, units, keys, ahead, out),
                            (4, 2) => score::<4, 2>(q, units, keys, ahead, out),
                            (4, _) => score::<4, 1>(q, units, keys, ahead, out),
                            (3, 4) => score::<3, 4>(q, units, keys, ahead, out),
                            (2, 4) => score::<2, 4>(q, units, keys, ahead, out),
                            (1, 4) => score::<1, 4>(q, units, keys, ahead, out),
                            (count, groups) => {
                                for (i, g) in (0..count * groups).map(|n| (n / groups, n % groups)) {
                                    let (q, out) = (q.add(i * units), out.add(i * TILE + g * GROUP));
                                    score::<1, 1>(q, units, &keys[g..], ahead, out);
                                }
                            }
                        }
                    }
                }
            }

            /// # Safety
            /// `q` is [Q][units], `keys` has G groups of [units][16] units, `out` is [Q] rows of TILE from its first group.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn score<const Q: usize, const G: usize>(
                q: *const u32,
                units: usize,
                keys: &[&[u8]],
                ahead: Ahead<'_>,
                out: *mut f32,
            ) {
                let keys: [*const u8; G] = std::array::from_fn(|g| keys[g].as_ptr());
                let mut sums = [[_mm512_setzero_ps(); G]; Q];
                for unit in 0..units {
                    if ahead.turn.is_at(unit) {
                        // A hint that reads nothing: `wrapping_add` because a shorter tile has empty groups.
                        for group in ahead.groups.iter().take_while(|group| !group.is_empty()) {
                            _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(unit * BYTES).cast());
                        }
                    }
                    // SAFETY: unit < units in every group and every query.
                    unsafe {
                        let key: [__m512; G] = std::array::from_fn(|g| $load(keys[g].add(unit * BYTES)));
                        for i in 0..Q {
                            let q = _mm512_set1_epi32(q.add(i * units + unit).read_unaligned() as i32);
                            for g in 0..G {
                                sums[i][g] = $multiply_add(sums[i][g], key[g], q);
                            }
                        }
                    }
                }
                for i in 0..Q {
                    for g in 0..G {
                        // SAFETY: the group lies within row i.
                        unsafe { _mm512_storeu_ps(out.add(i * TILE + g * GROUP), sums[i][g]) };
                    }
                }
            }

            /// # Safety
            /// As [`scores`]; `weights` is [queries][ROW].
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn accumulate(
                shape: Shape,
                weights: *const u32,
                tile: &Tile<'_>,
                seen: &[Range<usize>],
                acc: &mut [f32],
            ) {
                for (chunk, seen) in seen.chunks(4).enumerate() {
                    // SAFETY: the chunk's rows of weights and accumulators exist.
                    unsafe {
                        let weights = weights.add(chunk * 4 * ROW);
                        let acc = acc.as_mut_ptr().add(chunk * 4 * shape.padded);
                        let ahead = Ahead { groups: &tile.next_values, turn: Turn::of(chunk, shape.queries) };
                        let walk = Walk { values: &tile.values, ahead, padded: shape.padded };
                        match seen.len() {
                            4 => rows::<4>(weights, walk, seen, acc),
                            3 => rows::<3>(weights, walk, seen, acc),
                            2 => rows::<2>(weights, walk, seen, acc),
                            _ => rows::<1>(weights, walk, seen, acc),
                        }
                    }
                }
            }

            /// The units that all Q queries see in full go together, those at the edges one query at a time: for each
            /// query the order stays that of the positions.
            ///
            /// # Safety
            /// `weights` is [Q][ROW], `acc` is [Q][padded].
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn rows<const Q: usize>(
                weights: *const u32,
                walk: Walk<'_>,
                seen: &[Range<usize>],
                acc: *mut f32,
            ) {
                let first = seen.iter().map(|s| s.start.div_ceil(NUMBERS)).max().unwrap_or(0);
                let last = seen.iter().map(|s| s.end / NUMBERS).min().unwrap_or(0);
                let together = if first < last { first..last } else { TILE..TILE };
                // SAFETY: `seen` has Q entries within the tile.
                unsafe {
                    for i in 0..Q {
                        edge(
                            weights.add(i * ROW),
                            walk,
                            &seen[i],
                            0..together.start,
                            acc.add(i * walk.padded),
                        );
                    }
                    if first >= last {
                        return;
                    }
                    columns::<Q>(weights, walk, together, acc);
                    for i in (0..Q).filter(|i| seen[*i].end > last * NUMBERS) {
                        edge(weights.add(i * ROW), walk, &seen[i], last..TILE, acc.add(i * walk.padded));
                    }
                }
            }

            /// One query's units `within`, as far as it sees them.
            ///
            /// # Safety
            /// `weights` is [ROW], `acc` is [padded].
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn edge(
                weights: *const u32,
                walk: Walk<'_>,
                seen: &Range<usize>,
                within: Range<usize>,
                acc: *mut f32,
            ) {
                let first = (seen.start / NUMBERS).max(within.start);
                let last = seen.end.div_ceil(NUMBERS).min(within.end);
                let whole = seen.start.div_ceil(NUMBERS)..seen.end / NUMBERS;
                let mut step = first;
                while step < last {
                    // SAFETY: `step` is a unit of the tile.
                    unsafe {
                        if whole.contains(&step) {
                            let end = whole.end.min(last);
                            columns::<1>(weights, walk, step..end, acc);
                            step = end;
                        } else {
                            part(weights, walk, step, half_mask(step, seen), acc);
                            step += 1;
                        }
                    }
                }
            }

            /// One unit of which the query sees only the numbers in `mask`.
            ///
            /// # Safety
            /// As [`edge`].
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn part(weights: *const u32, walk: Walk<'_>, step: usize, mask: u32, acc: *mut f32) {
                // SAFETY: `step` is a unit of the tile and columns go up to `padded`.
                unsafe {
                    let weight = _mm512_set1_epi32((weights.add(step).read_unaligned() & mask) as i32);
                    for column in 0..walk.padded / 16 {
                        let value = $load(walk.at(step, column, STEPS, BYTES));
                        let seen =
                            _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(mask as i32));
                        let to = acc.add(column * 16);
                        let sum = $multiply_add(_mm512_loadu_ps(to), _mm512_castsi512_ps(seen), weight);
                        _mm512_storeu_ps(to, sum);
                    }
                }
            }

            /// # Safety
            /// `weights` is [Q][ROW], `acc` is [Q][padded], `steps` are units of the tile.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn columns<const Q: usize>(
                weights: *const u32,
                walk: Walk<'_>,
                steps: Range<usize>,
                acc: *mut f32,
            ) {
                let count = walk.padded / 16;
                let mut column = 0;
                // SAFETY: `column + C <= count` in each call.
                unsafe {
                    while column + 4 <= count {
                        block::<Q, 4>(weights, walk, steps.clone(), column, acc);
                        column += 4;
                    }
                    if column + 2 <= count {
                        block::<Q, 2>(weights, walk, steps.clone(), column, acc);
                        column += 2;
                    }
                    if column < count {
                        block::<Q, 1>(weights, walk, steps, column, acc);
                    }
                }
            }

            /// Q queries by C registers of columns from `column` on.
            ///
            /// # Safety
            /// As [`columns`], and the columns exist.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn block<const Q: usize, const C: usize>(
                weights: *const u32,
                walk: Walk<'_>,
                steps: Range<usize>,
                column: usize,
                acc: *mut f32,
            ) {
                // SAFETY: every address is one the contract covers.
                unsafe {
                    let acc = acc.add(column * 16);
                    let mut sums: [[__m512; C]; Q] = std::array::from_fn(|i| {
                        std::array::from_fn(|c| _mm512_loadu_ps(acc.add(i * walk.padded + c * 16)))
                    });
                    let mut step = steps.start;
                    while step < steps.end {
                        let group = step / STEPS;
                        let end = steps.end.min((group + 1) * STEPS);
                        let row = walk.padded / 16 * BYTES;
                        let mut from = walk.at(step, column, STEPS, BYTES);
                        let ahead = walk.ahead.groups[group];
                        let fetch = !ahead.is_empty();
                        let mut ahead = ahead.as_ptr().wrapping_add(step % STEPS * row + column * BYTES);
                        while step < end {
                            let value: [__m512; C] = std::array::from_fn(|c| $load(from.add(c * BYTES)));
                            if fetch && walk.ahead.turn.is_at(step) {
                                for c in 0..C {
                                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(c * BYTES).cast());
                                }
                            }
                            ahead = ahead.wrapping_add(row);
                            for i in 0..Q {
                                let weight = weights.add(i * ROW + step).read_unaligned();
                                let weight = _mm512_set1_epi32(weight as i32);
                                for c in 0..C {
                                    sums[i][c] = $multiply_add(sums[i][c], value[c], weight);
                                }
                            }
                            from = from.wrapping_add(row);
                            step += 1;
                        }
                    }
                    for i in 0..Q {
                        for c in 0..C {
                            _mm512_storeu_ps(acc.add(i * walk.padded + c * 16), sums[i][c]);
                        }
                    }
                }
            }

            /// Which numbers of unit `step` are in `seen`, as a mask of their bits.
            fn half_mask(step: usize, seen: &Range<usize>) -> u32 {
                let bits = 32 / NUMBERS as u32;
                let one = (u64::MAX >> (64 - bits)) as u32;
                let number = |n: usize| {
                    if seen.contains(&(step * NUMBERS + n)) { one << (n as u32 * bits) } else { 0 }
                };
                (0..NUMBERS).map(number).sum()
            }
        }
    };
}

kernels!(f32, "avx512f", 64, 1, load_whole, multiply_add_f32);
kernels!(f16, "avx512f", 32, 1, load_f16, multiply_add_f32);
kernels!(bf16, "avx512f,avx512bf16", 64, 2, load_whole, multiply_add_bf16);

/// The values of a tile.
#[derive(Clone, Copy)]
struct Walk<'a> {
    values: &'a [&'a [u8]; GROUPS],
    ahead: Ahead<'a>,
    padded: usize,
}

/// The following tile, which the walk over this one fetches.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    groups: &'a [&'a [u8]; GROUPS],
    turn: Turn,
}

/// Which of the chunks of queries fetches at which step. They take turns, so that requests spread evenly over the time that
/// the tile takes: in one burst they would exceed what a core can have under way, and stall it.
#[derive(Clone, Copy)]
struct Turn {
    mask: usize,
    phase: usize,
}

impl Turn {
    fn of(chunk: usize, queries: usize) -> Turn {
        let mask = match queries.div_ceil(4) {
            1 => 0,
            2 | 3 => 1,
            _ => 3,
        };
        // The chunks after the turns are over have the phase of no step.
        Turn { mask, phase: chunk }
    }

    #[inline(always)]
    fn is_at(self, step: usize) -> bool {
        step & self.mask == self.phase
    }
}

impl Walk<'_> {
    /// Where register `column` of unit `step` lies.
    #[inline(always)]
    fn at(&self, step: usize, column: usize, steps: usize, bytes: usize) -> *const u8 {
        let offset = (step % steps * (self.padded / 16) + column) * bytes;
        self.values[step / steps][offset..].as_ptr()
    }
}

/// The groups that hold all positions some query of `seen` sees.
fn groups_of(seen: &[Range<usize>]) -> (usize, usize) {
    let seen = || seen.iter().filter(|seen| !seen.is_empty());
    let first = seen().map(|seen| seen.start / GROUP).min().unwrap_or(0);
    let last = seen().map(|seen| seen.end.div_ceil(GROUP)).max().unwrap_or(0);
    (first, last)
}

/// # Safety
/// 64 bytes at `from`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_whole(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(from.cast()) }
}

/// # Safety
/// 32 bytes at `from`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_f16(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn multiply_add_f32(acc: __m512, register: __m512, unit: __m512i) -> __m512 {
    _mm512_fmadd_ps(register, _mm512_castsi512_ps(unit), acc)
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn multiply_add_bf16(acc: __m512, register: __m512, unit: __m512i) -> __m512 {
    // SAFETY: both types are 64 bytes without invalid values.
    unsafe {
        _mm512_dpbf16_ps(acc, transmute::<__m512, __m512bh>(register), transmute::<__m512i, __m512bh>(unit))
    }
}
