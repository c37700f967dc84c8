//! The roundings of single values, blocks and tokens, in forms that vectorise.

use super::BLOCK;

/// Adding 1.5 * 2^23 rounds to an integer, half to even, and leaves it in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

/// An f32 whose bits plus `s` are the bits of `MAGIC + s`: an integer sum that starts here becomes a float by one subtraction.
pub(crate) const MAGIC: f32 = ROUND;

/// Blocks whose largest magnitude reaches this (about 1e30) count as infinite.
const TOO_LARGE_BITS: u32 = (127 + 100) << 23;

/// Blocks whose largest magnitude is below this (about 1e-30) count as zeros.
const TOO_SMALL_BITS: u32 = (127 - 100) << 23;

/// A block of activations as signed bytes: `x = q * step` within half a step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(32))]
pub(crate) struct Block8 {
    pub q: [i8; BLOCK],
    /// Sums of the bytes of each half.
    pub sums: [i32; 2],
    /// Where the step is `2^e`, `1.5 * 2^(23 + e)`: an f32 with this exponent and `s` added to its bits is `magic + s * 2^e`, so that an integer sum
    /// that starts at these bits becomes a scaled float by one subtraction. For other steps [`MAGIC`]. NaN where the block holds a NaN or an infinity.
    pub magic: f32,
    pub step: f32,
}

/// The step of a block, from the bits of its largest magnitude: `amax / 127` where it is fine, else a power of two.
///
/// That is the smallest power of two that brings that magnitude to at most 127. A power of two costs up to one bit against
/// `amax / 127`, on average as much as one scale for 256 values does on values without outliers, and less with them. In return
/// products need no multiplication by the step: it is an step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    amax: u32,
    e: i32,
    fine: bool,
}

impl Step {
    #[inline(always)]
    pub(super) fn new(amax: u32, fine: bool) -> Self {
        // 127 = 1.984375 * 2^6: above that mantissa the next power of two is needed.
        let e = (amax >> 23) as i32 - 127 - 6 + i32::from(amax & 0x7f_ffff > 0x7e_0000);
        Step { amax, fine, e: if (TOO_SMALL_BITS..TOO_LARGE_BITS).contains(&amax) { e } else { 0 } }
    }

    #[inline(always)]
    pub(super) fn is_infinite(self) -> bool {
        self.amax >= TOO_LARGE_BITS
    }

    /// What a block with a NaN, an infinity or a value near it becomes.
    #[inline(always)]
    pub(super) fn infinite(self) -> Block8 {
        Block8 { q: [0; BLOCK], sums: [0; 2], magic: f32::NAN, step: f32::NAN }
    }

    /// One over the step, or 0 where the block counts as zeros.
    #[inline(always)]
    pub(super) fn inverse(self) -> f32 {
        match (TOO_SMALL_BITS..TOO_LARGE_BITS).contains(&self.amax) {
            false => 0.0,
            true if self.fine => 127.0 / f32::from_bits(self.amax),
            true => f32::from_bits(((127 - self.e) as u32) << 23),
        }
    }

    #[inline(always)]
    pub(super) fn magic(self) -> f32 {
        if self.fine { MAGIC } else { f32::from_bits(((150 + self.e) as u32) << 23 | 0x40_0000) }
    }

    #[inline(always)]
    pub(super) fn step(self) -> f32 {
        match self.fine {
            true if self.amax < TOO_SMALL_BITS => 0.0,
            true => f32::from_bits(self.amax) / 127.0,
            false => f32::from_bits(((127 + self.e) as u32) << 23),
        }
    }
}

/// Rounds a block; see [`Step`].
#[inline(always)]
pub(crate) fn block8(x: &[f32; BLOCK], fine: bool) -> Block8 {
    // Positive floats order like their bits, and an integer maximum vectorises.
    let mut amax = 0;
    for v in x {
        amax = amax.max(v.to_bits() & 0x7fff_ffff);
    }
    let step = Step::new(amax, fine);
    if step.is_infinite() {
        return step.infinite();
    }
    let inverse = step.inverse();
    let mut q = [0i8; BLOCK];
    for i in 0..BLOCK {
        q[i] = int8(x[i] * inverse);
    }
    let mut sums = [0; 2];
    for i in 0..BLOCK {
        sums[i / (BLOCK / 2)] += i32::from(q[i]);
    }
    Block8 { q, sums, magic: step.magic(), step: step.step() }
}

/// Scale of a token and its inverse, so that its largest magnitude becomes `top`. A NaN makes the scale NaN.
#[inline(always)]
pub(crate) fn token_scale(x: &[f32], top: f32) -> (f32, f32) {
    let mut amax = 0;
    for v in x {
        amax = amax.max(v.to_bits() & 0x7fff_ffff);
    }
    let d = f32::from_bits(amax) / top;
    if d < f32::MIN_POSITIVE { (0.0, 0.0) } else { (d, 1.0 / d) }
}

/// Signed byte nearest to `v`, halves to even, for `|v| <= 127.5`.
#[inline(always)]
pub(crate) fn int8(v: f32) -> i8 {
    (v + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8
}

/// Bits of `v` rounded to bf16, to nearest even; the same as `half::bf16::from_f32`, in a form that vectorises.
#[inline(always)]
pub(crate) fn bf16_bits(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // A NaN keeps its sign and becomes quiet; rounding could turn it into an infinity.
    ((if v.is_nan() { bits | 0x0040_0000 } else { rounded }) >> 16) as u16
}

/// `v` rounded to E4M3, to nearest even, beyond 448 to 448; the value of `llmlab_quant::f32_to_e4m3` in a form that
/// vectorises.
#[inline(always)]
pub(crate) fn e4m3_value(v: f32) -> f32 {
    let clamped = v.clamp(-448.0, 448.0);
    let bits = clamped.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0x7_ffff + (bits >> 20 & 1)) & 0xfff0_0000);
    // Below 2^-6 steps are 2^-9; adding 1.5 * 2^(23 - 9) rounds to them. The sign of a zero is kept.
    const STEPS: f32 = ROUND / 512.0;
    let small = ((clamped + STEPS) - STEPS).copysign(clamped);
    let rounded = if clamped.abs() < 0.015625 { small } else { normal };
    if v.is_nan() { v } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread() -> impl Iterator<Item = f32> {
        (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)))
    }

    #[test]
    fn bf16_rounding_is_that_of_the_half_crate() {
        let special =
            [0.0, -0.0, 1.0, -1.5, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, 3.0e-39];
        for v in special.into_iter().chain(spread()) {
            assert_eq!(bf16_bits(v), half::bf16::from_f32(v).to_bits(), "{v:e}");
        }
    }

    #[test]
    fn e4m3_rounding_is_that_of_the_quant_crate() {
        let fine = (-60_000..60_000).map(|i| i as f32 / 100.0);
        let small = (-4000..4000).map(|i| i as f32 / 131_072.0);
        for v in fine.chain(small).chain(spread().filter(|v| v.is_finite())) {
            let expected = llmlab_quant::e4m3_to_f32(llmlab_quant::f32_to_e4m3(v));
            assert_eq!(e4m3_value(v).to_bits(), expected.to_bits(), "{v:e}");
        }
        assert!(e4m3_value(f32::NAN).is_nan());
    }

    #[test]
    fn blocks_round_half_to_even_with_the_smallest_step_that_fits() {
        let mut x = [0.0; BLOCK];
        x[..5].copy_from_slice(&[-127.0, 2.5, 3.5, -0.5, 1.2]);
        x[31] = 7.0;
        let block = block8(&x, false);
        assert_eq!((block.step, block.magic), (1.0, ROUND));
        assert_eq!(block.q[..5], [-127, 2, 4, 0, 1]);
        assert_eq!(block.sums, [-120, 7]);
        x[0] = 127.01;
        assert_eq!(block8(&x, false).step, 2.0);
        for tiny in [0.0, 1e-45, 1e-31] {
            let block = block8(&[tiny; BLOCK], false);
            assert_eq!((block.q, block.sums), ([0; BLOCK], [0; 2]));
            assert!(block.step.is_finite() && block.magic.is_finite());
        }
        for bad in [f32::NAN, f32::INFINITY, -2e30] {
            let mut x = [1.0; BLOCK];
            x[9] = bad;
            assert!(block8(&x, false).magic.is_nan() && block8(&x, false).step.is_nan());
        }
    }

    #[test]
    fn every_step_is_a_power_of_two_that_keeps_the_largest_value_in_the_upper_half() {
        for v in spread().map(f32::abs).filter(|v| (1e-29..1e29).contains(v)) {
            let block = block8(&[v; BLOCK], false);
            assert!((63..=127).contains(&block.q[0]), "{v:e}: {}", block.q[0]);
            assert!(
                (f64::from(block.step) * f64::from(block.q[0]) - f64::from(v)).abs()
                    <= f64::from(block.step) / 2.0
            );
            let sum = f32::from_bits((block.magic.to_bits() as i32 + 4_000_000) as u32) - block.magic;
            assert_eq!(sum, 4_000_000.0 * block.step);
        }
    }

    #[test]
    fn a_fine_step_brings_the_largest_value_to_127() {
        for v in spread().map(f32::abs).filter(|v| (1e-29..1e29).contains(v)) {
            let mut x = [v / 3.0; BLOCK];
            x[7] = -v;
            let block = block8(&x, true);
            assert_eq!((block.q[7], block.q[0], block.magic), (-127, 42, MAGIC), "{v:e}");
            assert!((f64::from(block.step) * 127.0 / f64::from(v) - 1.0).abs() < 1e-6);
        }
        assert_eq!(block8(&[1e-31; BLOCK], true).step, 0.0);
        assert!(block8(&[f32::INFINITY; BLOCK], true).step.is_nan());
    }
}
