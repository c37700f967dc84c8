//! Inner loops for AVX-512 with VNNI and BF16: one register holds a quad (4 columns) of a whole tile.
//!
//! [`formats`] says how each format becomes quads, scales and minima in registers; [`blocks`], [`row8`] and [`floats`] are the
//! kernels, written once for `R` tiles x `T` tokens. Per step a kernel loads or unpacks `R` registers of weights and
//! broadcasts `T` words of activations: 2 x 6 tokens do 12 multiply-adds with 8 loads, which two load ports can feed, and
//! leave registers for integer and float sums.

mod blocks;
mod floats;
mod formats;
mod row8;

use super::{Input, Kernel, Plan, Unpack};
use crate::WeightFormat;
use formats::*;

/// Most tokens of the stream regime: beyond, unpacking once per panel is worth its stores.
const STREAM_TOKENS: usize = 12;

pub(crate) fn plan(input: Input, tokens: usize) -> Plan {
    let stream = |tiles, tokens| Plan { tiles, tokens, panels: false };
    match input {
        Input::Block8 { .. } | Input::Fp8Pairs if tokens <= 2 => stream(2, 2),
        Input::Block8 { .. } | Input::Fp8Pairs if tokens <= STREAM_TOKENS => stream(2, 6),
        Input::Block8 { .. } | Input::Fp8Pairs => Plan { tiles: 2, tokens: 6, panels: true },
        _ if tokens <= 4 => stream(4, 4),
        _ if tokens <= 12 => stream(2, 12),
        _ => Plan { tiles: 2, tokens: 12, panels: true },
    }
}

macro_rules! pick_six {
    ($tokens:expr, $tile:ident, $format:ty) => {
        match $tokens {
            1 => $tile::<$format, 2, 1>,
            2 => $tile::<$format, 2, 2>,
            3 => $tile::<$format, 2, 3>,
            4 => $tile::<$format, 2, 4>,
            5 => $tile::<$format, 2, 5>,
            6 => $tile::<$format, 2, 6>,
            tokens => unreachable!("no AVX-512 kernel for {tokens} tokens"),
        }
    };
}

macro_rules! pick_twelve {
    ($tiles:expr, $tokens:expr, $tile:ident $(, $format:ty)?) => {
        match ($tiles, $tokens) {
            (4, 1) => $tile::<$($format,)? 4, 1>,
            (4, 2) => $tile::<$($format,)? 4, 2>,
            (4, 3) => $tile::<$($format,)? 4, 3>,
            (4, 4) => $tile::<$($format,)? 4, 4>,
            (2, 5) => $tile::<$($format,)? 2, 5>,
            (2, 6) => $tile::<$($format,)? 2, 6>,
            (2, 7) => $tile::<$($format,)? 2, 7>,
            (2, 8) => $tile::<$($format,)? 2, 8>,
            (2, 9) => $tile::<$($format,)? 2, 9>,
            (2, 10) => $tile::<$($format,)? 2, 10>,
            (2, 11) => $tile::<$($format,)? 2, 11>,
            (2, 12) => $tile::<$($format,)? 2, 12>,
            (tiles, tokens) => unreachable!("no AVX-512 kernel for {tiles} tiles x {tokens} tokens"),
        }
    };
}

pub(crate) fn kernel(format: WeightFormat, wide: bool, plan: &Plan, tokens: usize) -> Kernel {
    use WeightFormat::*;
    use blocks::block_tile;
    use floats::{float_tile, fp8_tile};
    use row8::row8_tile;
    match (format, plan.panels) {
        (F32, _) => pick_twelve!(plan.tiles, tokens, float_tile, F32Columns),
        (F16, _) => pick_twelve!(plan.tiles, tokens, float_tile, F16Columns),
        (Bf16, _) => pick_twelve!(plan.tiles, tokens, float_tile, Bf16Pairs),
        (Int8, _) => pick_twelve!(plan.tiles, tokens, row8_tile),
        (Fp8, false) => pick_six!(tokens, fp8_tile, Fp8Packed),
        (Fp8, true) => pick_six!(tokens, fp8_tile, Fp8Panel),
        (Q6K, true) => pick_six!(tokens, block_tile, Panel<2, 0>),
        (Q2K, true) => pick_six!(tokens, block_tile, Panel<1, 2>),
        (Q4_1 | Q5_1 | Q4K | Q5K | Int8Group, true) => pick_six!(tokens, block_tile, Panel<1, 1>),
        (Q5_0 | Q3K | Int4, true) => pick_six!(tokens, block_tile, Panel<1, 0>),
        (Q8_0, _) => pick_six!(tokens, block_tile, Q80),
        (Q4_0, _) => pick_six!(tokens, block_tile, Q40),
        (Q4_1, false) => pick_six!(tokens, block_tile, Q41),
        (Q5_0, false) => pick_six!(tokens, block_tile, Q50),
        (Q5_1, false) => pick_six!(tokens, block_tile, Q51),
        (Iq4Nl, _) => pick_six!(tokens, block_tile, Iq4),
        (Q2K, false) => pick_six!(tokens, block_tile, Q2),
        (Q3K, false) => pick_six!(tokens, block_tile, Q3),
        (Q4K, false) => pick_six!(tokens, block_tile, Q4),
        (Q5K, false) => pick_six!(tokens, block_tile, Q5),
        (Q6K, false) => pick_six!(tokens, block_tile, Q6),
        (Int4, false) if wide => pick_six!(tokens, block_tile, Group4<true>),
        (Int4, false) => pick_six!(tokens, block_tile, Group4<false>),
        (Int8Group, false) if wide => pick_six!(tokens, block_tile, Group8<true>),
        (Int8Group, false) => pick_six!(tokens, block_tile, Group8<false>),
    }
}

/// How panels are unpacked under a plan. Float formats and int8 are read as they are packed, and so are formats whose levels
/// take so little unpacking that it hides behind the products.
pub(crate) fn unpack(format: WeightFormat, wide: bool, plan: &Plan) -> Option<Unpack> {
    use WeightFormat::*;
    use blocks::unpack as blocks;
    if !plan.panels {
        return None;
    }
    Some(match format {
        F32 | F16 | Bf16 | Int8 | Q8_0 | Q4_0 | Iq4Nl => return None,
        Fp8 => floats::unpack_fp8,
        Q4_1 => blocks::<Q41>,
        Q5_0 => blocks::<Q50>,
        Q5_1 => blocks::<Q51>,
        Q2K => blocks::<Q2>,
        Q3K => blocks::<Q3>,
        Q4K => blocks::<Q4>,
        Q5K => blocks::<Q5>,
        Q6K => blocks::<Q6>,
        Int4 if wide => blocks::<Group4<true>>,
        Int4 => blocks::<Group4<false>>,
        Int8Group if wide => blocks::<Group8<true>>,
        Int8Group => blocks::<Group8<false>>,
    })
}

/// Repeats a block of code with a constant `S` = each quad.
macro_rules! each_quad {
    ($($quad:literal)* => $body:block) => {
        $({ const S: usize = $quad; $body })*
    };
}
pub(super) use each_quad;

/// Mask of the first `lanes` lanes.
#[inline(always)]
fn mask(lanes: usize) -> u16 {
    ((1u32 << lanes) - 1) as u16
}
