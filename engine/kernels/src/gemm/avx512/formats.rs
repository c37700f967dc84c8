//! How each integer format becomes quads of factors, scales and minima in registers. The plain-code definition of the same is
//! in [`crate::gemm::scales`] and [`crate::gemm::levels`].
//!
//! Methods are `inline(always)` without an instruction set of their own: they take that of the kernel they end up in.

use std::arch::x86_64::*;

use crate::gemm::layout::{LINE, QUADS};

/// A format of 32-column blocks.
///
/// # Safety
/// For all methods: the pointers lead to a unit and to block `j` of it, as laid out by `gemm::layout`, and the CPU has
/// AVX-512 F, BW, VL.
pub(super) trait Blocks {
    /// Blocks per unit where that is fixed, else 0.
    const UNIT: usize;
    /// Scales and minima per block.
    const SUBS: usize;
    const MINS: usize;
    /// Lines to ask memory for: of a unit's header and of a block. None where weights are in cache anyway.
    const HEADER_LINES: usize;
    const BLOCK_LINES: usize;
    /// See [`crate::gemm::scales::fine_steps`].
    const FINE: bool = false;
    /// What is known of a unit.
    type Unit: Copy;
    unsafe fn unit(header: *const u8) -> Self::Unit;
    /// Factors of quad `S`.
    unsafe fn quad<const S: usize>(unit: &Self::Unit, block: *const u8, j: usize) -> __m512i;
    unsafe fn scale(unit: &Self::Unit, block: *const u8, j: usize, sub: usize) -> __m512;
    /// A minimum; only for formats that have them.
    unsafe fn min(unit: &Self::Unit, block: *const u8, j: usize, index: usize) -> __m512;
}

#[inline(always)]
unsafe fn line(p: *const u8, index: usize) -> __m512i {
    // SAFETY: the caller names a line; lines are aligned.
    unsafe { _mm512_load_si512(p.add(index * LINE).cast()) }
}

/// 16 f16 as f32.
#[inline(always)]
unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: the caller points at half a line.
    unsafe { _mm512_cvtph_ps(_mm256_load_si256(p.cast())) }
}

#[inline(always)]
unsafe fn shl(v: __m512i, bits: i32) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe { _mm512_sll_epi16(v, _mm_cvtsi32_si128(bits)) }
}

#[inline(always)]
unsafe fn shr(v: __m512i, bits: i32) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe { _mm512_srl_epi16(v, _mm_cvtsi32_si128(bits)) }
}

/// `bits` moved so that bit `from` lands on bit `to`.
#[inline(always)]
unsafe fn moved(v: __m512i, from: i32, to: i32) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe {
        match to - from {
            0 => v,
            n if n > 0 => shl(v, n),
            n => shr(v, -n),
        }
    }
}

/// `v & mask | other` per byte.
#[inline(always)]
unsafe fn masked_or(v: __m512i, mask: i8, other: __m512i) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe { _mm512_ternarylogic_epi32::<0xea>(v, _mm512_set1_epi8(mask), other) }
}

/// Level of quad `S` in lines of nibbles.
#[inline(always)]
unsafe fn nibble<const S: usize>(block: *const u8) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe { _mm512_and_si512(moved(line(block, S / 2), S as i32 % 2 * 4, 0), _mm512_set1_epi8(15)) }
}

/// The low two bits of quad `S`, in lines of four quads.
#[inline(always)]
unsafe fn two_bits<const S: usize>(block: *const u8) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe { _mm512_and_si512(moved(line(block, S / 4), S as i32 % 4 * 2, 0), _mm512_set1_epi8(3)) }
}

/// Adds the fifth bit from the high line that follows four lines of nibbles.
#[inline(always)]
unsafe fn five_bits<const S: usize>(block: *const u8) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe { masked_or(moved(line(block, 4), S as i32, 4), 16, nibble::<S>(block)) }
}

/// Byte `index` of the words of a row that start at line `first`, as the word of a register.
#[inline(always)]
unsafe fn header_byte(header: *const u8, first: usize, index: usize) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe {
        let shift = _mm_cvtsi32_si128(8 * (index % 4) as i32);
        _mm512_and_si512(_mm512_srl_epi32(line(header, first + index / 4), shift), _mm512_set1_epi32(255))
    }
}

/// Formats with f16 scales, and minima where `MINS` is 1, in units of two blocks.
macro_rules! plain {
    ($name:ident, lines $lines:literal, mins $mins:literal, |$block:ident, $S:ident| $quad:expr) => {
        pub(super) struct $name;

        impl Blocks for $name {
            const UNIT: usize = 2;
            const SUBS: usize = 1;
            const MINS: usize = $mins;
            const HEADER_LINES: usize = 1 + $mins;
            const BLOCK_LINES: usize = $lines;
            // Of these formats only q8_0 stores whole bytes.
            const FINE: bool = $lines == QUADS;
            type Unit = *const u8;

            #[inline(always)]
            unsafe fn unit(header: *const u8) -> Self::Unit {
                header
            }

            #[inline(always)]
            unsafe fn quad<const $S: usize>(_: &Self::Unit, $block: *const u8, _: usize) -> __m512i {
                // SAFETY: the trait's promise.
                unsafe { $quad }
            }

            #[inline(always)]
            unsafe fn scale(unit: &Self::Unit, _: *const u8, j: usize, _: usize) -> __m512 {
                // SAFETY: the trait's promise.
                unsafe { halves(unit.add(j * LINE / 2)) }
            }

            #[inline(always)]
            unsafe fn min(unit: &Self::Unit, _: *const u8, j: usize, _: usize) -> __m512 {
                // SAFETY: the trait's promise.
                unsafe { halves(unit.add(LINE + j * LINE / 2)) }
            }
        }
    };
}

plain!(Q80, lines 8, mins 0, |block, S| line(block, S));
plain!(Q40, lines 4, mins 0, |block, S| nibble::<S>(block));
plain!(Q41, lines 4, mins 1, |block, S| nibble::<S>(block));
plain!(Q50, lines 5, mins 0, |block, S| five_bits::<S>(block));
plain!(Q51, lines 5, mins 1, |block, S| five_bits::<S>(block));
plain!(Iq4, lines 4, mins 0, |block, S| _mm512_shuffle_epi8(line(IQ4_FACTORS.0.as_ptr(), 0), nibble::<S>(block)));

#[repr(align(64))]
struct Line([u8; LINE]);

/// The 16 values of IQ4_NL + 128, once for every 128 bits.
static IQ4_FACTORS: Line = {
    let mut bytes = [0; LINE];
    let mut i = 0;
    while i < LINE {
        bytes[i] = (llmlab_quant::IQ4_NL_VALUES[i % 16] as i32 + 128) as u8;
        i += 1;
    }
    Line(bytes)
};

/// Scales (and minima, negated) of a super-block with six-bit scales.
#[derive(Clone, Copy)]
pub(super) struct SixBit {
    scale: [__m512; 8],
    min: [__m512; 8],
}

#[inline(always)]
unsafe fn six_bit(header: *const u8) -> SixBit {
    // SAFETY: the trait's promise.
    unsafe {
        let both = line(header, 0);
        let d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
        let dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(both)));
        let dmin = _mm512_xor_ps(dmin, _mm512_set1_ps(-0.0));
        let words = [line(header, 1), line(header, 2), line(header, 3)];
        let (six, four) = (_mm512_set1_epi8(0x3f), _mm512_set1_epi8(0x0f));
        let top = |v: __m512i| _mm512_and_si512(_mm512_srli_epi32::<2>(v), _mm512_set1_epi8(0x30));
        let scales = [
            _mm512_and_si512(words[0], six),
            _mm512_or_si512(_mm512_and_si512(words[2], four), top(words[0])),
        ];
        let mins = [
            _mm512_and_si512(words[1], six),
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32::<4>(words[2]), four), top(words[1])),
        ];
        let byte = |v: __m512i, j: usize| {
            let shifted = _mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * (j % 4) as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)))
        };
        let mut unit = SixBit { scale: [_mm512_setzero_ps(); 8], min: [_mm512_setzero_ps(); 8] };
        for j in 0..8 {
            unit.scale[j] = _mm512_mul_ps(d, byte(scales[j / 4], j));
            unit.min[j] = _mm512_mul_ps(dmin, byte(mins[j / 4], j));
        }
        unit
    }
}

macro_rules! six_bit_format {
    ($name:ident, lines $lines:literal, |$block:ident, $S:ident| $quad:expr) => {
        pub(super) struct $name;

        impl Blocks for $name {
            const UNIT: usize = 8;
            const SUBS: usize = 1;
            const MINS: usize = 1;
            const HEADER_LINES: usize = 4;
            const BLOCK_LINES: usize = $lines;
            type Unit = SixBit;

            #[inline(always)]
            unsafe fn unit(header: *const u8) -> SixBit {
                // SAFETY: the trait's promise.
                unsafe { six_bit(header) }
            }

            #[inline(always)]
            unsafe fn quad<const $S: usize>(_: &SixBit, $block: *const u8, _: usize) -> __m512i {
                // SAFETY: the trait's promise.
                unsafe { $quad }
            }

            #[inline(always)]
            unsafe fn scale(unit: &SixBit, _: *const u8, j: usize, _: usize) -> __m512 {
                // SAFETY: `j` is below 8.
                unsafe { *unit.scale.get_unchecked(j) }
            }

            #[inline(always)]
            unsafe fn min(unit: &SixBit, _: *const u8, j: usize, _: usize) -> __m512 {
                // SAFETY: `j` is below 8.
                unsafe { *unit.min.get_unchecked(j) }
            }
        }
    };
}

six_bit_format!(Q4, lines 4, |block, S| nibble::<S>(block));
six_bit_format!(Q5, lines 5, |block, S| five_bits::<S>(block));

/// Q2_K: two scales and two minima per block, of four bits each.
pub(super) struct Q2;

#[derive(Clone, Copy)]
pub(super) struct Q2Unit {
    d: __m512,
    minus_dmin: __m512,
    header: *const u8,
}

impl Blocks for Q2 {
    const UNIT: usize = 8;
    const SUBS: usize = 2;
    const MINS: usize = 2;
    const HEADER_LINES: usize = 5;
    const BLOCK_LINES: usize = 2;
    type Unit = Q2Unit;

    #[inline(always)]
    unsafe fn unit(header: *const u8) -> Q2Unit {
        // SAFETY: the trait's promise.
        unsafe {
            let both = line(header, 0);
            let dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(both)));
            Q2Unit {
                d: _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)),
                minus_dmin: _mm512_xor_ps(dmin, _mm512_set1_ps(-0.0)),
                header,
            }
        }
    }

    #[inline(always)]
    unsafe fn quad<const S: usize>(_: &Q2Unit, block: *const u8, _: usize) -> __m512i {
        // SAFETY: the trait's promise.
        unsafe { two_bits::<S>(block) }
    }

    #[inline(always)]
    unsafe fn scale(unit: &Q2Unit, _: *const u8, j: usize, sub: usize) -> __m512 {
        // SAFETY: the trait's promise.
        unsafe {
            let scale = _mm512_and_si512(header_byte(unit.header, 1, 2 * j + sub), _mm512_set1_epi32(15));
            _mm512_mul_ps(unit.d, _mm512_cvtepi32_ps(scale))
        }
    }

    #[inline(always)]
    unsafe fn min(unit: &Q2Unit, _: *const u8, j: usize, index: usize) -> __m512 {
        // SAFETY: the trait's promise.
        unsafe {
            let min = _mm512_srli_epi32::<4>(header_byte(unit.header, 1, 2 * j + index));
            _mm512_mul_ps(unit.minus_dmin, _mm512_cvtepi32_ps(min))
        }
    }
}

/// Q3_K: two scales per block, of six bits: four low ones, then two high ones of all.
pub(super) struct Q3;

#[derive(Clone, Copy)]
pub(super) struct Q3Unit {
    d: __m512,
    header: *const u8,
}

impl Blocks for Q3 {
    const UNIT: usize = 8;
    const SUBS: usize = 2;
    const MINS: usize = 0;
    const HEADER_LINES: usize = 4;
    const BLOCK_LINES: usize = 3;
    type Unit = Q3Unit;

    #[inline(always)]
    unsafe fn unit(header: *const u8) -> Q3Unit {
        // SAFETY: the trait's promise.
        unsafe { Q3Unit { d: halves(header), header } }
    }

    #[inline(always)]
    unsafe fn quad<const S: usize>(_: &Q3Unit, block: *const u8, _: usize) -> __m512i {
        // SAFETY: the trait's promise.
        unsafe { masked_or(moved(line(block, 2), S as i32, 2), 4, two_bits::<S>(block)) }
    }

    #[inline(always)]
    unsafe fn scale(unit: &Q3Unit, _: *const u8, j: usize, sub: usize) -> __m512 {
        // SAFETY: the trait's promise.
        unsafe {
            let index = 2 * j + sub;
            let shifted = |v, bits: usize| _mm512_srl_epi32(v, _mm_cvtsi32_si128(bits as i32));
            let low = shifted(line(unit.header, 1 + index % 8 / 4), index % 4 * 8 + index / 8 * 4);
            let low = _mm512_and_si512(low, _mm512_set1_epi32(15));
            let high = shifted(line(unit.header, 3), index % 4 * 8 + index / 4 * 2);
            let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(3)));
            let scale = _mm512_sub_epi32(_mm512_or_si512(low, high), _mm512_set1_epi32(32));
            _mm512_mul_ps(unit.d, _mm512_cvtepi32_ps(scale))
        }
    }

    #[inline(always)]
    unsafe fn min(_: &Q3Unit, _: *const u8, _: usize, _: usize) -> __m512 {
        unreachable!("Q3_K has no minima")
    }
}

/// Q6_K: two scales per block.
pub(super) struct Q6;

#[derive(Clone, Copy)]
pub(super) struct Q6Unit {
    d: __m512,
    header: *const u8,
}

impl Blocks for Q6 {
    const UNIT: usize = 8;
    const SUBS: usize = 2;
    const MINS: usize = 0;
    const HEADER_LINES: usize = 5;
    const BLOCK_LINES: usize = 6;
    type Unit = Q6Unit;

    #[inline(always)]
    unsafe fn unit(header: *const u8) -> Q6Unit {
        // SAFETY: the trait's promise.
        unsafe { Q6Unit { d: halves(header), header } }
    }

    #[inline(always)]
    unsafe fn quad<const S: usize>(_: &Q6Unit, block: *const u8, _: usize) -> __m512i {
        // SAFETY: the trait's promise.
        unsafe { masked_or(moved(line(block, 4 + S / 4), S as i32 % 4 * 2, 4), 0x30, nibble::<S>(block)) }
    }

    #[inline(always)]
    unsafe fn scale(unit: &Q6Unit, _: *const u8, j: usize, sub: usize) -> __m512 {
        // SAFETY: the trait's promise.
        unsafe {
            let index = 2 * j + sub;
            let up = _mm_cvtsi32_si128(24 - 8 * (index % 4) as i32);
            let signed = _mm512_srai_epi32::<24>(_mm512_sll_epi32(line(unit.header, 1 + index / 4), up));
            _mm512_mul_ps(unit.d, _mm512_cvtepi32_ps(signed))
        }
    }

    #[inline(always)]
    unsafe fn min(_: &Q6Unit, _: *const u8, _: usize, _: usize) -> __m512 {
        unreachable!("Q6_K has no minima")
    }
}

/// Scale and zero point of a group.
#[derive(Clone, Copy)]
pub(super) struct GroupUnit {
    scale: __m512,
    /// Int4: 16 - zero point in every byte. Int8: unused.
    shift: __m512i,
    /// Int8: minus scale x zero point. Int4: unused.
    min: __m512,
}

#[inline(always)]
unsafe fn group<const WIDE: bool>(header: *const u8) -> GroupUnit {
    // SAFETY: the trait's promise.
    unsafe {
        let word = line(header, 0);
        let (scale, zero) = if WIDE {
            (_mm512_castsi512_ps(word), line(header, 1))
        } else {
            let scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(word)));
            (scale, _mm512_and_si512(word, _mm512_set1_epi32(0xffff)))
        };
        let bytes = _mm512_mullo_epi32(zero, _mm512_set1_epi32(0x0101_0101));
        let product = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(zero));
        GroupUnit {
            scale,
            shift: _mm512_sub_epi8(_mm512_set1_epi8(16), bytes),
            min: _mm512_xor_ps(product, _mm512_set1_ps(-0.0)),
        }
    }
}

macro_rules! group_format {
    ($name:ident, lines $lines:literal, mins $mins:literal, |$unit:ident, $block:ident, $S:ident| $quad:expr) => {
        pub(super) struct $name<const WIDE: bool>;

        impl<const WIDE: bool> Blocks for $name<WIDE> {
            const UNIT: usize = 0;
            const SUBS: usize = 1;
            const MINS: usize = $mins;
            const HEADER_LINES: usize = 1;
            const BLOCK_LINES: usize = $lines;
            type Unit = GroupUnit;

            #[inline(always)]
            unsafe fn unit(header: *const u8) -> GroupUnit {
                // SAFETY: the trait's promise.
                unsafe { group::<WIDE>(header) }
            }

            #[inline(always)]
            unsafe fn quad<const $S: usize>($unit: &GroupUnit, $block: *const u8, _: usize) -> __m512i {
                // SAFETY: the trait's promise.
                unsafe { $quad }
            }

            #[inline(always)]
            unsafe fn scale(unit: &GroupUnit, _: *const u8, _: usize, _: usize) -> __m512 {
                unit.scale
            }

            #[inline(always)]
            unsafe fn min(unit: &GroupUnit, _: *const u8, _: usize, _: usize) -> __m512 {
                unit.min
            }
        }
    };
}

group_format!(Group4, lines 4, mins 0, |unit, block, S| _mm512_add_epi8(nibble::<S>(block), unit.shift));
group_format!(Group8, lines 8, mins 1, |_unit, block, S| line(block, S));

/// An unpacked panel: every block is its own unit, its scales and minima follow its quads.
pub(super) struct Panel<const SUBS: usize, const MINS: usize>;

impl<const SUBS_: usize, const MINS_: usize> Blocks for Panel<SUBS_, MINS_> {
    const UNIT: usize = 1;
    const SUBS: usize = SUBS_;
    const MINS: usize = MINS_;
    const HEADER_LINES: usize = 0;
    const BLOCK_LINES: usize = 0;
    type Unit = ();

    #[inline(always)]
    unsafe fn unit(_: *const u8) {}

    #[inline(always)]
    unsafe fn quad<const S: usize>((): &(), block: *const u8, _: usize) -> __m512i {
        // SAFETY: the trait's promise.
        unsafe { line(block, S) }
    }

    #[inline(always)]
    unsafe fn scale((): &(), block: *const u8, _: usize, sub: usize) -> __m512 {
        // SAFETY: the trait's promise.
        unsafe { _mm512_castsi512_ps(line(block, QUADS + sub)) }
    }

    #[inline(always)]
    unsafe fn min((): &(), block: *const u8, _: usize, index: usize) -> __m512 {
        // SAFETY: the trait's promise.
        unsafe { _mm512_castsi512_ps(line(block, QUADS + SUBS_ + index)) }
    }
}

/// A float format: how a step of a block is loaded and multiplied in.
///
/// # Safety
/// As [`Blocks`]; also BF16 for the pairs.
pub(super) trait Floats {
    /// Steps per block, one word of activations each.
    const STEPS: usize;
    const PACKED: bool = true;
    /// Lines per block.
    const LINES: usize;
    unsafe fn step(block: *const u8, step: usize) -> __m512i;
    unsafe fn add(acc: __m512, w: __m512i, x: __m512i) -> __m512;
}

pub(super) struct F32Columns;
pub(super) struct F16Columns;
pub(super) struct Bf16Pairs;
pub(super) struct Fp8Packed;
pub(super) struct Fp8Panel;

#[inline(always)]
unsafe fn add_f32(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
    // SAFETY: the trait's promise.
    unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), acc) }
}

#[inline(always)]
unsafe fn add_pairs(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
    // SAFETY: the trait's promise; the types are of the same size and any bits are valid.
    unsafe {
        let (w, x) =
            (std::mem::transmute::<__m512i, __m512bh>(w), std::mem::transmute::<__m512i, __m512bh>(x));
        _mm512_dpbf16_ps(acc, w, x)
    }
}

macro_rules! float_format {
    ($name:ident, steps $steps:literal, lines $lines:literal, packed $packed:literal, $add:ident,
     |$block:ident, $step:ident| $load:expr) => {
        impl Floats for $name {
            const STEPS: usize = $steps;
            const LINES: usize = $lines;
            const PACKED: bool = $packed;

            #[inline(always)]
            unsafe fn step($block: *const u8, $step: usize) -> __m512i {
                // SAFETY: the trait's promise.
                unsafe { $load }
            }

            #[inline(always)]
            unsafe fn add(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
                // SAFETY: the trait's promise.
                unsafe { $add(acc, w, x) }
            }
        }
    };
}

float_format!(F32Columns, steps 32, lines 32, packed true, add_f32, |block, step| line(block, step));
float_format!(F16Columns, steps 32, lines 16, packed true, add_f32, |block, step| {
    _mm512_castps_si512(halves(block.add(step * LINE / 2)))
});
float_format!(Bf16Pairs, steps 16, lines 16, packed true, add_pairs, |block, step| line(block, step));
float_format!(Fp8Packed, steps 16, lines 8, packed true, add_pairs, |block, step| {
    let four = line(block, step / 2);
    e4m3_to_bf16(if step.is_multiple_of(2) { _mm512_slli_epi16::<8>(four) } else { four })
});
float_format!(Fp8Panel, steps 16, lines 17, packed false, add_pairs, |block, step| line(block, step));

/// bf16 of the E4M3 values in the high bytes of words.
///
/// A normal value only needs its exponent rebased by 120; those with exponent 0 (multiples of 2^-9) are looked up, since the
/// products would flush subnormal bf16.
#[inline(always)]
unsafe fn e4m3_to_bf16(v: __m512i) -> __m512i {
    // SAFETY: the trait's promise.
    unsafe {
        let magnitude = _mm512_and_si512(_mm512_srli_epi16::<4>(v), _mm512_set1_epi16(0x07f0));
        let rebased = _mm512_add_epi16(magnitude, _mm512_set1_epi16(120 << 7));
        let subnormal = _mm512_testn_epi16_mask(v, _mm512_set1_epi16(0x7800));
        let index = _mm512_srli_epi16::<4>(magnitude);
        let table = line(E4M3_SUBNORMALS.0.as_ptr(), 0);
        let value = _mm512_mask_permutexvar_epi16(rebased, subnormal, index, table);
        // value | v & sign
        _mm512_ternarylogic_epi32::<0xea>(v, _mm512_set1_epi16(i16::MIN), value)
    }
}

/// bf16 of 0, 1, ... 7 times 2^-9; the rest is never looked up.
static E4M3_SUBNORMALS: Line = {
    let mut bytes = [0; LINE];
    let mut i = 1;
    while i < 8 {
        let bits = (i as f32 / 512.0).to_bits() >> 16;
        bytes[2 * i] = bits as u8;
        bytes[2 * i + 1] = (bits >> 8) as u8;
        i += 1;
    }
    Line(bytes)
};
