//! tanh, written so that the compiler can vectorise the loop around it, and the soft cap `cap * tanh(x / cap)` that
//! Gemma 2 puts on scores and logits.

use crate::ThreadPool;
use crate::ops::exp::exp;
use crate::ops::rows::{for_rows, isa, multiversion};
use crate::shared_mut::SharedMut;

/// `x[i] = cap * tanh(x[i] / cap)`, in place. `cap` must be positive.
pub fn soft_cap(pool: &ThreadPool, x: &mut [f32], cap: f32) {
    assert!(cap > 0.0, "soft cap {cap}");
    let (isa, len) = (isa(), x.len());
    let x = SharedMut::new(x);
    for_rows(pool, len, TANH_VALUES, |span| {
        // SAFETY: ranges of different workers are disjoint.
        cap_values(isa, unsafe { x.slice(span.start, span.len()) }, cap);
    });
}

/// One tanh costs about as much as this many plain loads and stores.
const TANH_VALUES: usize = 6;

multiversion! { fn cap_values(x: &mut [f32], cap: f32) = cap_values_body }

#[inline(always)]
fn cap_values_body(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for x in x {
        *x = cap * tanh(*x * inverse);
    }
}

/// The odd polynomial of Cephes `tanhf`, highest power first.
pub(crate) const SMALL: [f32; 5] =
    [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];

/// Cephes `tanhf`: an odd polynomial below 0.625, `1 - 2 / (e^2x + 1)` above; within 3 ulp. Both are computed and one is
/// chosen, so that a loop over it has no branch.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let large = (1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0)).copysign(x);
    let square = x * x;
    let mut p = SMALL[0];
    for c in &SMALL[1..] {
        p = p * square + c;
    }
    let small = p * square * x + x;
    if magnitude < 0.625 { small } else { large }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{every_isa, random};

    #[test]
    fn close_to_f64_and_bounded() {
        let mut worst = 0.0f64;
        for i in -100_000..=100_000 {
            let x = i as f32 / 8000.0;
            let exact = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - exact).abs();
            worst = worst.max(if exact == 0.0 { error } else { error / exact.abs() });
        }
        assert!(worst < 3e-7, "relative error {worst:e}");
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(-1e30), -1.0);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn soft_cap_agrees_with_f64_and_changes_no_bit_with_threads_or_instruction_sets() {
        let x: Vec<f32> = random(50_000, 1).iter().map(|x| x * 200.0).collect();
        let mut expected = x.clone();
        cap_values_body(&mut expected, 30.0);
        for (x, out) in x.iter().zip(&expected) {
            let exact = 30.0 * (f64::from(*x) / 30.0).tanh();
            assert!((f64::from(*out) - exact).abs() <= 1e-6 * exact.abs(), "{x}: {out} {exact}");
        }
        for threads in [1, 3] {
            let mut out = x.clone();
            soft_cap(&ThreadPool::new(threads), &mut out, 30.0);
            assert_eq!(out, expected);
        }
        for isa in every_isa() {
            let mut out = x.clone();
            cap_values(isa, &mut out, 30.0);
            assert_eq!(out, expected, "{isa}");
        }
    }
}
