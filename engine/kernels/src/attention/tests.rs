//! Every variant against a full softmax in f64 over what the cache stores, and the promise that cutting the work
//! differently changes no bit.

use super::format::{decode_row, encode_row};
use super::layout::Layout;
use super::simd::Kind;
use super::*;
use crate::arena::AlignedBuf;
use crate::ops::RowsRef;
use crate::ops::testing::{every_isa, random};
use crate::{Isa, ThreadPool};

/// One sequence of `positions` tokens with q, k and v for each of them.
struct Case {
    positions: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    params: AttentionParams,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(positions: usize, heads: usize, kv_heads: usize, head_dim: usize, seed: u64) -> Self {
        Case {
            positions,
            heads,
            kv_heads,
            head_dim,
            params: AttentionParams::plain(1.0 / (head_dim as f32).sqrt()),
            q: random(positions * heads * head_dim, seed).iter().map(|x| x * 3.0).collect(),
            k: random(positions * kv_heads * head_dim, seed + 1),
            v: random(positions * kv_heads * head_dim, seed + 2),
        }
    }

    /// Keys or values as the cache gives them back.
    fn stored(&self, format: KvFormat, data: &[f32]) -> Vec<f64> {
        let mut bytes = AlignedBuf::<u8>::zeroed(self.head_dim * format.bytes_per_value()).unwrap();
        let mut back = vec![0.0; self.head_dim];
        let mut out = Vec::new();
        for row in data.chunks(self.head_dim) {
            let scale = encode_row(Isa::Portable, format, row, &mut bytes);
            decode_row(Isa::Portable, format, &bytes, scale, &mut back);
            out.extend(back.iter().map(|x| f64::from(*x)));
        }
        out
    }

    /// Softmax over all scores at once, in f64, with keys and values as the cache stores them.
    fn expected(&self, format: KvFormat) -> Vec<f64> {
        let (k, v) = (self.stored(format, &self.k), self.stored(format, &self.v));
        let mut out = Vec::new();
        for row in 0..self.positions {
            for head in 0..self.heads {
                let kv_head = head / (self.heads / self.kv_heads);
                let at = |p: usize| (p * self.kv_heads + kv_head) * self.head_dim;
                let q = &self.q[(row * self.heads + head) * self.head_dim..][..self.head_dim];
                let score = |p: usize| {
                    let k = &k[at(p)..][..self.head_dim];
                    let score = q.iter().zip(k).map(|(q, k)| f64::from(*q) * k).sum::<f64>();
                    let score = score * f64::from(self.params.scale);
                    self.params.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                };
                let first = self.params.window.map_or(0, |window| (row + 1).saturating_sub(window));
                let scores: Vec<f64> = (first..=row).map(score).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..self.head_dim).map(|d| {
                    (first..=row).zip(&weights).map(|(p, weight)| weight * v[at(p) + d]).sum::<f64>() / sum
                }));
            }
        }
        out
    }

    /// The rows `chunk` of the case, whose earlier positions are already in `cache`.
    fn write_and_attend(
        &self,
        pool: &ThreadPool,
        cache: &mut KvCache,
        blocks: &[u32],
        chunk: std::ops::Range<usize>,
        scratch: &mut AttentionScratch,
    ) -> Vec<f32> {
        let block_size = cache.block_size();
        let slots: Vec<u32> = chunk
            .clone()
            .map(|p| blocks[p / block_size] * block_size as u32 + (p % block_size) as u32)
            .collect();
        let kv_width = self.kv_heads * self.head_dim;
        let kv = chunk.start * kv_width..chunk.end * kv_width;
        let (k, v) = (&self.k[kv.clone()], &self.v[kv]);
        cache.write(pool, 0, &slots, RowsRef::packed(k, kv_width), RowsRef::packed(v, kv_width));
        let width = self.heads * self.head_dim;
        let q = RowsRef::packed(&self.q[chunk.start * width..chunk.end * width], width);
        let mut out = vec![0.0; chunk.len() * width];
        let seq = AttentionSeq { q_start: 0, q_len: chunk.len(), context: chunk.start, blocks };
        paged_attention(pool, cache, 0, &[seq], q, self.heads, self.params, &mut out, scratch);
        out
    }

    fn run(&self, format: KvFormat, isa: Isa, block_size: usize, chunk: usize, threads: usize) -> Vec<f32> {
        let pool = ThreadPool::new(threads);
        let count = self.positions.div_ceil(block_size);
        // Blocks in reverse order, so that neighbours in the sequence are not neighbours in memory.
        let blocks: Vec<u32> = (1..=count as u32).rev().collect();
        let mut cache =
            KvCache::with_isa(format, 1, count + 1, block_size, self.kv_heads, self.head_dim, isa).unwrap();
        self.run_in(&pool, &mut cache, &blocks, chunk)
    }

    fn run_in(&self, pool: &ThreadPool, cache: &mut KvCache, blocks: &[u32], chunk: usize) -> Vec<f32> {
        let mut scratch = AttentionScratch::default();
        (0..self.positions)
            .step_by(chunk)
            .flat_map(|start| {
                let end = self.positions.min(start + chunk);
                self.write_and_attend(pool, cache, blocks, start..end, &mut scratch)
            })
            .collect()
    }
}

/// The largest error against [`Case::expected`], which is what the arithmetic adds to the rounding of the format.
fn worst_error(out: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(out.len(), expected.len());
    out.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

/// Values are in -1..1. The f32 kernels err by their sums of up to 150 products; the bf16 kernels by rounding queries and
/// softmax weights to 8 bits, as the cache rounds keys and values.
fn tolerance(isa: Isa, format: KvFormat) -> f64 {
    if Kind::of(isa, format, Layout::Tiled) == Kind::Bf16 { 6e-3 } else { 2e-6 }
}

#[test]
fn every_variant_agrees_with_full_softmax() {
    for (positions, heads, kv_heads, head_dim) in
        [(1, 1, 1, 2), (33, 4, 4, 64), (70, 8, 2, 80), (40, 6, 1, 10), (65, 2, 2, 128), (50, 4, 2, 96)]
    {
        let case = Case::new(positions, heads, kv_heads, head_dim, head_dim as u64);
        for format in KvFormat::ALL {
            let expected = case.expected(format);
            for isa in every_isa() {
                let worst = worst_error(&case.run(format, isa, 16, positions, 2), &expected);
                assert!(worst < tolerance(isa, format), "{isa} {format} head_dim {head_dim}: {worst:e}");
            }
        }
    }
}

#[test]
fn windows_and_soft_caps_agree_with_full_softmax() {
    for (window, softcap) in
        [(Some(1), None), (Some(7), None), (Some(64), Some(2.0)), (None, Some(1.0)), (Some(500), None)]
    {
        let mut case = Case::new(150, 4, 2, 32, 21);
        (case.params.window, case.params.softcap) = (window, softcap);
        for format in KvFormat::ALL {
            let expected = case.expected(format);
            for isa in every_isa() {
                for (block_size, chunk) in [(16, 150), (5, 40)] {
                    let worst = worst_error(&case.run(format, isa, block_size, chunk, 2), &expected);
                    assert!(worst < tolerance(isa, format), "{isa} {format} {:?}: {worst:e}", case.params);
                }
            }
        }
    }
}

#[test]
fn a_long_context_crosses_splits_and_still_agrees() {
    let case = Case::new(1100, 2, 1, 16, 5);
    let expected = case.expected(KvFormat::F32);
    for isa in every_isa() {
        let out = case.run(KvFormat::F32, isa, 32, 1100, 2);
        let worst = worst_error(&out, &expected);
        assert!(worst < 4e-6, "{isa}: {worst:e}");
    }
}

#[test]
fn block_size_chunking_and_threads_change_no_bit() {
    for (positions, heads, kv_heads, head_dim, window, softcap) in [
        (150, 4, 2, 32, None, None),
        (90, 3, 3, 20, Some(33), Some(3.0)),
        (1060, 4, 2, 16, None, None),
        (600, 2, 1, 16, Some(100), None),
    ] {
        let mut case = Case::new(positions, heads, kv_heads, head_dim, 11);
        (case.params.window, case.params.softcap) = (window, softcap);
        for (format, isa) in
            KvFormat::ALL.into_iter().flat_map(|f| every_isa().into_iter().map(move |i| (f, i)))
        {
            let expected = case.run(format, isa, 16, positions, 1);
            for (block_size, chunk, threads) in [
                (1, positions, 1),
                (8, 7, 2),
                (16, 64, 3),
                (32, 16, 1),
                (48, positions, 2),
                (11, 33, 2),
                (16, 1, 8),
            ] {
                let out = case.run(format, isa, block_size, chunk, threads);
                let same = out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{isa} {format}: blocks of {block_size}, chunks of {chunk}, {threads} threads");
            }
        }
    }
}

/// Blocks come back from finished sequences with their numbers still in them.
#[test]
fn what_a_block_held_before_changes_no_bit() {
    let mut case = Case::new(75, 4, 2, 32, 31);
    for window in [None, Some(19)] {
        case.params.window = window;
        for (format, isa) in
            KvFormat::ALL.into_iter().flat_map(|f| every_isa().into_iter().map(move |i| (f, i)))
        {
            for (block_size, chunk) in [(16, 1), (16, 20), (8, 7)] {
                let pool = ThreadPool::new(1);
                let blocks: Vec<u32> = (0..75_u32.div_ceil(block_size)).collect();
                let run = |before: f32| {
                    let (count, size) = (blocks.len(), block_size as usize);
                    let mut cache = KvCache::with_isa(format, 1, count, size, 2, 32, isa).unwrap();
                    let rows = vec![before; count * size * 64];
                    let slots: Vec<u32> = (0..(count * size) as u32).collect();
                    cache.write(&pool, 0, &slots, RowsRef::packed(&rows, 64), RowsRef::packed(&rows, 64));
                    case.run_in(&pool, &mut cache, &blocks, chunk)
                };
                let clean: Vec<u32> = run(0.0).iter().map(|x| x.to_bits()).collect();
                for before in [f32::NAN, f32::INFINITY, -1e30] {
                    let used: Vec<u32> = run(before).iter().map(|x| x.to_bits()).collect();
                    assert!(used == clean, "{isa} {format}: blocks of {block_size} that held {before}");
                }
            }
        }
    }
}

/// What rounding queries and softmax weights to bf16 adds, beside what the cache's own rounding costs: the root mean square
/// of the error against f64 over unrounded keys and values, with f32 arithmetic and with bf16 arithmetic on one cache.
#[test]
fn bf16_arithmetic_costs_no_more_than_a_bf16_cache() {
    for (head_dim, seed) in [(64, 41), (128, 43)] {
        let case = Case::new(300, 8, 2, head_dim, seed);
        let exact = case.expected(KvFormat::F32);
        let rms = |isa, format| {
            let out = case.run(format, isa, 16, 300, 1);
            let squares = out.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2));
            (squares.sum::<f64>() / exact.len() as f64).sqrt()
        };
        let cache_alone = rms(Isa::Portable, KvFormat::Bf16);
        for isa in every_isa() {
            let both = rms(isa, KvFormat::Bf16);
            assert!(both < 1.6 * cache_alone, "{isa}, heads of {head_dim}: {both:e} against {cache_alone:e}");
            for format in [KvFormat::Int8, KvFormat::Fp8] {
                let (both, alone) = (rms(isa, format), rms(Isa::Portable, format));
                assert!(both < 1.3 * alone, "{isa} {format}: {both:e} against {alone:e}");
            }
        }
    }
}

/// A prefill chunk, a decode with a long context and another decode in one call, strided q, rows in between left alone.
#[test]
fn a_mixed_batch_gives_each_sequence_what_it_gets_alone() {
    let (heads, kv_heads, head_dim, block_size) = (4, 2, 16, 8);
    let cases = [Case::new(45, heads, kv_heads, head_dim, 1), Case::new(700, heads, kv_heads, head_dim, 2)];
    let chunks = [20..45, 699..700];
    let width = heads * head_dim;
    for threads in [1, 4] {
        let pool = ThreadPool::new(threads);
        let mut cache = KvCache::new(KvFormat::F32, 1, 100, block_size, kv_heads, head_dim).unwrap();
        let tables: [Vec<u32>; 2] = [(0..6).collect(), (6..94).rev().collect()];
        let mut alone = Vec::new();
        let mut scratch = AttentionScratch::default();
        for ((case, table), chunk) in cases.iter().zip(&tables).zip(&chunks) {
            case.write_and_attend(&pool, &mut cache, table, 0..chunk.start, &mut scratch);
            alone.push(case.write_and_attend(&pool, &mut cache, table, chunk.clone(), &mut scratch));
        }
        // 25 rows of the first case, one row of nobody, one row of the second; 3 foreign columns before each row.
        let stride = width + 3;
        let mut q = vec![f32::NAN; 27 * stride];
        for (row, position) in (20..45).enumerate() {
            q[row * stride + 3..][..width].copy_from_slice(&cases[0].q[position * width..][..width]);
        }
        q[26 * stride + 3..][..width].copy_from_slice(&cases[1].q[699 * width..][..width]);
        let seqs = [
            AttentionSeq { q_start: 0, q_len: 25, context: 20, blocks: &tables[0] },
            AttentionSeq { q_start: 26, q_len: 1, context: 699, blocks: &tables[1] },
        ];
        let mut out = vec![7.0; 27 * width];
        let q = RowsRef::strided(&q, stride, 3, width);
        paged_attention(&pool, &cache, 0, &seqs, q, heads, cases[0].params, &mut out, &mut scratch);
        assert_eq!(out[..25 * width], alone[0]);
        assert!(out[25 * width..26 * width].iter().all(|x| *x == 7.0));
        assert_eq!(out[26 * width..], alone[1]);
    }
}

#[test]
#[should_panic(expected = "sequence 0: 9 positions")]
fn a_block_table_that_is_too_short_is_refused() {
    let cache = KvCache::new(KvFormat::F32, 1, 4, 4, 1, 8).unwrap();
    let (q, mut out) = (vec![0.0; 8], vec![0.0; 8]);
    let seq = AttentionSeq { q_start: 0, q_len: 1, context: 8, blocks: &[0, 1] };
    let q = RowsRef::packed(&q, 8);
    paged_attention(
        &ThreadPool::new(1),
        &cache,
        0,
        &[seq],
        q,
        1,
        AttentionParams::plain(1.0),
        &mut out,
        &mut AttentionScratch::default(),
    );
}
