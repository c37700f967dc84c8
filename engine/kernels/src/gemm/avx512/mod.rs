//! Inner loops for AVX-512 with VNNI and BF16: one register holds a quad (4 columns) of a whole tile.
//!
//! [`formats`] says how each format becomes quads, scales and minima in registers; [`blocks`], [`row8`] and [`floats`] are the
//! kernels, written once for `R` tiles x `T` tokens. Per step a kernel loads or unpacks `R` registers of weights and
//! broadcasts `T` words of activations.
//!
//! What shape is best depends on what a product waits for. One or few tokens wait for memory: the prefetchers of the CPU keep
//! more reads in flight than instructions can, but lose the thread when many lines are asked for besides, so such kernels ask
//! for none, and read one tile after the other as one stream where a tile has enough independent sums (block formats start
//! new ones every block; the float formats and int8 add up a row in one register and need four tiles to hide its latency).
//! More tokens wait for arithmetic: the core then runs too rarely into new lines to start the prefetchers in time, so kernels
//! ask for lines themselves. 1 x 12 unpacks each weight once for twelve tokens; 2 x 6 needs fewer loads, which counts once
//! weights are unpacked anyway.

mod blocks;
mod floats;
mod formats;
mod row8;

use super::{Input, Kernel, Plan, Unpack};
use crate::WeightFormat;
use formats::*;

/// Up to here weights are read in order, without prefetch instructions.
const MEMORY_TOKENS: usize = 4;
const MEMORY_TOKENS_LONG: usize = 8;

/// Most tokens of the stream regime: beyond, unpacking once per panel is worth its stores.
const STREAM_TOKENS: usize = 64;
const STREAM_TOKENS_FP8: usize = 24;

/// How far ahead of its loads a stream kernel asks for weights where it does.
const AHEAD_BYTES: usize = 4096;

pub(crate) fn plan(input: Input, tokens: usize) -> Plan {
    let memory = |tiles, tokens| Plan { tiles, tokens, panels: false, ahead: 0 };
    let stream = |tiles, tokens| Plan { tiles, tokens, panels: false, ahead: AHEAD_BYTES };
    let panel = |tiles, tokens| Plan { tiles, tokens, panels: true, ahead: 0 };
    match input {
        Input::Block8 { .. } if tokens <= MEMORY_TOKENS => memory(1, 4),
        Input::Block8 { .. } if tokens <= STREAM_TOKENS => stream(1, 12),
        Input::Block8 { .. } => panel(2, 6),
        Input::Fp8Pairs if tokens <= 2 => memory(4, 2),
        Input::Fp8Pairs if tokens <= STREAM_TOKENS_FP8 => stream(2, 6),
        Input::Fp8Pairs => panel(2, 6),
        _ if tokens <= MEMORY_TOKENS => memory(4, 4),
        _ if tokens <= MEMORY_TOKENS_LONG => memory(2, 12),
        _ if tokens <= STREAM_TOKENS => stream(2, 12),
        _ => panel(2, 12),
    }
}

/// The kernel of a shape: `pick!(shape, [function, format]: tiles: tokens ...; ...)`.
macro_rules! pick {
    (@ [$function:ident] $tiles:literal $tokens:literal) => { $function::<$tiles, $tokens> };
    (@ [$function:ident, $format:ty] $tiles:literal $tokens:literal) => { $function::<$format, $tiles, $tokens> };
    ($shape:expr, $kernel:tt: $($tiles:literal: $($tokens:literal)*;)*) => {
        match $shape {
            $($(($tiles, $tokens) => pick!(@ $kernel $tiles $tokens),)*)*
            (tiles, tokens) => unreachable!("no AVX-512 kernel for {tiles} tiles x {tokens} tokens"),
        }
    };
}

/// Block formats from packed tiles; and those that are never unpacked to panels.
macro_rules! packed {
    ($shape:expr, $format:ty) => { pick!($shape, [block_tile, $format]: 1: 1 2 3 4 5 6 7 8 9 10 11 12;) };
    ($shape:expr, $format:ty, and panels) => {
        pick!($shape, [block_tile, $format]: 1: 1 2 3 4 5 6 7 8 9 10 11 12; 2: 1 2 3 4 5 6;)
    };
}

macro_rules! panel {
    ($shape:expr, $format:ty) => { pick!($shape, [block_tile, $format]: 2: 1 2 3 4 5 6;) };
}

/// Formats that add up a row in one register.
macro_rules! long {
    ($shape:expr, $kernel:tt) => { pick!($shape, $kernel: 4: 1 2 3 4; 2: 5 6 7 8 9 10 11 12;) };
}

pub(crate) fn kernel(format: WeightFormat, wide: bool, plan: &Plan, tokens: usize) -> Kernel {
    use WeightFormat::*;
    use blocks::block_tile;
    use floats::{float_tile, fp8_tile};
    use row8::row8_tile;
    let shape = (plan.tiles, tokens);
    match (format, plan.panels) {
        (F32, _) => long!(shape, [float_tile, F32Columns]),
        (F16, _) => long!(shape, [float_tile, F16Columns]),
        (Bf16, _) => long!(shape, [float_tile, Bf16Pairs]),
        (Int8, _) => long!(shape, [row8_tile]),
        (Fp8, false) => pick!(shape, [fp8_tile, Fp8Packed]: 4: 1 2; 2: 1 2 3 4 5 6;),
        (Fp8, true) => pick!(shape, [fp8_tile, Fp8Panel]: 2: 1 2 3 4 5 6;),
        (Q3K | Q6K, true) => panel!(shape, Panel<2, 0>),
        (Q2K, true) => panel!(shape, Panel<2, 2>),
        (Q4_1 | Q5_1 | Q4K | Q5K | Int8Group, true) => panel!(shape, Panel<1, 1>),
        (Q5_0 | Int4, true) => panel!(shape, Panel<1, 0>),
        (Q8_0, _) => packed!(shape, Q80, and panels),
        (Q4_0, _) => packed!(shape, Q40, and panels),
        (Iq4Nl, _) => packed!(shape, Iq4, and panels),
        (Q4_1, false) => packed!(shape, Q41),
        (Q5_0, false) => packed!(shape, Q50),
        (Q5_1, false) => packed!(shape, Q51),
        (Q2K, false) => packed!(shape, Q2),
        (Q3K, false) => packed!(shape, Q3),
        (Q4K, false) => packed!(shape, Q4),
        (Q5K, false) => packed!(shape, Q5),
        (Q6K, false) => packed!(shape, Q6),
        (Int4, false) if wide => packed!(shape, Group4<true>),
        (Int4, false) => packed!(shape, Group4<false>),
        (Int8Group, false) if wide => packed!(shape, Group8<true>),
        (Int8Group, false) => packed!(shape, Group8<false>),
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
