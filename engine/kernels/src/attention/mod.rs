//! Causal attention over a paged KV cache, for any mix of prefill chunks and decodes.
//!
//! The result of a query row depends on its own vector, its position and the keys and values before it, never on how
//! the work was cut: keys are visited in tiles of [`simd::TILE`] positions counted from position 0, tiles are grouped
//! into splits of [`tile::SPLIT`] positions that are merged in order, and no thread shares a row within a split.
//! So block size, prefill chunking, batch mix, prefix caching and the number of threads change no bit.
//!
//! Reading order: [`format`](mod@format) is how a number is stored, `layout` where it lies in a block, [`cache`] the
//! memory; [`paged`] divides the work, `tile` is the loop over tiles, `source` where a tile comes from, `softmax` the
//! running state and `simd` the inner products per instruction set.

pub mod cache;
pub mod format;
mod layout;
pub mod paged;
mod simd;
mod softmax;
mod source;
mod tile;

#[cfg(test)]
mod tests;

pub use cache::KvCache;
pub use format::KvFormat;
pub use paged::{AttentionParams, AttentionScratch, AttentionSeq, paged_attention};
