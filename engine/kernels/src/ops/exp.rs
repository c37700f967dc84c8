//! e^x for the gated activations and 2^x for softmax, written so that the compiler can vectorise the loop around it.

/// Cephes `expf`: range reduction by ln 2 in two parts, then a polynomial of degree 6; within 2 ulp.
/// Below -87 the result is 0, above 88 it stays at e^88, so it is never infinite.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits: no rounding instruction needed.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e_r = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let value = e_r * f32::from_bits(exponent);
    if x < -87.0 { 0.0 } else { value }
}

/// 2^x within 2e-7: the nearest whole power times a polynomial of degree 6 (minimax in relative error, exact at 0).
/// Below -126 the result is 0, above 127 it stays at 2^127.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-126.0, 127.0);
    let shifted = clamped + ROUND;
    let f = clamped - (shifted - ROUND);
    let mut p = 0.000_153_533_62;
    p = p * f + 0.001_339_887_5;
    p = p * f + 0.009_618_437;
    p = p * f + 0.055_503_324;
    p = p * f + 0.240_226_48;
    p = p * f + std::f32::consts::LN_2;
    p = p * f + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let value = p * f32::from_bits(exponent);
    if x < -126.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::{exp, exp2};

    #[test]
    fn close_to_f64_over_its_range() {
        let mut worst = 0.0f64;
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.5e-7, "relative error {worst:e}");
    }

    #[test]
    fn power_of_two_is_close_over_its_range() {
        let mut worst = 0.0f64;
        for i in -126_000..=127_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp2();
            worst = worst.max((f64::from(exp2(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
        assert_eq!((exp2(0.0), exp2(-3.0), exp2(-127.0)), (1.0, 0.125, 0.0));
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
