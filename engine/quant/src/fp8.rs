//! E4M3 in the variant without infinities ("fn"): sign, four exponent bits with bias 7, three mantissa bits.
//!
//! Largest value 448 (`0x7e`), smallest normal 2^-6, steps of 2^-9 below; `0x7f` and `0xff` are NaN. Micikevicius et al.,
//! "FP8 Formats for Deep Learning", 2022.

/// Largest finite value.
pub const E4M3_MAX: f32 = 448.0;

pub fn e4m3_to_f32(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        // 2^(exponent - 7) has the f32 exponent field `exponent - 7 + 127`.
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent as u32 + 120) << 23),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Rounds to nearest, ties to even; beyond 448, and at infinity, gives 448 with the sign. NaN stays NaN.
pub fn f32_to_e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let magnitude = value.abs();
    if value.is_nan() {
        return sign | 0x7f;
    }
    if magnitude >= E4M3_MAX {
        return sign | 0x7e;
    }
    if magnitude < 1.0 / 64.0 {
        // Steps of 2^-9; rounding up to 8 of them is the smallest normal number, whose code is 8 as well.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    // Twenty of the 23 mantissa bits go; a carry out of the mantissa moves on to the exponent, as it should.
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7ffff + (bits >> 20 & 1);
    // Below 448 nothing rounds above it except 432..448 halfway up, which is 448 itself.
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back() {
        for bits in (0..=255u8).filter(|bits| bits & 0x7f != 0x7f) {
            assert_eq!(f32_to_e4m3(e4m3_to_f32(bits)), bits, "{bits:#x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
        assert_eq!(f32_to_e4m3(f32::NAN) & 0x7f, 0x7f);
        assert_eq!((e4m3_to_f32(0x7e), e4m3_to_f32(1), e4m3_to_f32(8)), (448.0, 1.0 / 512.0, 1.0 / 64.0));
    }

    #[test]
    fn between_two_codes_the_nearest_wins_and_the_even_one_at_the_middle() {
        for low in 0..0x7eu8 {
            let (a, b) = (e4m3_to_f32(low), e4m3_to_f32(low + 1));
            let middle = (a + b) / 2.0;
            assert_eq!(f32_to_e4m3(middle), if low % 2 == 0 { low } else { low + 1 }, "{low:#x}");
            assert_eq!(f32_to_e4m3(f32::from_bits(middle.to_bits() - 1)), low);
            assert_eq!(f32_to_e4m3(f32::from_bits(middle.to_bits() + 1)), low + 1);
            assert_eq!(f32_to_e4m3(-middle), f32_to_e4m3(middle) | 0x80);
        }
    }

    #[test]
    fn too_large_values_saturate() {
        for value in [448.0, 464.0, 1e30, f32::INFINITY] {
            assert_eq!((f32_to_e4m3(value), f32_to_e4m3(-value)), (0x7e, 0xfe));
        }
    }
}
