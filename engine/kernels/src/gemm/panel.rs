//! Unpacked panels: what kernels of the panel regime read.
//!
//! A block of a panel is 8 quads of factors, one byte each, then a line of f32 for each scale and minimum of the block:
//! whatever the format was, a kernel only sees factors, scales and minima. Int8 keeps its header line in front, since its
//! scale is only applied at the end. Float formats become f32 columns (AVX-512: fp8 becomes pairs of bf16), fp8 with a line
//! of scales per block.

use half::{bf16, f16};

use super::layout::{BLOCK, LINE, Layout, QUADS, TILE_ROWS, level_bits};
use super::{UnpackArgs, levels, scales};
use crate::pack::FP8_ORDER;
use crate::{Isa, WeightFormat};

/// Blocks per panel: 512 columns of two tiles are 16 KiB of factors, which a first-level cache holds beside activations and
/// sums that pass by. Shorter panels move sums more often.
pub(crate) const PANEL_BLOCKS: usize = 16;

/// Whether factors can be large enough to saturate sums of two products in 16 bits.
pub(crate) fn needs_signed(format: WeightFormat) -> bool {
    use WeightFormat::*;
    matches!(format, Q8_0 | Iq4Nl | Int8 | Int8Group)
}

pub(crate) fn layout(format: WeightFormat, isa: Isa) -> Layout {
    let numerics = scales::numerics(format);
    let lines = match format {
        WeightFormat::Fp8 if isa == Isa::Avx512 => BLOCK / 2 + 1,
        WeightFormat::Fp8 => BLOCK + 1,
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => BLOCK,
        WeightFormat::Int8 => QUADS,
        _ => QUADS + numerics.subs + numerics.mins,
    };
    let header_bytes = if format == WeightFormat::Int8 { LINE } else { 0 };
    let block_bytes = lines * LINE;
    let unit_blocks = if format == WeightFormat::Int8 { PANEL_BLOCKS } else { 1 };
    let unit_bytes = header_bytes + unit_blocks * block_bytes;
    // One line more keeps the tiles of a panel out of each other's cache sets.
    let stride = header_bytes + PANEL_BLOCKS * block_bytes + LINE;
    Layout { blocks: PANEL_BLOCKS, unit_blocks, header_bytes, block_bytes, unit_bytes, stride }
}

/// Unpacks in plain Rust.
///
/// # Safety
/// As [`super::Unpack`] says.
pub(crate) unsafe fn unpack(a: &UnpackArgs) {
    // SAFETY: the same promise.
    unsafe { unpack_body(a, Isa::Portable) }
}

/// The body of every unpacking that is not written for an instruction set; `isa` says which factors its kernels take.
///
/// # Safety
/// As [`super::Unpack`] says.
#[inline(always)]
pub(crate) unsafe fn unpack_body(a: &UnpackArgs, isa: Isa) {
    let to = layout(a.format, isa);
    // SAFETY: the caller's tile spans its layout's stride, its panel the one above.
    let (tile, out) = unsafe {
        (
            std::slice::from_raw_parts(a.tile, a.layout.stride),
            std::slice::from_raw_parts_mut(a.out, to.stride),
        )
    };
    if to.header_bytes > 0 {
        out[..to.header_bytes].copy_from_slice(&tile[..to.header_bytes]);
    }
    for index in 0..a.blocks {
        let block = a.first + index;
        let header = &tile[a.layout.unit_at(block)..][..a.layout.header_bytes];
        let bytes = &tile[a.layout.block_at(block)..][..a.layout.block_bytes];
        let out = &mut out[to.block_at(index)..][..to.block_bytes];
        match level_bits(a.format) {
            Some(bits) => {
                let signed = isa == Isa::Avx2 && needs_signed(a.format);
                factors(a, bits, signed, header, bytes, block % a.layout.unit_blocks, out);
            }
            None => floats(a, header, bytes, out),
        }
    }
}

#[inline(always)]
fn factors(
    a: &UnpackArgs,
    bits: (u32, u32),
    signed: bool,
    header: &[u8],
    bytes: &[u8],
    j: usize,
    out: &mut [u8],
) {
    let (quads, numbers) = out.split_at_mut(QUADS * LINE);
    let quads: &mut [u8; QUADS * LINE] = quads.try_into().expect("a panel block starts with its quads");
    levels::all(bytes, bits, quads);
    let numerics = scales::numerics(a.format);
    let flip = if signed { 0x80 } else { 0 };
    for lane in 0..TILE_ROWS {
        let row = scales::row_scales(a.format, a.wide, header, lane, j);
        if !numbers.is_empty() {
            let of_line = row.scale[..numerics.subs].iter().chain(&row.min[..numerics.mins]);
            for (line, value) in of_line.enumerate() {
                numbers[line * LINE + lane * 4..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        for s in 0..QUADS {
            for byte in &mut quads[s * LINE + lane * 4..][..4] {
                *byte = scales::factor(a.format, &row, *byte) ^ flip;
            }
        }
    }
}

#[inline(always)]
fn floats(a: &UnpackArgs, header: &[u8], bytes: &[u8], out: &mut [u8]) {
    for (k, line) in out.chunks_exact_mut(LINE).take(BLOCK).enumerate() {
        for lane in 0..TILE_ROWS {
            let half = |at: usize| [bytes[at], bytes[at + 1]];
            let value = match a.format {
                WeightFormat::F32 => f32::from_bits(scales::word_at(bytes, k, lane)),
                WeightFormat::F16 => f16::from_le_bytes(half((k * TILE_ROWS + lane) * 2)).to_f32(),
                WeightFormat::Bf16 => {
                    bf16::from_le_bytes(half((k / 2 * TILE_ROWS + lane) * 4 + k % 2 * 2)).to_f32()
                }
                _ => llmlab_quant::e4m3_to_f32(bytes[k / 4 * LINE + lane * 4 + FP8_ORDER[k % 4]]),
            };
            line[lane * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
    if a.format == WeightFormat::Fp8 {
        out[BLOCK * LINE..].copy_from_slice(&header[..LINE]);
    }
}
