//! The block formats of GGUF, one struct each, laid out as in the file.
//!
//! Layouts and quantizers are those of ggml (`ggml/src/ggml-common.h` and the `quantize_row_*_ref` functions of
//! `ggml-quants.c`, which its converter uses when no importance matrix is given), and they agree with it bit for bit: all
//! arithmetic is in f32, every product rounded before it is added, in ggml's order. Files hold blocks in little-endian.

mod iq4_nl;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scales6;
mod search;

pub use iq4_nl::{BlockIq4Nl, IQ4_NL_VALUES};
pub use q2_k::BlockQ2K;
pub use q3_k::BlockQ3K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;

use crate::WeightFormat;

const _: () =
    assert!(cfg!(target_endian = "little"), "block structs are read and written as little-endian bytes");

/// Runs an expression with `$Block` standing for the struct of a block format, or `$other` for the remaining formats.
macro_rules! with_block {
    ($format:expr, $Block:ident => $body:expr, $other:expr) => {
        with_block!(@arms $format, $Block, $body, $other;
            Q8_0 BlockQ8_0, Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Iq4Nl BlockIq4Nl,
            Q2K BlockQ2K, Q3K BlockQ3K, Q4K BlockQ4K, Q5K BlockQ5K, Q6K BlockQ6K)
    };
    (@arms $format:expr, $Block:ident, $body:expr, $other:expr; $($variant:ident $name:ident),*) => {
        match $format {
            $(WeightFormat::$variant => { type $Block = $name; $body })*
            _ => $other,
        }
    };
}

/// Appends the blocks of one row. Returns false, having done nothing, when the format has no blocks or the row no whole
/// number of them.
pub(crate) fn quantize_into(format: WeightFormat, x: &[f32], out: &mut Vec<u8>) -> bool {
    if !x.len().is_multiple_of(format.block()) {
        return false;
    }
    with_block!(
        format,
        Block => {
            for values in x.as_chunks::<{ Block::WEIGHTS }>().0 {
                out.extend_from_slice(bytemuck::bytes_of(&Block::quantize(values)));
            }
            true
        },
        false
    )
}

/// Reads the blocks of one row; `out` and `bytes` must be as long as each other say.
pub(crate) fn dequantize_from(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        bytes.len(),
        format.row_bytes(out.len()),
        "bytes of a row of {} weights in {format}",
        out.len()
    );
    with_block!(
        format,
        Block => {
            // Byte slices of files are not aligned to the two bytes of a scale.
            for (block, values) in bytes.chunks_exact(size_of::<Block>()).zip(out.as_chunks_mut::<{ Block::WEIGHTS }>().0) {
                *values = bytemuck::pod_read_unaligned::<Block>(block).dequantize();
            }
        },
        panic!("{format} has no blocks")
    );
}

/// The first scale of a row of blocks that is not finite.
pub(crate) fn bad_scale(format: WeightFormat, bytes: &[u8]) -> Option<f32> {
    with_block!(
        format,
        Block => bytes
            .chunks_exact(size_of::<Block>())
            .flat_map(|block| bytemuck::pod_read_unaligned::<Block>(block).scales())
            .map(half::f16::to_f32)
            .find(|scale| !scale.is_finite()),
        panic!("{format} has no blocks")
    )
}
