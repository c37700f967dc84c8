//! Where the numbers of a token lie within a block, and the two directions of copying.
//!
//! Attention reads 16 tokens at a time, one register of 16 lanes each. A *unit* is what one lane multiplies in one
//! instruction: one number, or two neighbouring ones for the formats that are computed as bf16 pairs.
//!
//! - **Tiled** (block sizes and head sizes that are multiples of 16). 16 tokens of one head are one stretch. Keys are
//!   [unit of the head][16 tokens], so that a register holds the same unit of 16 tokens and each lane adds up the score of
//!   its own token. Values are [token][number], or [pair of tokens][number][2 tokens], so that a register holds 16
//!   columns of the tokens that share a unit of the softmax weights.
//! - **Rows** (all other sizes). A token's numbers follow each other; attention rearranges them into the tiled form in a
//!   buffer of its own.

use crate::Isa;
use crate::attention::format::{KvFormat, decode_row, f32_to_bf16};

/// Tokens of one register.
pub(crate) const GROUP: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Tiled,
    Rows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Keys,
    Values,
}

impl Layout {
    pub(crate) fn of(block_size: usize, head_dim: usize) -> Layout {
        if block_size.is_multiple_of(GROUP) && head_dim.is_multiple_of(16) {
            Layout::Tiled
        } else {
            Layout::Rows
        }
    }
}

/// Numbers per unit.
pub(crate) fn unit_numbers(format: KvFormat) -> usize {
    match format {
        KvFormat::F32 | KvFormat::F16 => 1,
        KvFormat::Bf16 | KvFormat::Int8 | KvFormat::Fp8 => 2,
    }
}

/// Puts the encoded numbers of token `lane` into the tiled stretch of its 16 tokens.
pub(crate) fn put_tiled(side: Side, format: KvFormat, row: &[u8], lane: usize, group: &mut [u8]) {
    match (side, format) {
        (Side::Keys, KvFormat::F32 | KvFormat::Bf16) => scatter::<u32>(row, lane, group),
        (Side::Keys, KvFormat::F16 | KvFormat::Int8 | KvFormat::Fp8) => scatter::<u16>(row, lane, group),
        (Side::Values, KvFormat::F32 | KvFormat::F16) => {
            group[lane * row.len()..][..row.len()].copy_from_slice(row);
        }
        (Side::Values, KvFormat::Bf16) => interleave::<u16>(row, lane, group),
        (Side::Values, KvFormat::Int8 | KvFormat::Fp8) => interleave::<u8>(row, lane, group),
    }
}

fn scatter<U: bytemuck::Pod>(row: &[u8], lane: usize, group: &mut [u8]) {
    let (row, group) = (bytemuck::cast_slice::<_, U>(row), bytemuck::cast_slice_mut::<_, U>(group));
    for (unit, to) in row.iter().zip(group.chunks_exact_mut(GROUP)) {
        to[lane] = *unit;
    }
}

fn interleave<N: bytemuck::Pod>(row: &[u8], lane: usize, group: &mut [u8]) {
    let (row, group) = (bytemuck::cast_slice::<_, N>(row), bytemuck::cast_slice_mut::<_, N>(group));
    let pair = &mut group[lane / 2 * 2 * row.len()..][..2 * row.len()];
    for (number, to) in row.iter().zip(pair.chunks_exact_mut(2)) {
        to[lane % 2] = *number;
    }
}

/// Rearranges one token of the rows layout into the tiled form that f32 kernels read: keys [head_dim][16],
/// values [16][padded]. Scales are not applied. `row` is a buffer of head_dim numbers.
pub(crate) fn place_f32(
    isa: Isa,
    side: Side,
    format: KvFormat,
    bytes: &[u8],
    lane: usize,
    padded: usize,
    row: &mut [f32],
    group: &mut [f32],
) {
    decode_row(isa, format, bytes, 1.0, row);
    match side {
        Side::Keys => row.iter().zip(group.chunks_exact_mut(GROUP)).for_each(|(x, to)| to[lane] = *x),
        Side::Values => group[lane * padded..][..row.len()].copy_from_slice(row),
    }
}

/// As [`place_f32`] for bf16 pair kernels: keys [head_dim / 2][16][2], values [8][padded][2]. Exact, because every number
/// of the formats that are computed this way is a bf16.
pub(crate) fn place_bf16(
    isa: Isa,
    side: Side,
    format: KvFormat,
    bytes: &[u8],
    lane: usize,
    padded: usize,
    row: &mut [f32],
    group: &mut [u16],
) {
    decode_row(isa, format, bytes, 1.0, row);
    for (i, x) in row.iter().enumerate() {
        let at = match side {
            Side::Keys => (i / 2 * GROUP + lane) * 2 + i % 2,
            Side::Values => (lane / 2 * padded + i) * 2 + lane % 2,
        };
        group[at] = f32_to_bf16(*x);
    }
}

/// Expands 16 tiled tokens into the form that f32 kernels read. `width` is how many pairs lie side by side: 16 for keys,
/// the head size for values.
pub(crate) fn widen_tiled(isa: Isa, format: KvFormat, width: usize, group: &[u8], out: &mut [f32]) {
    if unit_numbers(format) == 1 {
        decode_row(isa, format, group, 1.0, out);
        return;
    }
    let row_bytes = 2 * width * format.bytes_per_value();
    for (pairs, rows) in group.chunks_exact(row_bytes).zip(out.chunks_exact_mut(2 * width)) {
        let (even, odd) = rows.split_at_mut(width);
        match format {
            KvFormat::Bf16 => split_pairs(bytemuck::cast_slice::<_, u16>(pairs), even, odd, |x| {
                f32::from_bits(u32::from(x) << 16)
            }),
            KvFormat::Int8 => split_pairs(pairs, even, odd, |x| f32::from(x as i8)),
            _ => split_pairs(pairs, even, odd, crate::attention::format::e4m3_to_f32),
        }
    }
}

#[inline(always)]
fn split_pairs<N: Copy>(pairs: &[N], even: &mut [f32], odd: &mut [f32], widen: impl Fn(N) -> f32) {
    for ((pair, even), odd) in pairs.chunks_exact(2).zip(even).zip(odd) {
        (*even, *odd) = (widen(pair[0]), widen(pair[1]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::AlignedBuf;
    use crate::attention::format::encode_row;
    use crate::ops::testing::random;

    /// Both ways into the form of the f32 kernels agree with the definition of the layout, for every format.
    #[test]
    fn tiled_and_rows_give_the_kernels_the_same_numbers() {
        let head_dim = 32;
        for format in KvFormat::ALL {
            let bytes = head_dim * format.bytes_per_value();
            for side in [Side::Keys, Side::Values] {
                let mut group = AlignedBuf::<u8>::zeroed(GROUP * bytes).unwrap();
                let mut row = AlignedBuf::<u8>::zeroed(bytes).unwrap();
                let mut expected = vec![0.0f32; GROUP * head_dim];
                let mut placed = vec![0.0f32; GROUP * head_dim];
                let mut pairs = vec![0u16; GROUP * head_dim];
                let mut buffer = vec![0.0; head_dim];
                for lane in 0..GROUP {
                    encode_row(Isa::Portable, format, &random(head_dim, lane as u64), &mut row);
                    put_tiled(side, format, &row, lane, &mut group);
                    place_f32(Isa::Portable, side, format, &row, lane, head_dim, &mut buffer, &mut placed);
                    if unit_numbers(format) == 2 {
                        place_bf16(
                            Isa::Portable,
                            side,
                            format,
                            &row,
                            lane,
                            head_dim,
                            &mut buffer,
                            &mut pairs,
                        );
                    }
                    for (i, x) in buffer.iter().enumerate() {
                        let (key, value) = (i * GROUP + lane, lane * head_dim + i);
                        expected[if side == Side::Keys { key } else { value }] = *x;
                    }
                }
                assert_eq!(placed, expected, "{format}");
                let width = if side == Side::Keys { GROUP } else { head_dim };
                let mut widened = vec![0.0; GROUP * head_dim];
                widen_tiled(Isa::Portable, format, width, &group, &mut widened);
                assert_eq!(widened, expected, "{format}");
                if unit_numbers(format) == 2 {
                    widen_tiled(
                        Isa::Portable,
                        KvFormat::Bf16,
                        width,
                        bytemuck::cast_slice(&pairs),
                        &mut widened,
                    );
                    assert_eq!(widened, expected, "{format} as pairs");
                }
            }
        }
    }
}
