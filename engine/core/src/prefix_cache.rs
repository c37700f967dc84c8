//! Which block holds which stretch of tokens, so that a prompt can reuse what an earlier one computed.
//!
//! Only full blocks are known. A block's hash covers its own tokens and, through the parent's hash, everything before
//! it: equal hashes mean equal history, which is what makes keys and values reusable.

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use crate::request::{LoraId, TokenId};
use crate::step::BlockId;

/// 128 bits of XXH3. A hit is not checked against the tokens again, so the hash must be wide enough that a collision will
/// not happen by accident: about 10^-20 for a billion distinct blocks. It is no defence against a client that looks for
/// one on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

impl BlockHash {
    /// What stands before the first block of a request with this adapter: its keys and values are nobody else's.
    pub fn root(lora: LoraId) -> Self {
        BlockHash(u128::MAX - u128::from(lora.0))
    }

    /// `parent` is the hash of the block before; for the first, none or that of its adapter.
    pub fn chain(parent: Option<BlockHash>, tokens: &[TokenId]) -> Self {
        let length = PARENT_BYTES + 4 * tokens.len();
        let mut short = [0; SHORT_BYTES];
        let mut long = Vec::new();
        let bytes = if length <= SHORT_BYTES {
            &mut short[..length]
        } else {
            long.resize(length, 0);
            long.as_mut_slice()
        };
        let (before, own) = bytes.split_at_mut(PARENT_BYTES);
        before.copy_from_slice(&parent.map_or(0, |parent| parent.0).to_le_bytes());
        for (to, token) in own.as_chunks_mut::<4>().0.iter_mut().zip(tokens) {
            *to = token.to_le_bytes();
        }
        BlockHash(xxh3_128(bytes))
    }
}

const PARENT_BYTES: usize = 16;
/// Parent and tokens of the block sizes in use.
const SHORT_BYTES: usize = PARENT_BYTES + 4 * 32;

/// Hash -> blocks with that content. The same content can sit in several blocks (two requests that computed it at the
/// same time); as in vLLM they are not merged and a lookup returns the one registered first.
#[derive(Debug, Clone, Default)]
pub struct PrefixCache {
    blocks: FxHashMap<BlockHash, Copies>,
}

/// Blocks of equal content, oldest first; rarely more than one.
#[derive(Debug, Clone)]
struct Copies {
    first: BlockId,
    more: Vec<BlockId>,
}

impl PrefixCache {
    /// The blocks of the longest known beginning of `hashes`.
    pub fn longest_prefix(&self, hashes: &[BlockHash]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| Some(self.blocks.get(hash)?.first)).collect()
    }

    pub fn insert(&mut self, hash: BlockHash, block: BlockId) {
        self.blocks
            .entry(hash)
            .and_modify(|copies| copies.more.push(block))
            .or_insert(Copies { first: block, more: Vec::new() });
    }

    pub fn remove(&mut self, hash: BlockHash, block: BlockId) {
        let Some(copies) = self.blocks.get_mut(&hash) else { return };
        if copies.first != block {
            copies.more.retain(|&copy| copy != block);
        } else if copies.more.is_empty() {
            self.blocks.remove(&hash);
        } else {
            copies.first = copies.more.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_covers_the_whole_history() {
        let first = BlockHash::chain(None, &[1, 2]);
        assert_eq!(first, BlockHash::chain(None, &[1, 2]));
        assert_ne!(BlockHash::chain(Some(first), &[3, 4]), BlockHash::chain(None, &[3, 4]));
        assert_ne!(first, BlockHash::chain(None, &[2, 1]));
        let adapted = |lora| BlockHash::chain(Some(BlockHash::root(LoraId(lora))), &[1, 2]);
        assert!(adapted(0) != first && adapted(0) != adapted(1));
    }

    #[test]
    fn lookup_stops_at_the_first_unknown_block_and_prefers_the_oldest_copy() {
        let a = BlockHash::chain(None, &[1]);
        let b = BlockHash::chain(Some(a), &[2]);
        let c = BlockHash::chain(Some(b), &[3]);
        let mut cache = PrefixCache::default();
        cache.insert(a, BlockId(5));
        cache.insert(a, BlockId(6));
        cache.insert(c, BlockId(7));
        assert_eq!(cache.longest_prefix(&[a, b, c]), [BlockId(5)]);
        cache.remove(a, BlockId(5));
        assert_eq!(cache.longest_prefix(&[a, b, c]), [BlockId(6)]);
        cache.remove(a, BlockId(6));
        assert!(cache.longest_prefix(&[a]).is_empty());
    }
}
