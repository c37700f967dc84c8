//! How keys and values are stored: the formats, and the conversion of one row of one head to and from f32.

use std::fmt;
use std::str::FromStr;

use crate::ops::rows::multiversion;
use crate::{Isa, KernelError};

/// How one key or value number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    F32,
    /// IEEE half precision, rounded to nearest even. Values beyond 65504 become infinite.
    F16,
    /// The upper half of an f32, rounded to nearest even.
    Bf16,
    /// Whole numbers in -127..=127 with one f32 scale per token and head: the largest magnitude of the row over 127.
    Int8,
    /// OCP FP8 E4M3 with one f32 scale per token and head: the largest magnitude of the row over 448.
    Fp8,
}

/// The largest number that a row is scaled to.
const INT8_MAX: f32 = 127.0;
/// Also the largest finite number of the format.
const FP8_MAX: f32 = 448.0;

impl KvFormat {
    pub const ALL: [KvFormat; 5] =
        [KvFormat::F32, KvFormat::F16, KvFormat::Bf16, KvFormat::Int8, KvFormat::Fp8];

    /// Bytes of one number, without its share of a scale.
    pub const fn bytes_per_value(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 | KvFormat::Bf16 => 2,
            KvFormat::Int8 | KvFormat::Fp8 => 1,
        }
    }

    /// True for the formats that keep an f32 scale for every token and head.
    pub const fn has_scales(self) -> bool {
        matches!(self, KvFormat::Int8 | KvFormat::Fp8)
    }

    /// Bytes of the key or of the value of one token in one head, its scale included.
    pub const fn bytes_per_row(self, head_dim: usize) -> usize {
        head_dim * self.bytes_per_value() + if self.has_scales() { 4 } else { 0 }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Bf16 => "bf16",
            KvFormat::Int8 => "int8",
            KvFormat::Fp8 => "fp8",
        })
    }
}

impl FromStr for KvFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        KvFormat::ALL.into_iter().find(|format| format.to_string() == name).ok_or_else(|| {
            KernelError::UnknownName {
                what: "kv format",
                name: name.into(),
                expected: "f32, f16, bf16, int8, fp8",
            }
        })
    }
}

/// Stores `row` in `out` (`bytes_per_value` bytes for each) and returns the scale that the stored numbers need, 1 for a
/// format without scales. A row with a number that is not finite gets the scale NaN, so that it stays visible.
pub(crate) fn encode_row(isa: Isa, format: KvFormat, row: &[f32], out: &mut [u8]) -> f32 {
    let scaled = |limit: f32| {
        // A NaN makes the sum NaN, an infinity makes it infinite; the maximum alone could lose a NaN.
        let (high, sum) =
            row.iter().fold((0.0f32, 0.0f32), |(high, sum), x| (high.max(x.abs()), sum + x * 0.0));
        if sum == 0.0 { (high / limit, if high > 0.0 { limit / high } else { 0.0 }) } else { (f32::NAN, 0.0) }
    };
    match format {
        KvFormat::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(row),
        KvFormat::F16 => encode_f16(isa, row, bytemuck::cast_slice_mut(out)),
        KvFormat::Bf16 => encode_bf16(isa, row, bytemuck::cast_slice_mut(out)),
        KvFormat::Int8 => {
            let (scale, inverse) = scaled(INT8_MAX);
            encode_int8(isa, row, inverse, out);
            return scale;
        }
        KvFormat::Fp8 => {
            let (scale, inverse) = scaled(FP8_MAX);
            encode_fp8(isa, row, inverse, out);
            return scale;
        }
    }
    1.0
}

/// The numbers of `bytes` times `scale`, as f32.
pub(crate) fn decode_row(isa: Isa, format: KvFormat, bytes: &[u8], scale: f32, out: &mut [f32]) {
    match format {
        KvFormat::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        KvFormat::F16 => decode_f16(isa, bytemuck::cast_slice(bytes), out),
        KvFormat::Bf16 => decode_bf16(isa, bytemuck::cast_slice(bytes), out),
        KvFormat::Int8 => decode_int8(isa, bytes, scale, out),
        KvFormat::Fp8 => decode_fp8(isa, bytes, scale, out),
    }
}

multiversion! { fn encode_f16(row: &[f32], out: &mut [u16]) = encode_f16_body }
multiversion! { fn encode_bf16(row: &[f32], out: &mut [u16]) = encode_bf16_body }
multiversion! { fn encode_int8(row: &[f32], inverse: f32, out: &mut [u8]) = encode_int8_body }
multiversion! { fn encode_fp8(row: &[f32], inverse: f32, out: &mut [u8]) = encode_fp8_body }
multiversion! { fn decode_f16(row: &[u16], out: &mut [f32]) = decode_f16_body }
multiversion! { fn decode_bf16(row: &[u16], out: &mut [f32]) = decode_bf16_body }
multiversion! { fn decode_int8(row: &[u8], scale: f32, out: &mut [f32]) = decode_int8_body }
multiversion! { fn decode_fp8(row: &[u8], scale: f32, out: &mut [f32]) = decode_fp8_body }

#[inline(always)]
fn encode_f16_body(row: &[f32], out: &mut [u16]) {
    for (value, out) in row.iter().zip(out) {
        *out = half::f16::from_f32(*value).to_bits();
    }
}

#[inline(always)]
fn decode_f16_body(row: &[u16], out: &mut [f32]) {
    for (value, out) in row.iter().zip(out) {
        *out = half::f16::from_bits(*value).to_f32();
    }
}

#[inline(always)]
fn encode_bf16_body(row: &[f32], out: &mut [u16]) {
    for (value, out) in row.iter().zip(out) {
        *out = f32_to_bf16(*value);
    }
}

/// Rounds to nearest even; a NaN stays one.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { rounded as u16 }
}

#[inline(always)]
fn decode_bf16_body(row: &[u16], out: &mut [f32]) {
    for (value, out) in row.iter().zip(out) {
        *out = f32::from_bits(u32::from(*value) << 16);
    }
}

#[inline(always)]
fn encode_int8_body(row: &[f32], inverse: f32, out: &mut [u8]) {
    for (value, out) in row.iter().zip(out) {
        *out = round_even((value * inverse).clamp(-INT8_MAX, INT8_MAX)) as i32 as i8 as u8;
    }
}

#[inline(always)]
fn decode_int8_body(row: &[u8], scale: f32, out: &mut [f32]) {
    for (value, out) in row.iter().zip(out) {
        *out = f32::from(*value as i8) * scale;
    }
}

/// Adding 1.5 * 2^23 leaves no bits for a fraction, and the addition rounds to nearest even.
#[inline(always)]
fn round_even(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    x + ROUND - ROUND
}

#[inline(always)]
fn encode_fp8_body(row: &[f32], inverse: f32, out: &mut [u8]) {
    for (value, out) in row.iter().zip(out) {
        *out = f32_to_e4m3(value * inverse);
    }
}

#[inline(always)]
fn decode_fp8_body(row: &[u8], scale: f32, out: &mut [f32]) {
    for (value, out) in row.iter().zip(out) {
        *out = e4m3_to_f32(*value) * scale;
    }
}

/// To the nearest number of OCP E4M3 (1 sign, 4 exponent bits with bias 7, 3 fraction bits), ties to even, at most 448.
#[inline(always)]
fn f32_to_e4m3(value: f32) -> u8 {
    /// 2^-6: below it the numbers are multiples of 2^-9.
    const SMALLEST_NORMAL: f32 = 0.015_625;
    /// One unit in the last place of it is 2^-9.
    const UNIT: f32 = 16_384.0;
    let sign = (value.to_bits() >> 24) & 0x80;
    let magnitude = value.abs().min(FP8_MAX);
    let bits = magnitude.to_bits();
    let rounded = bits.wrapping_add(0x7_ffff + ((bits >> 20) & 1)) >> 20;
    let normal = rounded.wrapping_sub((127 - 7) << 3);
    let subnormal = (magnitude + UNIT).to_bits().wrapping_sub(UNIT.to_bits());
    (sign | if magnitude < SMALLEST_NORMAL { subnormal } else { normal }) as u8
}

/// Exact. The exponent is read with the wrong bias and put right by a multiplication, which also settles subnormals.
#[inline(always)]
pub(crate) fn e4m3_to_f32(value: u8) -> f32 {
    /// 2^(127 - 7).
    const BIAS: f32 = f32::from_bits((127 + 127 - 7) << 23);
    let magnitude = f32::from_bits((u32::from(value) & 0x7f) << 20) * BIAS;
    f32::from_bits(magnitude.to_bits() | (u32::from(value) & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{every_isa, random};

    fn round_trip(isa: Isa, format: KvFormat, row: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut buffer =
            crate::arena::AlignedBuf::<u8>::zeroed(row.len() * format.bytes_per_value()).unwrap();
        let scale = encode_row(isa, format, row, &mut buffer);
        let mut out = vec![0.0; row.len()];
        decode_row(isa, format, &buffer, scale, &mut out);
        (buffer.to_vec(), out)
    }

    #[test]
    fn half_formats_round_as_the_half_crate_does() {
        let mut values = random(1000, 1);
        values.extend([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            1.0 + 1.0 / 256.0,
            1e-40,
        ]);
        for isa in every_isa() {
            let (_, bf16) = round_trip(isa, KvFormat::Bf16, &values);
            let (_, f16) = round_trip(isa, KvFormat::F16, &values);
            for (i, value) in values.iter().enumerate() {
                let expected = [half::bf16::from_f32(*value).to_f32(), half::f16::from_f32(*value).to_f32()];
                for (got, expected) in [bf16[i], f16[i]].into_iter().zip(expected) {
                    assert!(
                        got.to_bits() == expected.to_bits() || got.is_nan() && value.is_nan(),
                        "{value} on {isa}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_e4m3_number_survives_and_between_two_the_nearer_wins() {
        let number = |byte: u8| {
            let (exponent, fraction) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
            let magnitude = if exponent == 0 {
                fraction / 512.0
            } else {
                (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7)
            };
            if byte & 0x80 == 0 { magnitude } else { -magnitude }
        };
        for byte in (0..=0xffu8).filter(|byte| byte & 0x7f != 0x7f) {
            assert_eq!(f64::from(e4m3_to_f32(byte)), number(byte), "{byte:#x}");
            assert_eq!(f32_to_e4m3(e4m3_to_f32(byte)), byte);
        }
        for byte in 0..0x7eu8 {
            let (low, high) = (number(byte), number(byte + 1));
            let middle = (low + high) / 2.0;
            let even = if byte % 2 == 0 { byte } else { byte + 1 };
            assert_eq!(f32_to_e4m3(middle as f32), even, "tie above {low}");
            assert_eq!(f32_to_e4m3((middle - (high - low) / 100.0) as f32), byte);
            assert_eq!(f32_to_e4m3((middle + (high - low) / 100.0) as f32), byte + 1);
        }
        assert_eq!(f32_to_e4m3(1e9), 0x7e);
        assert_eq!(f32_to_e4m3(-1e9), 0xfe);
    }

    #[test]
    fn scaled_formats_stay_within_half_a_step_on_every_instruction_set_alike() {
        let row: Vec<f32> = random(100, 3).iter().map(|x| x * 20.0).collect();
        let high = row.iter().fold(0.0f32, |high, x| high.max(x.abs()));
        for format in [KvFormat::Int8, KvFormat::Fp8] {
            let (bytes, out) = round_trip(Isa::Portable, format, &row);
            for (x, back) in row.iter().zip(&out) {
                // Half a step: of the largest for int8, of an eighth of the number (or the smallest step) for fp8.
                let step = match format {
                    KvFormat::Int8 => high / 127.0,
                    _ => (x.abs() / 8.0).max(high / 448.0 / 512.0),
                };
                assert!((x - back).abs() <= step * 0.5001, "{format}: {x} became {back}");
            }
            for isa in every_isa() {
                assert_eq!(round_trip(isa, format, &row), (bytes.clone(), out.clone()), "{format} on {isa}");
            }
            assert_eq!(round_trip(Isa::Portable, format, &[0.0, -0.0]).1, [0.0, 0.0]);
            for bad in [f32::NAN, f32::INFINITY] {
                assert!(round_trip(Isa::Portable, format, &[1.0, bad]).1.iter().all(|x| x.is_nan()));
            }
        }
    }

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        for format in KvFormat::ALL {
            assert_eq!(format.to_string().parse::<KvFormat>().unwrap(), format);
        }
        assert!("int9".parse::<KvFormat>().unwrap_err().to_string().contains("bf16, int8"));
        assert_eq!(KvFormat::Int8.bytes_per_row(64), 68);
        assert_eq!(KvFormat::Bf16.bytes_per_row(64), 128);
    }
}
