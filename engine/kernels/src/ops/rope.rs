//! Rotary position embedding (Su et al. 2021) in the layout of Hugging Face checkpoints.

use crate::ThreadPool;
use crate::ops::rows::{RowsMut, for_rows, isa, multiversion};

/// cos and sin of every position and frequency, [max_positions, rotary_dim / 2] each.
pub struct RopeTable {
    /// Half of the leading values of a head that turn; the rest stay.
    half: usize,
    head_dim: usize,
    max_positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Frequency i is `theta^(-2i / head_dim)`; the angle is `position * frequency`, both rounded to f32 as
    /// Hugging Face does, because that is what a checkpoint was trained with. `head_dim` must be even.
    pub fn new(head_dim: usize, max_positions: usize, theta: f32) -> Self {
        let frequency = |i| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32;
        let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
        RopeTable::from_inv_freq(head_dim, head_dim, max_positions, &frequencies, 1.0)
    }

    /// The first `rotary_dim` values of every head turn by `position * inv_freq[i]`, rounded to f32 as Hugging Face does;
    /// `inv_freq` is [rotary_dim / 2]. cos and sin are multiplied by `magnitude` (the attention factor of YaRN and
    /// LongRoPE). Both dimensions must be even.
    pub fn from_inv_freq(
        rotary_dim: usize,
        head_dim: usize,
        max_positions: usize,
        inv_freq: &[f32],
        magnitude: f32,
    ) -> Self {
        assert!(head_dim >= 2 && head_dim.is_multiple_of(2), "head_dim {head_dim} must be even");
        let half = rotary_dim / 2;
        assert!(
            rotary_dim <= head_dim && rotary_dim == 2 * inv_freq.len() && half > 0,
            "{rotary_dim} of {head_dim} values turn by {} frequencies",
            inv_freq.len()
        );
        let angles = (0..max_positions)
            .flat_map(|position| inv_freq.iter().map(move |f| f64::from(position as f32 * f)));
        let scaled = |x: f64| x as f32 * magnitude;
        let (cos, sin) = angles.map(|angle| (scaled(angle.cos()), scaled(angle.sin()))).unzip();
        RopeTable { half, head_dim, max_positions, cos, sin }
    }

    pub fn bytes(&self) -> u64 {
        4 * (self.cos.len() + self.sin.len()) as u64
    }

    /// Rotates every head of row t by `positions[t]`, in place. A row is [heads, head_dim]; within a head, value i is
    /// paired with value `i + rotary_dim / 2` ("rotate half").
    pub fn apply(&self, pool: &ThreadPool, x: RowsMut<'_>, positions: &[u32]) {
        assert_eq!(x.len(), positions.len(), "one position per row");
        let width = x.width();
        assert!(width.is_multiple_of(self.head_dim), "rows of {width} are not heads of {}", self.head_dim);
        if let Some(position) = positions.iter().find(|p| **p as usize >= self.max_positions) {
            panic!("position {position} beyond the table's {}", self.max_positions);
        }
        let isa = isa();
        let (x, start_of) = x.share();
        for_rows(pool, positions.len(), width, |rows| {
            for row in rows {
                let angles = positions[row] as usize * self.half..(positions[row] as usize + 1) * self.half;
                // SAFETY: every row belongs to one worker.
                let heads = unsafe { x.slice(start_of(row), width) };
                rotate(isa, heads, self.head_dim, &self.cos[angles.clone()], &self.sin[angles]);
            }
        });
    }
}

multiversion! { fn rotate(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) = rotate_body }

#[inline(always)]
fn rotate_body(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(head_dim) {
        let (first, second) = head[..2 * half].split_at_mut(half);
        for i in 0..half {
            let (a, b) = (first[i], second[i]);
            first[i] = a * cos[i] - b * sin[i];
            second[i] = b * cos[i] + a * sin[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::ops::testing::{every_isa, random};

    #[test]
    fn rotates_pairs_by_position_times_frequency() {
        let (heads, head_dim, theta) = (3, 8, 10_000.0f32);
        let positions = [0u32, 1, 5, 30];
        let x = random(positions.len() * heads * head_dim, 1);
        let mut out = x.clone();
        let table = RopeTable::new(head_dim, 31, theta);
        table.apply(&ThreadPool::new(1), RowsMut::packed(&mut out, heads * head_dim), &positions);
        for (t, position) in positions.iter().enumerate() {
            for h in 0..heads {
                for i in 0..head_dim / 2 {
                    let at = (t * heads + h) * head_dim + i;
                    let (a, b) = (f64::from(x[at]), f64::from(x[at + head_dim / 2]));
                    let angle =
                        f64::from(*position) * f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
                    let expected = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
                    assert!((f64::from(out[at]) - expected.0).abs() < 1e-5, "{} {}", out[at], expected.0);
                    assert!((f64::from(out[at + head_dim / 2]) - expected.1).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn only_the_rotary_part_of_a_head_turns_and_magnitude_multiplies_it() {
        let (heads, head_dim, rotary_dim, magnitude) = (2, 20, 8, 1.25f32);
        let inv_freq = [1.0, 0.3, 0.05, 0.002];
        let x = random(3 * heads * head_dim, 9);
        let mut out = x.clone();
        let table = RopeTable::from_inv_freq(rotary_dim, head_dim, 40, &inv_freq, magnitude);
        let positions = [0u32, 7, 39];
        table.apply(&ThreadPool::new(1), RowsMut::packed(&mut out, heads * head_dim), &positions);
        for (head, (x, out)) in x.chunks(head_dim).zip(out.chunks(head_dim)).enumerate() {
            let position = f64::from(positions[head / heads]);
            for i in 0..rotary_dim / 2 {
                let (sin, cos) = (position * f64::from(inv_freq[i])).sin_cos();
                let (a, b) = (f64::from(x[i]), f64::from(x[i + rotary_dim / 2]));
                let expected = [(a * cos - b * sin) * 1.25, (b * cos + a * sin) * 1.25];
                assert!((f64::from(out[i]) - expected[0]).abs() < 1e-5);
                assert!((f64::from(out[i + rotary_dim / 2]) - expected[1]).abs() < 1e-5);
            }
            assert_eq!(out[rotary_dim..], x[rotary_dim..]);
        }
    }

    /// What attention relies on: a score depends on the distance between two tokens only.
    #[test]
    fn dot_products_depend_on_distance_only() {
        let head_dim = 64;
        let (q, k) = (random(head_dim, 2), random(head_dim, 3));
        let table = RopeTable::new(head_dim, 512, 10_000.0);
        let score = |q_position: u32, k_position: u32| -> f32 {
            let (mut q, mut k) = (q.clone(), k.clone());
            let pool = ThreadPool::new(1);
            table.apply(&pool, RowsMut::packed(&mut q, head_dim), &[q_position]);
            table.apply(&pool, RowsMut::packed(&mut k, head_dim), &[k_position]);
            q.iter().zip(&k).map(|(a, b)| a * b).sum()
        };
        assert!((score(7, 3) - score(504, 500)).abs() < 1e-3);
        assert!((score(7, 3) - score(8, 3)).abs() > 1e-3);
    }

    #[test]
    fn strided_rows_threads_and_instruction_sets_do_not_change_bits() {
        let (tokens, width, stride, head_dim) = (300, 128, 200, 32);
        let positions: Vec<u32> = (0..tokens as u32).rev().collect();
        let table = RopeTable::new(head_dim, tokens, 500_000.0);
        let fused = random(tokens * stride, 4);
        let mut packed: Vec<f32> =
            fused.chunks(stride).flat_map(|row| row[30..30 + width].to_vec()).collect();
        table.apply(&ThreadPool::new(1), RowsMut::packed(&mut packed, width), &positions);
        let mut strided = fused.clone();
        table.apply(&ThreadPool::new(3), RowsMut::strided(&mut strided, stride, 30, width), &positions);
        for t in 0..tokens {
            let (row, before) = (&strided[t * stride..][..stride], &fused[t * stride..][..stride]);
            assert_eq!(row[30..30 + width], packed[t * width..(t + 1) * width]);
            assert_eq!(row[..30], before[..30]);
            assert_eq!(row[30 + width..], before[30 + width..]);
        }
        let (cos, sin) = (random(40, 5), random(40, 6));
        let mut expected = random(160, 7);
        let start = expected.clone();
        rotate(Isa::Portable, &mut expected, 80, &cos, &sin);
        for isa in every_isa() {
            let mut out = start.clone();
            rotate(isa, &mut out, 80, &cos, &sin);
            assert_eq!(out, expected, "{isa:?}");
        }
    }
}
